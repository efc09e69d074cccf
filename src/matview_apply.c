/*-------------------------------------------------------------------------
 *
 * matview_apply.c
 *	  One refresh of a view whose tables log their changes.
 *
 * In one READ COMMITTED transaction, the caller holding a lock on the view
 * that keeps other refreshes out:
 *
 *	 1. the tables and their partitions are locked AccessShareLock, so none is
 *	    truncated, rewritten or dropped from here on;
 *	 2. what no trigger sees is compared with what the last refresh noted;
 *	 3. a snapshot is taken, after all locks, and the log read with it;
 *	 4. what is dirty is computed and merged with that same snapshot, or all
 *	    of the view is;
 *	 5. the log's rows that were read are deleted, what no trigger sees is
 *	    noted, and when the refresh was.
 *
 * A change that commits after the snapshot is in the log of the next refresh;
 * one that commits before is in both the log and the tables.  Data, log and
 * notes are one transaction, so after an error or a crash all are as before.
 *
 * In spite of the locks a partition can be attached, or begin to be detached,
 * and a trigger be disabled.  All of that is therefore looked at again at the
 * end; if something differs, the attempt is put off and made again.
 *
 * Where all of the view is to be computed and its rows would not fit into
 * memory for a comparison, core's REFRESH CONCURRENTLY does it; its snapshot
 * is later than ours, which is no harm: what it saw more comes again.
 *
 * After an error the (sub)transaction's abort cleans up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "matview_merge.h"

/* Put the attempt off if partitions or triggers came or went while it computed. */
static void
require_same_leaves(CmMatviewPlan *plan)
{
	if (!cm_matview_stamp_holds(plan))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("partitions or triggers below materialized view \"%s\" were changed while it was computed",
						get_rel_name(plan->view)),
				 errhint("Try again.")));
}

/* What now() was in the last refresh, as of the active snapshot; false if there was none. */
static bool
read_refreshed_at(Oid view, TimestampTz *refreshed_at)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(view)};
	CmScope		scope;
	bool		isnull = true;

	cm_catalog_enter(&scope);
	(void) SPI_execute_with_args("SELECT refreshed_at FROM concertmaster.matview_track WHERE view = $1",
								 1, types, values, NULL, true, 1);
	if (SPI_processed > 0)
		*refreshed_at = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
														  1, &isnull));
	cm_scope_leave(&scope);
	return !isnull;
}

/*
 * Add what came and went with the time, and what the log says, to what is
 * dirty.  A snapshot that is later than all locks is active.
 */
static void
find_dirty(const CmRefresh *refresh, CmDirty *dirty)
{
	CmMatviewPlan *plan = refresh->plan;
	TimestampTz refreshed_at = 0;
	CmScope		scope;

	if (dirty->stale == NULL && plan->now_matters)
	{
		if (!read_refreshed_at(plan->view, &refreshed_at))
			dirty->stale = "first refresh";
		cm_matview_owner_enter(&scope, refresh->owner, refresh->settings.timezone, true);
		cm_matview_windows_moved(plan, refresh->settings.timezone, refreshed_at, dirty);
		cm_scope_leave(&scope);
	}
	cm_matview_log_read(plan, dirty);
}

/* Is there anything to compute? */
static bool
is_dirty(const CmDirty *dirty)
{
	return dirty->stale != NULL || dirty->patterns != NIL || dirty->ranges != NIL;
}

/* Compute and merge some classes, or all. */
static void
compute_and_merge(CmRefresh *refresh, const CmDirty *dirty)
{
	CmMatviewResult *result = &refresh->result;
	const char *why_all;
	CmClasses  *classes;
	bool		some;
	Tuplestorestate *rows;
	CmScope		scope;

	cm_matview_owner_enter(&scope, refresh->owner, refresh->settings.timezone, true);
	classes = cm_classes_make(refresh->plan, refresh->settings.timezone, dirty, &why_all);
	some = classes != NULL;
	result->groups = some ? classes->patterns : -1;
	rows = cm_matview_compute(refresh->plan->query, &classes);
	if (some && classes == NULL)
	{
		why_all = psprintf("all of it cost less than " INT64_FORMAT " changed groups", result->groups);
		result->groups = -1;
	}
	cm_matview_merge(refresh->view, classes, rows, result);
	tuplestore_end(rows);
	result->mode = classes != NULL ? CM_MATVIEW_INCREMENTAL : CM_MATVIEW_FULL;
	result->reason = why_all != NULL ? why_all : "the log says what changed";
	cm_scope_leave(&scope);
}

/* Bring the view up to date in whichever way is right. */
static void
bring_up_to_date(CmRefresh *refresh, const CmDirty *dirty)
{
	CmMatviewResult *result = &refresh->result;

	if (dirty->stale != NULL && cm_matview_has_usable_index(refresh->view) && !cm_diff_fits(refresh->view))
	{
		cm_matview_core_refresh(refresh, CM_MATVIEW_CONCURRENTLY,
								psprintf("%s; it is too large to be compared in memory", dirty->stale));
		return;
	}
	if (is_dirty(dirty))
	{
		compute_and_merge(refresh, dirty);
		return;
	}
	result->mode = CM_MATVIEW_INCREMENTAL;
	result->reason = "nothing changed";
}

/*
 * Refresh a tracked view in the transaction that is open, which is READ
 * COMMITTED.  The caller has locked the view.
 */
void
cm_matview_apply(CmRefresh *refresh)
{
	CmMatviewPlan *plan = refresh->plan;
	const char *zone = refresh->settings.timezone;
	CmDirty		dirty = {0};

	cm_matview_sources_lock(plan);
	cm_matview_stamp_compare(plan, zone, &dirty);

	/* What this transaction wrote before counts too. */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	find_dirty(refresh, &dirty);
	bring_up_to_date(refresh, &dirty);
	cm_matview_log_consume(plan->view, &dirty);
	PopActiveSnapshot();

	/* Where nothing moved, what is written there is still true. */
	if (is_dirty(&dirty) || plan->now_matters)
		cm_matview_stamp_write(plan);
	require_same_leaves(plan);
}
