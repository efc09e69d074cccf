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

/*
 * The locks of attaching the leaf that others queue behind.  If that is the
 * parent's alone there are none, and we can as well wait in its queue.
 */
static List *
wishes_of(const CmLeaf *leaf)
{
	if (!cm_partition_locks_others(leaf->parent))
		return NIL;
	return cm_partition_wishes(leaf->parent, InvalidOid,
							   leaf->kind == CM_LEAF_DRAIN ? CM_STEP_DRAIN : CM_STEP_ATTACH);
}

/* Make an empty leaf in subtransactions of the caller's. */
CmLeafResult
cm_partition_make_here(CmLeaf *leaf)
{
	if (!cm_attempt_here(create_and_attach, leaf, wishes_of(leaf)))
		return CM_LEAF_DEFERRED;
	return leaf->stale ? CM_LEAF_STALE : CM_LEAF_MADE;
}

/* Make a leaf in transactions of its own. */
CmLeafResult
cm_partition_make(CmLeaf *leaf)
{
	CmStep		attach = leaf->kind == CM_LEAF_DRAIN ? cm_partition_leaf_drain : cm_partition_leaf_attach;
	CmLeafResult result;
	List	   *wishes;

	if (leaf->kind == CM_LEAF_REBIND)
		return cm_partition_rebind(leaf);

	/* Nothing but the parent is locked, in a mode that readers and writers go on beside. */
	if (!cm_attempt_commit(cm_partition_leaf_create, leaf, leaf->owner, NIL))
		return CM_LEAF_DEFERRED;
	if (leaf->stale)
		return CM_LEAF_STALE;
	cm_transaction_begin(GetSessionUserId());
	wishes = wishes_of(leaf);
	cm_transaction_commit();
	if (!cm_attempt_commit(attach, leaf, leaf->owner, wishes))
		result = CM_LEAF_DEFERRED;
	else if (leaf->stale)
		result = CM_LEAF_STALE;
	else
		return CM_LEAF_MADE;
	(void) cm_attempt_commit(cm_partition_leaf_drop, leaf, leaf->owner, NIL);
	return result;
}
