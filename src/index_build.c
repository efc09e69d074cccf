/*-------------------------------------------------------------------------
 *
 * index_build.c
 *	  Build one phase of index_plan, online.
 *
 * cm_index_run() is called by a worker, in no transaction.  It reads the rows
 * of its phase, and brings each to the state that the row asks for; a row
 * that fails does not stop the others.  At the end the run fails if any row
 * did, with the first one's SQLSTATE and a line for each.
 *
 * On a table or a partition (build_leaf): lock it for the session against
 * other builds, look, and do what the look says.  A leftover of an earlier
 * build is dropped; an equivalent index is adopted; what is missing is built,
 * plainly where the table has no page, otherwise by CREATE INDEX CONCURRENTLY,
 * which waits for old transactions as long as they take: its waits are in no
 * writer's way.  Then look again, until the look says valid.
 *
 * On a partitioned table (build_tree): CREATE INDEX ON ONLY makes the parent
 * index, which is not valid yet but already passed on to partitions that are
 * attached meanwhile; each partition gets its index as above, and it is
 * attached; the parent turns valid with the last.  Every step looks first, so
 * a run that died half way is resumed by the next one.
 *
 * With a hot window, a partitioned table gets no parent index, as that would
 * stay INVALID: partitions that end inside the window get theirs each.
 *
 * Conflicts (something else has the planned name) are reported and left
 * alone.  They do not fail the run: trying again would not help.
 *
 * Locks: SHARE UPDATE EXCLUSIVE on one leaf at a time; statements that others
 * queue behind run under the deadline.  What could not be had makes the row
 * deferred, and the run too, unless a row failed.
 *
 * After an error: each row has its fence (build_row); session locks are given
 * back in PG_FINALLY; transactions are aborted by the functions that start
 * them.  A cancel ends the run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "concertmaster.h"
#include "index.h"

/* Looks at one table before giving up: something keeps undoing our work. */
#define MAX_LOOKS	5

/* How far the work on one table, or one row, came. */
typedef enum BuildResult
{
	BUILD_DONE,
	BUILD_DEFERRED,				/* a lock was not to be had */
	BUILD_GONE					/* the table was dropped meanwhile */
} BuildResult;

/* The row being worked on. */
typedef struct BuildRow
{
	CmIndexPlan plan;
	bool		built;			/* something was built, not only found */
	Oid			index_oid;		/* the index that is valid now */
	Datum	   *leaves;			/* hot window: indexes of the partitions */
	int			nleaves;
	int			leaf_total;
	Oid			conflict;		/* what has the name, or InvalidOid */
	int			blocked_by;
} BuildRow;

/* The whole run. */
typedef struct BuildRun
{
	const CmJob *job;
	int			total;
	int			done;
	int			built;
	int			found;
	int			conflicts;
	int			deferred;
	int			failed;
	int			sqlstate;		/* of the first failure */
	int			blocked_by;
	StringInfoData failures;	/* a line for each */
} BuildRun;

static BuildResult build_tree(BuildRun *run, BuildRow *row, Oid relid,
							  const char *index_name, Oid parent_index);

/* Remember who was in the way, for the outcome. */
static BuildResult
deferred(BuildRow *row, Oid relid, LOCKMODE mode)
{
	int			pid = cm_lock_blocker(relid, mode);

	if (pid != 0)
		row->blocked_by = pid;
	return BUILD_DEFERRED;
}

/* Refuse to go on because something else has the planned name. */
static void
throw_conflict(BuildRow *row, const CmIndexLook *look)
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
					 " or change or delete the row in concertmaster.index_plan.")));
}

