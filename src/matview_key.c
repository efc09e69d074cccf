/*-------------------------------------------------------------------------
 *
 * matview_key.c
 *	  Which columns of a materialized view tell its rows apart.
 *
 * REFRESH CONCURRENTLY needs a unique index, and who forgot it wants to know
 * on what.  The view's own query often says: grouped rows differ in what they
 * are grouped by, distinct rows in all columns.  Read from the stored query
 * tree; nothing is locked and no data looked at.
 *
 * What it does not do: prove uniqueness from keys of the tables beneath.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_rewrite.h"
#include "lib/stringinfo.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "matview.h"

/* The query of a view as its rule stores it, or NULL; takes no lock on the view. */
Query *
cm_matview_read_query(Oid relid)
{
	Relation	rewrite = table_open(RewriteRelationId, AccessShareLock);
	Query	   *query = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_rewrite_ev_class, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rewrite, RewriteRelRulenameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		action = heap_getattr(tuple, Anum_pg_rewrite_ev_action,
										  RelationGetDescr(rewrite), &isnull);

		if (!isnull)
			query = linitial_node(Query, (List *) stringToNode(TextDatumGetCString(action)));
	}
	systable_endscan(scan);
	table_close(rewrite, AccessShareLock);
	return query;
}

/* Append a column's name. */
static void
append_column(StringInfo columns, const TargetEntry *entry)
{
	if (columns->len > 0)
		appendStringInfoString(columns, ", ");
	appendStringInfoString(columns, quote_identifier(entry->resname));
}

/*
 * A list of columns, quoted and separated by commas, that is sure to be
 * unique; NULL if the query does not tell.
 */
char *
cm_matview_suggest_key(Oid relid)
{
	Query	   *query = cm_matview_read_query(relid);
	StringInfoData columns;
	List	   *clauses;
	ListCell   *cell;

	if (query == NULL || query->hasTargetSRFs || query->groupingSets != NIL ||
		query->setOperations != NULL)
		return NULL;
	clauses = query->distinctClause != NIL ? query->distinctClause : query->groupClause;
	initStringInfo(&columns);
	foreach(cell, clauses)
	{
		TargetEntry *entry = get_sortgroupclause_tle(lfirst(cell), query->targetList);

		if (entry->resjunk)
			return NULL;
		append_column(&columns, entry);
	}
	return columns.len > 0 ? columns.data : NULL;
}
