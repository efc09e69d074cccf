/*-------------------------------------------------------------------------
 *
 * matview_keep.c
 *	  Keep the rows of views in their histories before a partition retires.
 *
 * The view is always as its source is; so when a partition retires, the rows
 * made of it leave the view with the next refresh.  Those rows go into the
 * view's history in the very transaction that detaches the partition: there
 * is no moment in which they are in neither, none in which a row of the
 * history is there that is not final, and after a crash or an attempt that
 * found no gap everything is as before.
 *
 * The partition room asks through the front door (CmKeeper):
 *
 *	 wanted	  does any view with a history read the table?
 *	 prepare  refuse if one is not incremental (any more), its history is gone,
 *			  or the partition reaches into a bucket that is not over; refresh
 *			  these views, each in a transaction of its own, so that what has
 *			  accumulated is out of the way
 *	 keep	  in the transaction that is to detach, without any lock that
 *			  others queue behind: refresh once more, which has little to do,
 *			  and insert the rows of the partition's buckets
 *	 confirm  under the locks of the detach, which no writer to the partition
 *			  shares: has anything been logged for these buckets since, or a
 *			  trigger been disabled?  Then the attempt is made again
 *
 * So the history has every row that was ever committed to the partition.  A
 * row that is there already stays what it is: its bucket reaches into a
 * partition that has retired before, and what is computed now lacks that one.
 * That is why a bucket has to be over when the first of its partitions goes:
 * months over partitions of a day make these wait for the end of the month.
 *
 * Locks: those of a refresh, EXCLUSIVE on each view in the order of their
 * oids; ROW EXCLUSIVE on the histories.  No wait in keep() is longer than the
 * deadline, as somebody may hold one view and wait for another.  In the end
 * they are kept while the detach waits for its locks, for a deadline at most.
 *
 * After an error the transaction undoes everything; the partition stays.
 *
 * What it does not do: keep what goes otherwise, by DELETE, TRUNCATE or a
 * DETACH of the user's own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "matview_history.h"
#include "matview_track.h"

/*
 * Say why the history cannot be kept, so that the partition stays.  All of it
 * in the message, which is what partition_sets shows.
 */
static void
report(const CmHistory *history, int sqlstate, const char *reason, const char *hint)
{
	int			length = strlen(reason);

	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("history of materialized view \"%s\" cannot be kept: %.*s",
					get_rel_name(history->view),
					reason[length - 1] == '.' ? length - 1 : length, reason),
			 errdetail("Partitions of its tables do not retire meanwhile."),
			 errhint("%s Or do without it: concertmaster.manage_matview(..., history => false).", hint)));
}

/* Is the table what was made, and the owner's? */
static void
require_table(const CmHistory *history)
{
	if (!OidIsValid(history->table))
		report(history, ERRCODE_UNDEFINED_TABLE,
			   psprintf("table %s does not exist", history->table_name),
			   "Make a new one: concertmaster.manage_matview(..., history => true).");
	if (get_rel_relkind(history->table) != RELKIND_RELATION &&
		get_rel_relkind(history->table) != RELKIND_PARTITIONED_TABLE)
		report(history, ERRCODE_WRONG_OBJECT_TYPE,
			   psprintf("%s is not a table", history->table_name), "Put the table back into its place.");
	if (cm_relation_owner(history->table) != cm_relation_owner(history->view))
		report(history, ERRCODE_INSUFFICIENT_PRIVILEGE,
			   psprintf("table %s belongs to another role", history->table_name),
			   "Give table and view one owner.");
}

/* The columns of the history in which its rows are unique, quoted. */
static char *
unique_columns(const CmHistory *history, const Query *query)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, query->groupClause)
	{
		AttrNumber	attno = get_sortgroupclause_tle(lfirst(lc), query->targetList)->resno;
		const char *name = get_attname(history->table, attno, true);

		if (name == NULL)
			report(history, ERRCODE_UNDEFINED_COLUMN,
				   psprintf("table %s has lost a column", history->table_name),
				   "It has to begin with the columns of the view, in their order.");
		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "", quote_identifier(name));
	}
	return list.data;
}

/* The buckets of a partition, which the query must tell. */
static void
find_range(CmHistory *history, const CmMatviewPlan *plan, const char *zone, Oid parent, Oid partition)
{
	if (!cm_matview_history_range(plan, zone, parent, partition, &history->range))
		report(history, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("its query does not tell which of its rows are of partition %s", cm_relation_quoted(partition)),
			   "Group it by the column that the partition's table is partitioned by, or by a bucket of it.");
}

/* Is the view refreshed from its log, can its rows be told apart in the table, and are they final? */
static void
require_incremental(CmHistory *history, Oid parent, Oid partition)
{
	CmMatviewSettings settings;
	CmMatviewPlan *plan;
	const CmMatviewCheck *check;

	cm_matview_settings(history->view, &settings);
	plan = settings.managed ? cm_matview_plan(history->view, &settings) : NULL;
	if (plan == NULL)
		report(history, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the view is not managed under its name",
			   "See the view concertmaster.matviews.");
	check = cm_matview_history_check(plan);
	if (check != NULL)
		report(history, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, check->detail, check->hint);
	if (!cm_matview_has_usable_index(history->table))
		report(history, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("table %s has no unique index", history->table_name),
			   psprintf("CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT.",
						cm_relation_quoted(history->table), unique_columns(history, plan->query)));
	find_range(history, plan, settings.timezone, parent, partition);
	if (!cm_matview_history_is_over(plan, settings.timezone, &history->range))
		report(history, ERRCODE_LOCK_NOT_AVAILABLE,
			   psprintf("partition %s reaches into a bucket of the view that is not over yet", cm_relation_quoted(partition)),
			   "It retires when that is, and no sooner.");
}

