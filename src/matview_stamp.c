/*-------------------------------------------------------------------------
 *
 * matview_stamp.c
 *	  What changes a view's rows without a trigger being fired.
 *
 * A refresh keeps a picture of what it computed from: each leaf with its file
 * (TRUNCATE and rewriting make a new one), the version of its trigger's row
 * (it may have been disabled for a while) and of its being a partition (it may
 * have been none for a while), and its bounds; and of the view its
 * file, its rule, the functions it calls, this library and the time zones'
 * rules (matview_zone.c).  The next refresh compares.  Where a leaf differs, has come or gone,
 * the range of its bounds is to be computed anew, if a bucket of the view is
 * made of the column it is partitioned by; in all other cases the whole view.
 * So it is each time with a leaf that has no trigger yet (matview_trigger.c).
 *
 * The picture that a refresh keeps is the one it found before it took the
 * snapshot that it computed with, so what comes later differs at the next
 * refresh, whether or not this one has seen it.
 *
 * Compare holds AccessShareLock on tables and leaves (cm_matview_sources_lock)
 * and a lock on the view, so what would change a file waits; a partition can
 * be attached, and a trigger disabled.
 *
 * Locks: those of its statements on our own tables.  After an error the
 * caller's transaction undoes everything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "partitioning/partdefs.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "matview_track.h"

/* A leaf as it is, or as it was. */
typedef struct Leaf
{
	Oid			relid;
	Oid			root;
	Oid			file;			/* 0: of the transaction at hand, see has_new_file() */
	char	   *trigger;		/* stamp of its trigger and of being a partition; "" if it does not log */
	char	   *trigger_name;	/* of a leaf that is there; NULL if it has none */
	char	   *bounds;			/* NULL: not known */
	bool		foreign;
} Leaf;

/* What a refresh found before its snapshot. */
typedef struct CmStamp
{
	List	   *leaves;			/* of Leaf */
	char	   *view;			/* see view_stamp() */
} CmStamp;

/*
 * The leaves' bounds
 */

/* An end of a partition in its first key column, as text. */
static char *
bound_text(List *datums, Oid type)
{
	PartitionRangeDatum *datum = linitial(datums);

	if (datum->kind == PARTITION_RANGE_DATUM_MINVALUE)
		return "-infinity";
	if (datum->kind == PARTITION_RANGE_DATUM_MAXVALUE)
		return "infinity";
	if (type == DATEOID)
		return psprintf("%d", DatumGetDateADT(((Const *) datum->value)->constvalue));
	return psprintf(INT64_FORMAT, DatumGetTimestamp(((Const *) datum->value)->constvalue));
}

/* The text of an end as a raw time. */
static Datum
bound_datum(const char *text, Oid type)
{
	if (strcmp(text, "-infinity") == 0)
		return type == DATEOID ? DateADTGetDatum(DATEVAL_NOBEGIN) : TimestampGetDatum(DT_NOBEGIN);
	if (strcmp(text, "infinity") == 0)
		return type == DATEOID ? DateADTGetDatum(DATEVAL_NOEND) : TimestampGetDatum(DT_NOEND);
	return type == DATEOID ? DateADTGetDatum(atoi(text)) : TimestampGetDatum(strtoi64(text, NULL, 10));
}

/* The column and its type that a table is partitioned by range of first; 0 if it is not. */
static AttrNumber
range_column(Oid root, Oid *type)
{
	Relation	relation = RelationIdGetRelation(root);
	AttrNumber	attno = InvalidAttrNumber;

	if (!RelationIsValid(relation))
		return attno;
	if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		PartitionKey key = RelationGetPartitionKey(relation);

		if (get_partition_strategy(key) == PARTITION_STRATEGY_RANGE)
		{
			attno = get_partition_col_attnum(key, 0);
			*type = get_partition_col_typid(key, 0);
		}
	}
	RelationClose(relation);
	return *type == DATEOID || *type == TIMESTAMPOID || *type == TIMESTAMPTZOID ? attno : InvalidAttrNumber;
}

