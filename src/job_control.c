/*-------------------------------------------------------------------------
 *
 * job_control.c
 *	  The SQL doors of the job room: run, request, pause, resume, see.
 *
 * Every door checks that the server is a primary and that the caller is a
 * member of the role that the job acts for, then works on the job tables as
 * the extension's owner.  What changes when a job is due wakes the launcher
 * at commit.
 *
 * Locks: those of the statements.  Cleanup: the transaction's.
 * What it does not do: run a job in the caller's session.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "concertmaster.h"
#include "job.h"

PG_FUNCTION_INFO_V1(cm_run_job);
PG_FUNCTION_INFO_V1(cm_request_job);
PG_FUNCTION_INFO_V1(cm_pause_job);
PG_FUNCTION_INFO_V1(cm_resume_job);
PG_FUNCTION_INFO_V1(cm_resume_all);
PG_FUNCTION_INFO_V1(cm_start_launcher);
PG_FUNCTION_INFO_V1(cm_running_jobs);
PG_FUNCTION_INFO_V1(cm_next_run);

/* CALL run_job(name): run a job now, in a worker, and wait for its end. */
Datum
cm_run_job(PG_FUNCTION_ARGS)
{
	char	   *name;
	char	   *message;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("job name must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	cm_require_nonatomic(fcinfo, "run_job()");
	cm_require_primary("run_job()");
	if (!cm_job_call(fcinfo, cm_job_find(name), &message))
		ereport(WARNING,
				(errmsg("job \"%s\" was put off", name),
				 message ? errdetail("%s", message) : 0,
				 errhint("Nothing is left half done.  It is tried again soon in the background.")));
	else if (message != NULL)
		ereport(NOTICE, (errmsg("%s: %s", name, message)));
	PG_RETURN_VOID();
}

/* May the current user decide for the jobs of the whole database? */
static bool
decides_for_database(void)
{
	return superuser() || has_privs_of_role(GetUserId(), cm_extension_owner());
}

/* Refuse what only the extension's owner may do. */
static void
require_extension_owner(const char *what)
{
	if (!decides_for_database())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for %s", what),
				 errdetail("Only members of the role that owns extension \"concertmaster\" can do this.")));
}

/*
 * Run one statement, with the job's number as $1, on behalf of a door that
 * takes a job's name.
 */
