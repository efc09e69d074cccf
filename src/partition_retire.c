/*-------------------------------------------------------------------------
 *
 * partition_retire.c
 *	  Retire one partition: detach it, then drop it, keep it or move it.
 *
 * Each statement is a transaction of its own, by the worker, at top level and
 * as the parent's owner:
 *
 *	 note     a row in partition_state says that the partition is to retire, so
 *			  that what a crash interrupts is finished, and nothing else is
 *			  dropped
 *	 detach   CONCURRENTLY where there is no default partition: nobody waits.
 *			  Its own wait for the parent's users is cut off by the deadline;
 *			  that is normal, and leaves the detaching pending
 *	 finalize what is pending, once no snapshot is older; until then nothing is
 *			  held
 *	 remove   DROP TABLE, or ALTER TABLE ... SET SCHEMA, or nothing
 *	 forget   the row
 *
 * With a default partition core refuses CONCURRENTLY; then a plain DETACH
 * locks the parent, and is tried when nobody who is there to stay does.
 *
 * So it is where something is to be kept of the partition (CmKeeper: rows of
 * views with a history).  It is kept in the transaction that detaches, and
 * must be all that there is, so writers have to be out between the last look
 * and the detaching.  CONCURRENTLY lets them go on: those whose snapshot is
 * older write to a partition that nobody can compute a view from any more.
 * What cannot be kept is an error before anything is noted.
 *
 * A pending detach that is not ours is finished too, as no other can begin
 * before, unless a session is at work on a DETACH just now.
 *
 * What is dropped: the table with the oid, schema and name that were noted,
 * which is no partition of anything, and only if the set's settings still say
 * so.  That is asked again under the table's lock, since whoever held it
 * before us may have changed all of it.  Anything else is forgotten and left
 * as it is.
 *
 * What the parent's owner has no right to finish is not begun: a table that
 * was detached, and can be neither dropped nor moved, would be nowhere.
 *
 * Locks: see partition_locks.c.  After an error the transaction is aborted by
 * statement.c; the row says how far it came.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "partition.h"

const CmKeeper *cm_partition_keeper = NULL;

/* Where a partition stands on its way out. */
typedef enum Stage
{
	STAGE_ATTACHED,
	STAGE_PENDING,
	STAGE_DETACHED,
	STAGE_ELSEWHERE				/* not what was noted any more */
} Stage;

/* The names to build statements with, palloc'd outside of the transaction. */
typedef struct Names
{
	char	   *parent;
	char	   *leaf;
	bool		keeps;				/* something is kept of it */
	bool		concurrently;
	CmPartitionStep step;		/* by the locks that it takes in the end */
	List	   *wishes;
} Names;

/* A partition's parent, and whether it is being detached; InvalidOid if it is none. */
static Oid
find_parent(Oid relid, bool *is_pending)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	Oid			parent = InvalidOid;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple) && get_rel_relispartition(relid))
	{
		parent = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent;
		*is_pending = ((Form_pg_inherits) GETSTRUCT(tuple))->inhdetachpending;
	}
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return parent;
}

/*
 * Where a partition stands.  Asked under locks, so nothing is read of the
 * parent's other partitions, which can be thousands.
 */
static Stage
find_stage(const CmPartitionWork *work, const CmRetiree *retiree)
{
	Oid			schema = get_namespace_oid(retiree->schema_name, true);
	bool		is_pending = false;
	Oid			parent;

	if (!OidIsValid(schema) || get_relname_relid(retiree->name, schema) != retiree->relid)
		return STAGE_ELSEWHERE;
	parent = find_parent(retiree->relid, &is_pending);
	if (parent != work->parent)
		return OidIsValid(parent) ? STAGE_ELSEWHERE : STAGE_DETACHED;
	return is_pending ? STAGE_PENDING : STAGE_ATTACHED;
}

/* Does the set still say that what ends there is to go? */
static bool
is_outdated(const CmPartitionWork *work, const CmRetiree *retiree)
{
	CmPartitionSettings settings;
	int64		cutoff;

	return cm_partition_settings(work->parent, &settings) &&
		cm_partition_cutoff(&settings, work->now, &cutoff) &&
		retiree->upper_bound <= cutoff;
}

/* How far it is, and the names and locks of the step that follows. */
static Stage
look(const CmPartitionWork *work, const CmRetiree *retiree, Names *names)
{
	Stage		stage;

	cm_transaction_begin(GetSessionUserId());
	stage = find_stage(work, retiree);
	if (stage != STAGE_PENDING && !is_outdated(work, retiree))
		stage = STAGE_ELSEWHERE;
	if (stage != STAGE_ELSEWHERE)
	{
		names->parent = cm_relation_quoted(work->parent);
		names->leaf = cm_relation_quoted(retiree->relid);
		names->keeps = cm_partition_keeper != NULL && cm_partition_keeper->wanted(work->parent);
		names->concurrently = !names->keeps && !OidIsValid(get_default_partition_oid(work->parent));
		names->step = stage == STAGE_DETACHED ? CM_STEP_REMOVE :
			stage == STAGE_PENDING || names->concurrently ? CM_STEP_FINALIZE : CM_STEP_DETACH;
		names->wishes = stage == STAGE_ATTACHED && names->concurrently ? NIL :
			cm_partition_wishes(work->parent, retiree->relid, names->step);
	}
	cm_transaction_commit();
	return stage;
}

