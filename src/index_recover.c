/*-------------------------------------------------------------------------
 *
 * index_recover.c
 *	  What is there of a planned index, and how leftovers are removed.
 *
 * CREATE INDEX CONCURRENTLY commits half way, so whatever ends it early (a
 * cancel, a crash, a duplicate key) leaves an index that is not valid: it
 * costs every write and serves no query.  cm_index_look() finds out what
 * stands between a table and its planned index; cm_index_drop_leftover() and
 * cm_index_sweep() remove what an earlier build left, and only that: an index
 * is a leftover if it is not valid, has the planned name, and either the
 * planned shape or is dead already (an interrupted DROP).
 *
 * An index that another session is building right now looks exactly the same.
 * Every concurrent build holds SHARE UPDATE EXCLUSIVE on its table from
 * beginning to end, so cm_index_lock_table() takes that lock for the session,
 * over all the transactions of a look and what follows from it: while we have
 * it, nobody else builds there, and what is not valid is nobody's.  Writers
 * do not conflict with it.  A transaction that aborts gives back the session's
 * locks too; whoever goes on after one takes the lock anew, and looks again.
 *
 * An attached index cannot be dropped, so it is rebuilt in place.  REINDEX
 * CONCURRENTLY that ends early leaves a copy by another name, or the old one
 * after they changed places: debris, which is found by the names that the
 * server gives them.
 *
 * Looking takes ACCESS SHARE on the table for one short transaction.  Every
 * wait has a deadline.  After an error, transactions are aborted here; the
 * session lock is released by whoever took it, in PG_FINALLY, or by the exit
 * of the process.
 *
 * What this file does not do: decide to build, or say so to anybody.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "concertmaster.h"
#include "index.h"

/* How long looking may wait, in ms: it is in nobody's way, but must end. */
#define LOOK_DEADLINE	2000

/* How long removing a leftover may wait right after a failure, in ms. */
#define SWEEP_DEADLINE	5000

/* How much an index of the planned shape tells; the highest rank wins. */
typedef enum MatchRank
{
	RANK_NONE,
	RANK_VALID,					/* valid under any name */
	RANK_VALID_NAMED,			/* by the planned name */
	RANK_VALID_ATTACHED,		/* attached where it belongs */
	RANK_INVALID				/* ours to finish or remove, before all else */
} MatchRank;

/*
 * What one index of the table that has the planned shape means for the look,
 * unless one of a higher rank was seen already.  Returns the highest rank.
 */
static MatchRank
judge_match(CmIndexLook *look, Relation index, MatchRank best)
{
	bool		named = strcmp(RelationGetRelationName(index), look->index_name) == 0;
	bool		partition = index->rd_rel->relispartition;
	bool		attached = partition && OidIsValid(look->parent_index) &&
		get_partition_parent(RelationGetRelid(index), true) == look->parent_index;
	CmIndexVerdict verdict = CM_INDEX_VALID;
	MatchRank	rank = attached ? RANK_VALID_ATTACHED : named ? RANK_VALID_NAMED : RANK_VALID;

	/* A partition of another index cannot be attached to ours. */
	if (OidIsValid(look->parent_index) && partition && !attached)
		return best;
	if (!index->rd_index->indisvalid)
	{
		if (!named && !attached)
			return best;
		rank = RANK_INVALID;
		if (index->rd_rel->relkind == RELKIND_PARTITIONED_INDEX)
			verdict = CM_INDEX_UNFINISHED;
		else
			verdict = partition ? CM_INDEX_REPAIR : CM_INDEX_LEFTOVER;
	}
	if (rank <= best)
		return best;
	look->verdict = verdict;
	look->index_oid = RelationGetRelid(index);
	look->attached = attached;
	return rank;
}

/* Is this the name that REINDEX CONCURRENTLY gives a copy of that index? */
static bool
is_debris_name(const char *name, const char *index_name)
{
	const char *label = strrchr(name, '_');

	if (label == NULL ||
		(strncmp(label, "_ccnew", 6) != 0 && strncmp(label, "_ccold", 6) != 0) ||
		strspn(label + 6, "0123456789") != strlen(label + 6))
		return false;
	return strcmp(name, makeObjectName(index_name, NULL, label + 1)) == 0;
}

/* Is this index a copy that a REINDEX of the one that was found left? */
static bool
is_debris(const CmIndexLook *look, const CmIndexShape *shape, Oid index_oid)
{
	/* A dead one may be gone before it is opened. */
	Relation	index = try_relation_open(index_oid, AccessShareLock);
	bool		result;

	if (index == NULL)
		return false;
	result = !index->rd_index->indisvalid && !index->rd_rel->relispartition &&
		is_debris_name(RelationGetRelationName(index), cm_relation_name(look->index_oid)) &&
		cm_index_shape_matches(shape, index);
	relation_close(index, NoLock);
	return result;
}

