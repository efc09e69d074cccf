/*-------------------------------------------------------------------------
 *
 * partition_default.c
 *	  Beside a default partition: prove that it holds nothing, or let it
 *	  become a partition itself.
 *
 * ATTACH scans the default partition under ACCESS EXCLUSIVE for rows that
 * belong to the new one, unless a valid CHECK constraint says that there are
 * none.  So where it has more than SCAN_BLOCKS pages, such a constraint is
 * added NOT VALID (a moment), validated (a scan beside which others go on),
 * serves all of the pass's partitions, and is dropped (a moment), whatever
 * came of them.  It is not added while somebody is in the way of attaching.
 * While it stands, a row for one of their ranges is refused; these are empty
 * ranges, most of them in the future.  If a row turned up meanwhile,
 * validating fails, and the next pass moves it.  A constraint that a crash
 * leaves is removed by the next pass over the set.
 *
 * Rebinding: all rows of the default partition lie between two neighbours.
 * A CHECK of that range is proved in the same way, an empty table is made to
 * take its place, and in one transaction the default partition is detached,
 * renamed and attached as a range, and the empty one is attached as the
 * default partition under the old name.  No row is moved.
 *
 * Locks: ACCESS EXCLUSIVE on the default partition, and for rebinding on the
 * parent, within the deadline; SHARE UPDATE EXCLUSIVE on it while it is
 * validated, for as long as that takes.
 *
 * After an error the transaction is aborted by attempt.c or statement.c.
 *
 * What it does not do: move rows (partition_leaf.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/partition.h"
#include "catalog/pg_constraint.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "partition.h"

/* A scan of fewer pages than this fits into the deadline. */
#define SCAN_BLOCKS		256

#define PROOF_NAME		"concertmaster_proof"
#define REST_NAME		"_concertmaster_rest"

/* The pages of the default partition; none if it is not a plain table. */
BlockNumber
cm_partition_default_blocks(Oid rest)
{
	Relation	rel = try_relation_open(rest, AccessShareLock);
	BlockNumber result = 0;

	if (rel == NULL)
		return 0;
	if (rel->rd_rel->relkind == RELKIND_RELATION)
		result = RelationGetNumberOfBlocks(rel);
	relation_close(rel, AccessShareLock);
	return result;
}

/* The locks that adding and dropping the proof takes. */
static List *
proof_wishes(Oid rest)
{
	return cm_lock_wish(NIL, rest, AccessExclusiveLock);
}

/* Drop the proof, if there is one.  False if it was put off. */
static bool
drop_proof(Oid rest, Oid owner)
{
	char	   *relation = NULL;

	cm_transaction_begin(GetSessionUserId());
	if (OidIsValid(rest) && OidIsValid(get_relation_constraint_oid(rest, PROOF_NAME, true)))
		relation = cm_relation_quoted(rest);
	cm_transaction_commit();
	if (relation == NULL)
		return true;
	return cm_attempt_statement(psprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS " PROOF_NAME, relation),
								owner, proof_wishes(rest));
}

/*
 * Add the proof and validate it.  False if that was put off, or if it does not
 * hold any more.  It is not even added while somebody is in the way of the
 * step that it is for: as long as it stands, rows are refused.
 */
static bool
add_proof(Oid rest, Oid owner, const char *relation, const char *condition, List *wishes)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool holds = false;

	if (!drop_proof(rest, owner) ||
		!cm_attempt_statement(psprintf("ALTER TABLE %s ADD CONSTRAINT " PROOF_NAME " CHECK (%s) NOT VALID",
									   relation, condition),
							  owner, wishes))
		return false;
	PG_TRY();
	{
		/* Nobody queues behind this lock but VACUUM and other DDL. */
		holds = cm_statement_run(psprintf("ALTER TABLE %s VALIDATE CONSTRAINT " PROOF_NAME, relation), owner, 0);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		if (geterrcode() != ERRCODE_CHECK_VIOLATION)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	if (!holds)
		(void) drop_proof(rest, owner);
	return holds;
}

/* key < to, or the like, quoted; or NULL where there is no such bound. */
static char *
comparison(const CmPartitionWork *work, const char *operator, int64 point)
{
	if (point == DT_NOBEGIN || point == DT_NOEND)
		return NULL;
	return psprintf("%s %s %s", cm_partition_key_name(work->parent), operator,
					cm_partition_bound_sql(work->existing, &work->settings.axis, point));
}

/* That no row that has a key belongs into a range. */
static char *
outside_of(const CmPartitionWork *work, int64 from, int64 to)
{
	char	   *before = comparison(work, "<", from);
	char	   *after = comparison(work, ">=", to);

	if (before == NULL || after == NULL)
		return before ? before : after ? after : "false";
	return psprintf("%s OR %s", before, after);
}

