/*-------------------------------------------------------------------------
 *
 * matview_compute.c
 *	  Run a view's query, for some classes of groups or for all.
 *
 * As core's REFRESH runs it: rewritten, planned and executed as the view's
 * owner, in a restricted security context and with a pinned search_path; and
 * with the time zone that the view is kept in.  Everything reads the active
 * snapshot, which the caller took after its locks, and no statement of it
 * takes another one: what the log said and what is computed belong together.
 *
 * Whether it is cheaper to compute everything is asked of the planner, where
 * there is reason to ask: if the plans for the classes cost more together
 * than the plan for the whole query, that one is run.
 *
 * Locks: AccessShareLock on what the query reads, held to the end of the
 * transaction.  After an error the (sub)transaction's abort cleans up; the
 * executor's state is in contexts below the caller's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteHandler.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "matview_merge.h"

/* With that many members in one class nobody asks what everything would cost. */
#define FEW_PATTERNS		16

/* A receiver that hands rows to a sink. */
typedef struct SinkReceiver
{
	DestReceiver pub;
	CmRowSink	sink;
	void	   *arg;
	MemoryContext context;
} SinkReceiver;

/*
 * Become the view's owner, in the view's time zone (NULL: in that of the
 * session).  Left by cm_scope_leave().
 */
void
cm_matview_owner_enter(CmScope *scope, Oid owner, const char *zone, bool restricted)
{
	cm_owner_enter(scope, owner, restricted);
	if (zone != NULL)
		(void) set_config_option("TimeZone", zone, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* Plan a query that is a copy of the caller's own. */
PlannedStmt *
cm_query_plan(Query *query)
{
	List	   *rewritten;

	AcquireRewriteLocks(query, true, false);
	rewritten = QueryRewrite(query);
	if (list_length(rewritten) != 1)
		elog(ERROR, "unexpected rewrite result for a materialized view's query");
	CHECK_FOR_INTERRUPTS();
	return pg_plan_query(linitial_node(Query, rewritten), "concertmaster refresh",
						 CURSOR_OPT_PARALLEL_OK, NULL);
}

static bool
sink_receive(TupleTableSlot *slot, DestReceiver *self)
{
	SinkReceiver *receiver = (SinkReceiver *) self;
	MemoryContext caller = MemoryContextSwitchTo(receiver->context);

	receiver->sink(slot, receiver->arg);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(receiver->context);
	return true;
}

static void
sink_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
sink_end(DestReceiver *self)
{
}

/* Run a plan with the active snapshot; its rows go to sink. */
void
cm_query_run(PlannedStmt *plan, QueryEnvironment *env, CmRowSink sink, void *arg)
{
	SinkReceiver receiver = {
		.pub = {.receiveSlot = sink_receive,.rStartup = sink_startup,.rShutdown = sink_end,
		.rDestroy = sink_end,.mydest = DestNone},
		.sink = sink,.arg = arg
	};
	QueryDesc  *query;

	receiver.context = AllocSetContextCreate(CurrentMemoryContext, "concertmaster row",
											 ALLOCSET_DEFAULT_SIZES);
	query = CreateQueryDesc(plan, "concertmaster refresh", GetActiveSnapshot(), InvalidSnapshot,
							&receiver.pub, NULL, env, 0);
	ExecutorStart(query, 0);
	cm_compat_executor_run(query, ForwardScanDirection, 0);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
	MemoryContextDelete(receiver.context);
}

/* Where computed rows go. */
typedef struct Collector
{
	const CmClasses *classes;
	int			class;			/* rows of the classes before are there already */
	Tuplestorestate *rows;
} Collector;

static void
collect_row(TupleTableSlot *slot, void *arg)
{
	Collector  *collector = arg;

	if (!cm_classes_match(collector->classes, collector->class, slot))
		tuplestore_puttupleslot(collector->rows, slot);
}

/* Are there so few that all of the view cannot be cheaper? */
static bool
is_little(const CmClasses *classes)
{
	return list_length(classes->list) == 1 && classes->patterns <= FEW_PATTERNS;
}

/* The plans for the classes, in their order. */
static List *
plan_classes(const CmClasses *classes, double *cost)
{
	List	   *plans = NIL;
	ListCell   *cell;

	*cost = 0;
	foreach(cell, classes->list)
	{
		PlannedStmt *plan = cm_query_plan(cm_restrict_query(classes, lfirst(cell)));

		*cost += plan->planTree->total_cost;
		plans = lappend(plans, plan);
	}
	return plans;
}

/*
 * The rows that the view shall hold: those of the classes, or all, where
 * *classes is NULL, or is set to it because all are cheaper.  In the scope of
 * cm_matview_owner_enter(), under the snapshot that is active.
 */
Tuplestorestate *
cm_matview_compute(Query *query, CmClasses **classes)
{
	Collector	collector = {.classes = *classes};
	List	   *plans = NIL;
	double		cost = 0;
	ListCell   *cell;

	if (*classes != NULL)
		plans = plan_classes(*classes, &cost);
	if (*classes == NULL || !is_little(*classes))
	{
		PlannedStmt *whole = cm_query_plan(copyObject(query));

		if (*classes == NULL || whole->planTree->total_cost < cost)
		{
			*classes = NULL;
			plans = list_make1(whole);
		}
	}

	collector.rows = tuplestore_begin_heap(false, false, work_mem);
	tuplestore_set_eflags(collector.rows, EXEC_FLAG_REWIND);
	foreach(cell, plans)
	{
		collector.class = foreach_current_index(cell);
		cm_query_run(lfirst(cell), *classes != NULL ? (*classes)->env : NULL, collect_row, &collector);
	}
	return collector.rows;
}
