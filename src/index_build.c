/*-------------------------------------------------------------------------
 *
 * index_build.c
 *	  Build what one row of index_plan asks for, online.
 *
 * On a table or a partition (build_leaf): lock it for the session against
 * other builds, look, and do what the look says.  A leftover of an earlier
 * build is dropped; an equivalent index is adopted; an attached one that is
 * not valid is rebuilt in place; what is missing is built, plainly where the
 * table has no page, otherwise by CREATE INDEX CONCURRENTLY, which waits for
 * old transactions as long as they take: its waits are in no writer's way.
 * Then look again, until the look says valid.
 *
 * On a partitioned table (build_tree): CREATE INDEX ON ONLY makes the parent
 * index, which is not valid yet but already passed on to partitions that are
 * attached meanwhile; each partition gets its index as above, and it is
 * attached; the parent turns valid with the last.  Foreign tables are left
 * out.  Every step looks first, so a run that died half way is resumed by the
 * next one.
 *
 * With a hot window, a partitioned table gets no parent index, as that would
 * stay INVALID: partitions that end inside the window get theirs each, and
 * those that have aged out of it lose it (index_hot.c).
 *
 * Before a table with rows is built on, and before a parent index is made, it
 * is asked whether that may begin now (pace.h), with nothing locked; if not,
 * the row is deferred too, and says so in its pace.  Leftovers go before that.
 *
 * Locks: SHARE UPDATE EXCLUSIVE on one leaf at a time; statements that others
 * queue behind run under the deadline.  What could not be had makes the row
 * deferred.
 *
 * After an error: session locks are given back in PG_CATCH; transactions
 * are aborted by the functions that start them; what a concurrent build left
 * is removed at once if that is soon done, otherwise by the next run.
 *
 * What this file does not do: read or write the catalog tables (index_run.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "concertmaster.h"
#include "index.h"

/* Looks at one table before giving up: something keeps undoing our work. */
#define MAX_LOOKS	5

/* What is done for one partition. */
typedef CmIndexResult (*BuildStep) (CmIndexRow *row, Oid child, Oid parent_index);

static CmIndexResult build_tree(CmIndexRow *row, Oid relid,
							  const char *index_name, Oid parent_index);

/* Remember who was in the way, for the outcome. */
CmIndexResult
cm_index_deferred(CmIndexRow *row, Oid relid, LOCKMODE mode)
{
	int			pid = cm_lock_holder(cm_lock_wish(NIL, relid, mode));

	if (pid > 0)
		row->blocked_by = pid;
	return CM_INDEX_DEFERRED;
}

/* Refuse to go on because something else has the planned name. */
static void
throw_conflict(CmIndexRow *row, const CmIndexLook *look)
{
	char	   *other = NULL;
	bool		same_table = false;
	bool		valid = true;

	cm_transaction_begin(GetSessionUserId());
	if (get_rel_relkind(look->in_the_way) == RELKIND_INDEX ||
		get_rel_relkind(look->in_the_way) == RELKIND_PARTITIONED_INDEX)
	{
		other = pg_get_indexdef_string(look->in_the_way);
		same_table = IndexGetRelation(look->in_the_way, true) == look->relid;
		valid = get_index_isvalid(look->in_the_way);
	}
	cm_transaction_commit();

	row->conflict = look->in_the_way;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("relation \"%s\" already exists and is not the planned index", look->index_name),
			 other == NULL ? errdetail("It is not an index.") :
			 errdetail("It is%s%s: %s", valid ? "" : " not valid and",
					   same_table ? " another index of the table" : " an index of another table", other),
			 errhint("It is left as it is.  Drop or rename it to have the planned one built,"
					 " or take the plan back with concertmaster.unplan_index().")));
}

/*
 * CREATE or REINDEX INDEX CONCURRENTLY.  False if a deadlock chose it; what it
 * leaves when it fails is removed.
 */
static bool
run_concurrently(CmIndexLook *look, const char *sql)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile edata = NULL;
	volatile bool done = false;

	PG_TRY();
	{
		done = cm_statement_run(sql, look->owner, 0);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	if (done)
		return true;
	cm_index_sweep(look, edata != NULL && edata->sqlerrcode == ERRCODE_QUERY_CANCELED);
	if (edata == NULL)
		return false;
	if (edata->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && edata->hint == NULL)
		edata->hint = MemoryContextStrdup(edata->assoc_context,
										  "Index a bounded part of the value, for instance left(column, 200),"
										  " or use an access method without a limit, for instance hash.");
	ReThrowError(edata);
}