/* list_sort comparator of leaves by bound. */
int
cm_partition_leaf_compare(const ListCell *a, const ListCell *b)
{
	const CmLeaf *x = lfirst(a);
	const CmLeaf *y = lfirst(b);

	return x->from < y->from ? -1 : (x->from > y->from ? 1 : 0);
}

/* The ranges of the leaves, neighbours taken together, in order; as CmLeaf. */
static List *
ranges_of(const List *leaves)
{
	List	   *sorted = list_copy(leaves);
	List	   *result = NIL;
	CmLeaf	   *range = NULL;
	ListCell   *lc;

	list_sort(sorted, cm_partition_leaf_compare);
	foreach(lc, sorted)
	{
		const CmLeaf *leaf = lfirst(lc);

		if (range == NULL || range->to != leaf->from)
		{
			range = palloc(sizeof(CmLeaf));
			*range = *leaf;
			result = lappend(result, range);
		}
		range->to = leaf->to;
	}
	return result;
}

/*
 * That no row of the default partition belongs into any of the leaves, as core
 * puts it when a leaf is attached beside a default partition: it has to be
 * implied for each leaf alone.  NULL if there are none.
 */
static char *
none_for(const CmPartitionWork *work, const List *leaves)
{
	char	   *key = cm_partition_key_name(work->parent);
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, ranges_of(leaves))
	{
		const CmLeaf *range = lfirst(lc);

		appendStringInfo(&sql, "%s(%s IS NULL OR %s)", sql.len ? " AND " : "", key,
						 outside_of(work, range->from, range->to));
	}
	return sql.len > 0 ? sql.data : NULL;
}

/*
 * The same, as core puts it when a default partition is attached beside leaves:
 * the proof has to be of the same form.
 */
char *
cm_partition_outside(const CmPartitionWork *work, const List *leaves)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, ranges_of(leaves))
	{
		const CmLeaf *range = lfirst(lc);

		appendStringInfo(&sql, "%s(%s)", sql.len ? " AND " : "", outside_of(work, range->from, range->to));
	}
	return psprintf("%s IS NULL OR (%s)", cm_partition_key_name(work->parent), sql.data);
}

/* That a row belongs into a range. */
char *
cm_partition_inside(const CmPartitionWork *work, int64 from, int64 to)
{
	char	   *low = comparison(work, ">=", from);
	char	   *high = comparison(work, "<", to);

	return psprintf("%s IS NOT NULL%s%s%s%s", cm_partition_key_name(work->parent),
					low ? " AND " : "", low ? low : "",
					high ? " AND " : "", high ? high : "");
}

/* That no row belongs into any of the leaves to create. */
static char *
outside_of_leaves(const CmPartitionWork *work)
{
	List	   *leaves = NIL;
	ListCell   *lc;

	foreach(lc, work->leaves)
	{
		if (((CmLeaf *) lfirst(lc))->kind == CM_LEAF_CREATE)
			leaves = lappend(leaves, lfirst(lc));
	}
	return none_for(work, leaves);
}

/*
 * Before the pass's empty leaves are attached: see to it that core need not
 * scan the default partition for each, if it is large.  False if that was put
 * off; true also if there is nothing to prove or the proof does not hold (then
 * the next pass knows about the row).
 */
bool
cm_partition_prove(const CmPartitionWork *work)
{
	char	   *condition = NULL;
	char	   *relation = NULL;
	List	   *wishes = NIL;

	if (!OidIsValid(work->rest))
		return true;
	cm_transaction_begin(GetSessionUserId());
	if (cm_partition_default_blocks(work->rest) >= SCAN_BLOCKS)
	{
		condition = outside_of_leaves(work);
		relation = cm_relation_quoted(work->rest);
		wishes = cm_partition_wishes(work->parent, InvalidOid, CM_STEP_ATTACH);
	}
	cm_transaction_commit();
	if (condition == NULL)
		return true;
	cm_progress_report(0, list_length(work->leaves), "looking whether the default partition is free of rows");
	return add_proof(work->rest, work->owner, relation, condition, wishes);
}

/* After the pass, or after one that crashed.  False if it was put off. */
bool
cm_partition_prove_no_more(const CmPartitionWork *work)
{
	return drop_proof(work->rest, work->owner);
}

/* What rebind_step() works on. */
typedef struct Rebind
{
	CmLeaf	   *leaf;
	Oid			rest;
	char	   *rest_name;		/* quoted, without the schema */
	char	   *new_rest;		/* quoted */
} Rebind;