/* Is any session at work on a DETACH, so that what is pending may be its own? */
static bool
somebody_detaches(void)
{
	bool		result;

	cm_transaction_begin(GetSessionUserId());
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	SPI_execute("SELECT FROM pg_stat_activity WHERE datname = current_database()"
				" AND pid <> pg_backend_pid() AND state = 'active' AND query ~* 'detach'", true, 1);
	result = SPI_processed > 0;
	SPI_finish();
	cm_transaction_commit();
	return result;
}

/* Is the row that says so there? */
static bool
is_noted(const CmJob *job, const CmRetiree *retiree)
{
	bool		result = false;
	ListCell   *lc;

	cm_transaction_begin(GetSessionUserId());
	foreach(lc, cm_partition_state_list(job->schema_name, job->relation_name, "retiring"))
		result = result || ((CmRetiree *) lfirst(lc))->relid == retiree->relid;
	cm_transaction_commit();
	return result;
}

static void
note(const CmJob *job, const CmRetiree *retiree)
{
	cm_transaction_begin(GetSessionUserId());
	cm_partition_state_write(job, retiree, "retiring", NULL);
	cm_transaction_commit();
}

static void
forget(const CmRetiree *retiree)
{
	cm_transaction_begin(GetSessionUserId());
	cm_partition_state_delete(retiree->relid);
	cm_transaction_commit();
}

/* What the steps below work on. */
typedef struct Retiring
{
	const CmPartitionWork *work;
	const CmRetiree *retiree;
	const Names *names;
} Retiring;

/*
 * Under the locks of a step: is all as it was when it was chosen?  Whoever
 * held them before us may have renamed, attached or exchanged the table.
 */
static bool
is_still(const Retiring *retiring, Stage stage)
{
	return find_stage(retiring->work, retiring->retiree) == stage &&
		is_outdated(retiring->work, retiring->retiree);
}

/*
 * Why the parent's owner could not finish retiring a partition, with its
 * SQLSTATE, as core would say it; NULL if nothing forbids it.
 */
char *
cm_partition_forbidden(const CmPartitionWork *work, Oid relid, int *sqlstate)
{
	const CmPartitionSettings *settings = &work->settings;
	Oid			schema = get_rel_namespace(relid);
	Oid			owner = work->owner;
	Oid			target;

	*sqlstate = ERRCODE_INSUFFICIENT_PRIVILEGE;
	if (cm_compat_namespace_aclcheck(schema, owner, ACL_USAGE) != ACLCHECK_OK)
		return psprintf("permission denied for schema %s", get_namespace_name(schema));
	if (settings->retention_keep && settings->retention_schema == NULL)
		return NULL;
	if (!object_ownercheck(RelationRelationId, relid, owner) &&
		(settings->retention_keep || !object_ownercheck(NamespaceRelationId, schema, owner)))
		return psprintf("must be owner of table %s", get_rel_name(relid));
	if (!settings->retention_keep)
		return NULL;

	target = get_namespace_oid(settings->retention_schema, true);
	if (OidIsValid(target) && cm_compat_namespace_aclcheck(target, owner, ACL_CREATE) != ACLCHECK_OK)
		return psprintf("permission denied for schema %s", settings->retention_schema);
	*sqlstate = ERRCODE_UNDEFINED_SCHEMA;
	if (!OidIsValid(target))
		return psprintf("schema \"%s\" does not exist", settings->retention_schema);
	*sqlstate = ERRCODE_DUPLICATE_TABLE;
	if (target != schema && OidIsValid(get_relname_relid(cm_relation_name(relid), target)))
		return psprintf("relation \"%s\" already exists in schema \"%s\"",
						get_rel_name(relid), settings->retention_schema);
	return NULL;
}

/* Drop or move what was detached. */
static void
remove_step(void *arg)
{
	const Retiring *retiring = arg;
	const CmPartitionSettings *settings = &retiring->work->settings;
	Oid			relid = retiring->retiree->relid;
	CmScope		scope;

	LockRelationOid(relid, AccessExclusiveLock);
	if (!is_still(retiring, STAGE_DETACHED))
		return;
	cm_partition_enter(&scope, retiring->work->owner);
	cm_partition_execute(settings->retention_keep ?
						 psprintf("ALTER TABLE %s SET SCHEMA %s", cm_relation_quoted(relid),
								  quote_identifier(settings->retention_schema)) :
						 psprintf("DROP %sTABLE %s", get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE ? "FOREIGN " : "",
								  cm_relation_quoted(relid)));
	cm_scope_leave(&scope);
}

