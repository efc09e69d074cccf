/*-------------------------------------------------------------------------
 *
 * job_run.c
 *	  One run of a job: lock it, claim it, record how it went.
 *
 * Whoever runs a job holds its lock for the whole session: a heavyweight lock
 * in the space of advisory locks, with a fourth field that the SQL functions
 * for those cannot use.  It is visible in pg_locks, deadlock detection knows
 * it, and the server releases it however the process ends.  So a job_run row
 * that says running while the lock can be had is of a run that died, and
 * cm_runs_close_dead() closes it as crashed.
 *
 * job_state.next_run is when the job is due; scheduled is the time on the
 * job's grid that it stands for.  They differ after a failure (next_run is the
 * next try) and after a request.  The grid is reckoned from origin, its first
 * time, and not from the one before: that would lose the 31st in February.
 *
 * The rows of a job are locked by whoever asks for it, changes it or drops it,
 * for as long as their transaction lasts.  Nobody here waits for that: a job
 * whose rows are locked is passed over, and the end of its run is written
 * later, see cm_run_finish().
 *
 * All functions here run in the caller's transaction, except that the job's
 * lock belongs to the session.  After an error the caller aborts, and gives
 * the lock back if it means to live on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/twophase.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "concertmaster.h"
#include "job.h"

/* Users' advisory locks have 1 or 2 here. */
#define JOB_LOCK_FIELD4	3

/* A due job that another worker has just locked is looked at again after this. */
#define LOCK_RETRY_MS	200

/* How a run went, as it is written. */
typedef struct RunEnd
{
	const char *status;			/* of job_run */
	TimestampTz time;
	TimestampTz not_before;		/* put off: when it comes again; 0: soon */
	const char *sqlstate;		/* these four: NULL if there is none */
	const char *message;
	const char *detail;
	const char *hint;
} RunEnd;

/* Text or NULL as an SPI parameter. */
static Datum
text_or_null(const char *text, char *null)
{
	*null = text ? ' ' : 'n';
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

/* A column of the first row of the last SPI result. */
static Datum
first_row(int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, isnull);
}

/* Take the job's lock.  Returns false only if not to wait and another has it. */
static bool
take_lock(int64 job_id, bool for_session, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (job_id >> 32), (uint32) job_id, JOB_LOCK_FIELD4);
	return LockAcquire(&tag, ExclusiveLock, for_session, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Take the job's lock for the session.  Returns false only if not to wait and
 * another has it.
 */
bool
cm_job_lock(int64 job_id, bool wait)
{
	return take_lock(job_id, true, wait);
}

/* Give the job's lock back. */
void
cm_job_unlock(int64 job_id)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (job_id >> 32), (uint32) job_id, JOB_LOCK_FIELD4);
	LockRelease(&tag, ExclusiveLock, true);
}

/*
 * Lock a row, if there is one, and if nobody else has it locked.  lock and
 * look: literals that lock and look for the row of that number.  Caller is in
 * a catalog scope.
 */
static bool
lock_row(const char *lock, const char *look, int64 number)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1];

	values[0] = Int64GetDatum(number);
	cm_query(lock, 1, types, values, NULL);
	if (SPI_processed > 0)
		return true;
	cm_query(look, 1, types, values, NULL);
	return SPI_processed == 0;
}

#define LOCK_ROW(table, key, number, strength) \
	lock_row("SELECT FROM concertmaster." table " WHERE " key " = $1 FOR " strength " SKIP LOCKED", \
			 "SELECT FROM concertmaster." table " WHERE " key " = $1", (number))

/* As LOCK_ROW(), a run's row. */
static bool
lock_run(int64 run_id)
{
	return LOCK_ROW("job_run", "run_id", run_id, "UPDATE");
}

/*
 * Lock the rows that the start and the end of a run write, against being
 * changed or dropped.  Returns false, without a wait, if somebody else has one
 * of them locked.  Caller is in a catalog scope.
 */
