/*-------------------------------------------------------------------------
 *
 * partition_pure.h
 *	  The pure half of the partition room: points on an axis, and plans.
 *
 * A point is a place on the partition key's axis (partition_axis.c).  A range
 * holds from <= key < to; DT_NOBEGIN and DT_NOEND stand for MINVALUE and
 * MAXVALUE.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_PARTITION_PURE_H
#define CM_PARTITION_PURE_H

#include "postgres.h"

#include "compat.h"

#include "nodes/pg_list.h"
#include "pgtime.h"
#include "utils/timestamp.h"

/* No set may plan more partitions than this: a slip of the period, not a wish. */
#define CM_PARTITION_LIMIT	10000

/* What a partition key counts; see partition_axis.c. */
typedef enum CmAxisKind
{
	CM_AXIS_DATE,
	CM_AXIS_TIMESTAMP,
	CM_AXIS_TIMESTAMPTZ,
	CM_AXIS_EPOCH,				/* an integer: units of time since 1970 */
	CM_AXIS_UUID,				/* uuids of version 7 */
	CM_AXIS_NUMBER				/* an integer as it is */
} CmAxisKind;

typedef struct CmAxis
{
	CmAxisKind	kind;
	Oid			key_type;		/* domains seen through */
	int64		per_second;		/* EPOCH only */
	pg_tz	   *zone;			/* of the bounds; not for NUMBER */
} CmAxis;

/* The width of one partition: whole months, or microseconds, or numbers. */
typedef struct CmPeriod
{
	int			months;
	int64		length;			/* if months is 0 */
} CmPeriod;

/* A set's settings, together with what its table dictates. */
typedef struct CmPartitionSettings
{
	CmAxis		axis;
	CmPeriod	period;
	int			ahead;			/* whole partitions after the present one */
	bool		has_start;
	int64		start;			/* a point in the oldest partition, if has_start */
	bool		has_retention;
	Interval	retention;		/* of time, */
	int64		retention_width;	/* or of numbers */
	bool		retention_keep; /* detach only */
	char	   *retention_schema;	/* where detached ones go; NULL: nowhere */
	TransactionId xmin;			/* who wrote them */
} CmPartitionSettings;

/* A partition that exists, as the catalog has it. */
typedef struct CmPartition
{
	Oid			relid;
	bool		is_default;		/* then from and to mean nothing */
	bool		is_pending;		/* DETACH CONCURRENTLY is half done */
	int64		from;
	int64		to;
	char	   *from_literal;	/* where the points do not say all, else NULL */
	char	   *to_literal;
} CmPartition;

/* A partition to make. */
typedef struct CmPartitionPlanned
{
	int64		from;
	int64		to;
	char		suffix[32];		/* of its name: _2025_01 */
	int64		rows;			/* of the default partition that belong in it */
} CmPartitionPlanned;

/* in partition_axis.c: pure */
extern CmAxis cm_axis(Oid key_type, const char *epoch, pg_tz *zone);
extern bool cm_axis_is_time(const CmAxis *axis);
extern pg_tz *cm_axis_zone(const char *name);
extern int64 cm_axis_point(const CmAxis *axis, TimestampTz instant);
extern TimestampTz cm_axis_instant(const CmAxis *axis, int64 point);
extern int64 cm_axis_label(const CmAxis *axis, int64 point);
extern int64 cm_axis_label_point(const CmAxis *axis, int64 label);
extern int64 cm_axis_value_point(const CmAxis *axis, Datum value);
extern int64 cm_axis_bound(const CmAxis *axis, int64 point);
extern char *cm_axis_literal(const CmAxis *axis, int64 point);
extern char *cm_axis_exact_literal(const CmAxis *axis, Datum value);
extern char *cm_axis_range_text(const CmAxis *axis, int64 from, int64 to);
extern void cm_axis_split(Timestamp wall, struct pg_tm *tm, fsec_t *fsec);
pg_noreturn extern void cm_axis_report_out_of_range(void);

/* in partition_plan.c: pure */
extern CmPeriod cm_partition_period(const Interval *period, Oid key_type);
extern CmPeriod cm_partition_width(int64 width);
extern List *cm_partition_plan(const CmPartitionSettings *settings,
							   const List *existing, int64 now);
extern List *cm_partition_gaps(const CmPartitionSettings *settings,
							   const List *existing, int64 low, int64 now);
extern List *cm_partition_outdated(const CmPartitionSettings *settings,
								   const List *existing, int64 now);
extern bool cm_partition_cutoff(const CmPartitionSettings *settings, int64 now, int64 *cutoff);
extern int64 cm_partition_idle_until(const CmPartitionSettings *settings,
									 const List *existing, int64 now);
extern List *cm_partition_urgent_first(const List *plan, int64 point);
extern bool cm_partition_on_grid(const CmPartitionSettings *settings, int64 point);
extern CmPartitionPlanned *cm_partition_month(const CmAxis *axis, int year, int month);
extern char *cm_partition_name(const char *table, const char *suffix);
extern int64 cm_partition_covered_until(const List *existing, int64 point);
extern int	cm_partition_compare(const ListCell *a, const ListCell *b);

#endif							/* CM_PARTITION_PURE_H */
