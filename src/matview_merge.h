/*-------------------------------------------------------------------------
 *
 * matview_merge.h
 *	  What the files that compute and merge say to each other.
 *
 * In the order in which a refresh uses them: the dirty groups are split into
 * classes, the view's query is run for each class or for all, the rows that
 * came out are compared with those of the view, the differences are written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_MATVIEW_MERGE_H
#define CM_MATVIEW_MERGE_H

#include "executor/tuptable.h"
#include "nodes/params.h"
#include "nodes/plannodes.h"
#include "utils/queryenvironment.h"
#include "utils/relcache.h"
#include "utils/tuplestore.h"

#include "matview.h"

/* The bit of a key column in a mask. */
#define CM_KEY_BIT(key)		((uint32) 1 << (key))

/* A pattern in its class: the raw times of its buckets, one per bit of raws. */
typedef struct CmMember
{
	CmPattern  *pattern;
	CmRawRange *raws;
} CmMember;

/*
 * Patterns that become one query, because the same columns are known of all,
 * the same of these are NULL, and of the same the raw times are known.  Or a
 * range of buckets: then mask is its column and there are no members.
 */
typedef struct CmClass
{
	uint32		mask;
	uint32		nulls;			/* of mask */
	uint32		raws;			/* of mask */
	uint32		exact;			/* of raws: to be in the range is to be in the bucket */
	uint32		single;			/* of raws: all members have the same range */
	double		share[CM_KEY_MAX];	/* for raws: of the hulls, that one member's range is */
	List	   *members;		/* of CmMember, all different by the columns' equality */
	List	   *hulls[CM_KEY_MAX];	/* for raws: ranges that hold all members', of CmRawRange */
	bool		is_range;
	Datum		first;			/* is_range: both ends are included */
	Datum		last;
	char	   *name;			/* of the relation that holds the members; NULL: constants do */
	TupleDesc	desc;			/* and of what rows */
	AttrNumber	value_column[CM_KEY_MAX];
	AttrNumber	lo_column[CM_KEY_MAX];	/* hi is the next */
	struct HTAB *index;			/* from a hash of the known values to members */
} CmClass;

/* What has to be computed anew, if it is not all of the view. */
typedef struct CmClasses
{
	CmMatviewPlan *plan;
	List	   *list;			/* of CmClass, the wider first */
	int64		patterns;		/* members and ranges in all */
	QueryEnvironment *env;		/* the classes' relations */
} CmClasses;

/* Is given the rows of a query, one by one, in a context that is reset after each. */
typedef void (*CmRowSink) (TupleTableSlot *slot, void *arg);

/* What a comparison found. */
typedef struct CmDiff CmDiff;

/* One refresh, from its decision to its result. */
typedef struct CmRefresh
{
	Oid			view;
	Oid			owner;
	CmMatviewSettings settings;
	CmMatviewPlan *plan;		/* NULL: core refreshes it */
	CmMatviewMode mode;			/* what was decided */
	const char *reason;
	CmMatviewResult result;
} CmRefresh;

/* in matview_refresh.c */
extern void cm_matview_core_refresh(CmRefresh *refresh, CmMatviewMode mode, const char *reason);

/* in matview_apply.c: one refresh of a tracked view */
extern void cm_matview_apply(CmRefresh *refresh);

/* in matview_classes.c */
extern CmClasses *cm_classes_make(CmMatviewPlan *plan, const char *zone, const CmDirty *dirty,
								  const char **why_all);
extern void cm_member_values(const CmMatviewPlan *plan, const CmClass *class,
							 const CmMember *member, Datum *values);
extern bool cm_classes_match(const CmClasses *classes, int count, TupleTableSlot *slot);

/* in matview_estimate.c: what the planner shall expect */
extern Node *cm_share_clause(Node *raw, Node *lo, double share);

/* in matview_restrict.c: queries for one class; pure */
extern Query *cm_restrict_query(const CmClasses *classes, const CmClass *class, bool by_member);
extern Query *cm_restrict_view(const CmClasses *classes, const CmClass *class, Relation view);

/* in matview_compute.c */
extern void cm_matview_owner_enter(CmScope *scope, Oid owner, const char *zone, bool restricted);
extern PlannedStmt *cm_query_plan(Query *query);
extern void cm_query_run(PlannedStmt *plan, QueryEnvironment *env, ParamListInfo params,
						 CmRowSink sink, void *arg);
extern Tuplestorestate *cm_matview_compute(Query *query, CmClasses **classes);

/* in matview_diff.c */
extern CmDiff *cm_diff_make(Relation view, const CmClasses *classes, Tuplestorestate *rows);
extern int64 cm_diff_old(CmDiff *diff, CmRowSink sink, void *arg);
extern int64 cm_diff_new(CmDiff *diff, CmRowSink sink, void *arg);
extern void cm_diff_end(CmDiff *diff);
extern bool cm_diff_fits(Oid view);

/* in matview_merge.c */
extern void cm_matview_merge(Oid view, const CmClasses *classes, Tuplestorestate *rows,
							 CmMatviewResult *result);

/* in matview_edges.c: what came and went with the time */
extern void cm_matview_windows_moved(const CmMatviewPlan *plan, const char *zone,
									 TimestampTz refreshed_at, CmDirty *dirty);

#endif							/* CM_MATVIEW_MERGE_H */
