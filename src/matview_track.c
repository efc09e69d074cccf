/*-------------------------------------------------------------------------
 *
 * matview_track.c
 *	  Which tables log for which views: begin, end, look.
 *
 * A view is tracked when it has a row in matview_track, its tables are in
 * matview_source and each of them has our trigger.  To begin, every table and
 * leaf is locked against writers, which waits for those that have written
 * already: whoever writes after the commit finds the view in matview_source.
 * Triggers are made as the table's owner, for all its partitions, those to
 * come included, and set to fire ALWAYS.  A trigger that is there is used as
 * it is: who disabled it has decided that, and the view is then refreshed in
 * full (matview_stamp.c).
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

/* What is to be tracked, for cm_attempt_commit(). */
typedef struct TrackStep
{
	CmMatviewPlan *plan;
	List	   *roots;
} TrackStep;

/* The oid of log_changes(); InvalidOid if it is not there. */
static Oid
log_function(void)
{
	return LookupFuncName(list_make2(makeString(CM_SCHEMA), makeString("log_changes")), 0, NULL, true);
}

/*
 * The trigger of a table or leaf that logs.  False if there is none.  If there
 * are several (a partition's own beside that of its parent), it is enough that
 * one is set to ALWAYS.
 */
bool
cm_log_trigger_find(Oid relid, CmLogTrigger *trigger)
{
	Oid			function = log_function();
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	uint32		version = 0;
	bool		found = false;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	memset(trigger, 0, sizeof(*trigger));
	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(triggers, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

		if (form->tgfoid != function)
			continue;
		found = true;
		if (trigger->name[0] == '\0' || !OidIsValid(form->tgparentid))
			strlcpy(trigger->name, NameStr(form->tgname), NAMEDATALEN);
		trigger->always |= form->tgenabled == TRIGGER_FIRES_ALWAYS;
		version = hash_combine(version, murmurhash32(HeapTupleHeaderGetRawXmin(tuple->t_data)));
		version = hash_combine(version, murmurhash32((uint32) form->tgenabled));
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	snprintf(trigger->stamp, sizeof(trigger->stamp), "%08x", version);
	return found;
}

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

/* Keep writers from a table and its leaves, and see to it that it logs. */
static void
make_table_log(Oid relid)
{
	CmLogTrigger trigger;
	const char *name;
	Oid			owner;

	LockRelationOid(relid, ShareRowExclusiveLock);
	(void) find_all_inheritors(relid, ShareRowExclusiveLock, NULL);
	if (cm_log_trigger_find(relid, &trigger))
		return;
	owner = cm_relation_owner(relid);
	name = get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? CM_LOG_TRIGGER : CM_LOG_TABLE_TRIGGER;
	cm_run_as(owner, psprintf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s"
						   " FOR EACH ROW EXECUTE FUNCTION concertmaster.log_changes()",
						   name, cm_relation_quoted(relid)));
	cm_run_as(owner, psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", cm_relation_quoted(relid), name));
}

/* The oids of a list as an array. */
static Datum
oid_array(const List *oids)
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
	values[1] = oid_array(roots);
	values[2] = CStringGetTextDatum(settings.timezone != NULL ? settings.timezone : "UTC");
	cm_catalog_enter(&scope);
	cm_query("INSERT INTO concertmaster.matview_track (view, stale, timezone)"
			 " VALUES ($1, 'first refresh', $3)"
			 " ON CONFLICT (view) DO UPDATE SET stale = 'first refresh', timezone = $3",
			 3, types, values, NULL);
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
	TrackStep  *step = arg;
	ListCell   *lc;

	foreach(lc, step->roots)
		make_table_log(lfirst_oid(lc));
	write_track(step->plan, step->roots);
	foreach(lc, step->roots)
		invalidate(lfirst_oid(lc));
}

/*
 * The locks that are wanted on tables and their leaves, in a transaction of
 * its own.
 */
static List *
wish_for(const List *roots, LOCKMODE mode, Oid userid)
{
	List	   *relids = NIL;
	List	   *wishes = NIL;
	ListCell   *lc;

	cm_transaction_begin(userid);
	foreach(lc, roots)
		relids = list_concat(relids, find_all_inheritors(lfirst_oid(lc), NoLock, NULL));
	cm_transaction_commit();
	foreach(lc, relids)
		wishes = cm_lock_wish(wishes, lfirst_oid(lc), mode);
	return wishes;
}

