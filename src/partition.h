/*-------------------------------------------------------------------------
 *
 * partition.h
 *	  What the files of the partition room say to each other.
 *
 * A point is a place on the partition key's axis, in microseconds since
 * 2000-01-01: an instant (UTC) when the key is timestamptz, a wall clock
 * reading when it is timestamp or date.  A range holds from <= key < to;
 * PG_INT64_MIN and PG_INT64_MAX stand for MINVALUE and MAXVALUE.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_PARTITION_H
#define CM_PARTITION_H

#include "concertmaster.h"

#include "nodes/pg_list.h"
#include "pgtime.h"

/* No set may plan more partitions than this: a slip of the period, not a wish. */
#define CM_PARTITION_LIMIT	10000

/*
 * A function makes no more partitions than this in its caller's transaction,
 * where their locks add up; the set's job makes the rest.
 */
#define CM_PARTITION_AT_ONCE	200

/* Leaves being made carry this comment until they are attached. */
#define CM_PARTITION_MARK	"concertmaster: becoming a partition of "

/* The width of one partition: whole months, or a number of microseconds. */
typedef struct CmPeriod
{
	int			months;
	int64		usecs;
} CmPeriod;

/* A set's settings, together with what its table dictates. */
typedef struct CmPartitionSettings
{
	CmPeriod	period;
	int			ahead;			/* whole partitions after the present one */
	bool		has_start;
	TimestampTz start_at;		/* of the oldest partition, if has_start */
	pg_tz	   *zone;
	Oid			key_type;		/* DATEOID, TIMESTAMPOID or TIMESTAMPTZOID */
} CmPartitionSettings;

/* A partition that exists, as the catalog has it. */
typedef struct CmPartition
{
	Oid			relid;
	bool		is_default;		/* then from and to mean nothing */
	int64		from;
	int64		to;
} CmPartition;

/* A partition to make. */
typedef struct CmPartitionPlanned
{
	int64		from;
	int64		to;
	char		suffix[32];		/* of its name: _2025_01 */
} CmPartitionPlanned;

/* Everything needed to make one leaf. */
typedef struct CmLeaf
{
	Oid			parent;
	Oid			owner;
	Oid			key_type;
	int64		from;
	int64		to;
	char		name[NAMEDATALEN];
	bool		stale;			/* set by attach: the range is taken by now */
} CmLeaf;

/* A table that was to become a leaf and will not. */
typedef struct CmLeftover
{
	Oid			relid;
	Oid			owner;
	Oid			parent;			/* InvalidOid: gone */
} CmLeftover;

/* What making one leaf came to. */
typedef enum CmLeafResult
{
	CM_LEAF_MADE,
	CM_LEAF_DEFERRED,			/* a lock was not to be had */
	CM_LEAF_STALE				/* somebody else took the range */
} CmLeafResult;

/* in partition_plan.c: pure */
extern CmPeriod cm_partition_period(const Interval *period, Oid key_type);
extern pg_tz *cm_partition_zone(const char *name);
extern List *cm_partition_plan(const CmPartitionSettings *settings,
							   const List *existing, TimestampTz now);
extern List *cm_partition_urgent_first(const List *plan, int64 point);
extern CmPartitionPlanned *cm_partition_month(const CmPartitionSettings *settings,
											  int year, int month);
extern char *cm_partition_name(const char *table, const char *suffix);
extern int64 cm_partition_point(TimestampTz instant, Oid key_type, pg_tz *zone);
extern TimestampTz cm_partition_instant(int64 point, Oid key_type, pg_tz *zone);
extern char *cm_partition_literal(int64 point, Oid key_type);
extern char *cm_partition_range_text(int64 from, int64 to, Oid key_type);
extern int64 cm_partition_covered_until(const List *existing, int64 point);

/* in partition_bounds.c: reads the catalog, takes no lock on user relations */
extern Oid	cm_partition_key_type(Oid parent);
extern List *cm_partition_existing(Oid parent);
extern CmPartition *cm_partition_overlapping(const List *existing, int64 from, int64 to);

/* in partition_leaf.c: one leaf, in the transaction that is open */
extern void cm_partition_leaf_create(void *leaf);
extern void cm_partition_leaf_attach(void *leaf);
extern void cm_partition_leaf_drop(void *leaf);

/* in partition_leftover.c: what never became a leaf, and who would wait */
extern bool cm_partition_locks_others(Oid parent);
extern List *cm_partition_leftovers(Oid parent, const char *schema_name,
									const char *table_name, Oid userid);
extern void cm_partition_leftover_drop(void *leftover);

/* in partition_apply.c: deadlines, retries, the worker's pass */
extern CmLeafResult cm_partition_make_here(CmLeaf *leaf);
extern CmLeaf *cm_partition_leaf(Oid parent, Oid key_type, const CmPartitionPlanned *planned);
extern int	cm_partition_blocker(Oid parent);
extern bool cm_partition_settings(Oid parent, CmPartitionSettings *settings);

#endif							/* CM_PARTITION_H */
