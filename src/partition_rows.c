/*-------------------------------------------------------------------------
 *
 * partition_rows.c
 *	  What the rows of a set say: how far numbers have come, what lies in a
 *	  default partition, what references a partition.
 *
 * Where the key is a number there is no clock; the greatest number in the
 * newest partition that has a row stands for now.  Rows of the default
 * partition do not count: one absurd value would make thousands of
 * partitions.
 *
 * A default partition is looked at only if it has a page.  Then two queries
 * are made of it: its least key, which an index on the key answers at once,
 * and a count by period, which reads it whole.
 *
 * Everything is read as the parent's owner, with SECURITY_RESTRICTED_OPERATION
 * and a pinned search_path.  Locks: ACCESS SHARE on what is read, waited for
 * no longer than the deadline (SQLSTATE 55P03 then), until the transaction
 * ends.
 *
 * What it does not do: change anything, or decide.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_partitioned_table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "partition.h"

/*
 * Become the parent's owner, with SPI, and wait for no lock for long.  Row
 * security that would hide rows is an error, and no function of a policy of
 * somebody else's table is run.
 */
static void
enter(CmScope *scope, Oid parent)
{
	cm_owner_enter(scope, cm_relation_owner(parent), true);
	cm_lock_waits_limit();
	cm_partition_see_all_rows();
	cm_scope_connect(scope);
}

static void
select_rows(const char *sql)
{
	if (SPI_execute(sql, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute failed: %s", sql);
}

/* The partition key's column, quoted. */
char *
cm_partition_key_name(Oid parent)
{
	HeapTuple	tuple = SearchSysCache1(PARTRELID, ObjectIdGetDatum(parent));
	AttrNumber	attnum;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for partition key of %u", parent);
	attnum = ((Form_pg_partitioned_table) GETSTRUCT(tuple))->partattrs.values[0];
	ReleaseSysCache(tuple);
	return pstrdup(quote_identifier(get_attname(parent, attnum, false)));
}

/* All columns of a table that a row can be given, quoted, with commas. */
char *
cm_partition_columns(Oid parent)
{
	Relation	rel = table_open(parent, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped && attribute->attgenerated == '\0')
			appendStringInfo(&names, "%s%s", names.len ? ", " : "",
							 quote_identifier(NameStr(attribute->attname)));
	}
	table_close(rel, AccessShareLock);
	return names.data;
}

/* A value of the first row as a point; false if it is null. */
static bool
first_point(const CmAxis *axis, int number, int64 *point)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);

	if (!isnull)
		*point = cm_axis_value_point(axis, value);
	return !isnull;
}

/* key::its base type: domains are seen through. */
static char *
key_value(Oid parent, const CmAxis *axis)
{
	return psprintf("%s::%s", cm_partition_key_name(parent), format_type_be(axis->key_type));
}

/*
 * The greatest number in the newest partition that has a row.  Returns false
 * if none has.
 */
bool
cm_partition_newest_number(Oid parent, const List *existing, const CmAxis *axis, int64 *newest)
{
	List	   *sorted = list_copy(existing);
	bool		found = false;
	CmScope		scope;

	list_sort(sorted, cm_partition_compare);
	enter(&scope, parent);
	for (int i = list_length(sorted) - 1; i >= 0 && !found; i--)
	{
		CmPartition *partition = list_nth(sorted, i);

		if (partition->is_default || partition->is_pending ||
			get_rel_name(partition->relid) == NULL)
			continue;
		select_rows(psprintf("SELECT max(%s) FROM %s",
							 cm_partition_key_name(parent), cm_relation_quoted(partition->relid)));
		found = first_point(axis, 1, newest);
	}
	cm_scope_leave(&scope);
	return found;
}

/* Is there a page in the table, or in any of its partitions? */
static bool
has_pages(Oid relid)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	bool		result;

	if (rel == NULL)
		return false;
	result = rel->rd_rel->relkind != RELKIND_RELATION || RelationGetNumberOfBlocks(rel) > 0;
	relation_close(rel, NoLock);
	return result;
}

/*
 * The least key in the default partition.  Returns false if there is none, or
 * none that is not null.
 */
bool
cm_partition_default_low(Oid parent, Oid rest, const CmAxis *axis, int64 *low)
{
	bool		found;
	CmScope		scope;

	enter(&scope, parent);
	found = has_pages(rest);
	if (found)
	{
		select_rows(psprintf("SELECT (SELECT %s FROM %s ORDER BY 1 LIMIT 1)",
							 key_value(parent, axis), cm_relation_quoted(rest)));
		found = first_point(axis, 1, low);
	}
	cm_scope_leave(&scope);
	return found;
}

/*
 * The bounds of the pieces, each once, as an array of the key's type; and which
 * piece each opens.  A piece without a beginning is what lies before the first.
 */
