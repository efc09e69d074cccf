/*-------------------------------------------------------------------------
 *
 * relation_size.c
 *	  How large a relation is, without ever waiting to know it.
 *
 * The listing views show sizes, and are looked at exactly when something is
 * stuck.  pg_relation_size() waits for whoever holds the relation
 * exclusively; this asks for the lock conditionally and answers NULL when it
 * is not to be had at once.
 *
 * Locks: ACCESS SHARE on the relation, only if free, given back before it
 * returns.  After an error the transaction's abort gives it back.
 *
 * What it does not do: add up indexes, TOAST or partitions; views do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "storage/smgr.h"
#include "utils/rel.h"

#include "compat.h"
#include "concertmaster.h"

PG_FUNCTION_INFO_V1(cm__relation_size);

/* Bytes of all forks of one relation, which the caller has locked. */
static int64
sum_forks(Relation rel)
{
	int64		blocks = 0;

	for (ForkNumber fork = MAIN_FORKNUM; fork <= MAX_FORKNUM; fork++)
	{
		if (smgrexists(RelationGetSmgr(rel), fork))
			blocks += smgrnblocks(RelationGetSmgr(rel), fork);
	}
	return blocks * BLCKSZ;
}

/* _relation_size(relid oid): bytes, or NULL if locked or gone. */
Datum
cm__relation_size(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel;
	int64		size = 0;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		PG_RETURN_NULL();
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		PG_RETURN_NULL();
	}
	if (RELKIND_HAS_STORAGE(rel->rd_rel->relkind))
		size = sum_forks(rel);
	relation_close(rel, AccessShareLock);
	PG_RETURN_INT64(size);
}
