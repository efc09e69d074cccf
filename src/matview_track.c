/*-------------------------------------------------------------------------
 *
 * matview_track.c
 *	  Which tables log for which views: begin, end, look.
 *
 * A view is tracked when it has a row in matview_track, its tables are in
 * matview_source and each of them has our trigger, or its leaves have.  Why it
 * could not be is noted in matview_state, for those who ask; whatever the error
 * was, the view is refreshed without the log, and it is tried again.  To begin, every table and
 * leaf is locked against writers, which waits for those that have written
 * already: whoever writes after the commit finds the view in matview_source.
 * How triggers are made is in matview_trigger.c.  Where leaves have their own,
 * these are made before, one by one, and log for nobody until then.
 *
 * The zone that tables log in is noted when a view is tracked; another one
 * makes it be tracked anew, because that waits for those who log in the old.
 *
 * To end, rows are deleted, which waits for nobody.  A trigger that no view
 * needs any more costs its writers next to nothing; it is dropped at once if
 * nobody is at the table and we hold the lock for a moment only, else by the
 * prune job (matview_prune.c).
 *
 * Locks: ShareRowExclusiveLock on tables and leaves to begin, in the order of
 * their oids, under the deadline of attempt.c; AccessExclusiveLock on them to
 * drop a trigger.  After an error the (sub)transaction undoes everything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "matview_track.h"

/* The tables of a view, each once, in the order in which they are locked. */
List *
cm_tracked_relids(const CmMatviewPlan *plan)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, plan->tracked)
		relids = list_append_unique_oid(relids, ((CmTracked *) lfirst(lc))->relid);
	list_sort(relids, list_oid_cmp);
	return relids;
}

/* Note the partitions right below a table, those on their way out left out. */
static List *
add_children(Relation inherits, Oid relid, List *relids)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(inherits, InheritsParentIndexId, true, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_inherits row = (Form_pg_inherits) GETSTRUCT(tuple);

		if (!row->inhdetachpending)
			relids = lappend_oid(relids, row->inhrelid);
	}
	systable_endscan(scan);
	return relids;
}

/*
 * A table's leaves, or itself.  Partitions that are being detached are left
 * out, as they are now: core's find_all_inheritors() would ask the active
 * snapshot, which can be older than the one that a refresh computes with.
 */
List *
cm_tracked_leaves(Oid root)
{
	List	   *relids = list_make1_oid(root);
	List	   *leaves = NIL;
	Relation	inherits;

	if (get_rel_relkind(root) != RELKIND_PARTITIONED_TABLE)
		return relids;
	inherits = table_open(InheritsRelationId, AccessShareLock);
	/* The list grows while it is gone through. */
	for (int i = 0; i < list_length(relids); i++)
	{
		Oid			relid = list_nth_oid(relids, i);

		if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
			relids = add_children(inherits, relid, relids);
		else
			leaves = lappend_oid(leaves, relid);
	}
	table_close(inherits, AccessShareLock);
	return leaves;
}

/*
 * A number that changes when a leaf, or what it is a partition of, is taken
 * out of a table and put into it again.  Its own trigger logs nothing meanwhile.
 */
uint32
cm_attach_version(Oid leaf, Oid root)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	uint32		version = 0;

	while (OidIsValid(leaf) && leaf != root)
	{
		ScanKeyData key;
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(leaf));
		scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, NULL, 1, &key);
		tuple = systable_getnext(scan);
		leaf = InvalidOid;
		if (HeapTupleIsValid(tuple))
		{
			leaf = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent;
			version = hash_combine(version, murmurhash32(HeapTupleHeaderGetRawXmin(tuple->t_data)));
		}
		systable_endscan(scan);
	}
	table_close(inherits, AccessShareLock);
	return version;
}

/* Lock the tables of a view and all their leaves against what would change their files. */
void
cm_matview_sources_lock(const CmMatviewPlan *plan)
{
	ListCell   *lc;

	foreach(lc, cm_tracked_relids(plan))
	{
		LockRelationOid(lfirst_oid(lc), AccessShareLock);
		(void) find_all_inheritors(lfirst_oid(lc), AccessShareLock, NULL);
	}
}