/* CREATE INDEX CONCURRENTLY.  False if a deadlock chose it; nothing stays. */
static bool
create_concurrently(CmIndexLook *look)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile edata = NULL;
	char	   *sql = cm_index_statement(look->plan, look->relation,
										 look->index_name, "CONCURRENTLY");

	PG_TRY();
	{
		(void) cm_statement_run(sql, look->owner, 0);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	if (edata == NULL)
		return true;
	cm_index_sweep(look, edata->sqlerrcode == ERRCODE_QUERY_CANCELED);
	if (edata->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		edata->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
	{
		FreeErrorData(edata);
		return false;
	}
	if (edata->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && edata->hint == NULL)
		edata->hint = MemoryContextStrdup(edata->assoc_context,
										  "Index a bounded part of the value, for instance left(column, 200),"
										  " or use an access method without a limit, for instance hash.");
	ReThrowError(edata);
}

/* Build what a look found missing on a table that we have locked. */
static bool
create_on_leaf(CmIndexLook *look)
{
	if (look->empty &&
		cm_statement_run(cm_index_statement(look->plan, look->relation, look->index_name, ""),
						 look->owner, cm_ddl_deadline))
		return true;
	return create_concurrently(look);
}

/*
 * Look at a table that we have locked and do what is to be done, until its
 * index is valid.
 */
static BuildResult
build_locked_leaf(BuildRow *row, CmIndexLook *look)
{
	for (int i = 0; i < MAX_LOOKS; i++)
	{
		if (!cm_index_look(look))
			return deferred(row, look->relid, AccessShareLock);
		switch (look->verdict)
		{
			case CM_INDEX_GONE:
				return BUILD_GONE;
			case CM_INDEX_VALID:
				return BUILD_DONE;
			case CM_INDEX_CONFLICT:
				throw_conflict(row, look);
				break;
			case CM_INDEX_LEFTOVER:
				cm_index_drop_leftover(look);
				break;
			case CM_INDEX_REPAIR:
				(void) cm_statement_run(psprintf("REINDEX INDEX CONCURRENTLY %s", look->found),
										look->owner, 0);
				row->built = true;
				break;
			case CM_INDEX_MISSING:
				if (!create_on_leaf(look))
					return deferred(row, look->relid, ShareUpdateExclusiveLock);
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

/*
 * Give one table or partition its index, valid.  *index_oid is what serves;
 * *attached tells whether it hangs on parent_index already.
 */
static BuildResult
build_leaf(BuildRow *row, CmIndexLook *look)
{
	volatile BuildResult result = BUILD_GONE;

	/* Most often there is nothing to do, which needs no lock to be seen. */
	if (!cm_index_look(look))
		return deferred(row, look->relid, AccessShareLock);
	if (look->verdict == CM_INDEX_GONE)
		return BUILD_GONE;
	if (look->verdict == CM_INDEX_VALID)
		return BUILD_DONE;

	if (!cm_index_lock_table(look->relid))
		return deferred(row, look->relid, ShareUpdateExclusiveLock);
	PG_TRY();
	{
		result = build_locked_leaf(row, look);
	}
	PG_FINALLY();
	{
		cm_index_unlock_table(look->relid);
	}
	PG_END_TRY();
	return result;
}

/* Attach a valid index of a partition to the parent's. */
static BuildResult
attach_index(BuildRow *row, Oid parent_index, Oid child_index)
{
	char	   *sql;

	cm_transaction_begin(GetSessionUserId());
	sql = psprintf("ALTER INDEX %s ATTACH PARTITION %s",
				   cm_relation_quoted(parent_index), cm_relation_quoted(child_index));
	cm_transaction_commit();
	if (cm_statement_retry(sql, row->plan.owner))
		return BUILD_DONE;
	return deferred(row, child_index, AccessExclusiveLock);
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
static BuildResult
build_partition(BuildRun *run, BuildRow *row, Oid child, Oid parent_index)
{
	char	   *name;
	char		relkind = describe_relation(child, &name);
	CmIndexLook look = {.plan = &row->plan,.relid = child,.parent_index = parent_index};
	BuildResult result;

	if (relkind == '\0')
		return BUILD_GONE;
	look.index_name = cm_index_leaf_name(name, row->plan.index_name);
	if (relkind == RELKIND_PARTITIONED_TABLE)
		return build_tree(run, row, child, look.index_name, parent_index);
	if (relkind == RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot create an index on foreign table \"%s\"", name),
				 errdetail("It is a partition of \"%s\".", row->plan.table_name),
				 errhint("Detach it, or set hot_window so that it is left out.")));

	cm_progress_report(run->done, run->total, "building \"%s\" on \"%s\"",
					   row->plan.index_name, name);
	result = build_leaf(row, &look);
	if (result != BUILD_DONE || look.attached)
		return result;
	return attach_index(row, parent_index, look.index_oid);
}

/* Make sure that a partitioned table has its parent index, valid or not. */
static BuildResult
build_parent(BuildRow *row, CmIndexLook *look)
{
	for (int i = 0; i < MAX_LOOKS; i++)
	{
		if (!cm_index_look(look))
			return deferred(row, look->relid, AccessShareLock);
		switch (look->verdict)
		{
			case CM_INDEX_GONE:
				return BUILD_GONE;
			case CM_INDEX_VALID:
			case CM_INDEX_UNFINISHED:
				return BUILD_DONE;
			case CM_INDEX_CONFLICT:
				throw_conflict(row, look);
				break;
			case CM_INDEX_MISSING:
				if (!cm_statement_retry(cm_index_statement(look->plan, look->relation,
														   look->index_name, "ONLY"),
										look->owner))
					return deferred(row, look->relid, ShareLock);
				row->built = true;
				break;
			case CM_INDEX_LEFTOVER:
				if (!cm_statement_retry(psprintf("DROP INDEX %s", look->found), look->owner))
					return deferred(row, look->relid, AccessExclusiveLock);
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

/* After all partitions have theirs: is the parent's index valid now? */
static void
require_parent_valid(BuildRow *row, CmIndexLook *look)
{
	if (!cm_index_look(look) || look->verdict == CM_INDEX_VALID || look->verdict == CM_INDEX_GONE)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("index \"%s\" is still not valid", look->index_name),
			 errdetail("Every partition of \"%s\" that has none yet was given its index and attached.",
					   row->plan.table_name),
			 errhint("A partition was attached or detached meanwhile: build the phase again.")));
}

/*
 * Give a partitioned table its index on all partitions, and attach it to
 * parent_index if the table is itself a partition.  Partitions that are put
 * off do not stop the others.
 */
static BuildResult
build_tree(BuildRun *run, BuildRow *row, Oid relid, const char *index_name,
		   Oid parent_index)
{
	CmIndexLook look = {.plan = &row->plan,.relid = relid,
	.index_name = index_name,.parent_index = parent_index};
	BuildResult result = build_parent(row, &look);
	Oid			index = look.index_oid;
	ListCell   *lc;

	if (result != BUILD_DONE)
		return result;
	if (!OidIsValid(parent_index))
		row->index_oid = index;
	if (OidIsValid(parent_index) && !look.attached)
		result = attach_index(row, parent_index, index);
	if (result != BUILD_DONE || look.verdict == CM_INDEX_VALID)
		return result;

	foreach(lc, list_partitions(relid))
	{
		CHECK_FOR_INTERRUPTS();
		if (build_partition(run, row, lfirst_oid(lc), index) == BUILD_DEFERRED)
			result = BUILD_DEFERRED;
	}
	if (result == BUILD_DONE)
		require_parent_valid(row, &look);
	return result;
}

/* Collect the partitions, at any depth, that end after the cutoff. */
static List *
collect_hot(Oid relid, TimestampTz cutoff, List *leaves)
{
	ListCell   *lc;

	foreach(lc, find_inheritance_children(relid, NoLock))
	{
		Oid			child = lfirst_oid(lc);
		char		relkind = get_rel_relkind(child);

		if (cm_index_leaf_is_cold(child, cutoff))
			continue;
		if (relkind == RELKIND_PARTITIONED_TABLE)
			leaves = collect_hot(child, cutoff, leaves);
		else if (relkind == RELKIND_RELATION)
			leaves = lappend_oid(leaves, child);
	}
	return leaves;
}

/* Give each partition inside the hot window its index. */
static BuildResult
build_hot_leaves(BuildRun *run, BuildRow *row)
{
	BuildResult result = BUILD_DONE;
	TimestampTz cutoff;
	List	   *leaves;
	ListCell   *lc;

	cm_transaction_begin(GetSessionUserId());
	cutoff = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
													 TimestampTzGetDatum(GetCurrentTimestamp()),
													 IntervalPGetDatum(row->plan.hot_window)));
	leaves = collect_hot(row->plan.relid, cutoff, NIL);
	cm_transaction_commit();

	row->leaf_total = list_length(leaves);
	row->leaves = palloc0(sizeof(Datum) * Max(1, row->leaf_total));
	foreach(lc, leaves)
	{
		char	   *name;
		CmIndexLook look = {.plan = &row->plan,.relid = lfirst_oid(lc)};
		BuildResult leaf;

		CHECK_FOR_INTERRUPTS();
		if (describe_relation(look.relid, &name) == '\0')
		{
			row->leaf_total--;
			continue;
		}
		look.index_name = cm_index_leaf_name(name, row->plan.index_name);
		cm_progress_report(run->done, run->total, "building \"%s\" on \"%s\"",
						   row->plan.index_name, name);
		leaf = build_leaf(row, &look);
		if (leaf == BUILD_DONE)
			row->leaves[row->nleaves++] = ObjectIdGetDatum(look.index_oid);
		else if (leaf == BUILD_DEFERRED)
			result = BUILD_DEFERRED;
		else
			row->leaf_total--;
	}
	return result;
}

/* Bring one row to the state that it asks for. */
static BuildResult
build_planned(BuildRun *run, BuildRow *row)
{
	CmIndexPlan *plan = &row->plan;
	CmIndexLook look = {.plan = plan,.relid = plan->relid,.index_name = plan->index_name};
	char	   *name;
	char		relkind = OidIsValid(plan->relid) ? describe_relation(plan->relid, &name) : '\0';
	BuildResult result;

	if (relkind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", plan->schema_name, plan->table_name),
				 errhint("Create it, or delete its rows from concertmaster.index_plan.")));
	if (relkind == RELKIND_PARTITIONED_TABLE)
		return plan->hot_window ? build_hot_leaves(run, row) :
			build_tree(run, row, plan->relid, plan->index_name, InvalidOid);
	if (relkind != RELKIND_RELATION && relkind != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s.%s\" is not a table or materialized view",
						plan->schema_name, plan->table_name)));
	result = build_leaf(row, &look);
	row->index_oid = look.index_oid;
	return result;
}

