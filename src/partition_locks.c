/*-------------------------------------------------------------------------
 *
 * partition_locks.c
 *	  Which locks each step takes, so that it can be seen who is in the way.
 *
 * What core takes (measured on 15, 17 and 18; p the parent, x the partition,
 * d the default partition, r a table that p references, c one that references
 * p):
 *
 *	 step                       p     x    d    r     c
 *	 create x LIKE p            SUE   -    -    -     -
 *	 attach x                   SUE   AX   AX   SRX   SRX
 *	 drain d into x, attach     SRX   AX   AX   SRX   SRX
 *	 rebind d as x              AX    AX   AX   AX    AX
 *	 split d, exchange          AX    AX   AX   -     -
 *	 detach x concurrently      SUE   AX   -    SRX   AX
 *	 finalize                   SUE   AX   -    SRX   AX
 *	 detach x                   AX    AX   AX   SRX   AX
 *	 drop or move x, detached   -     AX   -    AX    -
 *
 * Rebinding locks r so because what is detached has foreign keys of its own,
 * which are dropped when it is attached again.
 *
 * A drain has old snapshots in its way, too, though it takes no lock of theirs:
 * to them the rows that it inserts are too new, and where they ask for a range
 * of keys they would not look into the default partition any more.
 *
 * SUE: SHARE UPDATE EXCLUSIVE, with which readers and writers go on; SRX:
 * SHARE ROW EXCLUSIVE, writers wait; AX: ACCESS EXCLUSIVE, all wait.
 *
 * Locks: none.  Reads pg_constraint and pg_depend with the transaction's
 * snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "partition.h"

/* Was the relation made by the transaction that is open, so that nobody else knows it? */
static bool
is_made_here(Oid relid)
{
	Relation	relation = RelationIdGetRelation(relid);
	bool		result;

	if (!RelationIsValid(relation))
		return false;
	result = relation->rd_createSubid != InvalidSubTransactionId;
	RelationClose(relation);
	return result;
}

/*
 * The tables at the other end of a table's foreign keys: those that it
 * references, or those that reference it.  The latter by way of pg_depend, in
 * which every foreign key stands with the columns that it references:
 * pg_constraint has no index by them, and is as long as the database has
 * partitions.
 */
static List *
foreign_partners(Oid relid, bool referencing)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1];
	List	   *result = NIL;
	CmScope		scope;

	values[0] = ObjectIdGetDatum(relid);
	cm_catalog_enter(&scope);
	if (referencing)
		cm_query("SELECT DISTINCT c.conrelid FROM pg_depend d JOIN pg_constraint c ON c.oid = d.objid"
				 " WHERE d.classid = 'pg_constraint'::regclass"
				 "   AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1"
				 "   AND c.contype = 'f' AND c.confrelid = $1 AND c.conrelid <> $1", 1, types, values, NULL);
	else
		cm_query("SELECT DISTINCT confrelid FROM pg_constraint"
				 " WHERE contype = 'f' AND conrelid = $1 AND confrelid <> $1", 1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		bool		isnull;

		result = lappend_oid(result, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
																	SPI_tuptable->tupdesc, 1, &isnull)));
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return result;
}

/* The tables at the other end of the parent's foreign keys, either way. */
List *
cm_partition_partners(Oid parent)
{
	return list_concat(foreign_partners(parent, false), foreign_partners(parent, true));
}

/* Does attaching a partition lock anything that readers or writers use? */
bool
cm_partition_locks_others(Oid parent)
{
	Oid			rest = get_default_partition_oid(parent);
	ListCell   *lc;

	if (OidIsValid(rest) && !is_made_here(rest))
		return true;
	foreach(lc, cm_partition_partners(parent))
	{
		if (!is_made_here(lfirst_oid(lc)))
			return true;
	}
	return false;
}

static List *
wish_each(List *wishes, List *relids, LOCKMODE mode)
{
	ListCell   *lc;

	foreach(lc, relids)
		wishes = cm_lock_wish(wishes, lfirst_oid(lc), mode);
	return wishes;
}

/*
 * The locks of a step on the partition leaf of the parent, snapshots last: who
 * holds a lock says more.  leaf may be
 * InvalidOid where nobody but us knows it yet.  In a transaction.
 */
List *
cm_partition_wishes(Oid parent, Oid leaf, CmPartitionStep step)
{
	Oid			rest = get_default_partition_oid(parent);
	List	   *wishes = NIL;

	switch (step)
	{
		case CM_STEP_ATTACH:
			wishes = cm_lock_wish(wishes, parent, ShareUpdateExclusiveLock);
			wishes = wish_each(wishes, cm_partition_partners(parent), ShareRowExclusiveLock);
			break;
		case CM_STEP_DRAIN:
			wishes = cm_lock_wish(wishes, parent, ShareRowExclusiveLock);
			wishes = wish_each(wishes, cm_partition_partners(parent), ShareRowExclusiveLock);
			break;
		case CM_STEP_REBIND:
			wishes = cm_lock_wish(wishes, parent, AccessExclusiveLock);
			wishes = wish_each(wishes, cm_partition_partners(parent), AccessExclusiveLock);
			break;
		case CM_STEP_DETACH:
			wishes = cm_lock_wish(wishes, parent, AccessExclusiveLock);
			wishes = wish_each(wishes, foreign_partners(parent, false), ShareRowExclusiveLock);
			wishes = wish_each(wishes, foreign_partners(parent, true), AccessExclusiveLock);
			break;
		case CM_STEP_FINALIZE:
			wishes = cm_lock_wish(wishes, parent, ShareUpdateExclusiveLock);
			wishes = wish_each(wishes, foreign_partners(parent, false), ShareRowExclusiveLock);
			wishes = wish_each(wishes, foreign_partners(parent, true), AccessExclusiveLock);
			break;
		case CM_STEP_REMOVE:
			wishes = wish_each(wishes, foreign_partners(leaf, false), AccessExclusiveLock);
			rest = InvalidOid;
			break;
	}
	if (OidIsValid(rest))
		wishes = cm_lock_wish(wishes, rest, AccessExclusiveLock);
	if (OidIsValid(leaf))
		wishes = cm_lock_wish(wishes, leaf, AccessExclusiveLock);
	if (step == CM_STEP_FINALIZE || step == CM_STEP_DRAIN)
		wishes = cm_lock_wish(wishes, InvalidOid, NoLock);
	return wishes;
}
