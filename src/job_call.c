/*-------------------------------------------------------------------------
 *
 * job_call.c
 *	  Start the launcher or a worker; run a job in one and wait for it, from
 *	  a CALLed procedure.
 *
 * A procedure that waits for a worker commits first and holds no snapshot
 * while it waits, because the worker can be one that builds an index
 * concurrently, which waits for everybody who holds an older one.  What the
 * worker has to say comes through its slot in shared memory, so the wait
 * needs no look into a table at all.
 *
 * Locks: none.  Cleanup: if the wait ends by an error (a cancel, a lost
 * connection), the worker is cancelled as by SIGINT and begins with no further
 * job; it is terminated if that does not help, and the slot freed.
 *
 * What it does not do: record anything.  The worker records its run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "concertmaster.h"
#include "job.h"

/* How long a waiting procedure stays in one transaction, in milliseconds. */
#define TRANSACTION_AGE_MS	5000

/* How long a cancelled worker has before it is terminated. */
#define CANCEL_GRACE_MS		3000

/* How a run ended, as its waiter reads it; strings are palloc'd or NULL. */
typedef struct Outcome
{
	CmRunStatus status;
	int			sqlerrcode;
	char	   *message;
	char	   *detail;
	char	   *hint;
} Outcome;

/* What a waiting procedure has to clean up. */
typedef struct CallState
{
	CmSlotRef	slot;
	BackgroundWorkerHandle *handle; /* NULL until registered */
} CallState;

/*
 * Start a worker, for these jobs or, if jobs is NULL, to look what is due.
 * Returns CM_RESERVE_FULL also if all of the server's background workers are
 * taken; nothing is left behind then.
 */
CmReserve
cm_worker_start(const CmWorkerOrder *order, const CmOrderJobs *jobs, bool background,
				bool waited, CmSlotRef *slot, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker = {0};
	CmWorkerOrder full = *order;
	CmReserve	reserve;

	StaticAssertStmt(sizeof(CmWorkerOrder) <= BGW_EXTRALEN, "worker order does not fit");

	reserve = cm_slot_reserve(order->datid, jobs != NULL ? jobs->ids : NULL, jobs != NULL ? jobs->count : 0,
							  background, waited, slot);
	if (reserve != CM_RESERVED)
		return reserve;
	full.slot = *slot;

	strlcpy(worker.bgw_name, "concertmaster worker", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "concertmaster worker", BGW_MAXLEN);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "concertmaster", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "cm_worker_main", BGW_MAXLEN);
	memcpy(worker.bgw_extra, &full, sizeof(full));
	worker.bgw_notify_pid = MyProcPid;

	if (RegisterDynamicBackgroundWorker(&worker, handle))
		return CM_RESERVED;
	cm_slot_cancel(*slot);
	return CM_RESERVE_FULL;
}

/* Describe the launcher to the postmaster. */
static void
describe_launcher(BackgroundWorker *worker)
{
	memset(worker, 0, sizeof(*worker));
	strlcpy(worker->bgw_name, "concertmaster launcher", BGW_MAXLEN);
	strlcpy(worker->bgw_type, "concertmaster launcher", BGW_MAXLEN);
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = 1;
	strlcpy(worker->bgw_library_name, "concertmaster", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, "cm_launcher_main", BGW_MAXLEN);
}

/* Have the launcher started with the server.  Called from _PG_init. */
void
cm_launcher_register(void)
{
	BackgroundWorker worker;

	describe_launcher(&worker);
	RegisterBackgroundWorker(&worker);
}

/*
 * Start the launcher now, until the server stops.  Returns false if there is
 * no background worker free.
 */
bool
cm_launcher_start(void)
{
	BackgroundWorker worker;
	BackgroundWorkerHandle *handle;
	pid_t		pid;

	describe_launcher(&worker);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, &handle) &&
		WaitForBackgroundWorkerStartup(handle, &pid) == BGWH_STARTED;
}

/* Wait up to timeout_ms for the worker to end, deaf to cancels. */
static bool
wait_for_end(BackgroundWorkerHandle *handle, int timeout_ms)
{
	pid_t		pid;

	while (GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED && timeout_ms > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 20, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		timeout_ms -= 20;
	}
	return GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED;
}

/* The wait ended by an error: take the worker along. */
static void
abandon_worker(int code, Datum arg)
{
	CallState  *state = (CallState *) DatumGetPointer(arg);
	pid_t		pid;

	/* Before the cancel, so that the worker does not begin with its next job. */
	cm_slot_release(state->slot);
	if (state->handle != NULL)
	{
		if (GetBackgroundWorkerPid(state->handle, &pid) == BGWH_STARTED)
			kill(pid, SIGINT);
		else
			TerminateBackgroundWorker(state->handle);
		if (!wait_for_end(state->handle, CANCEL_GRACE_MS))
		{
			TerminateBackgroundWorker(state->handle);
			(void) wait_for_end(state->handle, CANCEL_GRACE_MS);
		}
	}
}

