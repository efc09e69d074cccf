/*-------------------------------------------------------------------------
 *
 * job_cron.c
 *	  Let pg_cron drive the jobs.
 *
 * use_pg_cron(true) schedules one line in pg_cron, a call of run_due_jobs()
 * every minute, and marks the database as driven by it, so that the launcher
 * leaves it alone.  run_due_jobs() starts a background worker for each job
 * that is due and returns; it runs nothing in its own session, because some
 * of the work must run at top level.
 *
 * pg_cron's own functions are called as the current user, with every name
 * qualified: whose cron line it is decides whose jobs it starts.
 *
 * Locks: those of the statements.  Cleanup: the transaction's; workers that
 * were started go on by themselves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "concertmaster.h"
#include "job.h"

PG_FUNCTION_INFO_V1(cm_run_due_jobs);
PG_FUNCTION_INFO_V1(cm_use_pg_cron);

/* The due jobs that the caller may act for: numbers, oldest first. */
static int64 *
list_due_jobs(int *count)
{
	MemoryContext context = CurrentMemoryContext;
	CmScope		scope;
	Oid			types[2] = {OIDOID, TIMESTAMPTZOID};
	Datum		values[2];
	int64	   *jobs;

	values[0] = ObjectIdGetDatum(GetUserId());
	values[1] = TimestampTzGetDatum(GetCurrentTimestamp());
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT job_id FROM concertmaster.job j JOIN concertmaster.job_state s USING (job_id)"
						  " WHERE NOT j.paused AND s.next_run <= $2"
						  "   AND NOT EXISTS (SELECT FROM concertmaster.job_run r"
						  "                    WHERE r.job_id = j.job_id AND r.status = 'running')"
						  "   AND (pg_has_role($1, current_user, 'USAGE')"
						  "        OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = j.owner"
						  "                      AND pg_has_role($1, r.oid, 'USAGE')))"
						  " ORDER BY s.next_run, job_id",
						  2, types, values, NULL, false, 0);
	*count = (int) SPI_processed;
	jobs = MemoryContextAlloc(context, sizeof(int64) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		bool		isnull;

		jobs[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	cm_scope_leave(&scope);
	return jobs;
}

/*
 * run_due_jobs(): start a worker for each job of this database that is due.
 * Returns how many were started.
 */
Datum
cm_run_due_jobs(PG_FUNCTION_ARGS)
{
	int			count;
	int			started = 0;
	bool		busy;
	int			seen = 0;
	int64	   *jobs;

	cm_require_primary("run_due_jobs()");
	if (!cm_enabled)
		PG_RETURN_INT32(0);
	if (!cm_jobs_armed(NULL))
	{
		ereport(WARNING,
				(errmsg("no job was started: the database was restored or copied"),
				 errhint("SELECT concertmaster.resume_all() starts its jobs again.")));
		PG_RETURN_INT32(0);
	}
	(void) cm_runs_close_dead(&busy);

	jobs = list_due_jobs(&count);
	while (seen < count && cm_slots_background() < cm_max_workers)
	{
		CmWorkerOrder order = {.mode = CM_WORKER_JOB,.only_if_due = true,.datid = MyDatabaseId};
		CmOrderJobs order_jobs = {.count = 1,.ids = {jobs[seen]}};
		CmSlotRef	slot;
		BackgroundWorkerHandle *handle;
		CmReserve	reserve;

		/* One that another worker has is being seen to. */
		reserve = cm_worker_start(&order, &order_jobs, true, false, &slot, &handle);
		if (reserve == CM_RESERVE_FULL)
			break;
		if (reserve == CM_RESERVED)
			started++;
		seen++;
	}
	if (seen < count)
		ereport(NOTICE,
				(errmsg_plural("%d due job was put off: no background worker is free",
							   "%d due jobs were put off: no background worker is free",
							   count - seen, count - seen),
				 errhint("Jobs that wait are started by the next call; increase \"concertmaster.max_workers\" or \"max_worker_processes\" if this lasts.")));
	PG_RETURN_INT32(started);
}

/* Refuse unless pg_cron is installed in this very database. */
static void
require_pg_cron(void)
{
	const char *home = GetConfigOption("cron.database_name", true, false);
	char	   *here = get_database_name(MyDatabaseId);

	if (OidIsValid(get_extension_oid("pg_cron", true)))
		return;
	if (home == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_cron is not loaded in this server"),
				 errhint("Add pg_cron to \"shared_preload_libraries\", set \"cron.database_name\" to \"%s\", restart, and run CREATE EXTENSION pg_cron; or let the concertmaster launcher drive the jobs.",
						 here)));
	if (strcmp(home, here) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"pg_cron\" is not installed in database \"%s\"", here),
				 errhint("Run CREATE EXTENSION pg_cron.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("pg_cron is not installed in database \"%s\"", here),
			 errdetail("It works in database \"%s\", as \"cron.database_name\" says.", home),
			 errhint("Let the concertmaster launcher drive the jobs of this database, or schedule there: SELECT cron.schedule_in_database('concertmaster', '* * * * *', 'SELECT concertmaster.run_due_jobs()', %s)",
					 quote_literal_cstr(here))));
}

