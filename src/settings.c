/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  Every setting of the extension, with its unit, bounds and default.
 *
 * The variables are plain C globals that the GUC machinery writes; nobody
 * else does.  All of them can be changed by a reload, so code reads them
 * where it needs them and keeps no copy.  Bounds are fixed numbers: a bound
 * taken from another setting would make ALTER SYSTEM refuse a pair of changes
 * that only make sense together.
 *
 * This file does not decide anything: what a setting means is written where
 * it is used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "concertmaster.h"
#include "pace.h"

/*
 * concertmaster.build_window: when large work may run; see pace_window.c.
 * Empty: always.
 */
char	   *cm_build_window = "";

/*
 * concertmaster.ddl_attempts: how often a statement that ran into its
 * deadline is tried again before the work is put off to the next run.  Each
 * pause between two tries is longer than the deadline, so others get through.
 */
int			cm_ddl_attempts = 20;

/*
 * concertmaster.ddl_deadline: the longest time in milliseconds that one DDL
 * statement of ours may take while others can queue behind its locks.  It
 * counts over the whole statement, not per lock as lock_timeout does.
 */
int			cm_ddl_deadline = 50;

/*
 * concertmaster.delayed_standbys: names of standbys whose lag does not count,
 * for those that are kept behind on purpose.
 */
char	   *cm_delayed_standbys = "";

/*
 * concertmaster.enabled: the switch for everything that happens in the
 * background.  Off: the launcher starts nothing; what runs is finished.
 */
bool		cm_enabled = true;

/*
 * concertmaster.history_age: finished runs older than this are removed from
 * job_run, in minutes.
 */
int			cm_history_age = 30 * 24 * 60;

/*
 * concertmaster.history_runs: how many finished runs of each job are kept in
 * job_run, whatever their age.
 */
int			cm_history_runs = 1000;

/*
 * concertmaster.matview_log_rows: how many changed groups the log keeps for
 * one materialized view.  A view that has more is computed as a whole at its
 * next refresh, and its log is emptied.
 */
int			cm_matview_log_rows = 100000;

/*
 * concertmaster.matview_log_transaction_groups: how many changed groups of one
 * view one transaction logs.  One that changes more logs that any group may
 * have changed.
 */
int			cm_matview_log_transaction_groups = 10000;

/*
 * concertmaster.max_replica_lag, max_replica_lag_bytes: large work waits while
 * a standby is further behind, in milliseconds and in kilobytes of WAL; see
 * pace_lag.c.  Zero: however far.  Off until somebody has said what is much:
 * there are standbys that are behind on purpose.
 */
int			cm_max_replica_lag = 0;
int			cm_max_replica_lag_bytes = 0;

/*
 * concertmaster.max_workers: how many workers the launcher has running at
 * once, in all databases together.  They come out of max_worker_processes.
 */
int			cm_max_workers = 4;

/*
 * concertmaster.min_free_disk: what large work has to leave free of a file
 * system, a size or per cent of it; see pace_disk.c.  Zero: nothing is asked.
 */
char	   *cm_min_free_disk = "2%";

/*
 * concertmaster.probe_interval: how often, in seconds, the launcher looks
 * into a database that has told it nothing.
 */
int			cm_probe_interval = 3600;

/*
 * concertmaster.retry_delay: the pause in seconds after a job's first
 * failure; it doubles with each further one, up to retry_delay_max.
 */
int			cm_retry_delay = 5;
int			cm_retry_delay_max = 3600;

/* The settings of pace.c; all of them also per database. */
static void
define_pace_settings(void)
{
	DefineCustomStringVariable("concertmaster.build_window",
							   "Sets at which times index builds and splits of partitions run.",
							   "Windows of the day, perhaps of some days, and perhaps a time zone; empty: always.",
							   &cm_build_window, "",
							   PGC_SUSET, 0, cm_check_build_window, NULL, NULL);

	DefineCustomStringVariable("concertmaster.delayed_standbys",
							   "Sets the standbys, by application_name, whose lag does not count.",
							   NULL,
							   &cm_delayed_standbys, "",
							   PGC_SUSET, GUC_LIST_INPUT, cm_check_delayed_standbys, NULL, NULL);

	DefineCustomIntVariable("concertmaster.max_replica_lag",
							"Sets how long standbys may be behind before index builds and splits wait.",
							"Zero: however long.",
							&cm_max_replica_lag, 0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.max_replica_lag_bytes",
							"Sets how much WAL standbys may be behind before index builds and splits wait.",
							"Zero: however much.",
							&cm_max_replica_lag_bytes, 0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);

	DefineCustomStringVariable("concertmaster.min_free_disk",
							   "Sets what index builds and splits leave free of a file system.",
							   "A size, or per cent of the file system; zero: nothing is asked.",
							   &cm_min_free_disk, "2%",
							   PGC_SUSET, 0, cm_check_min_free_disk, NULL, NULL);
}

/* Register the settings.  Called once, from _PG_init. */
void
cm_settings_define(void)
{
	DefineCustomIntVariable("concertmaster.ddl_attempts",
							"Sets how often a statement that met its deadline is tried again.",
							NULL,
							&cm_ddl_attempts, 20, 1, 10000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.ddl_deadline",
							"Sets the longest time that one DDL statement may hold or await locks.",
							NULL,
							&cm_ddl_deadline, 50, 5, 60000,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomBoolVariable("concertmaster.enabled",
							 "Enables all background work.",
							 NULL,
							 &cm_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.history_age",
							"Sets how long finished runs are kept.",
							NULL,
							&cm_history_age, 30 * 24 * 60, 1, INT_MAX / 60,
							PGC_SIGHUP, GUC_UNIT_MIN, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.history_runs",
							"Sets how many finished runs of each job are kept.",
							NULL,
							&cm_history_runs, 1000, 1, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.matview_log_rows",
							"Sets how many changed groups are logged for a materialized view before all of it is refreshed.",
							NULL,
							&cm_matview_log_rows, 100000, 100, 100000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.matview_log_transaction_groups",
							"Sets how many changed groups of a materialized view one transaction logs one by one.",
							NULL,
							&cm_matview_log_transaction_groups, 10000, 1, 10000000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.max_workers",
							"Sets how many background workers run jobs at the same time.",
							"They are taken from \"max_worker_processes\".",
							&cm_max_workers, 4, 1, 64,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.probe_interval",
							"Sets how often the launcher looks into a database that reported nothing.",
							NULL,
							&cm_probe_interval, 3600, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.retry_delay",
							"Sets the pause after a job's first failure.",
							"It doubles with each further failure.",
							&cm_retry_delay, 5, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	DefineCustomIntVariable("concertmaster.retry_delay_max",
							"Sets the longest pause between two tries of a failing job.",
							NULL,
							&cm_retry_delay_max, 3600, 1, 604800,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);

	define_pace_settings();
	MarkGUCPrefixReserved("concertmaster");
}