/* The bounds of the root's partition that a leaf is or belongs to; NULL if not known. */
static char *
leaf_bounds(Oid leaf, Oid root)
{
	List	   *ancestors = leaf == root ? NIL : get_partition_ancestors(leaf);
	Oid			partition = leaf;
	Oid			type = InvalidOid;
	char	   *bounds = NULL;
	HeapTuple	tuple;
	Datum		value;
	bool		isnull;
	ListCell   *lc;

	foreach(lc, ancestors)
	{
		if (lfirst_oid(lc) == root)
			break;
		partition = lfirst_oid(lc);
	}
	if (partition == root || range_column(root, &type) == InvalidAttrNumber)
		return NULL;
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(partition));
	if (!HeapTupleIsValid(tuple))
		return NULL;
	value = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relpartbound, &isnull);
	if (!isnull)
	{
		PartitionBoundSpec *spec = stringToNode(TextDatumGetCString(value));

		if (!spec->is_default)
			bounds = psprintf("%s,%s", bound_text(spec->lowerdatums, type), bound_text(spec->upperdatums, type));
	}
	ReleaseSysCache(tuple);
	return bounds;
}

/*
 * Leaves, now and then
 */

/*
 * Did this transaction make the leaf's file?  TRUNCATE may then empty it where
 * it is, which nobody could see; so such a file is never the same again.
 */
static bool
has_new_file(Oid relid)
{
	Relation	relation;
	bool		is_new;

	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	relation = RelationIdGetRelation(relid);
	if (!RelationIsValid(relation))
		return false;
	is_new = cm_compat_has_new_file(relation);
	RelationClose(relation);
	return is_new;
}

/* A leaf as it is now. */
static Leaf *
picture_leaf(Oid relid, Oid root)
{
	Leaf	   *leaf = palloc0(sizeof(Leaf));
	CmLogTrigger trigger;
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	leaf->relid = relid;
	leaf->root = root;
	if (HeapTupleIsValid(tuple))
	{
		leaf->file = has_new_file(relid) ? InvalidOid : ((Form_pg_class) GETSTRUCT(tuple))->relfilenode;
		leaf->foreign = ((Form_pg_class) GETSTRUCT(tuple))->relkind == RELKIND_FOREIGN_TABLE;
		ReleaseSysCache(tuple);
	}
	leaf->trigger = !cm_log_trigger_find(relid, &trigger) || !trigger.always ? "" :
		psprintf("%s%08x", trigger.stamp, cm_attach_version(relid, root));
	leaf->trigger_name = trigger.name[0] != '\0' ? pstrdup(trigger.name) : NULL;
	leaf->bounds = leaf_bounds(relid, root);
	return leaf;
}

/* All leaves as they are now. */
static List *
picture_leaves(const CmMatviewPlan *plan)
{
	List	   *leaves = NIL;
	ListCell   *root;
	ListCell   *lc;

	foreach(root, cm_tracked_relids(plan))
	{
		foreach(lc, cm_tracked_leaves(lfirst_oid(root)))
			leaves = lappend(leaves, picture_leaf(lfirst_oid(lc), lfirst_oid(root)));
	}
	return leaves;
}

/* A column of a row of the last SPI result, copied to a context; NULL if null. */
static char *
row_text(int row, int column, MemoryContext context)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value != NULL ? MemoryContextStrdup(context, value) : NULL;
}

/* All leaves as they were at the last refresh. */
static List *
read_leaves(Oid view)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(view)};
	List	   *leaves = NIL;
	CmScope		scope;

	cm_catalog_enter(&scope);
	cm_query("SELECT relid, root, relfilenode, trigger_stamp, bounds FROM concertmaster.matview_leaf WHERE view = $1",
			 1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Leaf	   *leaf = MemoryContextAllocZero(caller, sizeof(Leaf));
		MemoryContext spi = MemoryContextSwitchTo(caller);

		leaf->relid = atooid(row_text(i, 1, caller));
		leaf->root = atooid(row_text(i, 2, caller));
		leaf->file = atooid(row_text(i, 3, caller));
		leaf->trigger = row_text(i, 4, caller);
		leaf->bounds = row_text(i, 5, caller);
		leaves = lappend(leaves, leaf);
		MemoryContextSwitchTo(spi);
	}
	cm_scope_leave(&scope);
	return leaves;
}

