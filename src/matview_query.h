/*-------------------------------------------------------------------------
 *
 * matview_query.h
 *	  What the files that look at a view's query say to each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_MATVIEW_QUERY_H
#define CM_MATVIEW_QUERY_H

#include "matview.h"

/* Two columns that are equal in every joined row that a condition lets pass. */
typedef struct CmEquality
{
	Var		   *left;
	Var		   *right;
	Index		nullable;		/* 0, or a join: then only rows that it does not null */
} CmEquality;

/* A query while it is looked at. */
typedef struct CmViewQuery
{
	CmMatviewPlan *plan;
	const CmMatviewSettings *settings;	/* NULL: nothing is checked */
	Query	   *flat;			/* Vars are of tables only, but for those of the range table itself */
	List	   *wheres;			/* the members of WHERE, all of which must hold */
	List	   *sources;		/* range table indexes of what FROM joins, as integers */
	Bitmapset **nulled_by;		/* by range table index: the joins that can null it */
	List	   *equalities;		/* of CmEquality */
	bool		full_join;
	List	   *edges;			/* members of wheres that became windows */
} CmViewQuery;

/* in matview_manage.c: the view itself */
extern bool cm_matview_is_populated(Oid relid);

/* in matview_join.c: which columns are equal, and what can be null */
extern void cm_join_read(CmViewQuery *view);
extern Node *cm_join_tell(const CmViewQuery *view, Node *expr, Index rti);

/* in matview_window.c */
extern void cm_window_find(CmViewQuery *view);
extern bool cm_window_is_now(Node *node);
extern bool cm_window_has_now(Node *node);

/* in matview_function.c: what functions depend on */
extern bool cm_function_uses_zone(Node *node);
extern void cm_function_check(CmViewQuery *view, Node *node, const char *where, bool in_edge);
extern char *cm_function_text(Oid function);

/* in matview_aggregate.c: which aggregates can be computed in any order */
extern bool cm_aggregate_is_exact(const Aggref *call);
extern const char *cm_aggregate_hint(const Aggref *call);
extern List *cm_aggregate_functions(Oid aggregate);

/* in matview_output.c: functions that depend on types' output functions alone */
extern bool cm_output_depends(Oid type);
extern bool cm_output_is_fixed(Node *node, bool *uses_zone);

/* in matview_check.c: everything that a query is asked */
extern void cm_check_all(CmViewQuery *view);
extern void cm_check_failed(CmViewQuery *view, const char *name, const char *reason_code,
							const char *detail, const char *hint);

/* in matview_source.c: the tables in FROM */
extern void cm_source_check(CmViewQuery *view);

/* Is a name in a list of so many? */
static inline bool
cm_is_listed(const char *name, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
	{
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return false;
}

#endif							/* CM_MATVIEW_QUERY_H */