/*
 * Build what a look found missing: plainly the first time, where the table has
 * no page.  If that was put off, true all the same: the next look is due, as
 * the lock on the table is gone.
 */
static bool
create_on_leaf(CmIndexLook *look, bool *tried_plain)
{
	const char *how = look->empty && !*tried_plain ? "" : "CONCURRENTLY";
	char	   *sql = cm_index_statement(look->plan, look->relation, look->index_name, how);

	if (*how != '\0')
		return run_concurrently(look, sql);
	*tried_plain = true;
	(void) cm_statement_run(sql, look->owner, cm_ddl_deadline);
	return true;
}

/* Has an earlier build left something on the table? */
static bool
has_leftovers(const CmIndexLook *look)
{
	return look->verdict == CM_INDEX_LEFTOVER || look->debris != NIL;
}

/* Is the build one that has to be asked for, and was not yet? */
static bool
must_ask(const CmIndexLook *look)
{
	return look->estimate.tables > 0 && !look->may_build;
}

/*
 * Lock a table, look at it and do what is to be done, until its index is
 * valid.  The lock is kept from turn to turn unless a statement fails.
 */
static CmIndexResult
build_locked_leaf(CmIndexRow *row, CmIndexLook *look)
{
	bool		tried_plain = false;

	for (int i = 0; i < MAX_LOOKS; i++)
	{
		/* Debris beside a valid index can wait, the index cannot. */
		if (!cm_index_lock_table(look->relid))
			return i == 0 && look->verdict == CM_INDEX_VALID ? CM_INDEX_DONE :
				cm_index_deferred(row, look->relid, ShareUpdateExclusiveLock);
		if (!cm_index_look(look))
			return cm_index_deferred(row, look->relid, AccessShareLock);
		if (look->debris != NIL)
		{
			cm_index_drop_leftover(look);
			continue;
		}
		switch (look->verdict)
		{
			case CM_INDEX_GONE:
				return CM_INDEX_TABLE_GONE;
			case CM_INDEX_VALID:
				return CM_INDEX_DONE;
			case CM_INDEX_CONFLICT:
				throw_conflict(row, look);
				break;
			case CM_INDEX_LEFTOVER:
				cm_index_drop_leftover(look);
				break;
			case CM_INDEX_REPAIR:
				if (must_ask(look))
					return CM_INDEX_NOT_ASKED;
				if (!run_concurrently(look, psprintf("REINDEX INDEX CONCURRENTLY %s", look->found)))
					return cm_index_deferred(row, look->relid, ShareUpdateExclusiveLock);
				row->built = true;
				break;
			case CM_INDEX_MISSING:
				if (must_ask(look))
					return CM_INDEX_NOT_ASKED;
				if (!create_on_leaf(look, &tried_plain))
					return cm_index_deferred(row, look->relid, ShareUpdateExclusiveLock);
				row->built = true;
				break;
			case CM_INDEX_UNFINISHED:
				elog(ERROR, "index %u of a table is partitioned", look->index_oid);
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("could not get index \"%s\" valid", look->index_name),
			 errdetail("It was changed by others while it was being built.")));
}

/* build_locked_leaf(), and the lock given back whatever happens. */
static CmIndexResult
lock_and_build_leaf(CmIndexRow *row, CmIndexLook *look)
{
	volatile CmIndexResult result = CM_INDEX_TABLE_GONE;

	PG_TRY();
	{
		result = build_locked_leaf(row, look);
	}
	PG_CATCH();
	{
		cm_index_unlock_table(look->relid);
		PG_RE_THROW();
	}
	PG_END_TRY();
	cm_index_unlock_table(look->relid);
	return result;
}

/*
 * Give one table or partition its index, valid.  *index_oid is what serves;
 * *attached tells whether it hangs on parent_index already.
 */