/*
 * The copies that REINDEX CONCURRENTLY of the found index left, quoted.  Reads
 * pg_index, as dead ones are in no index list.
 */
static List *
find_debris(const CmIndexLook *look, const CmIndexShape *shape)
{
	Relation	pg_index = table_open(IndexRelationId, AccessShareLock);
	List	   *debris = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(look->relid));
	scan = systable_beginscan(pg_index, IndexIndrelidIndexId, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_index form = (Form_pg_index) GETSTRUCT(tuple);

		if (!form->indisvalid && is_debris(look, shape, form->indexrelid))
			debris = lappend(debris, cm_relation_quoted(form->indexrelid));
	}
	systable_endscan(scan);
	table_close(pg_index, AccessShareLock);
	return debris;
}

/* Nothing matched: is the planned name taken, and by what? */
static void
judge_name(CmIndexLook *look, Oid namespace)
{
	Oid			taken = get_relname_relid(look->index_name, namespace);
	HeapTuple	tuple;

	if (!OidIsValid(taken))
		return;
	look->verdict = CM_INDEX_CONFLICT;
	look->in_the_way = taken;

	/* An interrupted DROP INDEX CONCURRENTLY: dead, and in no index list. */
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(taken));
	if (!HeapTupleIsValid(tuple))
		return;
	if (((Form_pg_index) GETSTRUCT(tuple))->indrelid == look->relid &&
		!((Form_pg_index) GETSTRUCT(tuple))->indislive)
	{
		look->verdict = CM_INDEX_LEFTOVER;
		look->index_oid = taken;
	}
	ReleaseSysCache(tuple);
}

/* Does the look say that there is something to build that takes long? */
static bool
is_long_work(const CmIndexLook *look)
{
	return !look->empty && look->relkind != RELKIND_PARTITIONED_TABLE &&
		(look->verdict == CM_INDEX_MISSING || look->verdict == CM_INDEX_LEFTOVER || look->verdict == CM_INDEX_REPAIR);
}

/* The step of cm_index_look(). */
static void
look_step(void *arg)
{
	CmIndexLook *look = arg;
	Relation	rel = try_relation_open(look->relid, AccessShareLock);
	CmIndexShape shape;
	CmScope		scope;
	MatchRank	best = RANK_NONE;
	ListCell   *lc;

	look->verdict = CM_INDEX_GONE;
	look->index_oid = look->in_the_way = InvalidOid;
	look->attached = false;
	look->debris = NIL;
	if (rel == NULL)
		return;

	look->verdict = CM_INDEX_MISSING;
	look->owner = rel->rd_rel->relowner;
	look->relkind = rel->rd_rel->relkind;
	look->relation = cm_relation_quoted(look->relid);
	look->index = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
											 look->index_name);
	look->empty = look->relkind != RELKIND_PARTITIONED_TABLE &&
		RelationGetNumberOfBlocks(rel) == 0;

	cm_owner_enter(&scope, look->owner, true);
	cm_index_shape_planned(&shape, look->plan, rel);
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (cm_index_shape_matches(&shape, index))
			best = judge_match(look, index, best);
		index_close(index, NoLock);
	}
	if (look->verdict == CM_INDEX_MISSING)
		judge_name(look, RelationGetNamespace(rel));
	if (OidIsValid(look->index_oid))
		look->found = cm_relation_quoted(look->index_oid);

	/* Only attached ones are rebuilt in place. */
	if (look->relkind != RELKIND_PARTITIONED_TABLE && OidIsValid(look->index_oid) &&
		get_rel_relispartition(look->index_oid))
		look->debris = find_debris(look, &shape);
	memset(&look->estimate, 0, sizeof(CmIndexEstimate));
	if (is_long_work(look))
		cm_index_estimate(look->plan, &shape, rel, OidIsValid(look->parent_index) ?
						  cm_index_model(find_inheritance_children(look->parent_index, NoLock)) : look->model,
						  &look->estimate);
	cm_scope_leave(&scope);
	relation_close(rel, NoLock);
}

/*
 * Fill in the answer half of a look.  Returns false if the table is locked so
 * that not even looking is possible.
 */
bool
cm_index_look(CmIndexLook *look)
{
	return cm_attempt_once(look_step, look, GetSessionUserId(), LOOK_DEADLINE);
}

/* The step of cm_index_lock_table(): take the lock, then keep it. */
static void
lock_step(void *arg)
{
	Oid			relid = *(Oid *) arg;
	LockRelId	id = {.relId = relid,.dbId = MyDatabaseId};

	LockRelationOid(relid, ShareUpdateExclusiveLock);
	LockRelationIdForSession(&id, ShareUpdateExclusiveLock);
}

