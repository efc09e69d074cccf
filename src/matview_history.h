/*-------------------------------------------------------------------------
 *
 * matview_history.h
 *	  What the files that keep the history of views say to each other.
 *
 * Words: the history of a view is a table with the view's columns.  A source
 * is a partitioned table in the view's query; its rows are of buckets of the
 * view, and so are the bounds of its partitions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_MATVIEW_HISTORY_H
#define CM_MATVIEW_HISTORY_H

#include "matview_merge.h"

/* The view's rows that are made of a partition's: their buckets, both ends included. */
typedef struct CmHistoryRange
{
	int			key;			/* index of the bucket's column in keys; -1: not known */
	Datum		first;
	Datum		last;
} CmHistoryRange;

/* A view with a history that a partition's rows may be in. */
typedef struct CmHistory
{
	Oid			view;
	Oid			table;			/* InvalidOid: it is gone */
	char	   *table_name;		/* as it was last known, quoted */
	CmRefresh	refresh;
	CmHistoryRange range;
} CmHistory;

/* in matview_history.c: which views have one */
extern void cm_matview_history_set(Oid view, const CmMatviewPlan *plan, const bool *wanted);
extern void cm_matview_history_leave(Oid view);
extern List *cm_matview_histories(Oid parent);

/* in matview_history_make.c: its table and the view over both */
extern Oid	cm_matview_history_make(Oid view, const CmMatviewPlan *plan);

/* in matview_partition.c: which rows of a view a partition makes; catalog rows only */
extern const CmMatviewCheck *cm_matview_history_check(const CmMatviewPlan *plan);
extern int	cm_matview_history_key(const CmMatviewPlan *plan);
extern bool cm_matview_history_range(const CmMatviewPlan *plan, const char *zone, Oid parent,
									 Oid partition, CmHistoryRange *range);
extern bool cm_matview_history_is_over(const CmMatviewPlan *plan, const char *zone,
									   const CmHistoryRange *range);
extern bool cm_matview_history_touched(const CmMatviewPlan *plan, const CmHistoryRange *range,
									   const CmDirty *dirty);

/* in matview_refresh.c: refresh for the history's sake */
extern bool cm_matview_refresh_apart(CmRefresh *refresh);
extern void cm_matview_refresh_here(CmRefresh *refresh);

#endif							/* CM_MATVIEW_HISTORY_H */
