/*-------------------------------------------------------------------------
 *
 * matview_history_make.c
 *	  Make the table that keeps a view's history, and a view over both.
 *
 * For a materialized view v, in its schema and as its owner:
 *
 *	 v_history		  an ordinary table with the columns of v, in which the
 *					  columns that v is grouped by are unique
 *	 v_with_history	  a view: the rows of v_history, and those of v of which
 *					  there is none in v_history
 *
 * The grouped columns, and not those of some unique index of v, tell rows
 * apart for all time: an index that leaves the time out holds for what v has
 * at a time, and would make history meet itself.
 *
 * Equal is what GROUP BY calls equal, NULL included, by operators that are
 * named with their schema.  The bucket of the source's time comes first and
 * without a test for NULL, so the planner can hash by it.
 *
 * Who has SELECT on v or columns of it gets the same on both; what default
 * privileges would add is taken away.  Names that are taken are an error before
 * anything is made.
 *
 * Locks: those of the statements; on v AccessShareLock, which only a first
 * fill keeps waiting.  After an error the transaction undoes everything.
 *
 * What it does not do: follow a change of privileges or owner later on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "matview_history.h"

/* The two relations; names are quoted, with their schema. */
typedef struct Making
{
	Oid			view;
	Oid			owner;
	const CmMatviewPlan *plan;
	char	   *view_name;
	char	   *table_name;
	char	   *union_name;
} Making;

/* A name that is free, for a relation beside the view; an error if it is taken. */
static char *
free_name(Oid view, const char *suffix)
{
	Oid			schema = get_rel_namespace(view);
	char	   *name = makeObjectName(cm_relation_name(view), NULL, suffix);
	char	   *quoted = quote_qualified_identifier(get_namespace_name(schema), name);

	if (OidIsValid(get_relname_relid(name, schema)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists", name),
				 errdetail("It has the name that a relation for the history of materialized view \"%s\" would have.",
						   get_rel_name(view)),
				 errhint("Rename it, ALTER TABLE %s RENAME TO ..., or drop it; rows of an earlier history can be inserted into the new one.",
						 quoted)));
	return quoted;
}

/* An operator with its schema, as SQL. */
static char *
operator_sql(Oid op)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(op));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", op);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/* The grouped columns, quoted and separated by commas. */
static char *
grouped_columns(const Making *making)
{
	StringInfoData list;
	ListCell   *lc;

	initStringInfo(&list);
	foreach(lc, making->plan->query->groupClause)
	{
		TargetEntry *entry = get_sortgroupclause_tle(lfirst(lc), making->plan->query->targetList);

		appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
						 quote_identifier(get_attname(making->view, entry->resno, false)));
	}
	return list.data;
}

/* Are rows h and v of one group?  As SQL; see above for the order. */
static char *
same_group(const Making *making)
{
	int			key = cm_matview_history_key(making->plan);
	AttrNumber	bucket = key >= 0 ? making->plan->keys[key].attno : InvalidAttrNumber;
	char	   *first = NULL;
	StringInfoData rest;
	ListCell   *lc;

	initStringInfo(&rest);
	foreach(lc, making->plan->query->groupClause)
	{
		SortGroupClause *clause = lfirst(lc);
		TargetEntry *entry = get_sortgroupclause_tle(clause, making->plan->query->targetList);
		const char *column = quote_identifier(get_attname(making->view, entry->resno, false));
		char	   *equal = psprintf("h.%s %s v.%s", column, operator_sql(clause->eqop), column);

		if (entry->resno == bucket)
			first = equal;
		else
			appendStringInfo(&rest, " AND (%s OR (h.%s IS NULL AND v.%s IS NULL))", equal, column, column);
	}
	return psprintf("%s%s", first != NULL ? first : "true", rest.data);
}