static CmIndexResult
build_leaf(CmIndexRow *row, CmIndexLook *look)
{
	CmIndexResult result;

	/* Most often there is nothing to do, which needs no lock to be seen. */
	if (!cm_index_look(look))
		return cm_index_deferred(row, look->relid, AccessShareLock);
	if (look->verdict == CM_INDEX_GONE)
		return CM_INDEX_TABLE_GONE;
	if (look->verdict == CM_INDEX_VALID && look->debris == NIL)
		return CM_INDEX_DONE;
	for (;;)
	{
		/* What an earlier build left takes room and slows writers down: it goes first. */
		result = must_ask(look) && !has_leftovers(look) ? CM_INDEX_NOT_ASKED : lock_and_build_leaf(row, look);
		if (result != CM_INDEX_NOT_ASKED)
			return result;
		if (!cm_index_may_build(row, look->relation, &look->estimate))
			return CM_INDEX_DEFERRED;
		look->may_build = true;
	}
}

/* Attach a valid index of a partition to the parent's. */
static CmIndexResult
attach_index(CmIndexRow *row, Oid parent_index, Oid child_index)
{
	char	   *sql;

	cm_transaction_begin(GetSessionUserId());
	sql = psprintf("ALTER INDEX %s ATTACH PARTITION %s",
				   cm_relation_quoted(parent_index), cm_relation_quoted(child_index));
	cm_transaction_commit();
	if (cm_attempt_statement(sql, row->plan.owner, cm_lock_wish(NIL, child_index, AccessExclusiveLock)))
		return CM_INDEX_DONE;
	return cm_index_deferred(row, child_index, AccessExclusiveLock);
}

/* The partitions of a table, those being detached left out. */
static List *
list_partitions(Oid relid)
{
	List	   *children;

	cm_transaction_begin(GetSessionUserId());
	children = find_inheritance_children(relid, NoLock);
	cm_transaction_commit();
	return children;
}

/* The kind of a relation, its name in *name; '\0' if it is gone. */
static char
describe_relation(Oid relid, char **name)
{
	char		relkind;

	cm_transaction_begin(GetSessionUserId());
	relkind = get_rel_relkind(relid);
	*name = get_rel_name(relid);
	cm_transaction_commit();
	return *name ? relkind : '\0';
}

/* Give one partition its index and attach that to the parent's. */
static CmIndexResult
build_partition(CmIndexRow *row, Oid child, Oid parent_index)
{
	char	   *name;
	char		relkind = describe_relation(child, &name);
	CmIndexLook look = {.plan = &row->plan,.relid = child,.parent_index = parent_index};
	CmIndexResult result;

	if (relkind == '\0')
		return CM_INDEX_TABLE_GONE;
	look.index_name = cm_index_leaf_name(name, row->plan.index_name);
	if (relkind == RELKIND_PARTITIONED_TABLE)
		return build_tree(row, child, look.index_name, parent_index);
	if (relkind == RELKIND_FOREIGN_TABLE)
		return CM_INDEX_DONE;

	cm_progress_report(row->number, row->total, "building \"%s\" on \"%s\"",
					   row->plan.index_name, name);
	result = build_leaf(row, &look);
	if (result != CM_INDEX_DONE || look.attached)
		return result;
	return attach_index(row, parent_index, look.index_oid);
}

/*
 * Refuse a unique index on a table with foreign partitions, as the server does
 * unless it is asked for the parent's alone; other indexes leave them out.
 * Done first, so that no index that can never be valid is made.
 */
static void
require_no_foreign(const CmIndexPlan *plan)
{
	ListCell   *lc;

	cm_transaction_begin(GetSessionUserId());
	foreach(lc, find_all_inheritors(plan->relid, NoLock, NULL))
	{
		Oid			relid = lfirst_oid(lc);

		if (get_rel_relkind(relid) == RELKIND_FOREIGN_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot create unique index on partitioned table \"%s\"", plan->table_name),
					 errdetail("Its partition \"%s\" is a foreign table.", get_rel_name(relid)),
					 errhint("Detach it, or set hot_window so that it is left out.")));
	}
	cm_transaction_commit();
}

/*
 * May it begin at all, with what all partitions take together?  Each is asked
 * for again when its turn comes, also how long it takes.
 */
static bool
may_build_tree(CmIndexRow *row, const CmIndexLook *look)
{
	CmIndexEstimate estimate;

	cm_transaction_begin(GetSessionUserId());
	cm_index_estimate_missing(look->plan, find_all_inheritors(look->relid, NoLock, NULL), &estimate);
	cm_transaction_commit();
	estimate.milliseconds = 0;
	return estimate.tables == 0 || cm_index_may_build(row, look->relation, &estimate);
}

