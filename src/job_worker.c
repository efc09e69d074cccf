/*-------------------------------------------------------------------------
 *
 * job_worker.c
 *	  The worker: one database, one job at a time, the error fence.
 *
 * A worker is started with an order: look what is due in a database and do
 * the oldest of it, or run the named jobs, one after the other, as long as
 * somebody waits for that.  It connects as the bootstrap superuser (and acts as
 * owners inside transactions), claims its job, records the start, hands the job
 * to the room whose kind it is, records the end and exits.  At the end of a run, and if it was to look also after the claim, it
 * publishes when the database's next job is due; that is all the launcher
 * knows.
 *
 * Where there is nothing for us (no extension, other version, not armed,
 * driven by pg_cron) the worker publishes that nothing is due and goes.
 *
 * Locks: the job's own, see job_run.c.  Every role can hold a row of the job
 * tables locked for a while, by a door called in an open transaction.  So a
 * worker claims no job whose row is locked, waits for other locks on those
 * tables JOB_LOCK_TIMEOUT at most, and goes on without bringing the names in
 * step where its own job's are.  While the end is recorded, the
 * extension is locked against being dropped; if it is gone by then, nothing
 * is recorded and nothing said.  Rows that are locked at the end of a run are
 * tried for RECORD_PATIENCE_MS, in transactions that are over at once.
 *
 * Cleanup: an error inside the job is caught here, logged and recorded.  A
 * termination (SIGTERM) ends the process at once; the run is closed by the
 * next worker in this database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "concertmaster.h"
#include "job.h"

/* Rows that somebody has locked are tried again after this, at the end so long. */
#define ROWS_PAUSE_MS		200
#define RECORD_PATIENCE_MS	10000

/* How long a worker waits for a lock on the job tables before its run. */
#define JOB_LOCK_TIMEOUT	"2s"

/* What the worker has claimed. */
typedef struct Claim
{
	Oid			extension;		/* pg_extension's oid, to see a DROP */
	CmRun		run;
	CmJob	   *job;			/* NULL: nothing */
	TimestampTz next_due;		/* of the rest of the database's jobs */
	int			due_count;		/* how many of them */
} Claim;

/* Say in the error log which job it was. */
static void
job_error_context(void *arg)
{
	CmJob	   *job = (CmJob *) arg;

	errcontext("job " INT64_FORMAT ", \"%s\"", job->job_id, job->name);
}

