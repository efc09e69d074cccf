/*-------------------------------------------------------------------------
 *
 * index_run.c
 *	  Run a build job: one phase of index_plan.
 *
 * cm_index_run() is called by a worker, in no transaction.  It reads the rows
 * of its phase that its owner may act for, and has each brought to the state
 * that it asks for.  A row that fails does not stop the others; how each went
 * is written to index_state.  At the end the run fails if any row did, with
 * the first one's SQLSTATE and a line for each.
 *
 * Conflicts (something else has the planned name) are reported and left
 * alone.  They do not fail the run: trying again would not help.  Rows that
 * were put off are tried again when the others are done, for some seconds: most
 * often whoever was in the way is gone by then.  If some still are, the run
 * was put off, unless a row failed.
 *
 * Rows whose builds may not begin now (pace.h) are put off too.  For standbys
 * the run waits PATIENCE_MS in all, then it comes again later, as it does for
 * a window that is closed: a worker that waits is one less for others.
 *
 * Locks: none on a user's table.  After an error: each row has its fence
 * (build_row), which leaves no transaction open.  A cancel ends the run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "concertmaster.h"
#include "index.h"

/* How long rows that were put off are tried again before the run ends, in ms. */
#define MORE_ROUNDS_MS	3000

/* How long a run waits until its builds may go on, in ms. */
#define PATIENCE_MS		60000

/* The whole run. */
typedef struct BuildRun
{
	const CmJob *job;
	MemoryContext context;
	int			patience_ms;	/* that is left */
	int			total;
	int			done;
	int			built;
	int			found;
	int			dropped;		/* from partitions outside their window */
	int			conflicts;
	int			deferred;		/* names out of step, or put off in every round */
	int			waiting;		/* builds that may not begin now */
	CmPace		pace;			/* why, of one of them */
	int			failed;
	int			sqlstate;		/* of the first failure */
	int			blocked_by;
	StringInfoData failures;	/* a line for each */
} BuildRun;

