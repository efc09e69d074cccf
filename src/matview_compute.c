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
 * A class of several members is one query that joins them, or one that is
 * planned once and run for each of them: few groups of a large table are found
 * by an index in turn, many by reading it once.  And it may be cheaper to
 * compute everything.  The planner is asked what each would cost, where there
 * is reason to ask, and the cheapest is run.
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

/* With more members in a class it is not asked what one by one would cost. */
#define MANY_MEMBERS		2000

/* What it costs to start a plan once more, in units of the planner. */
#define RUN_COST			10.0

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
cm_query_run(PlannedStmt *plan, QueryEnvironment *env, ParamListInfo params,
			 CmRowSink sink, void *arg)
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
							&receiver.pub, params, env, 0);
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

/* How one class is computed. */
typedef struct ClassPlan
{
	const CmClass *class;		/* NULL: all of the view */
	PlannedStmt *plan;
	bool		by_member;		/* run it for each member, not once */
	double		cost;
} ClassPlan;

/* The cheapest plan for one class. */
static ClassPlan *
plan_class(const CmClasses *classes, const CmClass *class)
{
	ClassPlan  *result = palloc0(sizeof(ClassPlan));
	int			members = list_length(class->members);
	PlannedStmt *joined;

	result->class = class;
	if (class->name != NULL && members <= MANY_MEMBERS)
	{
		result->plan = cm_query_plan(cm_restrict_query(classes, class, true));
		result->by_member = true;
		result->cost = members * (result->plan->planTree->total_cost + RUN_COST);
	}
	joined = cm_query_plan(cm_restrict_query(classes, class, false));
	if (result->plan == NULL || joined->planTree->total_cost < result->cost)
	{
		result->plan = joined;
		result->by_member = false;
		result->cost = joined->planTree->total_cost;
	}
	return result;
}

/* The plans for the classes, in their order, and their cost. */
static List *
plan_classes(const CmClasses *classes, double *cost)
{
	List	   *plans = NIL;
	ListCell   *cell;

	*cost = 0;
	foreach(cell, classes->list)
	{
		ClassPlan  *plan = plan_class(classes, lfirst(cell));

		*cost += plan->cost;
		plans = lappend(plans, plan);
	}
	return plans;
}

/* Run a plan for each member of its class. */
static void
run_by_member(const CmClasses *classes, const ClassPlan *plan, Collector *collector)
{
	TupleDesc	desc = plan->class->desc;
	ParamListInfo params = makeParamList(desc->natts);
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "concertmaster member",
												  ALLOCSET_DEFAULT_SIZES);
	ListCell   *cell;

	foreach(cell, plan->class->members)
	{
		MemoryContext caller = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		cm_member_values(classes->plan, plan->class, lfirst(cell), values);
		for (int i = 0; i < desc->natts; i++)
		{
			params->params[i].value = values[i];
			params->params[i].isnull = false;
			params->params[i].pflags = PARAM_FLAG_CONST;
			params->params[i].ptype = TupleDescAttr(desc, i)->atttypid;
		}
		cm_query_run(plan->plan, classes->env, params, collect_row, collector);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	}
	MemoryContextDelete(context);
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
			ClassPlan  *plan = palloc0(sizeof(ClassPlan));

			*classes = NULL;
			plan->plan = whole;
			plans = list_make1(plan);
		}
	}

	collector.rows = tuplestore_begin_heap(false, false, work_mem);
	tuplestore_set_eflags(collector.rows, EXEC_FLAG_REWIND);
	foreach(cell, plans)
	{
		const ClassPlan *plan = lfirst(cell);

		collector.class = foreach_current_index(cell);
		if (plan->by_member)
			run_by_member(*classes, plan, &collector);
		else
			cm_query_run(plan->plan, *classes != NULL ? (*classes)->env : NULL, NULL, collect_row, &collector);
	}
	return collector.rows;
}