/* Write down how a row stands, in a transaction of its own. */
static void
save_state(BuildRow *row, bool working, const char *sqlstate, const char *message)
{
	CmIndexPlan *plan = &row->plan;
	Oid			types[9] = {TEXTOID, TEXTOID, INT4OID, OIDOID, OIDOID,
	OIDARRAYOID, INT4OID, TEXTOID, TEXTOID};
	Datum		values[9];
	char		nulls[9];
	CmScope		scope;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(plan->schema_name);
	values[1] = CStringGetTextDatum(plan->index_name);
	values[2] = Int32GetDatum(MyProcPid);
	nulls[2] = working ? ' ' : 'n';
	values[3] = ObjectIdGetDatum(row->index_oid);
	nulls[3] = OidIsValid(row->index_oid) ? ' ' : 'n';
	values[4] = ObjectIdGetDatum(row->conflict);
	nulls[4] = OidIsValid(row->conflict) ? ' ' : 'n';
	values[5] = PointerGetDatum(construct_array(row->leaves, row->nleaves, OIDOID,
												sizeof(Oid), true, TYPALIGN_INT));
	values[6] = Int32GetDatum(row->leaf_total);
	values[7] = sqlstate ? CStringGetTextDatum(sqlstate) : (Datum) 0;
	nulls[7] = sqlstate ? ' ' : 'n';
	values[8] = message ? CStringGetTextDatum(message) : (Datum) 0;
	nulls[8] = message ? ' ' : 'n';

	cm_transaction_begin(GetSessionUserId());
	cm_catalog_enter(&scope);

	/* The row may have been deleted by its owner while we worked on it. */
	SPI_execute_with_args("INSERT INTO concertmaster.index_state AS s"
						  " (schema_name, index_name, worker_pid, serving_relid, conflict_relid,"
						  "  leaf_relids, leaf_total, sqlstate, message, last_run)"
						  " SELECT schema_name, index_name, $3, $4, $5, $6, $7, $8, $9, now()"
						  "   FROM concertmaster.index_plan"
						  "  WHERE schema_name = $1::name AND index_name = $2::name FOR KEY SHARE"
						  " ON CONFLICT (schema_name, index_name) DO UPDATE"
						  " SET worker_pid = EXCLUDED.worker_pid, last_run = EXCLUDED.last_run,"
						  "     sqlstate = CASE WHEN EXCLUDED.worker_pid IS NULL THEN EXCLUDED.sqlstate ELSE s.sqlstate END,"
						  "     message = CASE WHEN EXCLUDED.worker_pid IS NULL THEN EXCLUDED.message ELSE s.message END,"
						  "     serving_relid = CASE WHEN EXCLUDED.worker_pid IS NULL THEN EXCLUDED.serving_relid ELSE s.serving_relid END,"
						  "     conflict_relid = EXCLUDED.conflict_relid,"
						  "     leaf_relids = CASE WHEN EXCLUDED.worker_pid IS NULL THEN EXCLUDED.leaf_relids ELSE s.leaf_relids END,"
						  "     leaf_total = CASE WHEN EXCLUDED.worker_pid IS NULL THEN EXCLUDED.leaf_total ELSE s.leaf_total END",
						  9, types, values, nulls, false, 0);
	cm_scope_leave(&scope);
	cm_transaction_commit();
}

