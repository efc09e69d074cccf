/*-------------------------------------------------------------------------
 *
 * partition.h
 *	  What the files of the partition room say to each other; for the pure
 *	  ones see partition_pure.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_PARTITION_H
#define CM_PARTITION_H

#include "concertmaster.h"
#include "partition_pure.h"

#include "nodes/execnodes.h"
#include "storage/block.h"
#include "utils/timestamp.h"

/*
 * A function makes no more partitions than this in its caller's transaction,
 * where their locks add up; the set's job makes the rest.
 */
#define CM_PARTITION_AT_ONCE	200

/* Leaves being made carry this comment until they are attached. */
#define CM_PARTITION_MARK	"concertmaster: becoming a partition of "

/* What a split makes and leaves carries this one: copies, to be dropped with their rows. */
#define CM_SPLIT_MARK		"concertmaster: splitting the default partition of "

/* How a leaf comes to be. */
typedef enum CmLeafKind
{
	CM_LEAF_CREATE,				/* an empty table, attached */
	CM_LEAF_DRAIN,				/* likewise, with rows of the default partition */
	CM_LEAF_REBIND,				/* the default partition itself */
	CM_LEAF_SPLIT				/* a copy of some of the default partition's rows */
} CmLeafKind;

/* Everything needed to make one leaf. */
typedef struct CmLeaf
{
	CmLeafKind	kind;
	Oid			parent;
	Oid			owner;
	CmAxis		axis;
	int64		from;
	int64		to;
	int64		rows;			/* of the default partition that go into it */
	char		name[NAMEDATALEN];
	Oid			model;			/* what it is made LIKE; InvalidOid: the parent */
	const char *obstacle;		/* why it cannot be made, in words; NULL: it can */
	bool		stale;			/* set by attach: the range is taken by now */
} CmLeaf;

/* A partition that retires, or a table that was one. */
typedef struct CmRetiree
{
	Oid			relid;
	char	   *schema_name;
	char	   *name;
	int64		upper_bound;	/* a point */
	bool		is_pending;		/* its detaching was begun */
	char	   *references;		/* what keeps it, in words; NULL: nothing */
	char	   *forbidden;		/* the error that it would be; NULL: none */
	int			forbidden_sqlstate;
} CmRetiree;

/* A table that was to become a leaf and will not. */
typedef struct CmLeftover
{
	Oid			relid;
	Oid			owner;
	Oid			parent;			/* InvalidOid: gone */
	bool		is_copy;		/* a split's: its rows are elsewhere too */
} CmLeftover;

/* What making one leaf came to. */
typedef enum CmLeafResult
{
	CM_LEAF_MADE,
	CM_LEAF_DEFERRED,			/* a lock was not to be had */
	CM_LEAF_STALE				/* somebody else took the range */
} CmLeafResult;

/* Steps that differ in the locks that they take; see partition_locks.c. */
typedef enum CmPartitionStep
{
	CM_STEP_ATTACH,
	CM_STEP_DRAIN,
	CM_STEP_REBIND,
	CM_STEP_DETACH,				/* also to split the default partition */
	CM_STEP_FINALIZE,
	CM_STEP_REMOVE				/* drop or move what is detached */
} CmPartitionStep;

/* All that the next pass over a set does, and what it is based on. */
typedef struct CmPartitionWork
{
	Oid			parent;
	Oid			owner;
	CmPartitionSettings settings;
	int64		mark;			/* of what this is based on; see partition_idle.c */
	List	   *existing;		/* CmPartition */
	int64		now;			/* a point */
	bool		has_newest_value;	/* NUMBER, and there is a row */
	Oid			rest;			/* the default partition, or InvalidOid */
	int64		rest_rows;		/* rows that stay in it */
	List	   *leaves;			/* CmLeaf, the most urgent first */
	List	   *retirees;		/* CmRetiree, the oldest first */
} CmPartitionWork;

/* Settings in partition_set; the order is that of column_names. */
typedef enum CmSetColumn
{
	CM_SET_PERIOD,
	CM_SET_WIDTH,
	CM_SET_EPOCH,
	CM_SET_AHEAD,
	CM_SET_START_AT,
	CM_SET_START_VALUE,
	CM_SET_TIMEZONE,
	CM_SET_RETENTION,
	CM_SET_RETENTION_WIDTH,
	CM_SET_RETENTION_KEEP,
	CM_SET_RETENTION_SCHEMA
} CmSetColumn;

#define CM_SET_COLUMNS	(CM_SET_RETENTION_SCHEMA + 1)

/* Beside ' ' and 'n' of SPI: a setting that is taken away. */
#define CM_SET_CLEAR	'c'

/* How a pass went, for partition_set_state. */
typedef struct CmSetReport
{
	const char *deferred;		/* the step that was put off, or NULL */
	int			blocked_by;		/* pid; 0: nobody, -1: a prepared transaction */
	bool		has_newest_value;
	int64		newest_value;
	bool		has_default;
	int64		default_rows;
	const ErrorData *failure;	/* NULL: none */
	TimestampTz idle_until;		/* 0: not known to be idle; see partition_idle.c */
	int64		idle_mark;
} CmSetReport;

