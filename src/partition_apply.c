/*-------------------------------------------------------------------------
 *
 * partition_apply.c
 *	  Make one partition: under the deadline, with retries.
 *
 * A function makes a leaf in a subtransaction of its caller's, both steps
 * together (cm_partition_make_here).  The worker makes each leaf in two
 * transactions (cm_partition_make), so that no lock outlives the step that
 * needed it; what a crash leaves between the two is dealt with by the next
 * pass, which makes the leaf anew (partition_leaf.c) or, with nothing more to
 * make, drops it (partition_leftover.c).
 *
 * Locks: those of partition_leaf.c, for one deadline at most, and not asked
 * for while a transaction that is there to stay is in the way.
 *
 * What it does not do: choose what to make (partition_work.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "compat.h"
#include "partition.h"

/* Both steps at once: for one transaction, which keeps the lock between them. */
static void
create_and_attach(void *arg)
{
	CmLeaf	   *leaf = arg;

	cm_partition_leaf_create(leaf);
	if (!leaf->stale)
		cm_partition_leaf_attach(leaf);
}

/* Make an empty leaf in subtransactions of the caller's. */
CmLeafResult
cm_partition_make_here(CmLeaf *leaf)
{
	List	   *wishes = cm_partition_wishes(leaf->parent, InvalidOid, CM_STEP_ATTACH);

	if (!cm_attempt_here(create_and_attach, leaf, wishes))
		return CM_LEAF_DEFERRED;
	return leaf->stale ? CM_LEAF_STALE : CM_LEAF_MADE;
}

/* The locks of a step of the leaf, asked outside of any transaction. */
static List *
wishes_of(const CmLeaf *leaf, CmPartitionStep step)
{
	List	   *wishes;

	cm_transaction_begin(GetSessionUserId());
	wishes = cm_partition_wishes(leaf->parent, InvalidOid, step);
	cm_transaction_commit();
	return wishes;
}

/* Make a leaf in transactions of its own. */
CmLeafResult
cm_partition_make(CmLeaf *leaf)
{
	bool		drain = leaf->kind == CM_LEAF_DRAIN;
	CmLeafResult result;

	if (leaf->kind == CM_LEAF_REBIND)
		return cm_partition_rebind(leaf);

	/* Nothing but the parent is locked, in a mode that readers and writers go on beside. */
	if (!cm_attempt_commit(cm_partition_leaf_create, leaf, leaf->owner, NIL))
		return CM_LEAF_DEFERRED;
	if (leaf->stale)
		return CM_LEAF_STALE;
	if (!cm_attempt_commit(drain ? cm_partition_leaf_drain : cm_partition_leaf_attach,
						   leaf, leaf->owner,
						   wishes_of(leaf, drain ? CM_STEP_DRAIN : CM_STEP_ATTACH)))
		result = CM_LEAF_DEFERRED;
	else if (leaf->stale)
		result = CM_LEAF_STALE;
	else
		return CM_LEAF_MADE;
	(void) cm_attempt_commit(cm_partition_leaf_drop, leaf, leaf->owner, NIL);
	return result;
}