static Leaf *
find_leaf(List *leaves, const Leaf *like)
{
	ListCell   *lc;

	foreach(lc, leaves)
	{
		Leaf	   *leaf = lfirst(lc);

		if (leaf->relid == like->relid && leaf->root == like->root)
			return leaf;
	}
	return NULL;
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/*
 * What is dirty
 */

/* All of it is to be computed anew, for the first reason that is found. */
static void
make_stale(CmDirty *dirty, const char *reason)
{
	if (dirty->stale == NULL)
		dirty->stale = reason;
}

/* The key column that is a bucket of a raw column, told by its own rows; -1 if none. */
static int
bucket_key(const CmMatviewPlan *plan, const CmTracked *tracked, AttrNumber attno)
{
	for (int i = 0; i < plan->nkeys; i++)
	{
		const CmBucket *bucket = plan->keys[i].bucket;

		if (bucket != NULL && bucket->rti == tracked->rti && bucket->attno == attno &&
			(tracked->mask & (1U << i)))
			return i;
	}
	return -1;
}

/* Anything within a leaf's bounds may have changed. */
static void
make_leaf_dirty(const CmMatviewPlan *plan, const Leaf *leaf, const char *reason, CmDirty *dirty)
{
	Oid			type = InvalidOid;
	AttrNumber	attno = range_column(leaf->root, &type);
	ListCell   *lc;

	foreach(lc, plan->tracked)
	{
		const CmTracked *tracked = lfirst(lc);
		CmDirtyRange *range;
		int			key;
		char	   *bounds;

		if (tracked->relid != leaf->root)
			continue;
		key = attno != InvalidAttrNumber && leaf->bounds != NULL ? bucket_key(plan, tracked, attno) : -1;
		if (key < 0 || strchr(leaf->bounds, ',') == NULL)
		{
			make_stale(dirty, reason);
			return;
		}
		bounds = pstrdup(leaf->bounds);
		range = palloc0(sizeof(CmDirtyRange));
		range->key = key;
		range->lo = bound_datum(strtok(bounds, ","), type);
		range->hi = bound_datum(strtok(NULL, ","), type);
		dirty->ranges = lappend(dirty->ranges, range);
	}
}

/* The name of a leaf for a reason, which may be gone. */
static char *
leaf_name(const Leaf *leaf)
{
	return get_rel_name(leaf->relid) != NULL ? cm_relation_quoted(leaf->relid) :
		psprintf("of %s that is gone", cm_relation_quoted(leaf->root));
}

/* Whose trigger is disabled, for a reason. */
static char *
disabled_text(const char *trigger_name, Oid relid, Oid root)
{
	return psprintf("trigger \"%s\" of %s %s is disabled", trigger_name,
					relid == root ? "table" : "partition", cm_relation_quoted(relid));
}

/* What makes each refresh compute all of the view, as things are; NULL if nothing. */
char *
cm_matview_stamp_obstacle(const CmMatviewPlan *plan)
{
	CmLogTrigger trigger;
	ListCell   *root;
	ListCell   *lc;

	foreach(root, cm_tracked_relids(plan))
	{
		foreach(lc, cm_tracked_leaves(lfirst_oid(root)))
		{
			if (cm_log_trigger_find(lfirst_oid(lc), &trigger) && !trigger.always)
				return disabled_text(trigger.name, lfirst_oid(lc), lfirst_oid(root));
		}
	}
	return NULL;
}

/* Compare a leaf that is there with what it was. */
static void
compare_leaf(const CmMatviewPlan *plan, const Leaf *now, const Leaf *then, CmDirty *dirty)
{
	const char *what = now->relid == now->root ? "table" : "partition";

	if (now->foreign)
		make_stale(dirty, psprintf("partition %s is a foreign table", leaf_name(now)));
	else if (now->trigger_name == NULL)
		make_leaf_dirty(plan, now, psprintf("%s %s has no trigger that logs", what, leaf_name(now)), dirty);
	else if (now->trigger[0] == '\0')
		make_stale(dirty, disabled_text(now->trigger_name, now->relid, now->root));
	else if (then == NULL)
		make_leaf_dirty(plan, now, psprintf("%s %s is new", what, leaf_name(now)), dirty);
	else if (now->file != then->file || now->file == InvalidOid)
		make_leaf_dirty(plan, now, psprintf("%s %s was truncated or rewritten", what, leaf_name(now)), dirty);
	else if (strcmp(now->trigger, then->trigger) != 0)
		make_leaf_dirty(plan, now, psprintf("trigger \"%s\" of %s %s was changed", now->trigger_name, what, leaf_name(now)), dirty);
	else if (!same_text(now->bounds, then->bounds))
	{
		make_leaf_dirty(plan, now, psprintf("partition %s has other bounds", leaf_name(now)), dirty);
		make_leaf_dirty(plan, then, psprintf("partition %s has other bounds", leaf_name(now)), dirty);
	}
}

/*
 * The view's own stamp
 */

/* The version of a catalog row. */
static uint32
row_version(HeapTuple tuple)
{
	return HeapTupleHeaderGetRawXmin(tuple->t_data);
}

/* A number that changes when a function that the query calls does. */
static uint32
functions_number(List *functions)
{
	uint32		number = 0;
	ListCell   *lc;

	foreach(lc, functions)
	{
		HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(lfirst_oid(lc)));

		if (!HeapTupleIsValid(tuple))
			continue;
		number = hash_combine(number, murmurhash32(row_version(tuple)));
		ReleaseSysCache(tuple);
	}
	return number;
}

