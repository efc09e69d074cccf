/*-------------------------------------------------------------------------
 *
 * job_launcher.c
 *	  The launcher: when to start a worker, and where.
 *
 * One process per server, connected to no database.  It knows, per database,
 * when the next job is due: workers publish it in shared memory, and whoever
 * changes a job wakes it at commit.  It starts a worker there, which finds
 * the job by itself, and sleeps until the next time, a worker's end or a
 * wake.  What it was never told, it finds by looking into every database once
 * after the start and then each concertmaster.probe_interval.
 *
 * Of several databases with something due, the one served longest ago comes
 * first.  Until the workers started there have claimed their jobs and
 * published what is due next, no more are started there than jobs are due.
 *
 * It never waits for a worker to start: the postmaster's signal and the
 * workers' publishing set its latch.  With all slots taken it sleeps until
 * one is given back.
 *
 * Cleanup: it has nothing to lose; after any error or SIGTERM it exits with
 * code 1 and the postmaster starts it again a second later.  Workers in
 * flight go on, and the new launcher counts them by their slots.
 *
 * What it does not do: read a job table, or judge what a job does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "concertmaster.h"
#include "job.h"

/* Pause after the server had no worker to give, doubled up to the longest. */
#define NO_WORKER_FIRST_MS		1000
#define NO_WORKER_LONGEST_MS	30000

/* Pause while this launcher's own list of workers is full. */
#define REAP_PAUSE_MS			100

/* The log is told of this no more often. */
#define COMPLAINT_PAUSE_MS		600000

/* A worker that this launcher started and that has not ended. */
typedef struct Started
{
	BackgroundWorkerHandle *handle; /* NULL: entry not in use */
	CmSlotRef	slot;
} Started;

/* Everything the launcher remembers. */
typedef struct Launcher
{
	Started		started[CM_MAX_SLOTS];
	List	   *probes;			/* databases to look into, oids */
	TimestampTz next_scan;		/* when to look into all of them */
	int			no_worker_ms;	/* present pause, 0: none */
	TimestampTz no_worker_until;
	TimestampTz complained_at;	/* when the log last said so */
} Launcher;

/* Every database that can be connected to, in the given memory context. */
static List *
list_databases(MemoryContext context)
{
	List	   *databases = NIL;
	Relation	relation;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	relation = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(relation, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext previous;

		if (database->datistemplate || !database->datallowconn || database->datconnlimit == -2)
			continue;
		previous = MemoryContextSwitchTo(context);
		databases = lappend_oid(databases, database->oid);
		MemoryContextSwitchTo(previous);
	}
	table_endscan(scan);
	table_close(relation, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return databases;
}

/* Forget databases that are gone, and plan to look into the others if told. */
static void
scan_databases(Launcher *launcher, MemoryContext context, bool probe)
{
	List	   *databases = list_databases(context);
	CmDatabase	known[CM_MAX_DATABASES];
	int			count = cm_databases_copy(known);

	for (int i = 0; i < count; i++)
		if (!list_member_oid(databases, known[i].datid))
			cm_database_forget(known[i].datid);
	if (!probe)
	{
		list_free(databases);
		return;
	}
	list_free(launcher->probes);
	launcher->probes = databases;
	launcher->next_scan = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  cm_probe_interval * INT64CONST(1000));
}

/* Is a database due in which the last worker came to nothing?  Maybe it is gone. */
static bool
somebody_missed(void)
{
	CmDatabase	known[CM_MAX_DATABASES];
	int			count = cm_databases_copy(known);
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < count; i++)
		if (known[i].misses > 0 && known[i].lookers == 0 && known[i].next_due <= now)
			return true;
	return false;
}

/* Take note of workers that have ended. */
static void
reap_workers(Launcher *launcher)
{
	for (int i = 0; i < CM_MAX_SLOTS; i++)
	{
		Started    *started = &launcher->started[i];
		pid_t		pid;

		if (started->handle == NULL ||
			GetBackgroundWorkerPid(started->handle, &pid) != BGWH_STOPPED)
			continue;
		cm_slot_release(started->slot);
		pfree(started->handle);
		started->handle = NULL;
		launcher->no_worker_until = 0;
	}
}

/*
 * Start a worker in a database.  False if the server has none to give; then
 * no_worker_until says when to try again.
 */