/* Show the worker's progress to the client if it has changed. */
static void
show_progress(const CmSlot *slot, const char *name, uint32 *seen)
{
	if (slot->state != CM_SLOT_RUNNING || slot->changes == *seen)
		return;
	*seen = slot->changes;
	if (slot->total > 0)
		ereport(NOTICE,
				(errmsg("%s: %s (" INT64_FORMAT " of " INT64_FORMAT ")",
						name, slot->text, slot->done, slot->total)));
	else
		ereport(NOTICE, (errmsg("%s: %s", name, slot->text)));
}

/* Wait a moment in a transaction that holds nothing, and is never old. */
static void
wait_moment(int *age_ms)
{
	InvalidateCatalogSnapshot();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 100, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();

	*age_ms += 100;
	if (*age_ms >= TRANSACTION_AGE_MS)
	{
		SPI_commit();
		*age_ms = 0;
	}
}

/*
 * Start the job's worker as soon as the job has none; meanwhile the caller
 * waits here, and not in a worker that others could use.
 */
static void
start_in_turn(const CmOrderJobs *jobs, CallState *state, const char *name)
{
	CmWorkerOrder order = {.mode = CM_WORKER_JOB,.datid = MyDatabaseId,.ignore_window = jobs->ignore_window};
	CmReserve	told = CM_RESERVED;
	CmReserve	reserve;
	int			age_ms = 0;

	while ((reserve = cm_worker_start(&order, jobs, false, true, &state->slot, &state->handle)) != CM_RESERVED)
	{
		if (reserve == CM_RESERVE_FULL)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not start a background worker for job \"%s\"", name),
					 errdetail("All background worker slots are taken."),
					 errhint("Try again later, or increase \"max_worker_processes\".")));
		if (reserve != told)
			ereport(NOTICE,
					(reserve == CM_RESERVE_BUSY ?
					 errmsg("%s: waiting for the run of this job that is going on", name) :
					 errmsg("%s: waiting for one of the workers that run jobs for you", name)));
		told = reserve;
		wait_moment(&age_ms);
	}
}

/* Wait for the worker's end, in transactions that hold nothing. */
static void
wait_and_show(CallState *state, const char *name, CmSlot *slot)
{
	uint32		seen = 0;
	int			age_ms = 0;

	for (;;)
	{
		pid_t		pid;
		bool		stopped = GetBackgroundWorkerPid(state->handle, &pid) == BGWH_STOPPED;

		if (!cm_slot_look(state->slot, slot))
			elog(ERROR, "worker slot %d was lost", state->slot.index);
		show_progress(slot, name, &seen);
		if (stopped || slot->state == CM_SLOT_DONE)
			return;
		wait_moment(&age_ms);
	}
}

/* Unpack what cm_slot_finish() packed; nothing of a worker that never came to it. */
static void
read_outcome(const CmSlot *slot, Outcome *outcome)
{
	const char *parts[3];
	const char *next = slot->text;

	memset(outcome, 0, sizeof(Outcome));
	if (slot->state != CM_SLOT_DONE)
		return;
	for (int i = 0; i < lengthof(parts); i++)
	{
		parts[i] = *next != '\0' ? next : NULL;
		next += strlen(next) + 1;
	}
	outcome->status = slot->status;
	outcome->sqlerrcode = slot->sqlerrcode;
	outcome->message = parts[0] ? pstrdup(parts[0]) : NULL;
	outcome->detail = parts[1] ? pstrdup(parts[1]) : NULL;
	outcome->hint = parts[2] ? pstrdup(parts[2]) : NULL;
}

/* The run failed, or never came to an end: raise its error here. */
static void
raise_outcome(const CmSlot *slot, const Outcome *outcome, const char *name)
{
	if (outcome->status == CM_RUN_FAILED)
		ereport(ERROR,
				(errcode(outcome->sqlerrcode),
				 errmsg("%s", outcome->message ? outcome->message : "job failed"),
				 outcome->detail ? errdetail("%s", outcome->detail) : 0,
				 outcome->hint ? errhint("%s", outcome->hint) : 0,
				 errcontext("run of job \"%s\" in a background worker", name)));
	if (slot->state == CM_SLOT_STARTING)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start a background worker for job \"%s\"", name),
				 errhint("More details are in the server log.")));
	ereport(ERROR,
			(errcode(ERRCODE_ADMIN_SHUTDOWN),
			 errmsg("worker of job \"%s\" ended before it recorded an outcome", name),
			 errdetail("It was terminated, or the extension or the database was dropped or replaced meanwhile."),
			 errhint("More details are in the server log; the job can be called again.")));
}

/*
 * Have a worker run jobs, and wait for its end.  The caller's transaction is
 * committed.  What came of the last job is in *slot.
 */