/* The version of a view's rule. */
static uint32
rule_version(Oid view)
{
	HeapTuple	tuple = SearchSysCache2(RULERELNAME, ObjectIdGetDatum(view), CStringGetDatum("_RETURN"));
	uint32		version = 0;

	if (HeapTupleIsValid(tuple))
	{
		version = row_version(tuple);
		ReleaseSysCache(tuple);
	}
	return version;
}

/* The parts of a view's stamp, in their order, and what it means that one differs. */
static const char *const part_reasons[] = {
	"its file was replaced", "its definition changed", "a function that it calls changed",
	"the extension was updated", "the rules of its time zone changed",
	"the rules of a time zone that its query names changed"
};

/* The view as it is now: parts separated by blanks. */
static char *
view_stamp(const CmMatviewPlan *plan, const char *zone)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(plan->view));
	Oid			file = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		file = ((Form_pg_class) GETSTRUCT(tuple))->relfilenode;
		ReleaseSysCache(tuple);
	}
	return psprintf("%u %u %08x %s %s:%08x %08x", file, rule_version(plan->view),
					functions_number(plan->functions), CM_VERSION,
					plan->zone_matters ? zone : "", plan->zone_matters ? cm_zone_number(zone) : 0,
					cm_zones_number(plan->zones));
}

/* Compare two stamps, part by part. */
static void
compare_stamps(char *now, char *then, CmDirty *dirty)
{
	for (int i = 0; i < lengthof(part_reasons); i++)
	{
		char	   *now_part = strsep(&now, " ");
		char	   *then_part = strsep(&then, " ");

		if (!same_text(now_part, then_part))
			make_stale(dirty, part_reasons[i]);
	}
}

/* Compare the view with its row in matview_track. */
static void
compare_view(const CmMatviewPlan *plan, CmDirty *dirty)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(plan->view)};
	char	   *stale = "it is not tracked";
	char	   *stamp = NULL;
	CmScope		scope;

	cm_catalog_enter(&scope);
	cm_query("SELECT stale, stamp FROM concertmaster.matview_track WHERE view = $1",
			 1, types, values, NULL);
	if (SPI_processed > 0)
	{
		stale = row_text(0, 1, caller);
		stamp = row_text(0, 2, caller);
	}
	cm_scope_leave(&scope);
	if (stale != NULL)
		make_stale(dirty, stale);
	else if (stamp == NULL)
		make_stale(dirty, "first refresh");
	else
		compare_stamps(pstrdup(plan->seen->view), stamp, dirty);
}

/*
 * Find what has changed since the last refresh without having been logged, add
 * it to what is dirty, and keep what was found for cm_matview_stamp_write().
 */
void
cm_matview_stamp_compare(CmMatviewPlan *plan, const char *zone, CmDirty *dirty)
{
	List	   *then = read_leaves(plan->view);
	ListCell   *lc;

	plan->seen = palloc0(sizeof(CmStamp));
	plan->seen->leaves = picture_leaves(plan);
	plan->seen->view = view_stamp(plan, zone);
	compare_view(plan, dirty);
	foreach(lc, plan->seen->leaves)
	{
		Leaf	   *leaf = lfirst(lc);

		compare_leaf(plan, leaf, find_leaf(then, leaf), dirty);
	}
	foreach(lc, then)
	{
		Leaf	   *leaf = lfirst(lc);

		if (find_leaf(plan->seen->leaves, leaf) == NULL)
			make_leaf_dirty(plan, leaf, psprintf("partition %s was detached or dropped", leaf_name(leaf)), dirty);
	}
}

/* Is one leaf what the other is? */
static bool
same_leaf(const Leaf *a, const Leaf *b)
{
	return a->file == b->file && strcmp(a->trigger, b->trigger) == 0 && same_text(a->bounds, b->bounds);
}

/* Has a leaf no rows, and had none since it was attached?  False if that is not known at once. */
static bool
is_empty(Oid relid)
{
	Relation	relation;
	bool		empty;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return false;
	relation = RelationIdGetRelation(relid);
	if (!RelationIsValid(relation))
		return false;
	empty = relation->rd_rel->relkind == RELKIND_RELATION && RelationGetNumberOfBlocks(relation) == 0;
	RelationClose(relation);
	return empty;
}