/* The views with a history that read the table, fit to be kept; in the transaction that is open. */
static List *
find_histories(Oid parent, Oid partition)
{
	List	   *histories = cm_matview_histories(parent);
	ListCell   *lc;

	foreach(lc, histories)
	{
		CmHistory  *history = lfirst(lc);

		require_table(history);
		require_incremental(history, parent, partition);
		history->refresh.view = history->view;
		history->refresh.owner = cm_relation_owner(history->view);
	}
	return histories;
}

static bool
wanted(Oid parent)
{
	return cm_matview_histories(parent) != NIL;
}

/*
 * Refresh a view until its log is what it is refreshed from: one that was not
 * filled yet makes its tables log only then.  False if that is put off.
 */
static bool
refresh_incrementally(CmRefresh *refresh)
{
	for (int i = 0; i < 2; i++)
	{
		if (!cm_matview_refresh_apart(refresh))
			return false;
		if (refresh->plan != NULL)
			return true;
	}
	return false;
}

/* Bring the views up to date while nothing waits for it. */
static void
prepare(Oid parent, Oid partition)
{
	List	   *histories;
	ListCell   *lc;

	cm_transaction_begin(GetSessionUserId());
	histories = find_histories(parent, partition);
	cm_transaction_commit();
	foreach(lc, histories)
	{
		CmHistory  *history = lfirst(lc);

		if (refresh_incrementally(&history->refresh))
			continue;
		cm_transaction_begin(GetSessionUserId());
		report(history, ERRCODE_LOCK_NOT_AVAILABLE,
			   history->refresh.settings.not_logging != NULL ? history->refresh.settings.not_logging :
			   "a refresh of the view waits for a lock", "Wait for the next try.");
	}
}

/* Insert the rows of the partition's buckets, as the view's owner. */
static void
insert_rows(const CmHistory *history)
{
	const CmRefresh *refresh = &history->refresh;
	const CmKeyColumn *key = &refresh->plan->keys[history->range.key];
	Oid			types[2] = {key->bucket->type, key->bucket->type};
	Datum		values[2] = {history->range.first, history->range.last};
	const char *bucket = quote_identifier(get_attname(history->view, key->attno, false));
	CmScope		scope;

	cm_matview_owner_enter(&scope, refresh->owner, refresh->settings.timezone, true);
	cm_scope_connect(&scope);
	SPI_execute_with_args(psprintf("INSERT INTO %s SELECT v.* FROM %s v"
								   " WHERE v.%s OPERATOR(pg_catalog.>=) $1 AND v.%s OPERATOR(pg_catalog.<=) $2"
								   " ON CONFLICT (%s) DO NOTHING",
								   cm_relation_quoted(history->table), cm_relation_quoted(history->view),
								   bucket, bucket, unique_columns(history, refresh->plan->query)),
						  2, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
}

/* Refresh one view, and keep its rows. */
static void
keep_one(CmHistory *history, Oid parent, Oid partition)
{
	Oid			silent;

	cm_matview_refresh_here(&history->refresh);
	if (history->refresh.plan == NULL)
		report(history, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, history->refresh.result.reason,
			   "See concertmaster.explain_refresh().");
	silent = cm_log_silent_leaf(partition);
	if (OidIsValid(silent))
		report(history, ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
			   psprintf("partition %s has no trigger that logs, or it is disabled", cm_relation_quoted(silent)),
			   "ALTER TABLE ... ENABLE ALWAYS TRIGGER, or see concertmaster.matviews.");
	find_range(history, history->refresh.plan, history->refresh.settings.timezone, parent, partition);
	CommandCounterIncrement();
	insert_rows(history);
}

/*
 * Keep the rows of all views that are made of a partition's, in the
 * transaction that is open.  Returns what confirm() takes.
 */
static List *
keep(Oid parent, Oid partition)
{
	int			nestlevel = NewGUCNestLevel();
	List	   *histories;
	ListCell   *lc;

	cm_lock_waits_limit();
	histories = find_histories(parent, partition);
	foreach(lc, histories)
		keep_one(lfirst(lc), parent, partition);
	AtEOXact_GUC(false, nestlevel);
	return histories;
}

/*
 * Is everything that was committed to the partition in what was kept?  An
 * error that means later if not.  Under locks that keep writers from it and
 * all below it, which are relids.  No others are looked at, for while this
 * lasts, everybody waits.
 */
static void
confirm(List *histories, const List *relids)
{
	ListCell   *lc;

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, histories)
	{
		CmHistory  *history = lfirst(lc);
		CmMatviewPlan *plan = history->refresh.plan;
		CmDirty		dirty = {0};

		cm_matview_log_read(plan, &dirty);
		if (cm_matview_history_touched(plan, &history->range, &dirty) ||
			!cm_matview_stamp_holds_for(plan, relids))
			report(history, ERRCODE_LOCK_NOT_AVAILABLE, "rows were written to the partition just now",
				   "Wait for the next try.");
	}
	PopActiveSnapshot();
}

const CmKeeper cm_matview_keeper = {
	.wanted = wanted,.prepare = prepare,.keep = keep,.confirm = confirm
};