/* in partition_bounds.c: reads the catalog, takes no lock on user relations */
extern Oid	cm_partition_key_type(Oid parent);
extern List *cm_partition_existing(Oid parent, const CmAxis *axis);
extern const char *cm_partition_bound_sql(const List *existing, const CmAxis *axis, int64 point);
extern CmPartition *cm_partition_overlapping(const List *existing, int64 from, int64 to);

/* in partition_leaf.c: one leaf, in the transaction that is open */
extern void cm_partition_enter(CmScope *scope, Oid owner);
extern void cm_partition_execute(const char *sql);
extern void cm_partition_execute_each(const char *query, int nargs, const Oid *args);
extern void cm_partition_see_all_rows(void);
extern char *cm_partition_leaf_quoted(const CmLeaf *leaf);
extern char *cm_partition_leaf_taken(const CmLeaf *leaf);
extern void cm_partition_leaf_create(void *leaf);
extern void cm_partition_leaf_attach(void *leaf);
extern void cm_partition_leaf_drain(void *leaf);
extern void cm_partition_leaf_drop(void *leaf);
extern Oid	cm_partition_leaf_model(const CmLeaf *leaf, const List *existing);
extern void cm_partition_leaf_identity(Oid relid, Oid model);
extern char *cm_partition_bounds_sql(const List *existing, const CmAxis *axis, int64 from, int64 to);
extern char *cm_partition_attach_sql(const char *parent, const CmLeaf *leaf, const List *existing);

/* in partition_locks.c: which locks each step takes */
extern List *cm_partition_partners(Oid parent);
extern bool cm_partition_locks_others(Oid parent);
extern List *cm_partition_wishes(Oid parent, Oid leaf, CmPartitionStep step);

/* in partition_leftover.c: what never became a leaf */
extern List *cm_partition_leftovers(Oid parent, const char *schema_name,
									const char *table_name, Oid userid);
extern void cm_partition_leftover_drop(void *leftover);

/* in partition_set.c: a set's rows in our catalog */
extern bool cm_partition_settings(Oid parent, CmPartitionSettings *settings);
extern void cm_partition_set_write(Oid parent, bool is_new, const Datum *columns, const char *nulls);
extern bool cm_partition_set_delete(const char *schema_name, const char *table_name);
extern bool cm_partition_needs_pass(const char *schema_name, const char *table_name);
extern void cm_partition_set_report(const CmJob *job, const CmSetReport *report);
extern void cm_partition_state_write(const CmJob *job, const CmRetiree *retiree,
									 const char *state, const char *detail);
extern void cm_partition_state_delete(Oid relid);
extern List *cm_partition_state_list(const char *schema_name, const char *table_name,
									 const char *state);

/* in partition_rows.c: what the rows say */
extern bool cm_partition_newest_number(Oid parent, const List *existing, const CmAxis *axis,
									   int64 *newest);
extern bool cm_partition_default_low(Oid parent, Oid rest, const CmAxis *axis, int64 *low);
extern int64 cm_partition_default_count(Oid parent, Oid rest, const CmAxis *axis, List *pieces);
extern char *cm_partition_references(Oid parent, Oid leaf);
extern char *cm_partition_key_name(Oid parent);
extern char *cm_partition_columns(Oid parent);

/* in partition_work.c: what the next pass does */
extern void cm_partition_work(Oid parent, CmPartitionWork *work);
extern CmLeaf *cm_partition_leaf(Oid parent, const CmAxis *axis, const CmPartitionPlanned *planned);

/* in partition_idle.c: sets with nothing to do */
extern int64 cm_partition_mark(Oid parent, TransactionId settings_xmin);
extern List *cm_partition_sets_find(Oid parent);
extern List *cm_partition_sets_busy(List *targets);

/* in partition_pass.c: the worker's pass */
extern bool cm_partition_is_idle(Oid parent);

/* in partition_apply.c: one leaf, under deadlines and with retries */
extern CmLeafResult cm_partition_make_here(CmLeaf *leaf);
extern CmLeafResult cm_partition_make(CmLeaf *leaf);

/* in partition_default.c: beside a default partition */
extern BlockNumber cm_partition_default_blocks(Oid rest);
extern int	cm_partition_leaf_compare(const ListCell *a, const ListCell *b);
extern CmLeafResult cm_partition_rebind(CmLeaf *leaf);
extern bool cm_partition_prove(const CmPartitionWork *work);
extern bool cm_partition_prove_no_more(const CmPartitionWork *work);
extern char *cm_partition_inside(const CmPartitionWork *work, int64 from, int64 to);
extern char *cm_partition_outside(const CmPartitionWork *work, const List *leaves);

/* in partition_call.c: what the doors share */
extern void cm_partition_require_writable(const char *what);
extern Oid	cm_partition_open_door(Oid parent, const char *what);
extern void cm_partition_report_no_set(const char *name);
extern void cm_partition_put_leaf(ReturnSetInfo *result, const List *existing,
								  const CmLeaf *leaf, const char *action);
extern void cm_partition_put_existing(ReturnSetInfo *result, const CmAxis *axis,
									  const List *existing, const CmPartition *partition,
									  const char *action, const char *detail);

/* in partition_retire.c: detach, then drop or keep */
extern char *cm_partition_forbidden(const CmPartitionWork *work, Oid relid, int *sqlstate);
extern bool cm_partition_retire(const CmJob *job, const CmPartitionWork *work,
								const CmRetiree *retiree, CmPartitionStep *step);

#endif							/* CM_PARTITION_H */