/* A row failed: count it and write it down. */
static void
record_error(BuildRun *run, BuildRow *row, const ErrorData *edata)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, edata->message);
	if (edata->detail)
		appendStringInfo(&text, "  %s", edata->detail);
	if (edata->hint)
		appendStringInfo(&text, "  %s", edata->hint);
	save_state(row, false, unpack_sql_state(edata->sqlerrcode), text.data);

	if (OidIsValid(row->conflict))
	{
		run->conflicts++;
		return;
	}
	if (run->failed++ == 0)
		run->sqlstate = edata->sqlerrcode;
	appendStringInfo(&run->failures, "%s\"%s\": %s", run->failures.len ? "\n" : "",
					 row->plan.index_name, edata->message);
}

/* A row did not fail: count it and write it down. */
static void
record_result(BuildRun *run, BuildRow *row, BuildResult result)
{
	if (result == BUILD_DEFERRED)
	{
		run->deferred++;
		if (row->blocked_by)
			run->blocked_by = row->blocked_by;
		save_state(row, false, "55P03",
				   row->blocked_by ?
				   psprintf("put off: process %d holds a lock that is in the way", row->blocked_by) :
				   "put off: a lock was not to be had in time");
		return;
	}
	if (row->built)
		run->built++;
	else
		run->found++;
	save_state(row, false, NULL, row->built ? "built" : "found valid");
}