/* Run each statement that a query on our catalog's behalf answers, as the owner. */
static void
run_each(const Making *making, const char *query, Oid relid, const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[3] = {OIDOID, OIDOID, TEXTOID};
	Datum		values[3] = {ObjectIdGetDatum(making->view), ObjectIdGetDatum(relid), CStringGetTextDatum(name)};
	List	   *statements = NIL;
	ListCell   *lc;
	CmScope		scope;

	cm_catalog_enter(&scope);
	(void) SPI_execute_with_args(query, 3, types, values, NULL, false, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *statement = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		MemoryContext spi = MemoryContextSwitchTo(caller);

		statements = lappend(statements, pstrdup(statement));
		MemoryContextSwitchTo(spi);
	}
	cm_scope_leave(&scope);
	foreach(lc, statements)
		cm_run_as(making->owner, lfirst(lc));
}

#define GRANTEE "CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END"

/* Who may read the view may read what was made, and nobody else. */
static void
copy_privileges(const Making *making, const char *name)
{
	Oid			relid;

	CommandCounterIncrement();
	relid = DatumGetObjectId(DirectFunctionCall1(regclassin, CStringGetDatum(name)));
	run_each(making,
			 "SELECT format('REVOKE ALL ON TABLE %s FROM %s', $3, " GRANTEE ")"
			 "  FROM pg_class c, LATERAL aclexplode(c.relacl) a"
			 " WHERE c.oid = $2 AND a.grantee <> c.relowner AND $1 IS NOT NULL GROUP BY a.grantee",
			 relid, name);
	run_each(making,
			 "SELECT format('GRANT SELECT ON TABLE %s TO %s%s', $3, " GRANTEE ","
			 "              CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)"
			 "  FROM pg_class c, LATERAL aclexplode(c.relacl) a"
			 " WHERE c.oid = $1 AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner AND $2 IS NOT NULL"
			 " UNION ALL "
			 "SELECT format('GRANT SELECT (%I) ON TABLE %s TO %s%s', t.attname, $3, " GRANTEE ","
			 "              CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)"
			 "  FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, LATERAL aclexplode(t.attacl) a"
			 " WHERE c.oid = $1 AND t.attnum > 0 AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner",
			 relid, name);
}

/*
 * Make both, for a view for which cm_matview_history_check() found nothing in
 * the way.  Returns the oid of the table.
 */
Oid
cm_matview_history_make(Oid view, const CmMatviewPlan *plan)
{
	Making		making = {.view = view,.owner = cm_relation_owner(view),.plan = plan};

	making.view_name = cm_relation_quoted(view);
	making.table_name = free_name(view, "history");
	making.union_name = free_name(view, "with_history");
	cm_run_as(making.owner, psprintf("CREATE TABLE %s (LIKE %s)", making.table_name, making.view_name));
	cm_run_as(making.owner, psprintf("CREATE UNIQUE INDEX ON %s (%s) NULLS NOT DISTINCT",
									 making.table_name, grouped_columns(&making)));
	cm_run_as(making.owner,
			  psprintf("CREATE VIEW %s AS SELECT h.* FROM %s h UNION ALL SELECT v.* FROM %s v"
					   " WHERE NOT EXISTS (SELECT FROM %s h WHERE %s)",
					   making.union_name, making.table_name, making.view_name,
					   making.table_name, same_group(&making)));
	cm_run_as(making.owner, psprintf("COMMENT ON TABLE %s IS %s", making.table_name,
									 quote_literal_cstr(psprintf("rows of materialized view %s, as they were before their partitions retired",
																 making.view_name))));
	cm_run_as(making.owner, psprintf("COMMENT ON VIEW %s IS %s", making.union_name,
									 quote_literal_cstr(psprintf("rows of %s, and of %s where it has none",
																 making.table_name, making.view_name))));
	copy_privileges(&making, making.table_name);
	copy_privileges(&making, making.union_name);
	return DatumGetObjectId(DirectFunctionCall1(regclassin, CStringGetDatum(making.table_name)));
}