/* Whoever is in the way of one of the wishes; 0 if nobody is, or not known. */
static int
find_blocker(const List *wishes, Oid userid)
{
	int			pid;

	cm_transaction_begin(userid);
	pid = Max(cm_lock_holder(wishes), 0);
	cm_transaction_commit();
	return pid;
}

/*
 * Make the tables of a view log for it, from now on.  The view is to be
 * computed as a whole once more.  Returns false if the locks were not to be
 * had; *blocked_by is then who is in the way, 0 if not known.  The caller is
 * in no transaction.
 */
bool
cm_matview_track(CmMatviewPlan *plan, Oid owner, int *blocked_by)
{
	TrackStep	step = {.plan = plan,.roots = cm_tracked_relids(plan)};
	List	   *wishes = wish_for(step.roots, ShareRowExclusiveLock, owner);

	*blocked_by = 0;
	if (cm_attempt_commit(track_step, &step, owner, wishes))
		return true;
	*blocked_by = find_blocker(wishes, owner);
	return false;
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
	CmLogTrigger trigger;
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
		if (!cm_log_trigger_find(lfirst_oid(lc), &trigger))
			return false;
	}
	return roots != NIL;
}

/* Does any view need the trigger of a table: for it, or for a leaf of it? */
static bool
is_needed(Oid root)
{
	Oid			types[1] = {OIDARRAYOID};
	Datum		values[1] = {oid_array(find_all_inheritors(root, NoLock, NULL))};
	CmScope		scope;
	bool		needed;

	cm_catalog_enter(&scope);
	cm_query("SELECT 1 FROM concertmaster.matview_source WHERE relid = ANY ($1)", 1, types, values, NULL);
	needed = SPI_processed > 0;
	cm_scope_leave(&scope);
	return needed;
}

/* Drop the trigger of a table, which is locked or about to be. */
static void
drop_step(void *arg)
{
	Oid			relid = *(Oid *) arg;
	CmLogTrigger trigger;

	LockRelationOid(relid, AccessExclusiveLock);
	(void) find_all_inheritors(relid, AccessExclusiveLock, NULL);
	if (get_rel_name(relid) == NULL || is_needed(relid) || !cm_log_trigger_find(relid, &trigger))
		return;
	cm_run_as(cm_relation_owner(relid), psprintf("DROP TRIGGER %s ON %s", quote_identifier(trigger.name),
											  cm_relation_quoted(relid)));
}

/* Get the lock on a table and its leaves if that takes no wait. */
static bool
lock_at_once(Oid relid)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (!ConditionalLockRelationOid(lfirst_oid(lc), AccessExclusiveLock))
			return false;
	}
	return true;
}

/* The same for a caller who waits for no lock; arg is what drop_step() takes. */
static void
drop_at_once_step(void *arg)
{
	if (!lock_at_once(*(Oid *) arg))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("table with OID %u is in use", *(Oid *) arg)));
	drop_step(arg);
}

/*
 * Drop it in a subtransaction, if nobody is at the table; that includes the
 * caller, who could have more to do with it than a lock.
 */
static bool
drop_here(Oid relid)
{
	ErrorData  *edata = cm_subtransaction(drop_at_once_step, &relid);

	if (edata != NULL && cm_error_ends_all(edata))
		ReThrowError(edata);
	return edata == NULL;
}

/*
 * Drop the trigger of a table if no view needs it.  here: in the caller's
 * transaction, if no lock has to be waited for; else the caller is in none,
 * and it is tried under the deadline.  Returns whether there is none now.
 */
bool
cm_log_trigger_drop(Oid relid, bool here)
{
	Oid			userid = GetSessionUserId();
	List	   *wishes;

	if (here)
		return drop_here(relid);
	wishes = wish_for(list_make1_oid(relid), AccessExclusiveLock, userid);
	return cm_lock_stayer(wishes) == 0 && cm_attempt_once(drop_step, &relid, userid, cm_ddl_deadline);
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
		if (!IsTransactionBlock() && get_rel_name(lfirst_oid(lc)) != NULL && !is_needed(lfirst_oid(lc)))
			(void) cm_log_trigger_drop(lfirst_oid(lc), true);
	}
}
