/*-------------------------------------------------------------------------
 *
 * partition_leftover.c
 *	  What was to become a partition and never did.
 *
 * A leaf is made in two steps, between which it is a table with a comment
 * that begins with CM_PARTITION_MARK and ends with the parent's name.  One
 * that stays behind (a crash, a lock that was not to be had to drop it, an
 * error of the attaching) is found by that comment and dropped by the next
 * pass with nothing to make, or by whoever forgets the set.
 *
 * What splitting a default partition leaves (partition_split.c) bears another
 * comment, CM_SPLIT_MARK, and holds copies of rows that are elsewhere, so it is
 * dropped with its rows; the staging table first, with all that is attached to
 * it.  The trigger that writes to one of these tables has to be gone before.
 *
 * Locks: finding takes none.  Dropping takes SHARE UPDATE EXCLUSIVE on the
 * parent, so as not to meet a worker between its two steps, and ACCESS
 * EXCLUSIVE on the table; the caller brings deadline and (sub)transaction,
 * whose abort is all the cleanup.
 *
 * What it does not do: find leftovers of a parent that was renamed since, or
 * drop what has a row and is no copy, or is not of the role that the caller may
 * act for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "partition.h"

/* As much of a table's name as its partitions' names begin with, at the least. */
#define NAME_PREFIX		16

/*
 * The leftovers of a table, as CmLeftover: marked with its name, and owned by
 * a role that userid may act for.  parent can be InvalidOid, if it is gone.
 */
List *
cm_partition_leftovers(Oid parent, const char *schema_name, const char *table_name, Oid userid)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *leftovers = NIL;
	Oid			types[5] = {TEXTOID, OIDOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[5];
	CmScope		scope;

	values[0] = CStringGetTextDatum(psprintf(CM_PARTITION_MARK "%s",
											 quote_qualified_identifier(schema_name, table_name)));
	values[1] = ObjectIdGetDatum(userid);
	values[2] = CStringGetTextDatum(schema_name);
	values[3] = CStringGetTextDatum(pnstrdup(table_name, pg_mbcliplen(table_name, strlen(table_name), NAME_PREFIX)));
	values[4] = CStringGetTextDatum(psprintf(CM_SPLIT_MARK "%s",
											 quote_qualified_identifier(schema_name, table_name)));
	cm_catalog_enter(&scope);

	/*
	 * By the beginning of the name, which an index has; not by the comment.
	 * E'' because the session can have standard_conforming_strings off.
	 */
	cm_query("SELECT c.oid, c.relowner, c.is_copy"
			 "  FROM (SELECT *, obj_description(oid, 'pg_class') = $5 AS is_copy FROM pg_class) c"
			 " WHERE c.relname LIKE replace(replace(replace($4, E'\\\\', E'\\\\\\\\'), '%', E'\\\\%'), '_', E'\\\\_') || '%'"
			 "   AND c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = $3)"
			 "   AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
			 "   AND (c.is_copy OR c.relkind = 'r' AND obj_description(c.oid, 'pg_class') = $1)"
			 "   AND pg_has_role($2, c.relowner, 'USAGE')"
			 " ORDER BY c.relkind, c.relname",
			 5, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		CmLeftover *leftover = palloc(sizeof(CmLeftover));
		bool		isnull;

		leftover->relid = DatumGetObjectId(SPI_getbinval(row, desc, 1, &isnull));
		leftover->owner = DatumGetObjectId(SPI_getbinval(row, desc, 2, &isnull));
		leftover->is_copy = DatumGetBool(SPI_getbinval(row, desc, 3, &isnull));
		leftover->parent = parent;
		leftovers = lappend(leftovers, leftover);
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return leftovers;
}

/* Is it still what was found?  Caller holds its lock. */
static bool
is_leftover(const CmLeftover *leftover)
{
	const char *mark = leftover->is_copy ? CM_SPLIT_MARK : CM_PARTITION_MARK;
	char	   *comment;

	if (get_rel_name(leftover->relid) == NULL ||
		get_rel_relispartition(leftover->relid) ||
		cm_relation_owner(leftover->relid) != leftover->owner)
		return false;
	comment = GetComment(leftover->relid, RelationRelationId, 0);
	return comment != NULL && strncmp(comment, mark, strlen(mark)) == 0;
}

/* Drop a leftover as its owner, unless it has become something else. */
void
cm_partition_leftover_drop(void *arg)
{
	CmLeftover *leftover = arg;
	CmScope		scope;

	if (OidIsValid(leftover->parent))
		LockRelationOid(leftover->parent, ShareUpdateExclusiveLock);
	LockRelationOid(leftover->relid, AccessExclusiveLock);
	if (!is_leftover(leftover))
		return;

	cm_owner_enter(&scope, leftover->owner, false);
	cm_scope_connect(&scope);
	if (!leftover->is_copy)
		SPI_execute(psprintf("SELECT FROM ONLY %s", cm_relation_quoted(leftover->relid)), false, 1);
	if (leftover->is_copy || SPI_processed == 0)
		SPI_execute(psprintf("DROP TABLE %s", cm_relation_quoted(leftover->relid)), false, 0);
	cm_scope_leave(&scope);
}