static void
change_job(FunctionCallInfo fcinfo, const char *what, const char *sql)
{
	CmScope		scope;
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	int64		job_id;

	cm_require_primary(what);
	job_id = cm_job_find(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	cm_job_require_owner(job_id);
	values[0] = Int64GetDatum(job_id);
	cm_catalog_enter(&scope);
	SPI_execute_with_args(sql, 1, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
	cm_shared_wake_at_commit();
}

/* A request that nothing will serve is worth a word. */
static void
warn_if_idle(void)
{
	if (!cm_jobs_armed(NULL))
		ereport(WARNING,
				(errmsg("jobs of this database are not started by themselves"),
				 errdetail("The database was restored or copied."),
				 errhint("SELECT concertmaster.resume_all() starts them again.")));
	else if (cm_jobs_armed("launcher") && cm_launcher_pid() == 0)
		ereport(WARNING,
				(errmsg("the concertmaster launcher is not running"),
				 errhint("Add concertmaster to \"shared_preload_libraries\" and restart, or call concertmaster.start_launcher().")));
	else if (!cm_enabled)
		ereport(WARNING,
				(errmsg("background work is switched off"),
				 errhint("Set \"concertmaster.enabled\" to on and reload.")));
}

/* request_job(name): make a job due now. */
Datum
cm_request_job(PG_FUNCTION_ARGS)
{
	change_job(fcinfo, "request_job()",
			   "INSERT INTO concertmaster.job_state AS s (job_id, next_run, requests) VALUES ($1, clock_timestamp(), 1)"
			   " ON CONFLICT (job_id) DO UPDATE"
			   "   SET next_run = EXCLUDED.next_run, scheduled = coalesce(s.scheduled, s.next_run),"
			   "       requests = s.requests + 1");
	warn_if_idle();
	PG_RETURN_VOID();
}

/* pause_job(name): no more starts by itself. */
Datum
cm_pause_job(PG_FUNCTION_ARGS)
{
	change_job(fcinfo, "pause_job()",
			   "UPDATE concertmaster.job SET paused = true WHERE job_id = $1");
	PG_RETURN_VOID();
}

/* resume_job(name): the end of pause_job(). */
Datum
cm_resume_job(PG_FUNCTION_ARGS)
{
	change_job(fcinfo, "resume_job()",
			   "UPDATE concertmaster.job SET paused = false WHERE job_id = $1");
	warn_if_idle();
	PG_RETURN_VOID();
}

/*
 * resume_all(): arm the database, and end the pause of every job that the
 * caller may act for.  Returns the number of jobs that may run from now on.
 */
Datum
cm_resume_all(PG_FUNCTION_ARGS)
{
	CmScope		scope;
	Oid			types[2] = {OIDOID, BOOLOID};
	Datum		values[2];
	bool		isnull;
	int64		count;
	bool		all = decides_for_database();
	Oid			caller = GetUserId();

	cm_require_primary("resume_all()");
	if (!all && !cm_jobs_armed(NULL))
		require_extension_owner("resume_all() in a restored or copied database");

	cm_catalog_enter(&scope);
	values[0] = ObjectIdGetDatum(MyDatabaseId);
	values[1] = BoolGetDatum(all);
	if (all)
	{
		SPI_execute_with_args("DELETE FROM concertmaster.armed WHERE datid <> $1",
							  1, types, values, NULL, false, 0);
		SPI_execute_with_args("INSERT INTO concertmaster.armed (datid) VALUES ($1) ON CONFLICT DO NOTHING",
							  1, types, values, NULL, false, 0);
		SPI_execute("INSERT INTO concertmaster.job_state (job_id, next_run)"
					" SELECT job_id, CASE WHEN every IS NOT NULL THEN now() END FROM concertmaster.job"
					" ON CONFLICT DO NOTHING", false, 0);
	}
	values[0] = ObjectIdGetDatum(caller);
	SPI_execute_with_args("WITH mine AS (SELECT job_id FROM concertmaster.job j"
						  "   WHERE $2 OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = j.owner"
						  "                          AND pg_has_role($1, r.oid, 'USAGE'))),"
						  " resumed AS (UPDATE concertmaster.job SET paused = false"
						  "   WHERE paused AND job_id IN (SELECT job_id FROM mine))"
						  " SELECT count(*) FROM mine",
						  2, types, values, NULL, false, 0);
	count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	cm_scope_leave(&scope);
	cm_shared_wake_at_commit();
	if (count > 0)
		warn_if_idle();
	PG_RETURN_INT64(count);
}

/*
 * start_launcher(): start the launcher in a server that does not preload the
 * library.  Returns false if it is running already.
 */
Datum
cm_start_launcher(PG_FUNCTION_ARGS)
{
	const char *preload = GetConfigOption("shared_preload_libraries", false, false);

	cm_require_primary("start_launcher()");
	require_extension_owner("start_launcher()");
	if (cm_launcher_pid() != 0)
	{
		ereport(NOTICE, (errmsg("the concertmaster launcher is already running")));
		PG_RETURN_BOOL(false);
	}

	if (!cm_launcher_start())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("could not start the concertmaster launcher"),
				 errdetail("All background worker slots are taken."),
				 errhint("Try again later, or increase \"max_worker_processes\".")));
	if (strstr(preload, "concertmaster") == NULL)
		ereport(NOTICE,
				(errmsg("the concertmaster launcher runs until the next restart of the server"),
				 errhint("Put shared_preload_libraries = '%s%sconcertmaster' into postgresql.conf to have it started with the server.",
						 preload, preload[0] != '\0' ? ", " : "")));
	PG_RETURN_BOOL(true);
}

/*
 * The workers that run jobs of this database now, as far as the caller may
 * know: (job_id, pid, started_at, activity, done, total).
 */
Datum
cm_running_jobs(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CmSlot	   *slots = cm_slots_copy();
	bool		all = has_privs_of_role(GetUserId(), ROLE_PG_MONITOR);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < CM_MAX_SLOTS; i++)
	{
		const CmSlot *slot = &slots[i];
		Datum		values[6];
		bool		nulls[6] = {0};

		if (slot->state != CM_SLOT_RUNNING || slot->datid != MyDatabaseId || !OidIsValid(slot->owner))
			continue;
		if (!all && !has_privs_of_role(GetUserId(), slot->owner))
			continue;
		values[0] = Int64GetDatum(slot->job_id);
		values[1] = Int32GetDatum(slot->pid);
		values[2] = TimestampTzGetDatum(slot->started_at);
		values[3] = CStringGetTextDatum(slot->text);
		nulls[3] = slot->text[0] == '\0';
		values[4] = Int64GetDatum(slot->done);
		values[5] = Int64GetDatum(slot->total);
		nulls[4] = nulls[5] = slot->total <= 0;
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * _next_run(every, start_at, timezone, anchor, now): what job_clock.c makes of
 * these, for tests.  start_at and anchor can be null.
 */
Datum
cm_next_run(PG_FUNCTION_ARGS)
{
	CmSchedule	schedule = {0};
	TimestampTz next;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(4))
		PG_RETURN_NULL();
	schedule.every = PG_GETARG_INTERVAL_P(0);
	schedule.has_start_at = !PG_ARGISNULL(1);
	if (schedule.has_start_at)
		schedule.start_at = PG_GETARG_TIMESTAMPTZ(1);
	schedule.timezone = text_to_cstring(PG_GETARG_TEXT_PP(2));
	schedule.has_anchor = !PG_ARGISNULL(3);
	if (schedule.has_anchor)
		schedule.anchor = PG_GETARG_TIMESTAMPTZ(3);
	(void) cm_clock_next(&schedule, PG_GETARG_TIMESTAMPTZ(4), &next);
	PG_RETURN_TIMESTAMPTZ(next);
}