/* Wait a little, in no transaction. */
static void
pause_for_rows(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 ROWS_PAUSE_MS, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* In this transaction, do not wait longer for any lock. */
static void
bound_lock_waits(void)
{
	(void) set_config_option("lock_timeout", JOB_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Bring names and owners in step with the relations.  Returns false if that
 * did not come about because an open transaction was in the way.  Any other
 * trouble is logged, and no reason to let all jobs wait; the next worker
 * tries again.
 */
static bool
reconcile(void)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool done = true;

	PG_TRY();
	{
		cm_transaction_begin(GetSessionUserId());
		bound_lock_waits();
		done = cm_relations_try_reconcile();
		cm_job_owners_reconcile();
		cm_transaction_commit();
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
		cm_transaction_abort();
		if (!cm_error_means_later(edata, false))
			ereport(LOG,
					(errcode(edata->sqlerrcode),
					 errmsg("could not bring the names in the job tables up to date: %s", edata->message),
					 edata->detail ? errdetail_internal("%s", edata->detail) : 0));
		done = false;
	}
	PG_END_TRY();
	return done;
}

/*
 * The job as it is after its names were brought in step; NULL if it is gone,
 * or if they could not be: *put_off then.  is_first: of this worker's jobs;
 * for the others it is enough that their own names are in step.
 */
static CmJob *
load_in_step(int64 job_id, bool is_first, bool *put_off)
{
	bool		reconciled = is_first && reconcile();
	CmJob	   *job;

	cm_transaction_begin(GetSessionUserId());
	if (!is_first && !cm_job_in_step(job_id))
	{
		cm_transaction_commit();
		return load_in_step(job_id, true, put_off);
	}
	job = cm_job_load(job_id);
	*put_off = job != NULL && !reconciled && !cm_job_in_step(job_id);
	cm_transaction_commit();
	return *put_off ? NULL : job;
}

/* The room whose kind of job it is does the work. */
static void
dispatch(const CmJob *job, CmJobOutcome *outcome)
{
	if (!OidIsValid(job->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("owner of job \"%s\" does not exist", job->name)));
	switch (job->kind)
	{
		case CM_JOB_REFRESH:
			cm_matview_run(job, outcome);
			break;
		case CM_JOB_ROLL:
			cm_partition_run(job, outcome);
			break;
		case CM_JOB_BUILD:
			cm_index_run(job, outcome);
			break;
		case CM_JOB_ADOPT:
			cm_install_run(job, outcome);
			break;
		case CM_JOB_CONVERT:
			cm_conversion_run(job, outcome);
			break;
		case CM_JOB_PRUNE:
			cm_jobs_prune(outcome);
			cm_matview_prune();
			break;
	}
}

/* Tell the launcher when this database's next job is due. */
static void
publish(const Claim *claim, uint32 wakes, bool run_ended)
{
	cm_database_publish(claim->next_due, claim->due_count, wakes, run_ended);
}

/*
 * Get the lock of the one job that the order names.  A run of it that goes on
 * is waited for: in a transaction without a snapshot, or an index that is
 * being built would wait for us in turn.
 */
static void
await_named_job(int64 job_id)
{
	StartTransactionCommand();
	if (!cm_job_lock(job_id, false))
	{
		cm_progress_report(0, 0, "waiting for the run of this job that is going on");
		(void) cm_job_lock(job_id, true);
	}
	CommitTransactionCommand();
}

/* Is the extension here, in the library's version?  Says so if in another. */
static bool
extension_fits(Oid *extension_oid)
{
	char	   *version = cm_extension_version(extension_oid);

	if (version == NULL)
		return false;
	if (strcmp(version, CM_VERSION) == 0)
		return true;
	ereport(LOG,
			(errmsg("concertmaster does nothing in database \"%s\": the extension is of version %s, its library of version %s",
					get_database_name(MyDatabaseId), version, CM_VERSION),
			 errhint("Run ALTER EXTENSION concertmaster UPDATE there; restart the server first if its library was replaced while it ran.")));
	return false;
}

/*
 * In one transaction: is there something for us here, what is it, and what is
 * left.  Returns false, with nothing done, if the rows of the one job that the
 * order names are locked.
 */
static bool
try_claim(const CmWorkerOrder *order, int64 job_id, Claim *claim)
{
	bool		named = order->mode == CM_WORKER_JOB && !order->only_if_due;
	bool		looks = order->mode == CM_WORKER_LOOK;
	bool		dead_busy;
	int			closed;
	int			retry_ms = 0;
	Datum		passed_over = 0;

	claim->next_due = DT_NOEND;
	cm_transaction_begin(GetSessionUserId());
	bound_lock_waits();
	if (looks)
		cm_jobs_find_prepared();
	if (!extension_fits(&claim->extension) || (looks && !cm_jobs_armed("launcher")))
	{
		claim->extension = InvalidOid;
		cm_transaction_commit();
		return true;
	}
	if (named && !cm_job_lock_rows(job_id))
	{
		cm_transaction_commit();
		return false;
	}

	closed = cm_runs_close_dead(&dead_busy);
	if (looks && cm_matview_log_is_long())
		cm_jobs_wake_prune();
	if (!named)
		job_id = cm_job_claim_due(job_id, &passed_over, &retry_ms);
	if (job_id != 0)
		claim->job = cm_job_load(job_id);
	if (claim->job != NULL)
	{
		claim->job->ignore_window = order->ignore_window;
		cm_slot_claimed(job_id, claim->job->owner);
		claim->run.job_id = job_id;
		claim->run.run_id = cm_run_start(job_id);
	}
	if (looks)
		claim->next_due = cm_jobs_next_due(passed_over, &claim->due_count);
	cm_transaction_commit();

	if (retry_ms == 0 && dead_busy)
		retry_ms = CM_ROWS_RETRY_MS;
	if (retry_ms > 0)
		claim->next_due = Min(claim->next_due,
							  TimestampTzPlusMilliseconds(GetCurrentTimestamp(), retry_ms));
	if (!looks && closed > 0)
		cm_database_wake(MyDatabaseId);
	return true;
}

/*
 * Claim a job.  The one that the order names is waited for, for as long as its
 * caller does.
 */
static void
claim_job(const CmWorkerOrder *order, int64 job_id, Claim *claim)
{
	if (order->mode == CM_WORKER_JOB && !order->only_if_due)
		await_named_job(job_id);
	while (!try_claim(order, job_id, claim))
	{
		cm_progress_report(0, 0, "waiting for a transaction that changes this job");
		pause_for_rows();
	}
}

/*
 * In one transaction: record the end of the run, and see what is due next.
 * Does nothing if the extension was dropped meanwhile.  Returns false, with
 * nothing done, if the rows are locked; see cm_run_finish() for run_only.
 */
static bool
try_record(Claim *claim, CmRunStatus status, const ErrorData *edata,
		   const char *message, bool run_only)
{
	MemoryContext context = CurrentMemoryContext;
	bool		recorded = true;

	claim->next_due = DT_NOEND;
	StartTransactionCommand();
	LockDatabaseObject(ExtensionRelationId, claim->extension, 0, AccessShareLock);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (get_extension_oid("concertmaster", true) == claim->extension)
	{
		recorded = cm_run_finish(&claim->run, status, edata, message, run_only);
		if (cm_jobs_armed("launcher"))
			claim->next_due = cm_jobs_next_due((Datum) 0, &claim->due_count);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return recorded;
}

/*
 * Record the end of the run, and tell whoever waits and the launcher.  If the
 * rows stay locked, the job is left as if it had not run.
 */
static void
record_end(Claim *claim, CmRunStatus status, const ErrorData *edata, const char *message,
		   bool is_last)
{
	uint32		wakes;

	/* The run is over: a cancel that comes now is too late. */
	HOLD_CANCEL_INTERRUPTS();
	claim->run.end_time = GetCurrentTimestamp();
	for (int waited_ms = 0;; waited_ms += ROWS_PAUSE_MS)
	{
		wakes = cm_database_wakes(MyDatabaseId);
		if (try_record(claim, status, edata, message, waited_ms >= RECORD_PATIENCE_MS))
			break;
		if (waited_ms >= RECORD_PATIENCE_MS)
		{
			ereport(LOG,
					(errmsg("could not record the end of a run of job \"%s\"", claim->job->name),
					 errdetail("Another transaction that changes or drops the job is still open.")));
			break;
		}
		pause_for_rows();
	}

	cm_job_unlock(claim->run.job_id);
	if (is_last)
		cm_slot_finish(status, edata, message);
	publish(claim, wakes, true);
	RESUME_CANCEL_INTERRUPTS();
}

/*
 * Do the claimed job.  Returns the error that ended it, or NULL.  Whatever
 * happens, the process is outside of any transaction afterwards.
 */
static ErrorData *
run_fenced(const CmJob *job, bool is_first, CmJobOutcome *outcome, MemoryContext context)
{
	ErrorContextCallback callback;
	ErrorData  *volatile edata = NULL;

	callback.callback = job_error_context;
	callback.arg = unconstify(CmJob *, job);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	PG_TRY();
	{
		CmJob	   *fresh = load_in_step(job->job_id, is_first, &outcome->deferred);

		if (fresh != NULL)
		{
			fresh->ignore_window = job->ignore_window;
			dispatch(fresh, outcome);
		}
		else if (outcome->deferred)
			outcome->message = "put off: an open transaction holds a lock on the job tables";
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		(void) cm_deadline_disarm();
		QueryCancelPending = false;
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		EmitErrorReport();
		cm_transaction_abort();
		FlushErrorState();
		RESUME_INTERRUPTS();
	}
	PG_END_TRY();

	error_context_stack = callback.previous;
	MemoryContextSwitchTo(context);
	Assert(!IsTransactionState());
	return edata;
}

/* Claim a job; an error ends the worker, but whoever waits for it hears it. */
static void
claim_fenced(const CmWorkerOrder *order, int64 job_id, Claim *claim)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		claim_job(order, job_id, claim);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		cm_slot_finish(CM_RUN_FAILED, CopyErrorData(), NULL);
		PG_RE_THROW();
	}
	PG_END_TRY();
}

/*
 * Claim, run, record; job_id: 0 for what is due.  is_first, is_last: of this
 * worker's jobs.
 */
static void
work(const CmWorkerOrder *order, int64 job_id, bool is_first, bool is_last)
{
	MemoryContext context = CurrentMemoryContext;
	Claim		claim = {0};
	CmJobOutcome outcome = {0};
	CmRunStatus status;
	ErrorData  *edata;
	uint32		wakes = cm_database_wakes(MyDatabaseId);

	claim_fenced(order, job_id, &claim);
	if (order->mode == CM_WORKER_LOOK)
		publish(&claim, wakes, false);
	if (claim.job == NULL)
	{
		if (OidIsValid(claim.extension))
			(void) reconcile();
		return;
	}

	pgstat_report_appname(claim.job->name);
	pgstat_report_activity(STATE_RUNNING, claim.job->name);
	edata = run_fenced(claim.job, is_first, &outcome, context);
	pgstat_report_activity(STATE_IDLE, NULL);

	if (edata == NULL)
		status = outcome.deferred ? CM_RUN_DEFERRED : CM_RUN_SUCCEEDED;
	else if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED && cm_slot_must_stop(false))
	{
		status = CM_RUN_DEFERRED;
		outcome.message = "made way for a command that needs the database to itself";
		edata = NULL;
	}
	else
		status = CM_RUN_FAILED;
	if (outcome.deferred && outcome.message == NULL && outcome.blocked_by != 0)
		outcome.message = psprintf("put off: process %d was in the way", outcome.blocked_by);
	claim.run.not_before = outcome.not_before;
	record_end(&claim, status, edata, outcome.message, is_last);
}

/* The same with memory of its own: a worker can have many jobs. */
static void
work_apart(const CmWorkerOrder *order, int64 job_id, bool is_first, bool is_last)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "concertmaster job",
												  ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(context);
	work(order, job_id, is_first, is_last);
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextDelete(context);
}

/* Entry point of a worker. */
void
cm_worker_main(Datum main_arg)
{
	CmWorkerOrder order;
	CmOrderJobs jobs = {0};

	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	pqsignal(SIGTERM, die);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);	/* seen where work waits: pace.c */
	BackgroundWorkerUnblockSignals();

	if (!cm_slot_attach(order.slot, jobs.ids, &jobs.count))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(order.datid, InvalidOid, 0);
	cm_session_pin();

	/* A cancel while it connected can have been lost. */
	if (cm_slot_must_stop(false))
		proc_exit(0);
	work_apart(&order, jobs.ids[0], true, jobs.count <= 1);
	for (int i = 1; i < jobs.count && !cm_slot_must_stop(true); i++)
		work_apart(&order, jobs.ids[i], false, i == jobs.count - 1);
	proc_exit(0);
}