/* Work on one row behind an error fence. */
static void
build_row(BuildRun *run, BuildRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile edata = NULL;
	volatile BuildResult result = BUILD_DONE;

	save_state(row, true, NULL, NULL);
	PG_TRY();
	{
		result = build_planned(run, row);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(context);
	if (edata == NULL)
	{
		record_result(run, row, result);
		return;
	}
	cm_transaction_abort();
	MemoryContextSwitchTo(context);
	record_error(run, row, edata);
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(edata);
}

/* One row of load_plan()'s query. */
static BuildRow *
make_row(HeapTuple tuple, TupleDesc desc, int phase)
{
	BuildRow   *row = palloc0(sizeof(BuildRow));
	CmIndexPlan *plan = &row->plan;
	bool		isnull;
	Datum		datum;

	plan->phase = phase;
	plan->schema_name = SPI_getvalue(tuple, desc, 1);
	plan->table_name = SPI_getvalue(tuple, desc, 2);
	plan->index_name = SPI_getvalue(tuple, desc, 3);
	plan->is_unique = DatumGetBool(SPI_getbinval(tuple, desc, 4, &isnull));
	plan->definition = SPI_getvalue(tuple, desc, 5);
	datum = SPI_getbinval(tuple, desc, 6, &isnull);
	if (!isnull)
	{
		plan->hot_window = palloc(sizeof(Interval));
		*plan->hot_window = *DatumGetIntervalP(datum);
	}
	plan->relid = cm_relation_resolve(plan->schema_name, plan->table_name);
	plan->owner = OidIsValid(plan->relid) ? cm_relation_owner(plan->relid) : InvalidOid;
	return row;
}

/*
 * The phase's rows that the job may work on: those of tables whose owner the
 * job's owner can act as; for a superuser's job also those without a table,
 * which then fail and say so.
 */
static List *
load_plan(const CmJob *job)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[1] = {INT4OID};
	Datum		values[1];
	List	   *rows = NIL;
	CmScope		scope;

	values[0] = Int32GetDatum(job->phase);
	cm_transaction_begin(GetSessionUserId());
	cm_relations_reconcile();
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT schema_name, table_name, index_name, is_unique, definition, hot_window"
						  "  FROM concertmaster.index_plan WHERE phase = $1"
						  " ORDER BY schema_name, table_name, index_name",
						  1, types, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		BuildRow   *row = make_row(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, job->phase);

		if (OidIsValid(row->plan.relid) ? has_privs_of_role(job->owner, row->plan.owner) :
			superuser_arg(job->owner))
			rows = lappend(rows, row);
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	cm_transaction_commit();
	MemoryContextSwitchTo(context);
	return rows;
}