static bool
lock_rows(int64 job_id)
{
	return LOCK_ROW("job", "job_id", job_id, "KEY SHARE") &&
		LOCK_ROW("job_state", "job_id", job_id, "UPDATE");
}

/* As lock_rows(), for a caller outside of any scope. */
bool
cm_job_lock_rows(int64 job_id)
{
	CmScope		scope;
	bool		locked;

	cm_catalog_enter(&scope);
	locked = lock_rows(job_id);
	cm_scope_leave(&scope);
	return locked;
}

/*
 * Record that this process runs the job from now on.  Caller holds the job's
 * lock and its rows.  Returns the run's number.
 */
int64
cm_run_start(int64 job_id)
{
	CmScope		scope;
	Oid			types[3] = {INT8OID, INT4OID, TIMESTAMPTZOID};
	Datum		values[3];
	bool		isnull;
	int64		run_id;

	values[0] = Int64GetDatum(job_id);
	values[1] = Int32GetDatum(MyProcPid);
	values[2] = TimestampTzGetDatum(GetCurrentTimestamp());
	cm_catalog_enter(&scope);
	cm_query("INSERT INTO concertmaster.job_run (job_id, status, pid, start_time)"
						  " VALUES ($1, 'running', $2, $3) RETURNING run_id",
						  3, types, values, NULL);
	run_id = DatumGetInt64(first_row(1, &isnull));
	cm_query("INSERT INTO concertmaster.job_state AS s (job_id, last_run, last_status, runs)"
						  " VALUES ($1, $3, 'running', 1)"
						  " ON CONFLICT (job_id) DO UPDATE"
						  "   SET last_run = EXCLUDED.last_run, last_status = 'running', runs = s.runs + 1,"
						  "       requests_seen = s.requests",
						  3, types, values, NULL);
	cm_scope_leave(&scope);
	return run_id;
}

/*
 * When is a job that was put off due again, at the soonest?  Not before it
 * wants, unless its schedule has a time before that.
 */
static TimestampTz
come_again(const CmSchedule *schedule, TimestampTz now, TimestampTz soon, TimestampTz not_before)
{
	TimestampTz scheduled;

	if (cm_clock_next(schedule, now, &scheduled))
		not_before = Min(not_before, scheduled);
	return Max(soon, not_before);
}

/*
 * When is the job due next, now that a run has ended?  Reads the job, locks
 * its state.  Sets times to next_run, scheduled and origin, with their nulls
 * ('n' or ' '); returns false if the job is gone.  Caller is in a catalog
 * scope.
 */