/* Make sure that a partitioned table has its parent index, valid or not. */
static CmIndexResult
build_parent(CmIndexRow *row, CmIndexLook *look)
{
	for (int i = 0; i < MAX_LOOKS; i++)
	{
		if (!cm_index_look(look))
			return cm_index_deferred(row, look->relid, AccessShareLock);
		switch (look->verdict)
		{
			case CM_INDEX_GONE:
				return CM_INDEX_TABLE_GONE;
			case CM_INDEX_VALID:
			case CM_INDEX_UNFINISHED:
				return CM_INDEX_DONE;
			case CM_INDEX_CONFLICT:
				throw_conflict(row, look);
				break;
			case CM_INDEX_MISSING:
				if (!may_build_tree(row, look))
					return CM_INDEX_DEFERRED;
				if (!cm_attempt_statement(cm_index_statement(look->plan, look->relation,
															 look->index_name, "ONLY"),
										  look->owner, cm_lock_wish(NIL, look->relid, ShareLock)))
					return cm_index_deferred(row, look->relid, ShareLock);
				row->built = true;
				break;
			case CM_INDEX_LEFTOVER:
				if (!cm_attempt_statement(psprintf("DROP INDEX %s", look->found), look->owner,
										  cm_lock_wish(NIL, look->relid, AccessExclusiveLock)))
					return cm_index_deferred(row, look->relid, AccessExclusiveLock);
				break;
			case CM_INDEX_REPAIR:
				elog(ERROR, "index %u of a partitioned table is not partitioned", look->index_oid);
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("could not get index \"%s\" made", look->index_name),
			 errdetail("It was changed by others while it was being built.")));
}

/*
 * After all partitions have theirs: see that the parent's index is valid.  The
 * server sees to it when an index is attached, but not when an attached one
 * turns valid later, nor if a partition is a foreign table.
 */
static CmIndexResult
finish_parent(CmIndexRow *row, CmIndexLook *look)
{
	if (!cm_index_look(look))
		return cm_index_deferred(row, look->relid, AccessShareLock);
	if (look->verdict == CM_INDEX_UNFINISHED)
	{
		if (!cm_index_validate_parent(look))
			return cm_index_deferred(row, look->relid, ShareUpdateExclusiveLock);
		if (!cm_index_look(look))
			return cm_index_deferred(row, look->relid, AccessShareLock);
	}
	if (look->verdict == CM_INDEX_VALID)
		return CM_INDEX_DONE;
	if (look->verdict == CM_INDEX_GONE)
		return CM_INDEX_TABLE_GONE;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("index \"%s\" is still not valid", look->index_name),
			 errdetail("Every partition of \"%s\" that has none yet was given its index and attached.",
					   row->plan.table_name),
			 errhint("A partition was attached or detached meanwhile: build the phase again.")));
}

/* build_partition(), or the like, behind an error fence. */
static CmIndexResult
build_fenced(CmIndexRow *row, Oid child, Oid parent_index, BuildStep step,
			 ErrorData **failure)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile edata = NULL;
	volatile CmIndexResult result = CM_INDEX_DONE;

	PG_TRY();
	{
		result = step(row, child, parent_index);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	if (edata == NULL)
		return result;
	cm_transaction_abort();
	MemoryContextSwitchTo(context);
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(edata);
	if (*failure == NULL)
		*failure = edata;
	return CM_INDEX_DONE;
}

/*
 * Do a step for each of these partitions.  Those that fail or are put off do
 * not stop the others; the first failure is left for the caller to throw.
 */
static CmIndexResult
build_each(CmIndexRow *row, List *children, Oid parent_index, BuildStep step,
		   ErrorData **failure)
{
	CmIndexResult result = CM_INDEX_DONE;
	ListCell   *lc;

	foreach(lc, children)
	{
		CHECK_FOR_INTERRUPTS();
		if (build_fenced(row, lfirst_oid(lc), parent_index, step, failure) == CM_INDEX_DEFERRED)
			result = CM_INDEX_DEFERRED;
	}
	return result;
}

/*
 * Give a partitioned table its index on all partitions, and attach it to
 * parent_index if the table is itself a partition.
 */