/* The oids of a list as an array. */
Datum
cm_oid_array(const List *oids)
{
	Datum	   *elements = palloc(sizeof(Datum) * (list_length(oids) + 1));
	ListCell   *lc;

	foreach(lc, oids)
		elements[foreach_current_index(lc)] = ObjectIdGetDatum(lfirst_oid(lc));
	return PointerGetDatum(construct_array(elements, list_length(oids), OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/* Make sessions that write to a table or its leaves look again for whom they log. */
static void
invalidate(Oid root)
{
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(root)))
		CacheInvalidateRelcacheByRelid(root);
}

/* Write that the view is tracked. */
static void
write_track(const CmMatviewPlan *plan, const List *roots)
{
	CmMatviewSettings settings;
	Oid			types[3] = {OIDOID, OIDARRAYOID, TEXTOID};
	Datum		values[3];
	CmScope		scope;

	cm_matview_settings(plan->view, &settings);
	values[0] = ObjectIdGetDatum(plan->view);
	values[1] = cm_oid_array(roots);
	values[2] = CStringGetTextDatum(settings.timezone != NULL ? settings.timezone : "UTC");
	cm_catalog_enter(&scope);
	cm_query("INSERT INTO concertmaster.matview_track (view, stale, timezone)"
			 " VALUES ($1, 'first refresh', $3)"
			 " ON CONFLICT (view) DO UPDATE SET stale = 'first refresh', timezone = $3",
			 3, types, values, NULL);
	cm_query("UPDATE concertmaster.matview_state s SET not_logging_code = NULL, not_logging = NULL"
			 "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
			 " WHERE c.oid = $1 AND (s.schema_name, s.view_name) = (n.nspname, c.relname) AND s.not_logging IS NOT NULL",
			 1, types, values, NULL);
	cm_query("DELETE FROM concertmaster.matview_source WHERE view = $1 AND relid <> ALL ($2)",
			 2, types, values, NULL);
	cm_query("INSERT INTO concertmaster.matview_source (relid, view)"
			 " SELECT r, $1 FROM unnest($2) r ON CONFLICT DO NOTHING",
			 2, types, values, NULL);
	cm_scope_leave(&scope);
}

/* The whole of it, in the transaction that is open. */
static void
track_step(void *arg)
{
	CmLogStep  *step = arg;
	ListCell   *lc;

	step->making = false;
	foreach(lc, step->roots)
	{
		LockRelationOid(lfirst_oid(lc), ShareRowExclusiveLock);
		(void) find_all_inheritors(lfirst_oid(lc), ShareRowExclusiveLock, NULL);
	}
	step->making = true;
	foreach(lc, step->roots)
		cm_log_trigger_make(lfirst_oid(lc));
	step->making = false;
	write_track(step->plan, step->roots);
	foreach(lc, step->roots)
		invalidate(lfirst_oid(lc));
}

/* What of a view's tables has to have a trigger of its own, in a transaction of its own. */
static List *
find_bare_leaves(const List *roots, Oid owner, bool begun)
{
	List	   *leaves;

	cm_transaction_begin(owner);
	leaves = cm_log_bare_leaves(roots, begun);
	cm_transaction_commit();
	return leaves;
}

/*
 * Make the tables of a view log for it, from now on.  The view is to be
 * computed as a whole once more.  Returns false if that could not be; *why is
 * then what was in the way.  The caller is in no transaction.
 */
bool
cm_matview_track(CmMatviewPlan *plan, Oid owner, CmNotLogging *why)
{
	CmLogStep	step = {.plan = plan,.roots = cm_tracked_relids(plan)};

	return cm_log_leaves_make(find_bare_leaves(step.roots, owner, false), owner, why) &&
		cm_log_attempt(track_step, &step, step.roots, owner, why);
}

/*
 * Where leaves of a tracked view have triggers of their own, make those of
 * leaves that are new.  Those that are not to be had are no harm, as all of
 * such a leaf's range is computed.  The caller is in no transaction.
 */
void
cm_matview_track_new(const CmMatviewPlan *plan, Oid owner)
{
	CmNotLogging why;

	(void) cm_log_leaves_make(find_bare_leaves(cm_tracked_relids(plan), owner, true), owner, &why);
}

/*
 * Note why the tables of a managed view do not log, or with NULL that nothing
 * is in the way; in the transaction that is open.
 */
void
cm_matview_note_not_logging(Oid view, const CmNotLogging *why)
{
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[4];
	char		nulls[4] = {' ', ' ', why != NULL ? ' ' : 'n', why != NULL ? ' ' : 'n'};
	CmScope		scope;

	values[0] = CStringGetTextDatum(cm_relation_schema(view));
	values[1] = CStringGetTextDatum(cm_relation_name(view));
	values[2] = why != NULL ? CStringGetTextDatum(why->code) : (Datum) 0;
	values[3] = why != NULL ? CStringGetTextDatum(why->reason) : (Datum) 0;
	cm_catalog_enter(&scope);
	cm_query("INSERT INTO concertmaster.matview_state AS s (schema_name, view_name, not_logging_code, not_logging)"
			 " SELECT schema_name, view_name, $3, $4 FROM concertmaster.matview"
			 "  WHERE schema_name = $1 AND view_name = $2"
			 " ON CONFLICT (schema_name, view_name) DO UPDATE SET not_logging_code = $3, not_logging = $4"
			 "  WHERE (s.not_logging_code, s.not_logging) IS DISTINCT FROM ($3, $4)",
			 4, types, values, nulls);
	cm_scope_leave(&scope);
}

/* The tables that a view has in matview_source, and its zone; NULL if not tracked. */
static List *
read_track(Oid view, char **zone)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(view)};
	List	   *roots = NIL;
	CmScope		scope;

	*zone = NULL;
	cm_catalog_enter(&scope);
	cm_query("SELECT t.timezone, s.relid FROM concertmaster.matview_track t"
			 " LEFT JOIN concertmaster.matview_source s USING (view) WHERE view = $1",
			 1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		char	   *relid = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);

		*zone = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		if (relid != NULL)
			roots = lappend_oid(roots, atooid(relid));
		MemoryContextSwitchTo(spi);
	}
	cm_scope_leave(&scope);
	return roots;
}