static bool
reckon_next(int64 job_id, CmRunStatus status, const RunEnd *end, Datum *times, char *nulls)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	CmSchedule	schedule = {0};
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next_run;
	TimestampTz next;
	bool		isnull;
	bool		has_scheduled;
	bool		requested;
	bool		had_next_run;
	int			failures;

	values[0] = Int64GetDatum(job_id);
	cm_query("SELECT j.every, j.start_at, j.timezone, coalesce(s.origin, s.scheduled, s.next_run),"
						  "       s.next_run, s.failures_in_row, coalesce(s.scheduled, s.next_run),"
						  "       s.requests > s.requests_seen"
						  "  FROM concertmaster.job j JOIN concertmaster.job_state s USING (job_id)"
						  " WHERE job_id = $1 FOR UPDATE OF s",
						  1, types, values, NULL);
	if (SPI_processed == 0)
		return false;
	schedule.every = DatumGetIntervalP(first_row(1, &isnull));
	if (isnull)
		schedule.every = NULL;
	schedule.start_at = DatumGetTimestampTz(first_row(2, &isnull));
	schedule.has_start_at = !isnull;
	schedule.timezone = TextDatumGetCString(first_row(3, &isnull));
	schedule.anchor = DatumGetTimestampTz(first_row(4, &isnull));
	schedule.has_anchor = !isnull;
	next_run = DatumGetTimestampTz(first_row(5, &isnull));
	had_next_run = !isnull;
	failures = DatumGetInt32(first_row(6, &isnull));
	times[1] = first_row(7, &isnull);
	has_scheduled = !isnull;
	requested = DatumGetBool(first_row(8, &isnull)) && had_next_run;

	times[2] = TimestampTzGetDatum(schedule.anchor);
	nulls[2] = schedule.has_anchor && schedule.every != NULL ? ' ' : 'n';
	nulls[1] = has_scheduled && schedule.every != NULL ? ' ' : 'n';
	nulls[0] = ' ';

	/* This run has not seen what came with a request after its start. */
	if (status == CM_RUN_SUCCEEDED && requested)
		times[0] = TimestampTzGetDatum(next_run);
	else if (status == CM_RUN_SUCCEEDED)
	{
		if (cm_clock_next(&schedule, now, &next))
			times[0] = times[1] = TimestampTzGetDatum(next);
		else
			nulls[0] = 'n';
		nulls[1] = nulls[0];
	}
	else if (status == CM_RUN_FAILED && schedule.every == NULL && !had_next_run)
		nulls[0] = 'n';			/* run by hand: whoever did saw the error */
	else
	{
		if (status == CM_RUN_DEFERRED)
			failures = 0;
		next = now + cm_clock_retry_delay(failures + (status == CM_RUN_FAILED),
										  cm_retry_delay, cm_retry_delay_max,
										  pg_prng_double(&pg_global_prng_state));
		if (status == CM_RUN_DEFERRED && !requested)
			next = come_again(&schedule, now, next, end->not_before);
		times[0] = TimestampTzGetDatum(next);
	}
	return true;
}

/*
 * Write how a run ended into the history, unless somebody has already closed
 * it.  Returns whether it was open, and when it started.  Caller is in a
 * catalog scope.
 */
static bool
write_run(int64 run_id, const RunEnd *end, TimestampTz *start_time)
{
	Oid			types[7] = {INT8OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[7];
	char		nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};
	bool		isnull;

	values[0] = Int64GetDatum(run_id);
	values[1] = CStringGetTextDatum(end->status);
	values[2] = TimestampTzGetDatum(end->time);
	values[3] = text_or_null(end->sqlstate, &nulls[3]);
	values[4] = text_or_null(end->message, &nulls[4]);
	values[5] = text_or_null(end->detail, &nulls[5]);
	values[6] = text_or_null(end->hint, &nulls[6]);
	cm_query("UPDATE concertmaster.job_run"
						  "   SET status = $2, end_time = $3, sqlstate = $4, message = $5, detail = $6, hint = $7"
						  " WHERE run_id = $1 AND status = 'running' RETURNING start_time",
						  7, types, values, nulls);
	if (SPI_processed == 0)
		return false;
	*start_time = DatumGetTimestampTz(first_row(1, &isnull));
	return true;
}

