/*-------------------------------------------------------------------------
 *
 * matview_trigger.c
 *	  The triggers by which tables log: find, make, drop.
 *
 * A trigger is known by the function that it calls, never by its name.  A
 * partitioned table has one that core clones to all its partitions, those to
 * come included.  It bears the table's oid in its name, because ATTACH refuses
 * a partition that has a trigger of the parent's name, and both can log.
 * After a restore the oid is another table's; the trigger is then given its
 * right name where that takes no wait, when a view begins to be tracked.
 *
 * A table with more than CM_LEAVES_AT_ONCE leaves has none: to make that many
 * clones would keep its writers waiting for longer than the deadline.  Its
 * leaves have triggers of their own, made one by one, each in a transaction of
 * its own.  A leaf that is new to such a table has none until the next job
 * makes it; so long matview_stamp.c computes all of the leaf's range.
 *
 * All are made as the table's owner and set to fire ALWAYS.  One that is there
 * is used as it is: who disabled it has decided that, and the view is then
 * refreshed in full (matview_stamp.c).
 *
 * Locks: to make, ShareRowExclusiveLock, for a leaf's own under the deadline
 * here, for others taken by matview_track.c; to rename and to drop,
 * AccessExclusiveLock on the table and its leaves, at once or under the
 * deadline.  After an error the (sub)transaction undoes everything.
 *
 * What it does not do: decide which tables shall log (matview_track.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/partition.h"
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
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "matview_track.h"

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
		if (OidIsValid(form->tgparentid))
			trigger->inherited = true;
		else
			trigger->own = true;
		trigger->always |= form->tgenabled == TRIGGER_FIRES_ALWAYS;
		version = hash_combine(version, murmurhash32(HeapTupleHeaderGetRawXmin(tuple->t_data)));
		version = hash_combine(version, murmurhash32((uint32) form->tgenabled));
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	snprintf(trigger->stamp, sizeof(trigger->stamp), "%08x", version);
	return found;
}

/* The name of the trigger of a table. */
static const char *
trigger_name(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ?
		psprintf(CM_LOG_TRIGGER "%u", relid) : CM_LOG_TABLE_TRIGGER;
}

