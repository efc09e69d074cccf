/*-------------------------------------------------------------------------
 *
 * index_hot.c
 *	  The hot window: which partitions are inside, what those outside lose.
 *
 * A row of index_plan with a hot window has its index on the partitions that
 * reach into that window; when one has aged out of it, the index that we made
 * there is dropped.  A partition has aged out if it, or one that it is part
 * of below the planned table, ends before the window begins: then all its
 * rows are older, whatever its own bounds are about.
 *
 * An end in time can be read from the first column of a range, if that is a
 * timestamptz, timestamp, date, or uuid of version 7, whose first 48 bits are
 * milliseconds.  A time without zone counts as a day later, as no zone is a
 * day away from UTC.  A uuid says nothing unless it is of version 7, or the
 * lowest after a whole second: bounds that split random ones look otherwise.
 * What cannot be read is inside the window for ever.
 *
 * What is dropped is certainly ours: it has the name that cm_index_leaf_name()
 * gives for the leaf's present name, and the planned shape.  It stays if it is
 * attached to an index of the whole table, backs a constraint, is the replica
 * identity or what the table is clustered on, if another row of the plan is
 * served by it, or if the partition is a default one, which loses nothing even
 * below a branch that has aged out.  An index that was adopted under another
 * name stays too, and so do the indexes of a renamed leaf, of a row that was
 * taken out of the plan, and of a row whose window was taken away.  A leaf
 * that is being detached, or was, and is kept, keeps its indexes: it is none
 * of the table's any more.
 *
 * Locks: SHARE UPDATE EXCLUSIVE on the leaf for the session, as for a build
 * (index_recover.c), had under the deadline; with it everything is looked at
 * again.  DROP INDEX CONCURRENTLY then waits, without a deadline, for every
 * transaction that has a lock on the leaf.  No reader or writer queues behind
 * it: they do not conflict with the lock, and the exclusive one on the index
 * that it takes last comes when no transaction can have the index open, and
 * no new one opens it, as it is in no index list by then.  As beside any
 * concurrent build, VACUUM and DDL of the leaf wait meanwhile, or are put off;
 * and DDL that locks the whole table first, as CREATE INDEX does, keeps that
 * lock while it waits for the leaf.
 *
 * After an error: the session lock is given back in PG_FINALLY, transactions
 * are aborted by the functions that start them.  A drop that ends early leaves
 * an index that is not valid, or dead already; it has its name and its shape
 * still, so the next run finds it and drops it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/dependency.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/uuid.h"

#include "concertmaster.h"
#include "index.h"

/* What a leaf that has aged out has of the planned index. */
typedef enum ColdVerdict
{
	COLD_NOTHING,				/* nothing that is certainly ours */
	COLD_KEPT,					/* ours, but it has another use */
	COLD_DROP
} ColdVerdict;

/* A look at one such leaf: the question, and the answer. */
typedef struct ColdLook
{
	const CmIndexRow *row;
	Oid			relid;			/* the leaf */

	ColdVerdict verdict;
	Oid			owner;			/* of the leaf */
	char	   *leaf_name;
	char	   *index;			/* schema.index, quoted */
} ColdLook;

/*
 * The time after which nothing below this uuid was made.  False unless it is
 * of version 7, or the lowest after a whole second.
 */
static bool
uuid_as_time(const pg_uuid_t *uuid, TimestampTz *end)
{
	static const unsigned char zeros[UUID_LEN] = {0};
	uint64		milliseconds = 0;
	bool		version_7 = (uuid->data[6] >> 4) == 7 && (uuid->data[8] & 0xC0) == 0x80;

	for (int i = 0; i < 6; i++)
		milliseconds = (milliseconds << 8) | uuid->data[i];
	if (!version_7 &&
		(milliseconds % 1000 != 0 || memcmp(&uuid->data[6], zeros, UUID_LEN - 6) != 0))
		return false;
	*end = (TimestampTz) ((milliseconds + 1) * 1000) -
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	return true;
}

/*
 * A time at which all below an upper bound is over, whatever the zone.
 * inclusive: rows of the very value are below too, because of what other
 * columns of the key hold.  False if the value is no time.
 */
static bool
bound_as_time(const Const *value, bool inclusive, TimestampTz *end)
{
	int			overflow;

	switch (value->consttype)
	{
		case UUIDOID:
			return uuid_as_time(DatumGetUUIDP(value->constvalue), end);
		case TIMESTAMPTZOID:
			*end = DatumGetTimestampTz(value->constvalue);
			break;
		case TIMESTAMPOID:
			*end = DatumGetTimestamp(value->constvalue);
			break;
		case DATEOID:
			*end = date2timestamp_opt_overflow(DatumGetDateADT(value->constvalue), &overflow);
			break;
		default:
			return false;
	}
	if (TIMESTAMP_NOT_FINITE(*end))
		return true;
	if (value->consttype != TIMESTAMPTZOID)
		*end += USECS_PER_DAY;
	if (inclusive)
		*end += value->consttype == DATEOID ? USECS_PER_DAY : 1;
	return true;
}