/* Write how the job stands after a run.  Caller is in a catalog scope. */
static void
write_state(int64 job_id, CmRunStatus status, const RunEnd *end, TimestampTz start_time)
{
	Oid			types[9] = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[9];
	char		nulls[9] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};

	values[0] = Int64GetDatum(job_id);
	if (!reckon_next(job_id, status, end, &values[1], &nulls[1]))
		return;
	values[4] = CStringGetTextDatum(end->status);
	values[5] = TimestampTzGetDatum(start_time);
	values[6] = text_or_null(end->sqlstate, &nulls[6]);
	values[7] = text_or_null(end->message, &nulls[7]);
	values[8] = TimestampTzGetDatum(end->time);
	if (status == CM_RUN_FAILED)
		cm_query("UPDATE concertmaster.job_state"
							  "   SET next_run = $2, scheduled = $3, origin = $4, last_status = $5,"
							  "       last_duration = extract(epoch FROM $9 - $6) * 1000.0,"
							  "       failures = failures + 1, failures_in_row = failures_in_row + 1,"
							  "       first_failure = coalesce(first_failure, $9),"
							  "       last_sqlstate = $7, last_error = $8"
							  " WHERE job_id = $1",
							  9, types, values, nulls);
	else if (status == CM_RUN_DEFERRED)
		cm_query("UPDATE concertmaster.job_state"
							  "   SET next_run = $2, scheduled = $3, origin = $4, last_status = $5"
							  " WHERE job_id = $1",
							  9, types, values, nulls);
	else
		cm_query("UPDATE concertmaster.job_state"
							  "   SET next_run = $2, scheduled = $3, origin = $4, last_status = $5,"
							  "       last_duration = extract(epoch FROM $9 - $6) * 1000.0, last_success = $9,"
							  "       failures_in_row = 0, first_failure = NULL,"
							  "       last_sqlstate = NULL, last_error = NULL"
							  " WHERE job_id = $1",
							  9, types, values, nulls);
}

/*
 * Record the end of this process's run.  edata: the error, if it failed;
 * message: what else there is to say, or NULL.
 *
 * Returns false, and has recorded nothing, if somebody has the rows locked.
 * The caller tries again, and in the end with run_only: then the history at
 * least has the outcome, and the job is as if it had not run, due again.
 */
bool
cm_run_finish(const CmRun *run, CmRunStatus status, const ErrorData *edata,
			  const char *message, bool run_only)
{
	CmScope		scope;
	RunEnd		end = {.time = run->end_time,.not_before = run->not_before};
	TimestampTz start_time;
	bool		locked;

	end.status = status == CM_RUN_SUCCEEDED ? "succeeded" : status == CM_RUN_DEFERRED ? "deferred" : "failed";
	end.message = message;
	if (edata != NULL)
	{
		end.sqlstate = pstrdup(unpack_sql_state(edata->sqlerrcode));
		end.message = edata->message;
		end.detail = edata->detail;
		end.hint = edata->hint;
	}
	cm_catalog_enter(&scope);
	locked = (run_only || lock_rows(run->job_id)) &&
		lock_run(run->run_id);
	if (locked && write_run(run->run_id, &end, &start_time) && !run_only)
		write_state(run->job_id, status, &end, start_time);
	cm_scope_leave(&scope);
	return locked;
}

/*
 * Close every run of this database whose process is gone, except where
 * somebody has the rows locked.  It counts as a failure, so that a job which
 * brings its worker down is not started at once again, and again.  Returns how
 * many were closed; sets *busy if one was passed over.
 */
int
cm_runs_close_dead(bool *busy)
{
	CmScope		scope;
	SPITupleTable *runs;
	uint64		count;
	int			closed = 0;
	RunEnd		end = {.status = "crashed",.message = "worker ended before it recorded an outcome"};

	*busy = false;
	end.time = GetCurrentTimestamp();

	cm_catalog_enter(&scope);
	cm_query("SELECT job_id, run_id FROM concertmaster.job_run WHERE status = 'running'", 0, NULL, NULL, NULL);
	runs = SPI_tuptable;
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		int64		job_id = DatumGetInt64(SPI_getbinval(runs->vals[i], runs->tupdesc, 1, &isnull));
		int64		run_id = DatumGetInt64(SPI_getbinval(runs->vals[i], runs->tupdesc, 2, &isnull));
		TimestampTz start_time;

		if (!take_lock(job_id, false, false))
			continue;
		if (!lock_rows(job_id) || !lock_run(run_id))
			*busy = true;
		else if (write_run(run_id, &end, &start_time))
		{
			write_state(job_id, CM_RUN_FAILED, &end, start_time);
			closed++;
		}
	}
	cm_scope_leave(&scope);
	return closed;
}