/*
 * Do the tables of a view log for it, in the zone of its settings?  False too
 * if a trigger is gone; one that is disabled counts, see matview_stamp.c.
 */
bool
cm_matview_is_tracked(Oid view)
{
	CmMatviewSettings settings;
	char	   *zone;
	List	   *roots = read_track(view, &zone);
	ListCell   *lc;

	if (zone == NULL)
		return false;
	cm_matview_settings(view, &settings);
	if (settings.timezone == NULL || strcmp(settings.timezone, zone) != 0)
		return false;
	foreach(lc, roots)
	{
		if (!cm_log_is_made(lfirst_oid(lc)))
			return false;
	}
	return roots != NIL;
}

/* Delete what we know of a view. */
static void
delete_track(Oid view)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(view)};
	CmScope		scope;

	cm_catalog_enter(&scope);
	cm_query("DELETE FROM concertmaster.matview_track WHERE view = $1", 1, types, values, NULL);
	cm_query("DELETE FROM concertmaster.matview_source WHERE view = $1", 1, types, values, NULL);
	cm_query("DELETE FROM concertmaster.matview_leaf WHERE view = $1", 1, types, values, NULL);
	cm_scope_leave(&scope);
}

/*
 * Have no table log for a view any more, in the transaction that is open.
 * Triggers that nobody needs are dropped if the locks are to be had at once
 * and will not be held for long; else they are left to the prune job.
 */
void
cm_matview_untrack(Oid view)
{
	char	   *zone;
	List	   *roots = read_track(view, &zone);
	ListCell   *lc;

	if (zone == NULL)
		return;
	delete_track(view);
	cm_matview_log_clear(view);
	CommandCounterIncrement();
	foreach(lc, roots)
	{
		invalidate(lfirst_oid(lc));
		if (!IsTransactionBlock() && get_rel_name(lfirst_oid(lc)) != NULL && !cm_log_is_needed(lfirst_oid(lc)))
			(void) cm_log_trigger_drop(lfirst_oid(lc), true);
	}
}