/*
 * Have the rows that others made of the partition's kept, in the transaction
 * that detaches it.  That takes its time, and nobody waits for it, so it is
 * done without the deadline, which begins anew for the locks.
 */
static List *
keep(const Retiring *retiring)
{
	List	   *kept;

	(void) cm_deadline_disarm();
	kept = cm_partition_keeper->keep(retiring->work->parent, retiring->retiree->relid);
	if (cm_lock_stayer(retiring->names->wishes) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("partition \"%s\" is in use", retiring->retiree->name)));
	cm_deadline_arm(cm_ddl_deadline);
	return kept;
}

/* The plain DETACH. */
static void
detach_step(void *arg)
{
	const Retiring *retiring = arg;
	Oid			parent = retiring->work->parent;
	List	   *kept = NIL;
	CmScope		scope;

	if (retiring->names->keeps && is_still(retiring, STAGE_ATTACHED))
		kept = keep(retiring);
	LockRelationOid(parent, AccessExclusiveLock);
	if (!is_still(retiring, STAGE_ATTACHED))
	{
		/* What was kept is undone; the next try finds that it is so. */
		if (kept != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("partition \"%s\" was changed meanwhile", retiring->retiree->name)));
		return;
	}
	if (kept != NIL)
	{
		/* Who writes to a partition below it, by name, has no lock on it. */
		List	   *relids = find_all_inheritors(retiring->retiree->relid, AccessExclusiveLock, NULL);

		cm_partition_keeper->confirm(kept, relids);
	}
	cm_partition_enter(&scope, retiring->work->owner);
	cm_partition_execute(psprintf("ALTER TABLE %s DETACH PARTITION %s", cm_relation_quoted(parent),
								  cm_relation_quoted(retiring->retiree->relid)));
	cm_scope_leave(&scope);
}

/* Drop or move what was detached, or neither.  False if it was put off. */
static bool
remove_table(const CmPartitionWork *work, const CmRetiree *retiree, const Names *names)
{
	Retiring	retiring = {.work = work,.retiree = retiree};

	if (work->settings.retention_keep && work->settings.retention_schema == NULL)
		return true;
	return cm_attempt_commit(remove_step, &retiring, work->owner, names->wishes);
}

/*
 * Begin to detach.  CONCURRENTLY has a deadline of its own, as its wait holds
 * nothing: false then means that it is pending, or was not even begun.
 */
static bool
detach(const CmPartitionWork *work, const CmRetiree *retiree, const Names *names)
{
	Retiring	retiring = {.work = work,.retiree = retiree,.names = names};

	if (names->concurrently)
		return cm_statement_run(psprintf("ALTER TABLE %s DETACH PARTITION %s CONCURRENTLY",
										 names->parent, names->leaf),
								work->owner, cm_ddl_deadline);
	return cm_attempt_commit(detach_step, &retiring, work->owner, names->wishes);
}

/* Bring one partition as far out as it gets; see below. */
static bool
retire(const CmJob *job, const CmPartitionWork *work, const CmRetiree *retiree, Names *names)
{
	Stage		before = STAGE_ELSEWHERE;
	Stage		stage = look(work, retiree, names);
	bool		ours = is_noted(job, retiree);

	/* There can be only one that is pending. */
	if (stage == STAGE_PENDING && !ours && somebody_detaches())
		return false;
	while (stage != STAGE_ELSEWHERE)
	{
		CHECK_FOR_INTERRUPTS();
		if (stage == STAGE_DETACHED)
		{
			/* A user's own DETACH ends here. */
			if (ours && !remove_table(work, retiree, names))
				return false;
			break;
		}
		if (stage == STAGE_ATTACHED)
		{
			if (before == STAGE_ATTACHED)
				return false;
			if (names->keeps)
				cm_partition_keeper->prepare(work->parent, retiree->relid);
			note(job, retiree);
			ours = true;
			(void) detach(work, retiree, names);
		}
		else if (!cm_attempt_statement(psprintf("ALTER TABLE %s DETACH PARTITION %s FINALIZE",
												names->parent, names->leaf),
									   work->owner, names->wishes))
			return false;
		before = stage;
		stage = look(work, retiree, names);
	}
	if (ours)
		forget(retiree);
	return true;
}

/*
 * Bring one partition as far out as it gets.  Returns false if a step was put
 * off, and which.  The caller is in no transaction, before and after.
 */
bool
cm_partition_retire(const CmJob *job, const CmPartitionWork *work, const CmRetiree *retiree,
					CmPartitionStep *step)
{
	Names		names = {0};
	bool		result = retire(job, work, retiree, &names);

	*step = names.step;
	return result;
}