static bool
start_worker(Launcher *launcher, Oid datid)
{
	CmWorkerOrder order = {.mode = CM_WORKER_LOOK,.datid = datid};
	Started    *started = launcher->started;

	while (started->handle != NULL && started < launcher->started + CM_MAX_SLOTS - 1)
		started++;
	if (started->handle != NULL)
	{
		/* Ended, but the postmaster has not said so yet. */
		launcher->no_worker_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), REAP_PAUSE_MS);
		return false;
	}
	if (cm_worker_start(&order, NULL, true, false, &started->slot, &started->handle) == CM_RESERVED)
	{
		launcher->no_worker_ms = 0;
		return true;
	}

	started->handle = NULL;
	if (TimestampDifferenceExceeds(launcher->complained_at, GetCurrentTimestamp(), COMPLAINT_PAUSE_MS))
	{
		launcher->complained_at = GetCurrentTimestamp();
		ereport(LOG,
				(errmsg("concertmaster launcher: no background worker is free, due jobs wait"),
				 errhint("Increase \"max_worker_processes\" if this lasts.")));
	}
	launcher->no_worker_ms = Min(Max(2 * launcher->no_worker_ms, NO_WORKER_FIRST_MS), NO_WORKER_LONGEST_MS);
	launcher->no_worker_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), launcher->no_worker_ms);
	return false;
}

/*
 * Choose the database to serve next: InvalidOid if none is due, and then
 * *next says when one will be.
 */
static Oid
choose_database(Launcher *launcher, TimestampTz now, TimestampTz *next)
{
	CmDatabase	known[CM_MAX_DATABASES];
	int			count = cm_databases_copy(known);
	const CmDatabase *chosen = NULL;
	ListCell   *cell;

	*next = launcher->next_scan;
	for (int i = 0; i < count; i++)
	{
		if (known[i].lookers >= Max(known[i].due_count, 1) || cm_database_held(known[i].datid))
			continue;
		if (known[i].next_due > now)
			*next = Min(*next, known[i].next_due);
		else if (chosen == NULL || known[i].last_start < chosen->last_start)
			chosen = &known[i];
	}
	if (chosen != NULL)
		return chosen->datid;

	foreach(cell, launcher->probes)
	{
		Oid			datid = lfirst_oid(cell);

		if (!cm_database_held(datid))
			return datid;
	}
	return InvalidOid;
}

/*
 * Start what is due and there are workers for.  Returns how long to sleep, in
 * milliseconds, if nothing happens meanwhile.
 */
static long
start_due_workers(Launcher *launcher)
{
	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz next = DT_NOEND;
		Oid			datid;

		if (!cm_enabled)
			return TimestampDifferenceMilliseconds(now, launcher->next_scan);
		if (launcher->no_worker_until > now)
			return TimestampDifferenceMilliseconds(now, launcher->no_worker_until);
		if (cm_slots_background() >= cm_max_workers)
			return TimestampDifferenceMilliseconds(now, launcher->next_scan);

		datid = choose_database(launcher, now, &next);
		if (!OidIsValid(datid))
			return TimestampDifferenceMilliseconds(now, next);
		if (!start_worker(launcher, datid))
			return TimestampDifferenceMilliseconds(now, launcher->no_worker_until);
		launcher->probes = list_delete_oid(launcher->probes, datid);
	}
}

/* Entry point of the launcher. */
void
cm_launcher_main(Datum main_arg)
{
	Launcher   *launcher = MemoryContextAllocZero(TopMemoryContext, sizeof(Launcher));
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "concertmaster launcher",
												  ALLOCSET_DEFAULT_SIZES);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();

	/*
	 * Connected first, because a launcher that is not cannot be seen by the
	 * next.  Exit code 0: the other one goes on, this one does not come back.
	 */
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	if (!cm_launcher_enter())
	{
		ereport(LOG, (errmsg("concertmaster launcher is already running")));
		proc_exit(0);
	}
	MemoryContextSwitchTo(context);
	ereport(LOG, (errmsg("concertmaster launcher started")));

	for (;;)
	{
		long		sleep_ms;

		if (ShutdownRequestPending)
			proc_exit(1);
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			launcher->next_scan = Min(launcher->next_scan,
									  TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
																  cm_probe_interval * INT64CONST(1000)));
		}
		reap_workers(launcher);
		if (GetCurrentTimestamp() >= launcher->next_scan)
			scan_databases(launcher, context, true);
		else if (somebody_missed())
			scan_databases(launcher, context, false);
		sleep_ms = start_due_workers(launcher);

		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 sleep_ms, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}