/*
 * Is all as cm_matview_stamp_compare() found it?  Asked when the rows are
 * computed: a trigger that was disabled between the two, before the snapshot,
 * would have let writes into it that the log does not know.  A leaf that has
 * come since and holds nothing has changed nothing.  It is not among those that
 * were seen, so the next refresh finds it new.
 */
bool
cm_matview_stamp_holds(CmMatviewPlan *plan)
{
	List	   *now = picture_leaves(plan);
	int			found = 0;
	ListCell   *lc;

	foreach(lc, now)
	{
		const Leaf *leaf = lfirst(lc);
		const Leaf *seen = find_leaf(plan->seen->leaves, leaf);

		if (seen != NULL && same_leaf(seen, leaf))
			found++;
		else if (seen != NULL || !is_empty(leaf->relid))
			return false;
	}
	return found == list_length(plan->seen->leaves);
}

/*
 * The same for some relations, of which those that are no leaves do not
 * matter: each leaf among them was there, logged, and is as it was found.
 */
bool
cm_matview_stamp_holds_for(const CmMatviewPlan *plan, const List *relids)
{
	ListCell   *lc;

	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);
		bool		found = get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE;
		ListCell   *cell;

		foreach(cell, plan->seen->leaves)
		{
			const Leaf *seen = lfirst(cell);

			if (seen->relid != relid)
				continue;
			if (seen->trigger[0] == '\0' || !same_leaf(seen, picture_leaf(relid, seen->root)))
				return false;
			found = true;
		}
		if (!found)
			return false;
	}
	return true;
}

/* Write a leaf, unless it stands there already. */
static void
write_leaf(Oid view, const Leaf *leaf)
{
	Oid			types[6] = {OIDOID, OIDOID, OIDOID, OIDOID, TEXTOID, TEXTOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', leaf->bounds != NULL ? ' ' : 'n'};

	values[0] = ObjectIdGetDatum(view);
	values[1] = ObjectIdGetDatum(leaf->relid);
	values[2] = ObjectIdGetDatum(leaf->root);
	values[3] = ObjectIdGetDatum(leaf->file);
	values[4] = CStringGetTextDatum(leaf->trigger);
	values[5] = leaf->bounds != NULL ? CStringGetTextDatum(leaf->bounds) : (Datum) 0;
	cm_query("INSERT INTO concertmaster.matview_leaf (view, relid, root, relfilenode, trigger_stamp, bounds)"
			 " VALUES ($1, $2, $3, $4, $5, $6)"
			 " ON CONFLICT (view, relid, root) DO UPDATE"
			 "   SET relfilenode = $4, trigger_stamp = $5, bounds = $6",
			 6, types, values, nulls);
}

/* Write the leaves that were seen, where they differ from those that stand there. */
static void
write_leaves(const CmMatviewPlan *plan)
{
	List	   *then = read_leaves(plan->view);
	Oid			types[3] = {OIDOID, OIDOID, OIDOID};
	Datum		values[3];
	ListCell   *lc;
	CmScope		scope;

	cm_catalog_enter(&scope);
	foreach(lc, plan->seen->leaves)
	{
		Leaf	   *leaf = lfirst(lc);
		Leaf	   *old = find_leaf(then, leaf);

		if (old == NULL || !same_leaf(old, leaf))
			write_leaf(plan->view, leaf);
	}
	foreach(lc, then)
	{
		Leaf	   *leaf = lfirst(lc);

		if (find_leaf(plan->seen->leaves, leaf) != NULL)
			continue;
		values[0] = ObjectIdGetDatum(plan->view);
		values[1] = ObjectIdGetDatum(leaf->relid);
		values[2] = ObjectIdGetDatum(leaf->root);
		cm_query("DELETE FROM concertmaster.matview_leaf WHERE view = $1 AND relid = $2 AND root = $3",
				 3, types, values, NULL);
	}
	cm_scope_leave(&scope);
}

/*
 * The view stands for what cm_matview_stamp_compare() found.  Called when its
 * rows are written, in the same transaction.
 */
void
cm_matview_stamp_write(const CmMatviewPlan *plan)
{
	Oid			types[3] = {OIDOID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[3];
	CmScope		scope;

	Assert(plan->seen != NULL);
	write_leaves(plan);
	values[0] = ObjectIdGetDatum(plan->view);
	values[1] = CStringGetTextDatum(plan->seen->view);
	values[2] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	cm_catalog_enter(&scope);
	cm_query("UPDATE concertmaster.matview_track SET stale = NULL, stamp = $2, refreshed_at = $3"
			 " WHERE view = $1",
			 3, types, values, NULL);
	cm_scope_leave(&scope);
}