/* Is the job due, seen with a snapshot taken now? */
static bool
still_due(int64 job_id)
{
	Oid			types[2] = {INT8OID, TIMESTAMPTZOID};
	Datum		values[2];

	values[0] = Int64GetDatum(job_id);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	cm_query("SELECT 1 FROM concertmaster.job j JOIN concertmaster.job_state s USING (job_id)"
						  " WHERE job_id = $1 AND NOT j.paused AND s.next_run <= $2",
						  2, types, values, NULL);
	return SPI_processed > 0;
}

/*
 * Claim the job that has been due longest, or only_job_id if that is not 0:
 * returns its number with its lock and its rows held, or 0.  A due job that
 * somebody else has locked is passed over: *passed_over is the array of these
 * (0 if there is none), and *retry_ms when to look again.
 */
int64
cm_job_claim_due(int64 only_job_id, Datum *passed_over, int *retry_ms)
{
	MemoryContext context = CurrentMemoryContext;
	ArrayBuildState *busy = NULL;
	CmScope		scope;
	Oid			types[2] = {TIMESTAMPTZOID, INT8OID};
	Datum		values[2];
	SPITupleTable *due;
	uint64		count;
	int64		claimed = 0;

	*retry_ms = 0;
	values[0] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[1] = Int64GetDatum(only_job_id);
	cm_catalog_enter(&scope);
	cm_query("SELECT job_id FROM concertmaster.job j JOIN concertmaster.job_state s USING (job_id)"
						  " WHERE NOT j.paused AND s.next_run <= $1 AND ($2 = 0 OR job_id = $2)"
						  "   AND NOT EXISTS (SELECT FROM concertmaster.job_run r"
						  "                    WHERE r.job_id = j.job_id AND r.status = 'running')"
						  " ORDER BY s.next_run, job_id",
						  2, types, values, NULL);
	due = SPI_tuptable;
	count = SPI_processed;
	for (uint64 i = 0; i < count && claimed == 0; i++)
	{
		bool		isnull;
		int64		job_id = DatumGetInt64(SPI_getbinval(due->vals[i], due->tupdesc, 1, &isnull));

		if (!cm_job_lock(job_id, false))
		{
			*retry_ms = LOCK_RETRY_MS;
			busy = accumArrayResult(busy, Int64GetDatum(job_id), false, INT8OID, context);
		}
		else if (!lock_rows(job_id))
		{
			cm_job_unlock(job_id);
			*retry_ms = *retry_ms ? *retry_ms : CM_ROWS_RETRY_MS;
			busy = accumArrayResult(busy, Int64GetDatum(job_id), false, INT8OID, context);
		}
		else if (still_due(job_id))
			claimed = job_id;
		else
			cm_job_unlock(job_id);
	}
	cm_scope_leave(&scope);
	*passed_over = busy ? makeArrayResult(busy, context) : (Datum) 0;
	return claimed;
}

/*
 * When this database's next job is due, and how many are due by then, or by
 * now if that is later.  DT_NOEND if none is.  Jobs of the array passed_over
 * do not count; 0 for none.
 */
TimestampTz
cm_jobs_next_due(Datum passed_over, int *count)
{
	CmScope		scope;
	Oid			types[2] = {TIMESTAMPTZOID, INT8ARRAYOID};
	Datum		values[2];
	char		nulls[2] = {' ', ' '};
	TimestampTz due;
	bool		isnull;

	values[0] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[1] = passed_over;
	nulls[1] = passed_over ? ' ' : 'n';
	cm_catalog_enter(&scope);
	cm_query("WITH waiting AS (SELECT s.next_run"
						  "  FROM concertmaster.job j JOIN concertmaster.job_state s USING (job_id)"
						  " WHERE NOT j.paused AND (job_id = ANY ($2)) IS NOT TRUE AND NOT EXISTS"
						  "       (SELECT FROM concertmaster.job_run r WHERE r.job_id = j.job_id AND r.status = 'running'))"
						  " SELECT m.next_run, (SELECT count(*)::int FROM waiting w WHERE w.next_run <= greatest(m.next_run, $1))"
						  "   FROM (SELECT min(next_run) AS next_run FROM waiting) m",
						  2, types, values, nulls);
	due = DatumGetTimestampTz(first_row(1, &isnull));
	if (isnull)
		due = DT_NOEND;
	*count = DatumGetInt32(first_row(2, &isnull));
	cm_scope_leave(&scope);
	return due;
}

