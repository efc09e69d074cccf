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
 * Locks: none.  Reads pg_constraint and pg_depend.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_depend.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

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

/* The tables that a table references. */
static List *
find_referenced(Oid relid)
{
	Relation	constraints = table_open(ConstraintRelationId, AccessShareLock);
	List	   *result = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_constraint_conrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(constraints, ConstraintRelidTypidNameIndexId, true, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);

		if (form->contype == CONSTRAINT_FOREIGN)
			result = list_append_unique_oid(result, form->confrelid);
	}
	systable_endscan(scan);
	table_close(constraints, AccessShareLock);
	return result;
}

/* The table whose foreign key this constraint is, if it is one that references relid. */
static Oid
referencing_table(Oid constraint, Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	Form_pg_constraint form;
	Oid			result = InvalidOid;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	form = (Form_pg_constraint) GETSTRUCT(tuple);
	if (form->contype == CONSTRAINT_FOREIGN && form->confrelid == relid)
		result = form->conrelid;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * The tables that reference a table.  By way of pg_depend, in which every
 * foreign key stands with the columns that it references: pg_constraint has no
 * index by them, and is as long as the database has partitions.
 */
static List *
find_referencing(Oid relid)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	List	   *result = NIL;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, lengthof(keys), keys);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);
		Oid			table = form->classid == ConstraintRelationId ?
			referencing_table(form->objid, relid) : InvalidOid;

		if (OidIsValid(table))
			result = list_append_unique_oid(result, table);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return result;
}

/*
 * The tables at the other end of a table's foreign keys, in the order of their
 * oids: those that it references, or those that reference it.
 */
static List *
foreign_partners(Oid relid, bool referencing)
{
	List	   *result = list_delete_oid(referencing ? find_referencing(relid) : find_referenced(relid), relid);

	list_sort(result, list_oid_cmp);
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
 * holds a lock says more.  leaf may be InvalidOid where nobody but us knows it
 * yet.  In a transaction.
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