/* Refuse if a job has a period that one call a minute cannot keep. */
static void
refuse_short_periods(void)
{
	CmScope		scope;
	char	   *names = NULL;

	cm_catalog_enter(&scope);
	SPI_execute("SELECT string_agg(format('\"%s\"', name), ', ' ORDER BY name)"
				"  FROM concertmaster.job WHERE every < interval '1 minute'", true, 1);
	names = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (names != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("pg_cron cannot run jobs more often than once a minute"),
				 errdetail("Jobs with a shorter period: %s.", names),
				 errhint("Give them a period of a minute or more, or let the concertmaster launcher drive the jobs.")));
	cm_scope_leave(&scope);
}

/* Note in the table armed who drives this database's jobs. */
static void
set_driver(const char *driver)
{
	CmScope		scope;
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2];

	values[0] = ObjectIdGetDatum(MyDatabaseId);
	values[1] = CStringGetTextDatum(driver);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("INSERT INTO concertmaster.armed AS a (datid, driver)"
						  " SELECT $1, $2 WHERE NOT EXISTS (SELECT FROM concertmaster.job)"
						  "    OR EXISTS (SELECT FROM concertmaster.armed WHERE datid = $1)"
						  " ON CONFLICT (datid) DO UPDATE SET driver = EXCLUDED.driver",
						  2, types, values, NULL, false, 0);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("jobs of this database are not started by anything"),
				 errdetail("The database was restored or copied."),
				 errhint("Run SELECT concertmaster.resume_all() first.")));
	cm_scope_leave(&scope);
	cm_shared_wake_at_commit();
}

/* use_pg_cron(on): hand the driving of the jobs to pg_cron, or take it back. */
Datum
cm_use_pg_cron(PG_FUNCTION_ARGS)
{
	bool		on = PG_GETARG_BOOL(0);

	cm_require_primary("use_pg_cron()");
	if (!has_privs_of_role(GetUserId(), cm_extension_owner()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for use_pg_cron()"),
				 errdetail("Only members of the role that owns extension \"concertmaster\" can do this.")));
	if (on)
	{
		require_pg_cron();
		refuse_short_periods();
		cm_run_as(GetUserId(), "SELECT cron.schedule('concertmaster', '* * * * *', 'SELECT concertmaster.run_due_jobs()')");
		set_driver("pg_cron");
	}
	else
	{
		if (OidIsValid(get_extension_oid("pg_cron", true)))
			cm_run_as(GetUserId(), "SELECT cron.unschedule(jobid) FROM cron.job WHERE jobname = 'concertmaster'");
		set_driver("launcher");
	}
	PG_RETURN_VOID();
}