static void
call_worker(const CmOrderJobs *jobs, const char *name, CmSlot *slot)
{
	CallState	state = {0};

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	SPI_commit();
	start_in_turn(jobs, &state, name);

	PG_ENSURE_ERROR_CLEANUP(abandon_worker, PointerGetDatum(&state));
	{
		wait_and_show(&state, name, slot);
	}
	PG_END_ENSURE_ERROR_CLEANUP(abandon_worker, PointerGetDatum(&state));
	cm_slot_release(state.slot);
	SPI_finish();
}

/* What every procedure that calls a worker refuses. */
static void
require_callable(FunctionCallInfo fcinfo)
{
	char	   *what = psprintf("%s()", get_func_name(fcinfo->flinfo->fn_oid));

	cm_require_nonatomic(fcinfo, what);
	cm_require_primary(what);
}

/*
 * Run a job in a worker and wait for its end: what run_job() does, and every
 * other procedure that has a job to its name.  The caller's transaction is
 * committed.  Returns true if the job did its work, false if it put it off;
 * *message is what it says about that, palloc'd, or NULL.  If it failed, its
 * error is raised here with its SQLSTATE, message, detail and hint.
 */
bool
cm_job_call(FunctionCallInfo fcinfo, int64 job_id, char **message)
{
	return cm_job_call_anytime(fcinfo, job_id, false, message);
}

/* Likewise, this run with the build window or, if the caller says so, without. */
bool
cm_job_call_anytime(FunctionCallInfo fcinfo, int64 job_id, bool ignore_window, char **message)
{
	MemoryContext caller = CurrentMemoryContext;
	CmOrderJobs jobs = {.count = 1,.ids = {job_id},.ignore_window = ignore_window};
	Outcome		outcome;
	CmSlot	   *slot = palloc0(sizeof(CmSlot));
	CmJob	   *job;

	require_callable(fcinfo);
	cm_job_require_owner(job_id);
	job = cm_job_load(job_id);
	if (job == NULL)
		elog(ERROR, "job " INT64_FORMAT " does not exist", job_id);
	call_worker(&jobs, job->name, slot);

	MemoryContextSwitchTo(caller);
	read_outcome(slot, &outcome);
	if (outcome.status != CM_RUN_SUCCEEDED && outcome.status != CM_RUN_DEFERRED)
		raise_outcome(slot, &outcome, job->name);
	*message = outcome.message;
	return outcome.status == CM_RUN_SUCCEEDED;
}

/* The number of the last run of any job. */
static int64
last_run(void)
{
	CmScope		scope;
	bool		isnull;
	int64		result;

	cm_catalog_enter(&scope);
	SPI_execute("SELECT coalesce(max(run_id), 0) FROM concertmaster.job_run", false, 1);
	result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	cm_scope_leave(&scope);
	return result;
}

/* Read how the job's first run after that one went, if there was one. */
static void
read_run(CmJobCall *call, int64 after)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[2] = {INT8OID, INT8OID};
	Datum		values[2] = {Int64GetDatum(call->job_id), Int64GetDatum(after)};
	CmScope		scope;

	cm_catalog_enter(&scope);
	cm_query("SELECT status, sqlstate, message, detail, hint FROM concertmaster.job_run"
						  " WHERE job_id = $1 AND run_id > $2 ORDER BY run_id LIMIT 1",
						  2, types, values, NULL);
	if (SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		char	   *sqlstate = SPI_getvalue(row, desc, 2);

		call->status = SPI_getvalue(row, desc, 1);
		call->sqlerrcode = sqlstate == NULL ? ERRCODE_INTERNAL_ERROR :
			MAKE_SQLSTATE(sqlstate[0], sqlstate[1], sqlstate[2], sqlstate[3], sqlstate[4]);
		call->message = SPI_getvalue(row, desc, 3);
		call->detail = SPI_getvalue(row, desc, 4);
		call->hint = SPI_getvalue(row, desc, 5);
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
}

/*
 * Run several jobs (CmJobCall) in as few workers as will do, one after the
 * other, and wait for their end.  None raises an error here: how each went is
 * written into it, with status NULL if it did not come to run.  name: of what
 * is being done, for progress.
 */
void
cm_jobs_call(FunctionCallInfo fcinfo, List *calls, const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	int64		before = last_run();
	ListCell   *lc;

	require_callable(fcinfo);
	foreach(lc, calls)
		cm_job_require_owner(((CmJobCall *) lfirst(lc))->job_id);
	for (int at = 0; at < list_length(calls); at += CM_SLOT_JOBS)
	{
		CmOrderJobs jobs = {0};
		CmSlot	   *slot = palloc0(sizeof(CmSlot));

		while (jobs.count < CM_SLOT_JOBS && at + jobs.count < list_length(calls))
		{
			jobs.ids[jobs.count] = ((CmJobCall *) list_nth(calls, at + jobs.count))->job_id;
			jobs.count++;
		}
		call_worker(&jobs, name, slot);
		MemoryContextSwitchTo(caller);
		pfree(slot);
	}
	foreach(lc, calls)
		read_run(lfirst(lc), before);
}