static char *
bounds_array(const CmAxis *axis, List *pieces, CmPartitionPlanned **opened)
{
	StringInfoData sql;
	int			count = 0;
	CmPartitionPlanned *before = NULL;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, pieces)
	{
		CmPartitionPlanned *piece = lfirst(lc);

		if (piece->from != DT_NOBEGIN && (before == NULL || before->to != piece->from))
		{
			appendStringInfo(&sql, "%s%s", count ? ", " : "",
							 quote_literal_cstr(cm_axis_literal(axis, piece->from)));
			count++;
		}
		opened[count] = piece;
		if (piece->to != DT_NOEND)
		{
			appendStringInfo(&sql, "%s%s", count ? ", " : "",
							 quote_literal_cstr(cm_axis_literal(axis, piece->to)));
			count++;
		}
		before = piece;
	}
	return psprintf("ARRAY[%s]::%s[]", sql.data, format_type_be(axis->key_type));
}

/*
 * Count the rows of the default partition that belong into each piece
 * (CmPartitionPlanned, in order, apart from each other), in its rows field.
 * Returns how many belong into none.
 */
int64
cm_partition_default_count(Oid parent, Oid rest, const CmAxis *axis, List *pieces)
{
	CmPartitionPlanned **opened = palloc0(sizeof(CmPartitionPlanned *) * (2 * list_length(pieces) + 2));
	char	   *bounds = bounds_array(axis, pieces, opened);
	int64		others = 0;
	CmScope		scope;

	enter(&scope, parent);
	if (pieces == NIL)
		select_rows(psprintf("SELECT NULL::integer, count(*) FROM %s", cm_relation_quoted(rest)));
	else
		select_rows(psprintf("SELECT width_bucket(%s, %s), count(*) FROM %s GROUP BY 1",
							 key_value(parent, axis), bounds, cm_relation_quoted(rest)));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		no_key;
		bool		isnull;
		int			bucket = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &no_key));
		int64		rows = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));

		if (!no_key && opened[bucket] != NULL)
			opened[bucket]->rows = rows;
		else
			others += rows;
	}
	cm_scope_leave(&scope);
	return others;
}

/*
 * The query that counts the rows of each referencing table that reference a
 * row of the partition, by the foreign keys' own operators: one row with the
 * text per foreign key, and whether the owner may not read it all.
 */
static const char *const reference_queries =
"SELECT c.conrelid::regclass::text, c.conname,"
"       format('SELECT count(*) FROM %s f WHERE EXISTS (SELECT FROM %s p WHERE %s)',"
"              c.conrelid::regclass, $2::regclass,"
"              string_agg(format('p.%I OPERATOR(%I.%s) f.%I', pa.attname, n.nspname, o.oprname, fa.attname), ' AND ' ORDER BY k.ord)),"
"       NOT (has_table_privilege(c.conrelid, 'SELECT') AND has_table_privilege($2, 'SELECT'))"
"       OR row_security_active(c.conrelid) OR row_security_active($2)"
"  FROM pg_constraint c,"
"       LATERAL unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY k (fk, pk, op, ord),"
"       pg_attribute fa, pg_attribute pa, pg_operator o, pg_namespace n"
" WHERE c.contype = 'f' AND c.confrelid = $1 AND c.conparentid = 0"
"   AND fa.attrelid = c.conrelid AND fa.attnum = k.fk"
"   AND pa.attrelid = c.confrelid AND pa.attnum = k.pk"
"   AND o.oid = k.op AND n.oid = o.oprnamespace"
" GROUP BY c.oid, c.conrelid, c.conname ORDER BY 1, 2";

/*
 * What references rows of the partition, in words with counts, or NULL if
 * nothing does.  What the owner may not read counts as referencing it: the
 * DETACH reads it as the owner, too.
 */
char *
cm_partition_references(Oid parent, Oid leaf)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2];
	StringInfoData text;
	SPITupleTable *keys;
	uint64		count;
	CmScope		scope;

	initStringInfo(&text);
	values[0] = ObjectIdGetDatum(parent);
	values[1] = ObjectIdGetDatum(leaf);
	enter(&scope, parent);
	if (SPI_execute_with_args(reference_queries, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed");
	keys = SPI_tuptable;
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		int64		rows;

		if (DatumGetBool(SPI_getbinval(keys->vals[i], keys->tupdesc, 4, &isnull)))
		{
			appendStringInfo(&text, "%sreferenced by table %s (foreign key \"%s\"), which role \"%s\" may not read",
							 text.len ? ", " : "",
							 SPI_getvalue(keys->vals[i], keys->tupdesc, 1),
							 SPI_getvalue(keys->vals[i], keys->tupdesc, 2),
							 GetUserNameFromId(GetUserId(), false));
			continue;
		}
		select_rows(SPI_getvalue(keys->vals[i], keys->tupdesc, 3));
		rows = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		if (rows == 0)
			continue;
		appendStringInfo(&text, "%sreferenced by " INT64_FORMAT " row%s of table %s (foreign key \"%s\")",
						 text.len ? ", " : "", rows, rows == 1 ? "" : "s",
						 SPI_getvalue(keys->vals[i], keys->tupdesc, 1),
						 SPI_getvalue(keys->vals[i], keys->tupdesc, 2));
	}
	cm_scope_leave(&scope);
	MemoryContextSwitchTo(context);
	return text.len > 0 ? text.data : NULL;
}
