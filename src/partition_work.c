/*-------------------------------------------------------------------------
 *
 * partition_work.c
 *	  All that the next pass over a set does: facts put together with plans.
 *
 * One function answers for both who asks (plan_partitions()) and who acts (the
 * worker's pass), so that what is shown is what is done.  It reads the set's
 * settings and bounds, the rows where these matter (partition_rows.c), asks
 * the pure planner (partition_plan.c), and says of each partition to make how:
 *
 *	 create   nothing of it lies in a default partition
 *	 drain    rows of the default partition go into it, in the transaction
 *			  that attaches it
 *	 rebind   more than DRAIN_LIMIT rows would have to be moved, or the default
 *			  partition is too large to be scanned within the deadline, and all that
 *			  the default partition holds lies between two neighbours: it
 *			  becomes a partition itself, without moving a row, and an empty
 *			  one takes its place
 *	 split    more than DRAIN_LIMIT rows, but they lie in several gaps or others
 *			  stay: the default partition is copied into partitions beside it,
 *			  for all pieces with rows at once (partition_split.c).  Where
 *			  that cannot be done (partition_obstacle.c), the large pieces
 *			  wait, with the reason, and the small ones are drained
 *
 * Rows of the default partition that no partition is made for (older than the
 * retention, beyond the horizon, more than GAP_LIMIT periods old, null) stay
 * where they are and are counted: one row 900 days ahead makes nothing.
 *
 * Locks: those of partition_rows.c.  What was read can be outdated when it is
 * acted on; every step locks and looks again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "partition.h"
#include "partition_split.h"

/* More rows than this are not moved while others wait. */
#define DRAIN_LIMIT		1000

/* Nor any, where ATTACH would scan more pages of the default partition than this. */
#define DRAIN_BLOCKS	4096

/* A leaf to make, from the plan. */
CmLeaf *
cm_partition_leaf(Oid parent, const CmAxis *axis, const CmPartitionPlanned *planned)
{
	CmLeaf	   *leaf = palloc0(sizeof(CmLeaf));

	leaf->kind = planned->rows > 0 ? CM_LEAF_DRAIN : CM_LEAF_CREATE;
	leaf->parent = parent;
	leaf->owner = cm_relation_owner(parent);
	leaf->axis = *axis;
	leaf->from = planned->from;
	leaf->to = planned->to;
	leaf->rows = planned->rows;
	strlcpy(leaf->name, cm_partition_name(cm_relation_name(parent), planned->suffix),
			NAMEDATALEN);
	return leaf;
}

/* The present point: the clock's, or how far the numbers have come. */
static int64
find_now(CmPartitionWork *work)
{
	const CmPartitionSettings *settings = &work->settings;
	int64		newest;

	if (cm_axis_is_time(&settings->axis))
		return cm_axis_point(&settings->axis, GetCurrentTransactionStartTimestamp());
	work->has_newest_value = cm_partition_newest_number(work->parent, work->existing,
														&settings->axis, &newest);
	if (work->has_newest_value)
		return newest;
	return settings->has_start ? settings->start : 0;
}

/* Is the piece one of the plan? */
static bool
is_planned(const List *plan, const CmPartitionPlanned *piece)
{
	ListCell   *lc;

	foreach(lc, plan)
	{
		const CmPartitionPlanned *planned = lfirst(lc);

		if (planned->from == piece->from && planned->to == piece->to)
			return true;
	}
	return false;
}

/*
 * Add the rows of the default partition to the plan: how many go into each
 * piece, and pieces of their own for those that belong before.
 */
static List *
plan_default(CmPartitionWork *work, List *plan, int64 low)
{
	List	   *gaps = cm_partition_gaps(&work->settings, work->existing, low, work->now);
	List	   *result = NIL;
	ListCell   *lc;

	work->rest_rows = cm_partition_default_count(work->parent, work->rest,
												 &work->settings.axis, gaps);
	foreach(lc, plan)
	{
		/* Before all that the default partition holds. */
		if (!is_planned(gaps, lfirst(lc)))
			result = lappend(result, lfirst(lc));
	}
	foreach(lc, gaps)
	{
		CmPartitionPlanned *piece = lfirst(lc);

		if (piece->rows > 0 || is_planned(plan, piece))
			result = lappend(result, piece);
	}
	return result;
}

/*
 * If the default partition shall become a partition itself: one leaf for all
 * of the pieces that have rows, and those between.  Else the plan as it is.
 */