/* The row's state says who works on it. */
static void
save_begin(CmIndexRow *row)
{
	Oid			types[3] = {TEXTOID, TEXTOID, INT4OID};
	Datum		values[3];
	CmScope		scope;

	values[0] = CStringGetTextDatum(row->plan.schema_name);
	values[1] = CStringGetTextDatum(row->plan.index_name);
	values[2] = Int32GetDatum(MyProcPid);
	cm_transaction_begin(GetSessionUserId());
	cm_catalog_enter(&scope);

	/* The row may have been deleted by its owner meanwhile. */
	SPI_execute_with_args("INSERT INTO concertmaster.index_state"
						  " (schema_name, index_name, worker_pid)"
						  " SELECT schema_name, index_name, $3"
						  "   FROM concertmaster.index_plan"
						  "  WHERE schema_name = $1::name AND index_name = $2::name FOR KEY SHARE"
						  " ON CONFLICT (schema_name, index_name) DO UPDATE"
						  " SET worker_pid = EXCLUDED.worker_pid",
						  3, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
	cm_transaction_commit();
}

/* A text parameter that can be null. */
static void
set_text(Datum *value, char *null, const char *text)
{
	*value = text ? CStringGetTextDatum(text) : (Datum) 0;
	*null = text ? ' ' : 'n';
}

/*
 * Write down how a row stands, in a transaction of its own.  failure: the
 * error that ended the work, or NULL; message: what to say without one.
 */
static void
save_end(CmIndexRow *row, const ErrorData *failure, const char *message)
{
	Oid			types[10] = {TEXTOID, TEXTOID, OIDOID, OIDOID, OIDARRAYOID, INT4OID,
	TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[10];
	char		nulls[10];
	CmScope		scope;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(row->plan.schema_name);
	values[1] = CStringGetTextDatum(row->plan.index_name);
	values[2] = ObjectIdGetDatum(row->index_oid);
	nulls[2] = OidIsValid(row->index_oid) ? ' ' : 'n';
	values[3] = ObjectIdGetDatum(row->conflict);
	nulls[3] = OidIsValid(row->conflict) ? ' ' : 'n';
	values[4] = PointerGetDatum(construct_array(row->leaves, row->nleaves, OIDOID,
												sizeof(Oid), true, TYPALIGN_INT));
	values[5] = Int32GetDatum(row->leaf_total);
	set_text(&values[6], &nulls[6], failure ? unpack_sql_state(failure->sqlerrcode) : NULL);
	set_text(&values[7], &nulls[7], failure ? failure->message : message);
	set_text(&values[8], &nulls[8], failure ? failure->detail : NULL);
	set_text(&values[9], &nulls[9], failure ? failure->hint : NULL);

	cm_transaction_begin(GetSessionUserId());
	cm_catalog_enter(&scope);

	/* No row: it was deleted by its owner while we worked on it. */
	SPI_execute_with_args("UPDATE concertmaster.index_state"
						  " SET worker_pid = NULL, last_run = now(), serving_relid = $3,"
						  "     conflict_relid = $4, leaf_relids = $5, leaf_total = $6,"
						  "     sqlstate = $7, message = $8, detail = $9, hint = $10"
						  " WHERE schema_name = $1::name AND index_name = $2::name",
						  10, types, values, nulls, false, 0);
	cm_scope_leave(&scope);
	cm_transaction_commit();
}

/* A row failed: count it and write it down. */
static void
record_error(BuildRun *run, CmIndexRow *row, const ErrorData *edata)
{
	run->dropped += row->dropped_from;
	save_end(row, edata, NULL);
	if (OidIsValid(row->conflict) && edata->sqlerrcode == ERRCODE_DUPLICATE_TABLE)
	{
		run->conflicts++;
		return;
	}
	if (run->failed++ == 0)
		run->sqlstate = edata->sqlerrcode;
	appendStringInfo(&run->failures, "%s\"%s\": %s", run->failures.len ? "\n" : "",
					 row->plan.index_name, edata->message);
}

/* A row may not be built now: count it and write it down. */
static void
record_wait(BuildRun *run, CmIndexRow *row)
{
	ErrorData	later = {.sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE};

	later.message = psprintf("put off: %s", row->pace.why);
	later.hint = row->pace.reason == CM_PACE_WINDOW ?
		psprintf("CALL concertmaster.build_indexes(%d, ignore_window => true) does not wait for that.", row->plan.phase) :
		"View concertmaster.build_conditions shows how far the standbys are.";
	save_end(row, &later, NULL);
	run->waiting++;
	run->pace = row->pace;
	run->pace.why = MemoryContextStrdup(run->context, row->pace.why);
}

/* A row did not fail: count it and write it down. */
static void
record_result(BuildRun *run, CmIndexRow *row, CmIndexResult result)
{
	run->dropped += row->dropped_from;
	if (result == CM_INDEX_DEFERRED && row->pace.reason != CM_PACE_GO)
	{
		record_wait(run, row);
		return;
	}
	if (result == CM_INDEX_DEFERRED)
	{
		ErrorData	later = {.sqlerrcode = ERRCODE_LOCK_NOT_AVAILABLE,
		.message = "put off: a lock was not to be had in time"};

		if (row->blocked_by)
		{
			run->blocked_by = row->blocked_by;
			later.detail = psprintf("Process %d held one that was in the way.", row->blocked_by);
		}
		save_end(row, &later, NULL);
		return;
	}
	if (row->built)
		run->built++;
	else
		run->found++;
	save_end(row, NULL, row->message ? row->message : row->built ? "built" : "found valid");
}

/*
 * Work on one row behind an error fence.  What an earlier round told of it is
 * void, except that something was built.  False if it was put off and is worth
 * another try in this run.
 */
static bool
build_row(BuildRun *run, CmIndexRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile edata = NULL;
	volatile CmIndexResult result = CM_INDEX_DONE;

	*row = (CmIndexRow) {.plan = row->plan,.number = run->done,.total = run->total,.built = row->built,
	.patience_ms = &run->patience_ms,.ignore_window = run->job->ignore_window};
	save_begin(row);
	PG_TRY();
	{
		result = cm_index_build(row);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	if (edata == NULL)
	{
		record_result(run, row, result);
		return result != CM_INDEX_DEFERRED || row->pace.reason != CM_PACE_GO;
	}
	cm_transaction_abort();
	MemoryContextSwitchTo(context);
	record_error(run, row, edata);
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(edata);
	return true;
}

/*
 * One row of load_plan()'s query.  Sets *moved if the row means a relation
 * that has another name by now.
 */
static CmIndexRow *
make_row(HeapTuple tuple, TupleDesc desc, int phase, bool *moved)
{
	CmIndexRow   *row = palloc0(sizeof(CmIndexRow));
	CmIndexPlan *plan = &row->plan;
	bool		isnull;
	Datum		datum;

	plan->phase = phase;
	plan->schema_name = SPI_getvalue(tuple, desc, 1);
	plan->table_name = SPI_getvalue(tuple, desc, 2);
	plan->index_name = SPI_getvalue(tuple, desc, 3);
	plan->is_unique = DatumGetBool(SPI_getbinval(tuple, desc, 4, &isnull));
	plan->definition = SPI_getvalue(tuple, desc, 5);
	datum = SPI_getbinval(tuple, desc, 6, &isnull);
	if (!isnull)
	{
		plan->hot_window = palloc(sizeof(Interval));
		*plan->hot_window = *DatumGetIntervalP(datum);
	}
	plan->relid = cm_relation_resolve(plan->schema_name, plan->table_name);
	plan->owner = OidIsValid(plan->relid) ? cm_relation_owner(plan->relid) : InvalidOid;
	datum = SPI_getbinval(tuple, desc, 7, &isnull);
	*moved = !isnull && DatumGetObjectId(datum) != plan->relid;
	return row;
}

/*
 * The phase's rows that the job may work on: those of tables whose owner the
 * job's owner can act as; for a superuser's job also those without a table,
 * which then fail and say so.  Rows whose names are out of step count as put
 * off: what they name now can be another's table.
 */
static List *
load_plan(const CmJob *job, int *put_off)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[1] = {INT4OID};
	Datum		values[1];
	List	   *rows = NIL;
	CmScope		scope;

	values[0] = Int32GetDatum(job->phase);
	cm_transaction_begin(GetSessionUserId());
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT p.schema_name, p.table_name, p.index_name, p.is_unique,"
						  "       p.definition, p.hot_window, c.oid"
						  "  FROM concertmaster.index_plan p"
						  "  LEFT JOIN concertmaster.relation_map m"
						  "    ON m.schema_name = p.schema_name AND m.relation_name = p.table_name"
						  "  LEFT JOIN pg_class c ON c.oid = m.relid"
						  " WHERE p.phase = $1"
						  " ORDER BY p.schema_name, p.table_name, p.index_name",
						  1, types, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		bool		moved;
		CmIndexRow   *row = make_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, job->phase, &moved);

		if (moved)
			(*put_off)++;
		else if (OidIsValid(row->plan.relid) ? has_privs_of_role(job->owner, row->plan.owner) :
			superuser_arg(job->owner))
			rows = lappend(rows, row);
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	cm_transaction_commit();
	MemoryContextSwitchTo(context);
	return rows;
}

/* Say how the run went: an error if any row failed. */
static void
report_run(BuildRun *run, CmJobOutcome *outcome)
{
	StringInfoData text;

	if (run->failed > 0)
		ereport(ERROR,
				(errcode(run->sqlstate),
				 errmsg("could not build %d of %d indexes of phase %d",
						run->failed, run->total, run->job->phase),
				 errdetail("%s", run->failures.data),
				 errhint("View concertmaster.indexes has the errors in full.  Those that failed do not keep others from being built.")));

	initStringInfo(&text);
	appendStringInfo(&text, "phase %d: %d built, %d already there",
					 run->job->phase, run->built, run->found);
	if (run->dropped > 0)
		appendStringInfo(&text, ", dropped from %d partition%s outside the hot window",
						 run->dropped, run->dropped == 1 ? "" : "s");
	if (run->conflicts > 0)
		appendStringInfo(&text, ", %d in conflict with another of the same name", run->conflicts);
	if (run->deferred > 0)
		appendStringInfo(&text, ", %d put off", run->deferred);
	if (run->waiting > 0)
		appendStringInfo(&text, ", %d put off: %s", run->waiting, run->pace.why);
	outcome->message = text.data;
	outcome->deferred = run->deferred > 0 || run->waiting > 0;
	if (run->deferred == 0)
		outcome->not_before = run->pace.until;
	outcome->blocked_by = outcome->deferred ? run->blocked_by : 0;
}

/* Build some rows, one by one.  Returns those that were put off. */
static List *
build_rows(BuildRun *run, const List *rows, MemoryContext row_context)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *put_off = NIL;
	ListCell   *lc;

	foreach(lc, rows)
	{
		CmIndexRow *row = lfirst(lc);
		bool		done;

		CHECK_FOR_INTERRUPTS();
		cm_progress_report(run->done, run->total, "building \"%s\" on \"%s\"",
						   row->plan.index_name, row->plan.table_name);
		MemoryContextSwitchTo(row_context);
		done = build_row(run, row);
		MemoryContextSwitchTo(context);
		MemoryContextReset(row_context);
		if (done)
			run->done++;
		else
			put_off = lappend(put_off, row);
	}
	return put_off;
}

/* Build the job's phase.  Called by a worker outside of any transaction. */
void
cm_index_run(const CmJob *job, CmJobOutcome *outcome)
{
	BuildRun	run = {.job = job,.context = CurrentMemoryContext,.patience_ms = PATIENCE_MS};
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "concertmaster index row",
													  ALLOCSET_DEFAULT_SIZES);
	List	   *rows = load_plan(job, &run.deferred);
	TimestampTz begin;

	initStringInfo(&run.failures);
	run.total = list_length(rows);
	rows = build_rows(&run, rows, row_context);
	begin = GetCurrentTimestamp();
	for (int attempt = 10; rows != NIL; attempt += 10)
	{
		if (TimestampDifferenceExceeds(begin, GetCurrentTimestamp(), MORE_ROUNDS_MS))
			break;
		cm_retry_pause(attempt);
		rows = build_rows(&run, rows, row_context);
	}
	run.deferred += list_length(rows);
	cm_progress_report(run.done, run.total, "phase %d done", job->phase);
	report_run(&run, outcome);
}
