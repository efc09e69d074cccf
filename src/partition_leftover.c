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

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/comment.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "partition.h"

/* As much of a table's name as its partitions' names begin with, at the least. */
#define NAME_PREFIX		16

/* The two comments that a leftover of one table can have. */
typedef struct Marks
{
	char	   *leaf;
	char	   *copy;
} Marks;

/* The relation as a leftover, or NULL if it is none. */
static CmLeftover *
read_leftover(Form_pg_class form, const Marks *marks, Oid parent)
{
	char	   *comment;
	CmLeftover *leftover;
	bool		is_copy;

	if (form->relispartition ||
		(form->relkind != RELKIND_RELATION && form->relkind != RELKIND_PARTITIONED_TABLE))
		return NULL;
	comment = GetComment(form->oid, RelationRelationId, 0);
	if (comment == NULL)
		return NULL;
	is_copy = strcmp(comment, marks->copy) == 0;
	if (!is_copy && (form->relkind != RELKIND_RELATION || strcmp(comment, marks->leaf) != 0))
		return NULL;
	leftover = palloc(sizeof(CmLeftover));
	leftover->relid = form->oid;
	leftover->owner = form->relowner;
	leftover->parent = parent;
	leftover->is_copy = is_copy;
	return leftover;
}

/*
 * Those of a schema whose names begin so and that userid may act for.  By the
 * beginning of the name, which an index has, and not by the comment; and not
 * as a query, whose plan would have to be made for each name anew.
 */
static List *
scan_names(Oid schema, const char *prefix, Oid userid, const Marks *marks, Oid parent)
{
	Relation	classes = table_open(RelationRelationId, AccessShareLock);
	Relation	by_name = index_open(ClassNameNspIndexId, AccessShareLock);
	List	   *leftovers = NIL;
	NameData	first;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	namestrcpy(&first, prefix);
	ScanKeyInit(&key, Anum_pg_class_relname, BTGreaterEqualStrategyNumber, F_NAMEGE,
				NameGetDatum(&first));
	scan = systable_beginscan_ordered(classes, by_name, NULL, 1, &key);
	while ((tuple = systable_getnext_ordered(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);
		CmLeftover *leftover;

		if (strncmp(NameStr(form->relname), prefix, strlen(prefix)) != 0)
			break;
		if (form->relnamespace != schema || !has_privs_of_role(userid, form->relowner))
			continue;
		leftover = read_leftover(form, marks, parent);
		if (leftover != NULL)
			leftovers = form->relkind == RELKIND_PARTITIONED_TABLE ?
				lcons(leftover, leftovers) : lappend(leftovers, leftover);
	}
	systable_endscan_ordered(scan);
	index_close(by_name, AccessShareLock);
	table_close(classes, AccessShareLock);
	return leftovers;
}

/*
 * The leftovers of a table, as CmLeftover, a staging table first: marked with
 * its name, and owned by a role that userid may act for.  parent can be
 * InvalidOid, if it is gone.
 */
List *
cm_partition_leftovers(Oid parent, const char *schema_name, const char *table_name, Oid userid)
{
	Oid			schema = get_namespace_oid(schema_name, true);
	char	   *quoted = quote_qualified_identifier(schema_name, table_name);
	char	   *prefix = pnstrdup(table_name, pg_mbcliplen(table_name, strlen(table_name), NAME_PREFIX));
	Marks		marks = {psprintf(CM_PARTITION_MARK "%s", quoted), psprintf(CM_SPLIT_MARK "%s", quoted)};

	return OidIsValid(schema) ? scan_names(schema, prefix, userid, &marks, parent) : NIL;
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