static CmIndexResult
build_tree(CmIndexRow *row, Oid relid, const char *index_name,
		   Oid parent_index)
{
	CmIndexLook look = {.plan = &row->plan,.relid = relid,
	.index_name = index_name,.parent_index = parent_index};
	CmIndexResult result = build_parent(row, &look);
	Oid			index = look.index_oid;
	ErrorData  *failure = NULL;

	if (result != CM_INDEX_DONE)
		return result;
	if (!OidIsValid(parent_index))
		row->index_oid = index;
	if (OidIsValid(parent_index) && !look.attached)
		result = attach_index(row, parent_index, index);
	if (result != CM_INDEX_DONE || look.verdict == CM_INDEX_VALID)
		return result;

	result = build_each(row, list_partitions(relid), index, build_partition, &failure);
	if (failure != NULL)
		ReThrowError(failure);
	if (result == CM_INDEX_DONE)
		result = finish_parent(row, &look);
	return result;
}

/* Give one partition inside the hot window its index, attached to nothing. */
static CmIndexResult
build_hot_leaf(CmIndexRow *row, Oid child, Oid parent_index)
{
	char	   *name;
	CmIndexLook look = {.plan = &row->plan,.relid = child};
	CmIndexResult result = CM_INDEX_TABLE_GONE;

	row->built = false;
	if (describe_relation(child, &name) != '\0')
	{
		look.index_name = cm_index_leaf_name(name, row->plan.index_name);
		if (row->nleaves > 0)
			look.model = DatumGetObjectId(row->leaves[row->nleaves - 1]);
		cm_progress_report(row->number, row->total, "building \"%s\" on \"%s\"",
						   row->plan.index_name, name);
		result = build_leaf(row, &look);
	}
	if (result == CM_INDEX_DONE)
	{
		row->leaves[row->nleaves++] = ObjectIdGetDatum(look.index_oid);
		row->built_on += row->built;
	}
	else if (result == CM_INDEX_TABLE_GONE)
		row->leaf_total--;
	return result;
}

/* Take the index from one partition outside the hot window. */
static CmIndexResult
drop_cold_leaf(CmIndexRow *row, Oid child, Oid parent_index)
{
	return cm_index_drop_cold(row, child);
}

/*
 * Give each partition inside the hot window its index, and take it from those
 * outside.  First the one, which is needed, as the other can wait for long.
 */
static CmIndexResult
build_hot_leaves(CmIndexRow *row)
{
	List	   *hot;
	List	   *cold;
	ErrorData  *failure = NULL;
	CmIndexResult built;
	CmIndexResult dropped;

	cm_transaction_begin(GetSessionUserId());
	cm_index_sort_leaves(row, &hot, &cold);
	cm_transaction_commit();

	row->leaf_total = list_length(hot);
	row->leaves = palloc0(sizeof(Datum) * Max(1, row->leaf_total));
	built = build_each(row, hot, InvalidOid, build_hot_leaf, &failure);
	dropped = build_each(row, cold, InvalidOid, drop_cold_leaf, &failure);
	if (failure != NULL)
		ReThrowError(failure);
	row->built = row->built_on > 0;
	row->message = cm_index_hot_message(row);
	return built == CM_INDEX_DEFERRED ? built : dropped;
}

/*
 * Bring one row to the state that it asks for.  Called outside of any
 * transaction; what the row's index is goes into the row.
 */
CmIndexResult
cm_index_build(CmIndexRow *row)
{
	CmIndexPlan *plan = &row->plan;
	CmIndexLook look = {.plan = plan,.relid = plan->relid,.index_name = plan->index_name};
	char	   *name;
	char		relkind = OidIsValid(plan->relid) ? describe_relation(plan->relid, &name) : '\0';
	CmIndexResult result;

	if (relkind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", plan->schema_name, plan->table_name),
				 errhint("Create it, or take its plan back with concertmaster.unplan_index().")));
	if (relkind == RELKIND_PARTITIONED_TABLE && plan->hot_window)
		return build_hot_leaves(row);
	if (relkind == RELKIND_PARTITIONED_TABLE)
	{
		if (plan->is_unique)
			require_no_foreign(plan);
		return build_tree(row, plan->relid, plan->index_name, InvalidOid);
	}
	if (relkind != RELKIND_RELATION && relkind != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s.%s\" is not a table or materialized view",
						plan->schema_name, plan->table_name)));
	result = build_leaf(row, &look);
	row->index_oid = look.index_oid;
	return result;
}