/* The bounds of a partition, or NULL if it is none. */
static PartitionBoundSpec *
read_bounds(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	PartitionBoundSpec *bounds = NULL;
	bool		isnull;
	Datum		datum;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	datum = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relpartbound, &isnull);
	if (!isnull)
		bounds = castNode(PartitionBoundSpec, stringToNode(TextDatumGetCString(datum)));
	ReleaseSysCache(tuple);
	return bounds;
}

/* Does a partition end before the cutoff, by its own bounds? */
static bool
ends_before(Oid relid, TimestampTz cutoff)
{
	PartitionBoundSpec *bounds = read_bounds(relid);
	PartitionRangeDatum *upper;
	TimestampTz end;

	if (bounds == NULL || bounds->is_default || bounds->strategy != PARTITION_STRATEGY_RANGE)
		return false;
	upper = linitial_node(PartitionRangeDatum, bounds->upperdatums);
	return upper->kind == PARTITION_RANGE_DATUM_VALUE &&
		bound_as_time(castNode(Const, upper->value), list_length(bounds->upperdatums) > 1, &end) &&
		end <= cutoff;
}

/* Sort the leaves below a table, itself outside of the window or not. */
static void
sort_leaves(Oid relid, TimestampTz cutoff, bool outside, List **hot, List **cold)
{
	ListCell   *lc;

	foreach(lc, find_inheritance_children(relid, NoLock))
	{
		Oid			child = lfirst_oid(lc);
		char		relkind = get_rel_relkind(child);
		bool		child_outside = outside || ends_before(child, cutoff);

		if (relkind == RELKIND_PARTITIONED_TABLE)
			sort_leaves(child, cutoff, child_outside, hot, cold);
		else if (relkind == RELKIND_RELATION && child_outside)
			*cold = lappend_oid(*cold, child);
		else if (relkind == RELKIND_RELATION)
			*hot = lappend_oid(*hot, child);
	}
}

/*
 * Find the planned table's leaves, at any depth, inside and outside of the
 * row's window as it is now.  Foreign tables and leaves that are being
 * detached are in neither list.  Caller is in a transaction.
 */
void
cm_index_sort_leaves(CmIndexRow *row, List **hot, List **cold)
{
	row->cutoff = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
														  TimestampTzGetDatum(GetCurrentTimestamp()),
														  IntervalPGetDatum(row->plan.hot_window)));
	*hot = *cold = NIL;
	sort_leaves(row->plan.relid, row->cutoff, false, hot, cold);
}

/*
 * Is a leaf, now that it is locked, still the planned table's, outside of the
 * window, and not a default partition?
 */
static bool
has_aged_out(const CmIndexRow *row, Oid relid)
{
	/* The list ends where one is being detached. */
	List	   *ancestors = get_partition_ancestors(relid);
	PartitionBoundSpec *bounds = read_bounds(relid);
	ListCell   *lc;

	if (bounds == NULL || bounds->is_default || !list_member_oid(ancestors, row->plan.relid))
		return false;
	if (ends_before(relid, row->cutoff))
		return true;
	foreach(lc, ancestors)
	{
		if (lfirst_oid(lc) == row->plan.relid)
			return false;
		if (ends_before(lfirst_oid(lc), row->cutoff))
			return true;
	}
	return false;
}

/* Is another row of the plan served by this index, or does it name it? */
static bool
serves_another_row(const CmIndexPlan *plan, Relation index)
{
	Oid			types[5] = {TEXTOID, TEXTOID, OIDOID, TEXTOID, TEXTOID};
	Datum		values[5];
	bool		found;
	CmScope		scope;

	values[0] = CStringGetTextDatum(plan->schema_name);
	values[1] = CStringGetTextDatum(plan->index_name);
	values[2] = ObjectIdGetDatum(RelationGetRelid(index));
	values[3] = CStringGetTextDatum(get_namespace_name(RelationGetNamespace(index)));
	values[4] = CStringGetTextDatum(RelationGetRelationName(index));
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT FROM concertmaster.index_plan p"
						  "  LEFT JOIN concertmaster.index_state s USING (schema_name, index_name)"
						  " WHERE (schema_name, index_name) <> ($1::name, $2::name)"
						  "   AND (s.serving_relid = $3 OR $3 = ANY (s.leaf_relids)"
						  "        OR (schema_name, index_name) = ($4::name, $5::name))",
						  5, types, values, NULL, true, 1);
	found = SPI_processed > 0;
	cm_scope_leave(&scope);
	return found;
}