/* Do we have the lock of cm_index_lock_table(), still? */
static bool
have_table_locked(Oid relid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	return cm_compat_lock_held(&tag, ShareUpdateExclusiveLock);
}

/*
 * Keep every other index build, VACUUM and DDL away from the table until
 * cm_index_unlock_table(), or until a transaction aborts.  Nothing to do if we
 * have the lock.  Returns false if it was not to be had.
 */
bool
cm_index_lock_table(Oid relid)
{
	return have_table_locked(relid) || cm_attempt_commit(lock_step, &relid, GetSessionUserId(), NIL);
}

/* The way back from cm_index_lock_table(), if we have the lock still. */
void
cm_index_unlock_table(Oid relid)
{
	LockRelId	id = {.relId = relid,.dbId = MyDatabaseId};

	if (have_table_locked(relid))
		UnlockRelationIdForSession(&id, ShareUpdateExclusiveLock);
}

/* Drop one index within a deadline, 0 for none.  False if that passed. */
static bool
drop_index(const CmIndexLook *look, const char *index, bool concurrently,
		   int deadline_ms)
{
	return cm_statement_run(psprintf("DROP INDEX %s%s", concurrently ? "CONCURRENTLY " : "", index),
							look->owner, deadline_ms);
}

/* Drop all leftovers that a look found; stop at the first put off. */
static void
drop_leftovers(const CmIndexLook *look, bool concurrently, int deadline_ms)
{
	ListCell   *lc;

	if (look->verdict == CM_INDEX_LEFTOVER &&
		!drop_index(look, look->found, concurrently, deadline_ms))
		return;
	foreach(lc, look->debris)
	{
		if (!drop_index(look, lfirst(lc), concurrently, deadline_ms))
			return;
	}
}

/*
 * Remove the leftovers that a look found.  The wait for old transactions has
 * no deadline: the build that follows would wait for the same ones, and
 * neither is in a writer's way.  Caller has the table locked.
 */
void
cm_index_drop_leftover(const CmIndexLook *look)
{
	drop_leftovers(look, true, 0);
}

/*
 * After a build that failed, and with it lost the lock on the table: remove
 * what it left, if that is soon done, so that writers need not maintain it
 * until the next run comes by.  hurry: the build was cancelled, so one short
 * try must do.  Throws nothing but a cancel; what it does not manage, the next
 * run does.
 */
void
cm_index_sweep(CmIndexLook *look, bool hurry)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		bool		locked = hurry ?
			cm_attempt_once(lock_step, &look->relid, GetSessionUserId(), cm_ddl_deadline) :
			cm_index_lock_table(look->relid);

		if (locked && cm_index_look(look))
			drop_leftovers(look, !hurry, hurry ? cm_ddl_deadline : SWEEP_DEADLINE);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		EmitErrorReport();
		FlushErrorState();
		cm_transaction_abort();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
}

/* How many partitions of a table an index needs to have, to be valid. */
static int
count_to_index(Relation table)
{
	PartitionDesc partitions = RelationGetPartitionDesc(table, true);
	int			count = 0;

	for (int i = 0; i < partitions->nparts; i++)
		count += get_rel_relkind(partitions->oids[i]) != RELKIND_FOREIGN_TABLE;
	return count;
}

/* The step of cm_index_validate_parent(). */
static void
validate_step(void *arg)
{
	CmIndexLook *look = arg;
	Relation	table = try_relation_open(look->relid, ShareUpdateExclusiveLock);
	Relation	index;
	int			valid = 0;
	ListCell   *lc;

	if (table == NULL)
		return;
	index = try_relation_open(look->index_oid, ShareUpdateExclusiveLock);
	if (index != NULL && !index->rd_index->indisvalid)
	{
		foreach(lc, find_inheritance_children(look->index_oid, NoLock))
			valid += get_index_isvalid(lfirst_oid(lc));
		if (valid == count_to_index(table))
			index_set_state_flags(look->index_oid, INDEX_CREATE_SET_VALID);
	}
	if (index != NULL)
		relation_close(index, NoLock);
	relation_close(table, NoLock);
}

/*
 * Mark the index of a partitioned table valid if every partition that is no
 * foreign table has a valid one attached to it, as ALTER INDEX ATTACH PARTITION
 * and CREATE INDEX do: SHARE UPDATE EXCLUSIVE on the table keeps partitions,
 * and on the index their indexes, from coming and going.  Returns false if the
 * locks were not to be had.
 */
bool
cm_index_validate_parent(CmIndexLook *look)
{
	return cm_attempt_commit(validate_step, look, GetSessionUserId(), NIL);
}
