/*-------------------------------------------------------------------------
 *
 * matview_edges.c
 *	  What came into a view's windows, and went out, since its last refresh.
 *
 * A condition like t >= now() - interval '30 days' moves without a write.
 * Its edge is reckoned twice, for the time that the last refresh called now()
 * and for ours; the raw times between the two are dirty.
 *
 * Runs expressions of the view's query, in the scope of its owner that the
 * caller has entered, because that is also the time zone.  Nothing is locked
 * or read but what these expressions read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"

#include "matview_merge.h"

/* An edge at a time; false if it is NULL. */
static bool
edge_at(const CmWindow *window, TimestampTz now, Datum *edge)
{
	EState	   *estate = CreateExecutorState();
	ExprContext *context = GetPerTupleExprContext(estate);
	ExprState  *expr = ExecPrepareExpr((Expr *) cm_matview_fix_now(window->edge, now), estate);
	int16		length;
	bool		by_value;
	bool		isnull;
	Datum		value = ExecEvalExprSwitchContext(expr, context, &isnull);

	get_typlenbyval(window->bucket->type, &length, &by_value);
	if (!isnull)
		*edge = datumCopy(value, by_value, length);
	FreeExecutorState(estate);
	return !isnull;
}

/* Add what moved between refreshed_at and now to what is dirty. */
void
cm_matview_windows_moved(const CmMatviewPlan *plan, const char *zone,
						 TimestampTz refreshed_at, CmDirty *dirty)
{
	ListCell   *cell;

	foreach(cell, plan->windows)
	{
		const CmWindow *window = lfirst(cell);
		CmDirtyRange *range = palloc0(sizeof(CmDirtyRange));
		Datum		before;
		Datum		after;
		bool		had = edge_at(window, refreshed_at, &before);
		bool		has = edge_at(window, GetCurrentTransactionStartTimestamp(), &after);

		if (!had && !has)
			continue;
		if (had && has && cm_matview_window_range(window, zone, before, after, range))
			dirty->ranges = lappend(dirty->ranges, range);
		else if (!had || !has)
			dirty->stale = "a condition of its query moved with the time";
	}
}