/* The exchange itself, in one transaction. */
static void
rebind_step(void *arg)
{
	Rebind	   *rebind = arg;
	CmLeaf	   *leaf = rebind->leaf;
	List	   *existing;
	CmScope		scope;
	char	   *parent;
	char	   *old_schema;
	char	   *schema;

	cm_partition_enter(&scope, leaf->owner);
	LockRelationOid(leaf->parent, AccessExclusiveLock);
	existing = cm_partition_existing(leaf->parent, &leaf->axis);
	leaf->stale = get_default_partition_oid(leaf->parent) != rebind->rest ||
		cm_partition_overlapping(existing, leaf->from, leaf->to) != NULL;
	if (!leaf->stale)
	{
		parent = cm_relation_quoted(leaf->parent);
		old_schema = pstrdup(quote_identifier(cm_relation_schema(rebind->rest)));
		schema = pstrdup(quote_identifier(cm_relation_schema(leaf->parent)));
		cm_partition_execute(psprintf("ALTER TABLE %s DETACH PARTITION %s", parent, cm_relation_quoted(rebind->rest)));
		cm_partition_execute(psprintf("ALTER TABLE %s RENAME TO %s", cm_relation_quoted(rebind->rest),
									  quote_identifier(leaf->name)));
		cm_partition_execute(psprintf("ALTER TABLE %s ATTACH PARTITION %s.%s %s",
									  parent, old_schema, quote_identifier(leaf->name),
									  cm_partition_bounds_sql(existing, &leaf->axis, leaf->from, leaf->to)));
		cm_partition_execute(psprintf("ALTER TABLE %s.%s DROP CONSTRAINT " PROOF_NAME,
									  old_schema, quote_identifier(leaf->name)));
		cm_partition_execute(psprintf("ALTER TABLE %s RENAME TO %s", rebind->new_rest, rebind->rest_name));
		cm_partition_execute(psprintf("ALTER TABLE %s ATTACH PARTITION %s.%s DEFAULT",
									  parent, schema, rebind->rest_name));
		cm_partition_execute(psprintf("COMMENT ON TABLE %s.%s IS NULL", schema, rebind->rest_name));
	}
	cm_scope_leave(&scope);
}

/* What is to be exchanged, in a transaction of its own.  NULL: nothing any more. */
static char *
prepare_rebind(Rebind *rebind, CmLeaf *rest_leaf, char **condition)
{
	CmLeaf	   *leaf = rebind->leaf;
	CmPartitionWork work = {.parent = leaf->parent};
	char	   *relation = NULL;

	cm_transaction_begin(GetSessionUserId());
	rebind->rest = get_default_partition_oid(leaf->parent);
	if (OidIsValid(rebind->rest))
	{
		work.settings.axis = leaf->axis;
		work.existing = cm_partition_existing(leaf->parent, &leaf->axis);
		*condition = cm_partition_inside(&work, leaf->from, leaf->to);
		relation = cm_relation_quoted(rebind->rest);
		rebind->rest_name = pstrdup(quote_identifier(cm_relation_name(rebind->rest)));

		*rest_leaf = *leaf;
		strlcpy(rest_leaf->name, cm_partition_name(cm_relation_name(leaf->parent), REST_NAME), NAMEDATALEN);
		rest_leaf->from = DT_NOBEGIN;
		rest_leaf->to = DT_NOBEGIN;
		rebind->new_rest = cm_partition_leaf_quoted(rest_leaf);
	}
	cm_transaction_commit();
	return relation;
}

/*
 * Let the default partition become the partition leaf, with an empty default
 * partition in its place.  In no transaction.
 */
CmLeafResult
cm_partition_rebind(CmLeaf *leaf)
{
	Rebind		rebind = {.leaf = leaf};
	CmLeaf		rest_leaf;
	char	   *condition;
	char	   *relation = prepare_rebind(&rebind, &rest_leaf, &condition);
	List	   *wishes;

	if (relation == NULL)
		return CM_LEAF_STALE;
	cm_transaction_begin(GetSessionUserId());
	wishes = cm_partition_wishes(leaf->parent, InvalidOid, CM_STEP_REBIND);
	cm_transaction_commit();
	if (!add_proof(rebind.rest, leaf->owner, relation, condition, wishes))
		return CM_LEAF_DEFERRED;
	if (!cm_attempt_commit(cm_partition_leaf_create, &rest_leaf, leaf->owner, NIL))
		return CM_LEAF_DEFERRED;
	if (cm_attempt_commit(rebind_step, &rebind, leaf->owner, wishes) && !leaf->stale)
		return CM_LEAF_MADE;
	(void) cm_attempt_commit(cm_partition_leaf_drop, &rest_leaf, leaf->owner, NIL);
	(void) drop_proof(rebind.rest, leaf->owner);
	return leaf->stale ? CM_LEAF_STALE : CM_LEAF_DEFERRED;
}