/* Say how the run went: an error if any row failed. */
static void
report_run(BuildRun *run, CmJobOutcome *outcome)
{
	StringInfoData text;

	if (run->failed > 0)
		ereport(ERROR,
				(errcode(run->sqlstate),
				 errmsg("could not build %d of %d indexes of phase %d",
						run->failed, run->total, run->job->phase),
				 errdetail("%s", run->failures.data),
				 errhint("The others are built.  View concertmaster.indexes has the errors in full.")));

	initStringInfo(&text);
	appendStringInfo(&text, "phase %d: %d built, %d already there",
					 run->job->phase, run->built, run->found);
	if (run->conflicts > 0)
		appendStringInfo(&text, ", %d in conflict with another of the same name", run->conflicts);
	if (run->deferred > 0)
		appendStringInfo(&text, ", %d put off", run->deferred);
	outcome->message = text.data;
	outcome->deferred = run->deferred > 0;
	outcome->blocked_by = run->blocked_by;
}

/* Build the job's phase.  Called by a worker outside of any transaction. */
void
cm_index_run(const CmJob *job, CmJobOutcome *outcome)
{
	BuildRun	run = {.job = job};
	MemoryContext job_context = CurrentMemoryContext;
	MemoryContext row_context = AllocSetContextCreate(job_context, "concertmaster index row",
													  ALLOCSET_DEFAULT_SIZES);
	List	   *rows = load_plan(job);
	ListCell   *lc;

	initStringInfo(&run.failures);
	run.total = list_length(rows);
	foreach(lc, rows)
	{
		BuildRow   *row = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		cm_progress_report(run.done, run.total, "building \"%s\" on \"%s\"",
						   row->plan.index_name, row->plan.table_name);
		MemoryContextSwitchTo(row_context);
		build_row(&run, row);
		MemoryContextSwitchTo(job_context);
		MemoryContextReset(row_context);
		run.done++;
	}
	cm_progress_report(run.done, run.total, "phase %d done", job->phase);
	report_run(&run, outcome);
}