static List *
rebind_if_better(CmPartitionWork *work, List *plan, CmPartitionPlanned **rebound)
{
	CmPartitionPlanned *whole = NULL;
	int64		rows = 0;
	List	   *others = NIL;
	int64		end = DT_NOBEGIN;
	ListCell   *lc;

	*rebound = NULL;
	foreach(lc, plan)
	{
		CmPartitionPlanned *piece = lfirst(lc);

		if (piece->rows == 0)
			continue;
		rows += piece->rows;
		if (whole == NULL)
		{
			whole = palloc(sizeof(CmPartitionPlanned));
			*whole = *piece;
		}
		end = piece->to;
	}
	if (whole == NULL || work->rest_rows > 0 ||
		(rows <= DRAIN_LIMIT && cm_partition_default_blocks(work->rest) <= DRAIN_BLOCKS) ||
		cm_partition_overlapping(work->existing, whole->from, end) != NULL)
		return plan;

	whole->to = end;
	whole->rows = rows;
	foreach(lc, plan)
	{
		CmPartitionPlanned *piece = lfirst(lc);

		if (piece->from < whole->from || piece->from >= whole->to)
			others = lappend(others, piece);
	}
	*rebound = whole;
	return lcons(whole, others);
}

/*
 * Rows of the default partition that are too many to be moved while others
 * wait, where it cannot become a partition itself.
 */
static void
split_if_needed(CmPartitionWork *work)
{
	char	   *obstacle;
	bool		large = OidIsValid(work->rest) && cm_partition_default_blocks(work->rest) > DRAIN_BLOCKS;
	bool		needed = false;
	ListCell   *lc;

	foreach(lc, work->leaves)
	{
		const CmLeaf *leaf = lfirst(lc);

		needed = needed || (leaf->kind == CM_LEAF_DRAIN && (leaf->rows > DRAIN_LIMIT || large));
	}
	if (!needed)
		return;
	obstacle = cm_partition_obstacle(work->parent, work->rest);
	foreach(lc, work->leaves)
	{
		CmLeaf	   *leaf = lfirst(lc);

		if (leaf->kind != CM_LEAF_DRAIN || (obstacle != NULL && leaf->rows <= DRAIN_LIMIT && !large))
			continue;
		leaf->kind = CM_LEAF_SPLIT;
		leaf->obstacle = obstacle;
	}
}

/* The partitions that have had their time, with what keeps them. */
static List *
find_retirees(const CmPartitionWork *work)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, cm_partition_outdated(&work->settings, work->existing, work->now))
	{
		CmPartition *partition = lfirst(lc);
		CmRetiree  *retiree = palloc0(sizeof(CmRetiree));

		if (get_rel_name(partition->relid) == NULL)
			continue;
		retiree->relid = partition->relid;
		retiree->schema_name = cm_relation_schema(partition->relid);
		retiree->name = cm_relation_name(partition->relid);
		retiree->upper_bound = partition->to;
		retiree->references = cm_partition_references(work->parent, partition->relid);
		retiree->forbidden = cm_partition_forbidden(work, partition->relid,
													&retiree->forbidden_sqlstate);
		result = lappend(result, retiree);
	}
	return result;
}

/* Detaching that was begun comes first: there can be only one. */
static List *
add_pending(const CmPartitionWork *work, List *retirees)
{
	ListCell   *lc;

	foreach(lc, work->existing)
	{
		CmPartition *partition = lfirst(lc);
		CmRetiree  *retiree;

		if (!partition->is_pending || get_rel_name(partition->relid) == NULL)
			continue;
		retiree = palloc0(sizeof(CmRetiree));
		retiree->relid = partition->relid;
		retiree->schema_name = cm_relation_schema(partition->relid);
		retiree->name = cm_relation_name(partition->relid);
		retiree->upper_bound = partition->to;
		retiree->is_pending = true;
		retirees = lcons(retiree, retirees);
	}
	return retirees;
}

/*
 * Find out what the next pass over a set does, in the transaction that is
 * open.  An error if the table is no set, or cannot be one any more.
 */
void
cm_partition_work(Oid parent, CmPartitionWork *work)
{
	CmPartitionPlanned *rebound = NULL;
	List	   *plan;
	int64		low;
	ListCell   *lc;

	memset(work, 0, sizeof(*work));
	work->parent = parent;
	work->owner = cm_relation_owner(parent);
	if (!cm_partition_settings(parent, &work->settings))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not a partition set", get_rel_name(parent)),
				 errhint("Call concertmaster.create_partition_set() for it.")));
	work->mark = cm_partition_mark(parent, work->settings.xmin);
	work->existing = cm_partition_existing(parent, &work->settings.axis);
	work->rest = get_default_partition_oid(parent);
	work->now = find_now(work);

	plan = cm_partition_plan(&work->settings, work->existing, work->now);
	if (OidIsValid(work->rest) &&
		cm_partition_default_low(parent, work->rest, &work->settings.axis, &low))
	{
		plan = plan_default(work, plan, low);
		plan = rebind_if_better(work, plan, &rebound);
	}
	else if (OidIsValid(work->rest))
		work->rest_rows = cm_partition_default_count(parent, work->rest, &work->settings.axis, NIL);
	foreach(lc, cm_partition_urgent_first(plan, work->now))
	{
		CmLeaf	   *leaf = cm_partition_leaf(parent, &work->settings.axis, lfirst(lc));

		if (lfirst(lc) == rebound)
			leaf->kind = CM_LEAF_REBIND;
		work->leaves = lappend(work->leaves, leaf);
	}
	split_if_needed(work);
	work->retirees = add_pending(work, find_retirees(work));
}
