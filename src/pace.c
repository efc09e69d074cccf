/*-------------------------------------------------------------------------
 *
 * pace.c
 *	  May long work begin, or go on, now?
 *
 * Index builds, and splits of large partitions, compete with everybody for
 * the disk, fill it, and make WAL that standbys have to replay.  They ask here
 * before they begin, and between their batches.  In this order:
 *
 *	 1. the window (pace_window.c): outside of it the work waits for the next;
 *		also what cannot be paused and would not end in it.
 *	 2. free disk (pace_disk.c): an error, see there.
 *	 3. the standbys (pace_lag.c): while one that counts is further behind than
 *		is allowed, the work waits.
 *
 * cm_pace_may() asks once.  cm_pace_wait() asks again and again, as long as
 * the caller has patience; who has more than some minutes' is better put off,
 * as a worker that waits is one less for others.  A run that is put off is
 * told when to come again; not later than ASK_AGAIN_MS from now, since settings
 * can be changed.
 *
 * Settings are the worker's, read when it started; here, where it may wait for
 * long, those in the files are read again if somebody reloaded them, and ours
 * of the database if they were set anew.
 *
 * Locks: ACCESS SHARE on catalogs, in transactions that are over at once.
 * While it waits nothing is held: no transaction, no snapshot, no lock but the
 * session's own of the caller, who should have none.  After an error the
 * caller aborts, as after any.
 *
 * What it does not do: estimate.  Who asks knows what is going to be written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "concertmaster.h"
#include "pace_parts.h"

/*
 * Rates that are assumed, and low: on a laptop with the table in cache a scan
 * was 6 times as fast, a build of a key of 24 bytes took the time said.
 */
#define SCAN_BYTES_PER_MS	100000.0	/* 100 MB/s */
#define SORT_MS_PER_ROW		0.002

/* Between two questions while it waits, in ms. */
#define POLL_MS				1000

/* The longest time until a run that was put off asks again, in ms. */
#define ASK_AGAIN_MS		(5 * 60 * 1000)

/* Likewise where a standby is behind. */
#define ASK_AGAIN_LAG_MS	(30 * 1000)

/* About how long it takes to read so much. */
double
cm_scan_milliseconds(double bytes)
{
	return bytes / SCAN_BYTES_PER_MS;
}

/* About how long CREATE INDEX CONCURRENTLY takes, which scans twice; without its waits. */
double
cm_build_milliseconds(double heap_bytes, double rows)
{
	return 2 * cm_scan_milliseconds(heap_bytes) + rows * SORT_MS_PER_ROW;
}

/* What is set for this database and is ours: name=value. */
static List *
database_settings(void)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(MyDatabaseId)};
	List	   *pairs = NIL;
	CmScope		scope;

	cm_transaction_begin(GetSessionUserId());
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT s FROM pg_db_role_setting, unnest(setconfig) s"
						  " WHERE setdatabase = $1 AND setrole = 0 AND s LIKE 'concertmaster.%'",
						  1, types, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(caller);

		pairs = lappend(pairs, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	cm_transaction_commit();
	return pairs;
}

/*
 * See what was changed since the last question.  Settings are changed outside
 * of transactions, or an error would change them back.
 */
static void
take_settings(void)
{
	ListCell   *lc;

	if (MyBgworkerEntry == NULL)
		return;
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	foreach(lc, database_settings())
	{
		char	   *name = lfirst(lc);
		char	   *value = strchr(name, '=');

		*value++ = '\0';
		(void) set_config_option(name, value, PGC_SUSET, PGC_S_DATABASE, GUC_ACTION_SET, true, WARNING, false);
	}
}

/* An instant by the clock of the windows. */
static char *
instant_text(TimestampTz instant, pg_tz *zone)
{
	char		text[MAXDATELEN + 1];
	struct pg_tm tm;
	fsec_t		fsec;
	const char *abbreviation;
	int			offset;

	if (timestamp2tm(instant, &offset, &tm, &fsec, &abbreviation, zone) != 0)
		return pstrdup("?");
	EncodeDateTime(&tm, fsec, true, offset, abbreviation, USE_ISO_DATES, text);
	return pstrdup(text);
}

/* About how long, for people. */
char *
cm_duration_text(double milliseconds)
{
	double		minutes = milliseconds / 60000.0;

	if (minutes < 2)
		return psprintf("%.0f s", milliseconds / 1000.0);
	if (minutes < 120)
		return psprintf("%.0f min", minutes);
	return psprintf("%.0f h", minutes / 60.0);
}

/* Does the window let the work begin at that time? */
static bool
window_lets(const CmPaceNeed *need, TimestampTz now, CmPace *pace)
{
	CmWindows	windows;
	CmWindowState state;
	CmWindowState next;

	if (need->ignore_window)
		return true;
	cm_windows_current(&windows);
	cm_windows_at(&windows, now, &state);
	if (state.is_open && cm_windows_fit(&state, now, need->milliseconds))
		return true;
	pace->reason = CM_PACE_WINDOW;
	if (!state.is_open)
	{
		pace->until = state.next;
		pace->why = psprintf("the build window opens at %s", instant_text(state.next, windows.zone));
		return false;
	}
	cm_windows_at(&windows, state.until, &next);
	pace->until = next.next;
	pace->why = psprintf("it takes about %s, and the build window closes at %s; it opens again at %s",
						 cm_duration_text(need->milliseconds), instant_text(state.until, windows.zone),
						 instant_text(next.next, windows.zone));
	return false;
}

/*
 * May the work begin, or go on, now?  If not, *pace says why and when to ask
 * again.  Too little free disk is an error, SQLSTATE 53100.  In no transaction.
 */
bool
cm_pace_may(const CmPaceNeed *need, CmPace *pace)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		may;

	Assert(!IsTransactionState());
	*pace = (CmPace) {.reason = CM_PACE_GO};
	take_settings();
	cm_transaction_begin(GetSessionUserId());
	may = window_lets(need, now, pace);
	if (may)
		cm_disks_require(need);
	cm_transaction_commit();
	if (!may)
	{
		pace->until = Min(pace->until, TimestampTzPlusMilliseconds(now, ASK_AGAIN_MS));
		return false;
	}
	if (need->ignore_standbys)
		return true;
	pace->why = cm_standbys_behind();
	if (pace->why == NULL)
		return true;
	pace->reason = CM_PACE_LAG;
	pace->until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ASK_AGAIN_LAG_MS);
	return false;
}

/* Ask, in memory of its own; the answer is put where the caller wants it. */
static bool
ask_apart(const CmPaceNeed *need, CmPace *pace, MemoryContext answers)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext asking = AllocSetContextCreate(caller, "concertmaster pace", ALLOCSET_SMALL_SIZES);
	bool		may;

	MemoryContextSwitchTo(asking);
	may = cm_pace_may(need, pace);
	if (pace->why != NULL)
		pace->why = MemoryContextStrdup(answers, pace->why);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(asking);
	return may;
}

/*
 * Wait until the work may go on, so many milliseconds at most.  False if it
 * may not even then, and *pace says why.  Says in the job's progress that it
 * waits.  In no transaction.
 */
bool
cm_pace_wait(const CmPaceNeed *need, int patience_ms, CmPace *pace)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), patience_ms);
	CmPaceReason told = CM_PACE_GO;

	while (!ask_apart(need, pace, context))
	{
		if (pace->reason != told)
			cm_progress_report(0, 0, "%s waits: %s", need->what, pace->why);
		told = pace->reason;
		if (GetCurrentTimestamp() >= end)
			return false;
		cm_pause(Min(POLL_MS, patience_ms));
	}
	return true;
}