/*
 * Once after each start of the server: does a prepared transaction have to do
 * with this database's jobs?  It is known from its lock.
 */
void
cm_jobs_find_prepared(void)
{
	if (max_prepared_xacts == 0 || cm_database_prepared(MyDatabaseId) != CM_PREPARED_UNKNOWN)
		return;
	SPI_connect();
	SPI_execute("SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database"
				" WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'relation' AND l.pid IS NULL"
				"   AND l.relation = pg_catalog.to_regclass('concertmaster.job_state')", true, 1);
	cm_database_note_prepared(MyDatabaseId, SPI_processed > 0);
	SPI_finish();
}

/*
 * May this database's jobs be started by this driver, "launcher" or "pg_cron",
 * or, if NULL, by any?
 */
bool
cm_jobs_armed(const char *driver)
{
	CmScope		scope;
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2];
	char		nulls[2] = {' ', ' '};
	bool		armed;

	values[0] = ObjectIdGetDatum(MyDatabaseId);
	values[1] = text_or_null(driver, &nulls[1]);
	cm_catalog_enter(&scope);
	cm_query("SELECT 1 FROM concertmaster.armed"
						  " WHERE datid = $1 AND driver = coalesce($2, driver)",
						  2, types, values, nulls);
	armed = SPI_processed > 0;
	cm_scope_leave(&scope);
	return armed;
}

/*
 * Make the prune job due, if it is not and has not run within a minute; where
 * somebody has it locked that is left to another time.
 */
void
cm_jobs_wake_prune(void)
{
	CmScope		scope;
	Oid			types[1] = {TIMESTAMPTZOID};
	Datum		values[1] = {TimestampTzGetDatum(GetCurrentTimestamp())};

	cm_catalog_enter(&scope);
	cm_query("WITH free AS (SELECT s.job_id FROM concertmaster.job j JOIN concertmaster.job_state s USING (job_id)"
			 "  WHERE j.kind = 'prune' AND s.next_run > $1"
			 "    AND coalesce(s.last_run < $1 - interval '1 minute', true) FOR UPDATE OF s SKIP LOCKED)"
			 " UPDATE concertmaster.job_state s"
			 "    SET next_run = $1, scheduled = coalesce(s.scheduled, s.next_run)"
			 "   FROM free WHERE s.job_id = free.job_id",
			 1, types, values, NULL);
	cm_scope_leave(&scope);
}

/* Part of the prune job: remove finished runs beyond the settings' bounds. */
void
cm_jobs_prune(CmJobOutcome *outcome)
{
	CmScope		scope;
	Oid			types[2] = {INT4OID, TIMESTAMPTZOID};
	Datum		values[2];
	uint64		removed;

	values[0] = Int32GetDatum(cm_history_runs);
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp() - cm_history_age * USECS_PER_MINUTE);
	cm_transaction_begin(GetUserId());
	cm_catalog_enter(&scope);
	cm_query("DELETE FROM concertmaster.job_run r"
						  " USING (SELECT run_id, row_number() OVER (PARTITION BY job_id ORDER BY run_id DESC) AS newer"
						  "          FROM concertmaster.job_run) n"
						  " WHERE r.run_id = n.run_id AND r.status <> 'running'"
						  "   AND (n.newer > $1 OR r.end_time < $2)",
						  2, types, values, NULL);
	removed = SPI_processed;
	cm_scope_leave(&scope);
	cm_transaction_commit();
	outcome->message = psprintf(UINT64_FORMAT " runs removed from the history", removed);
}