/* Are there too many leaves for clones? */
static bool
has_many_leaves(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE &&
		list_length(cm_tracked_leaves(relid)) > CM_LEAVES_AT_ONCE;
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

/* Make the trigger of a table or leaf.  It is locked, and has none. */
static void
make_trigger(Oid relid)
{
	const char *name = trigger_name(relid);
	Oid			owner = cm_relation_owner(relid);

	cm_run_as(owner, psprintf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s"
							  " FOR EACH ROW EXECUTE FUNCTION concertmaster.log_changes()",
							  name, cm_relation_quoted(relid)));
	cm_run_as(owner, psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", cm_relation_quoted(relid), name));
}

/*
 * Give a trigger that was made for a table with another oid the name that it
 * should have, if nobody is at the table and that does not take long.
 */
static void
correct_name(Oid relid, const CmLogTrigger *trigger)
{
	const char *name = trigger_name(relid);

	if (!trigger->own || strcmp(trigger->name, name) == 0 ||
		strncmp(trigger->name, CM_LOG_TRIGGER, strlen(CM_LOG_TRIGGER)) != 0 ||
		get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE ||
		has_many_leaves(relid) || !lock_at_once(relid))
		return;
	cm_run_as(cm_relation_owner(relid), psprintf("ALTER TRIGGER %s ON %s RENAME TO %s",
												 quote_identifier(trigger->name), cm_relation_quoted(relid), name));
}

/* See to it that a table logs which the caller has locked, with all its leaves. */
void
cm_log_trigger_make(Oid relid)
{
	CmLogTrigger trigger;

	if (cm_log_trigger_find(relid, &trigger))
		correct_name(relid, &trigger);
	else if (!has_many_leaves(relid))
		make_trigger(relid);
}

/* Does a table log: by its own trigger, or by those of leaves? */
bool
cm_log_is_made(Oid root)
{
	CmLogTrigger trigger;
	ListCell   *lc;

	if (cm_log_trigger_find(root, &trigger))
		return true;
	if (get_rel_relkind(root) != RELKIND_PARTITIONED_TABLE)
		return false;
	foreach(lc, cm_tracked_leaves(root))
	{
		if (cm_log_trigger_find(lfirst_oid(lc), &trigger))
			return true;
	}
	return false;
}

/* A leaf of a table, or itself, whose writes may be logged by nobody; InvalidOid if there is none. */
Oid
cm_log_silent_leaf(Oid relid)
{
	CmLogTrigger trigger;
	ListCell   *lc;

	foreach(lc, cm_tracked_leaves(relid))
	{
		if (!cm_log_trigger_find(lfirst_oid(lc), &trigger) || !trigger.always)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/*
 * The leaves of tables that have to have triggers of their own and have none.
 * begun: the tables log already, in whatever way.
 */
List *
cm_log_bare_leaves(const List *roots, bool begun)
{
	List	   *leaves = NIL;
	CmLogTrigger trigger;
	ListCell   *root;
	ListCell   *lc;

	foreach(root, roots)
	{
		Oid			relid = lfirst_oid(root);

		if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE || cm_log_trigger_find(relid, &trigger) ||
			!(begun || has_many_leaves(relid)))
			continue;
		foreach(lc, cm_tracked_leaves(relid))
		{
			if (!cm_log_trigger_find(lfirst_oid(lc), &trigger))
				leaves = lappend_oid(leaves, lfirst_oid(lc));
		}
	}
	return leaves;
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

/* Say why a step was put off every time. */
static void
explain_put_off(const CmLogStep *step, const List *wishes, Oid userid, CmNotLogging *why)
{
	int			pid;

	if (step->making)
	{
		why->code = CM_NOT_LOGGING_DEADLINE;
		why->reason = psprintf("making triggers on %d %s takes longer than concertmaster.ddl_deadline (%d ms)",
							   list_length(wishes), list_length(wishes) == 1 ? "table" : "tables and partitions",
							   cm_ddl_deadline);
		return;
	}
	cm_transaction_begin(userid);
	pid = cm_lock_holder(wishes);
	cm_transaction_commit();
	why->code = CM_NOT_LOGGING_LOCK;
	why->reason = pid > 0 ? psprintf("process %d holds a lock on one of its tables", pid) :
		psprintf("locks on %d %s were not to be had within concertmaster.ddl_deadline (%d ms)",
				 list_length(wishes), list_length(wishes) == 1 ? "table" : "tables and partitions", cm_ddl_deadline);
}

/*
 * Run a step that makes triggers below roots, under the deadline, as often as
 * the settings allow.  Returns whether it got through; if not, whatever the
 * error, *why says it.  Errors that end all are thrown.  The caller is in no
 * transaction.
 */
bool
cm_log_attempt(CmStep run, CmLogStep *step, const List *roots, Oid userid, CmNotLogging *why)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *wishes = wish_for(roots, ShareRowExclusiveLock, userid);
	ErrorData  *volatile edata = NULL;
	volatile bool done = false;

	PG_TRY();
	{
		done = cm_attempt_commit(run, step, userid, wishes);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	if (edata != NULL && cm_error_ends_all(edata))
		ReThrowError(edata);
	if (edata != NULL)
	{
		why->code = CM_NOT_LOGGING_ERROR;
		why->reason = psprintf("its tables cannot be made to log their changes: %s", edata->message);
	}
	else if (!done)
		explain_put_off(step, wishes, userid, why);
	return done;
}

/* Make the trigger of one leaf, in the transaction that is open. */
static void
leaf_step(void *arg)
{
	CmLogStep  *step = arg;
	Oid			relid = linitial_oid(step->roots);
	CmLogTrigger trigger;

	step->making = false;
	LockRelationOid(relid, ShareRowExclusiveLock);
	if (get_rel_name(relid) == NULL || cm_log_trigger_find(relid, &trigger))
		return;
	step->making = true;
	make_trigger(relid);
	step->making = false;
}

/*
 * Make the triggers of leaves, each in a transaction of its own.  Stops at the
 * first that is not to be had; those that were made stay, for the next time.
 */
bool
cm_log_leaves_make(const List *leaves, Oid userid, CmNotLogging *why)
{
	ListCell   *lc;

	foreach(lc, leaves)
	{
		CmLogStep	step = {.roots = list_make1_oid(lfirst_oid(lc))};

		CHECK_FOR_INTERRUPTS();
		if (!cm_log_attempt(leaf_step, &step, step.roots, userid, why))
			return false;
	}
	return true;
}

/*
 * Does any view need the trigger of a table: for it, for a leaf of it, or as a
 * leaf that has no clone of a trigger further up?
 */
bool
cm_log_is_needed(Oid relid)
{
	List	   *relids = find_all_inheritors(relid, NoLock, NULL);
	Oid			types[1] = {OIDARRAYOID};
	Datum		values[1];
	CmLogTrigger trigger;
	CmScope		scope;
	bool		needed;

	if (get_rel_relispartition(relid) && cm_log_trigger_find(relid, &trigger) && !trigger.inherited)
		relids = list_concat(relids, get_partition_ancestors(relid));
	values[0] = cm_oid_array(relids);
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
	if (get_rel_name(relid) == NULL || !cm_log_trigger_find(relid, &trigger) ||
		!trigger.own || cm_log_is_needed(relid))
		return;
	cm_run_as(cm_relation_owner(relid), psprintf("DROP TRIGGER %s ON %s", quote_identifier(trigger.name),
											  cm_relation_quoted(relid)));
}

/* The same for a caller who waits for no lock; arg is what drop_step() takes. */
static void
drop_at_once_step(void *arg)
{
	CmLogTrigger trigger;

	if (!cm_log_trigger_find(*(Oid *) arg, &trigger) || !trigger.own)
		return;
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

/* Drop it under the deadline, in a transaction of its own. */
static bool
drop_later(Oid relid)
{
	Oid			userid = GetSessionUserId();
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *volatile edata = NULL;
	volatile bool done = false;

	PG_TRY();
	{
		done = cm_lock_stayer(wish_for(list_make1_oid(relid), AccessExclusiveLock, userid)) == 0 &&
			cm_attempt_once(drop_step, &relid, userid, cm_ddl_deadline);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		cm_transaction_abort();
	}
	PG_END_TRY();
	if (edata != NULL && cm_error_ends_all(edata))
		ReThrowError(edata);
	if (edata != NULL)
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("could not drop the trigger of table with OID %u: %s", relid, edata->message),
				 errhint("No materialized view needs it; it is tried again by the prune job.")));
	return done;
}

/*
 * Drop the trigger of a table if no view needs it.  here: in the caller's
 * transaction, if no lock has to be waited for; else the caller is in none,
 * and it is tried under the deadline.  Returns whether there is none now.
 */
bool
cm_log_trigger_drop(Oid relid, bool here)
{
	return here ? drop_here(relid) : drop_later(relid);
}