/* May an index of ours go, or does anything else need it? */
static ColdVerdict
judge_use(const ColdLook *look, Relation index)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relispartition || form->indisclustered || form->indisreplident ||
		OidIsValid(get_index_constraint(RelationGetRelid(index))) ||
		get_index_ref_constraints(RelationGetRelid(index)) != NIL ||
		serves_another_row(&look->row->plan, index))
		return COLD_KEPT;
	return COLD_DROP;
}

/* Does this index of a leaf have the shape that the row plans? */
static bool
has_planned_shape(const ColdLook *look, Relation leaf, Relation index)
{
	CmIndexShape shape;
	CmScope		scope;
	bool		matches;

	cm_owner_enter(&scope, look->owner, true);
	cm_index_shape_planned(&shape, &look->row->plan, leaf);
	matches = cm_index_shape_matches(&shape, index);
	cm_scope_leave(&scope);
	return matches;
}

/* The step of look_at(), with the leaf open. */
static void
look_at_leaf(ColdLook *look, Relation leaf)
{
	char	   *name = cm_index_leaf_name(RelationGetRelationName(leaf), look->row->plan.index_name);
	Oid			index_oid = get_relname_relid(name, RelationGetNamespace(leaf));
	Relation	index;

	/* By its name: an interrupted drop leaves a dead one, in no index list. */
	if (!OidIsValid(index_oid) || get_rel_relkind(index_oid) != RELKIND_INDEX ||
		(index = try_relation_open(index_oid, AccessShareLock)) == NULL)
		return;
	look->owner = leaf->rd_rel->relowner;
	look->leaf_name = pstrdup(RelationGetRelationName(leaf));
	look->index = cm_relation_quoted(index_oid);
	if (index->rd_index->indrelid == look->relid && has_planned_shape(look, leaf, index))
		look->verdict = judge_use(look, index);
	relation_close(index, NoLock);
}

/* The step of look_again(). */
static void
look_step(void *arg)
{
	ColdLook   *look = arg;
	Relation	leaf = try_relation_open(look->relid, AccessShareLock);

	look->verdict = COLD_NOTHING;
	if (leaf == NULL)
		return;
	if (has_aged_out(look->row, look->relid))
		look_at_leaf(look, leaf);
	relation_close(leaf, NoLock);
}

/* Fill in the answer half of a look.  False if the leaf is locked. */
static bool
look_again(ColdLook *look)
{
	return cm_attempt_commit(look_step, look, GetSessionUserId(), NIL);
}

/* Lock the leaf, look again, and drop what is found. */
static CmIndexResult
drop_locked(CmIndexRow *row, ColdLook *look)
{
	if (!cm_index_lock_table(look->relid))
		return cm_index_deferred(row, look->relid, ShareUpdateExclusiveLock);
	if (!look_again(look))
		return cm_index_deferred(row, look->relid, AccessShareLock);
	if (look->verdict != COLD_DROP)
		return CM_INDEX_DONE;
	if (!cm_statement_run(psprintf("DROP INDEX CONCURRENTLY %s", look->index), look->owner, 0))
		return cm_index_deferred(row, look->relid, ShareUpdateExclusiveLock);
	row->dropped_from++;
	return CM_INDEX_DONE;
}

/*
 * Drop the row's index from a leaf that has aged out of the window, if there
 * is one that is ours and has no other use.  Called outside of any
 * transaction, after cm_index_sort_leaves().
 */
CmIndexResult
cm_index_drop_cold(CmIndexRow *row, Oid relid)
{
	ColdLook	look = {.row = row,.relid = relid};
	volatile CmIndexResult result = CM_INDEX_DONE;

	/* Most often there is nothing to do, which needs no lock to be seen. */
	if (!look_again(&look))
		return cm_index_deferred(row, relid, AccessShareLock);
	if (look.verdict == COLD_KEPT)
		row->kept_on++;
	if (look.verdict != COLD_DROP)
		return CM_INDEX_DONE;

	cm_progress_report(row->number, row->total, "dropping \"%s\" from \"%s\"",
					   row->plan.index_name, look.leaf_name);
	PG_TRY();
	{
		result = drop_locked(row, &look);
	}
	PG_FINALLY();
	{
		cm_index_unlock_table(relid);
	}
	PG_END_TRY();
	return result;
}

/*
 * What was done for a row with a hot window, in words: for instance "built on
 * 2 partitions, dropped from 1".  palloc'd.
 */
char *
cm_index_hot_message(const CmIndexRow *row)
{
	StringInfoData text;

	initStringInfo(&text);
	if (row->built_on > 0)
		appendStringInfo(&text, "built on %d partition%s", row->built_on, row->built_on == 1 ? "" : "s");
	else
		appendStringInfoString(&text, row->leaf_total > 0 ? "found valid" : "no partition is inside the window");
	if (row->dropped_from > 0)
		appendStringInfo(&text, ", dropped from %d", row->dropped_from);
	if (row->kept_on > 0)
		appendStringInfo(&text, ", kept on %d outside the window where it has another use", row->kept_on);
	return text.data;
}
