/*-------------------------------------------------------------------------
 *
 * matview_history.c
 *	  Which materialized views have a history, and begin and end of it.
 *
 * A view has a history if its row in matview names the table.  That table
 * (matview_history_make.c) is the owner's own: nothing depends on us, and when
 * the history is ended, the view unmanaged or dropped or we are uninstalled,
 * it stays with its rows.  Its name is followed when it is renamed or moved
 * (relation_rename.c); if it was dropped, the view's partitions do not
 * retire, until its owner says whether there shall be a new one or none.
 *
 * Locks: none but those of the statements on our own tables.  After an error
 * the transaction undoes everything.
 *
 * What it does not do: fill it (matview_keep.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "matview_history.h"

#define QUERY \
	"SELECT v.schema_name, v.view_name, m.relid, v.history_schema, v.history_name, h.relid" \
	"  FROM concertmaster.matview v" \
	"  LEFT JOIN concertmaster.relation_map m ON (m.schema_name, m.relation_name) = (v.schema_name, v.view_name)" \
	"  LEFT JOIN concertmaster.relation_map h ON (h.schema_name, h.relation_name) = (v.history_schema, v.history_name)" \
	" WHERE v.history_name IS NOT NULL"

/* A column of a row of the last SPI result; NULL if null. */
static char *
value(int row, int column)
{
	return SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);
}

/*
 * The relation that a name and, if it is known, an oid mean.  The oid counts:
 * a rename that is not followed yet must not hide the relation.
 */
static Oid
find_relation(const char *schema_name, const char *relation_name, const char *relid)
{
	if (relid != NULL && SearchSysCacheExists1(RELOID, ObjectIdGetDatum(atooid(relid))))
		return atooid(relid);
	return cm_relation_resolve(schema_name, relation_name);
}

/* All views with a history, in the order of their oids; those that are gone left out. */
static List *
read_all(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *result = NIL;
	CmScope		scope;

	cm_catalog_enter(&scope);
	cm_query(QUERY " ORDER BY m.relid", 0, NULL, NULL, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(caller);
		CmHistory  *history = palloc0(sizeof(CmHistory));

		history->view = find_relation(value(i, 1), value(i, 2), value(i, 3));
		history->table = find_relation(value(i, 4), value(i, 5), value(i, 6));
		history->table_name = quote_qualified_identifier(value(i, 4), value(i, 5));
		if (OidIsValid(history->view) && get_rel_relkind(history->view) == RELKIND_MATVIEW)
			result = lappend(result, history);
		MemoryContextSwitchTo(spi);
	}
	cm_scope_leave(&scope);
	return result;
}

/* The history of a view; NULL if it has none. */
static CmHistory *
find_history(Oid view)
{
	ListCell   *lc;

	foreach(lc, read_all())
	{
		if (((CmHistory *) lfirst(lc))->view == view)
			return lfirst(lc);
	}
	return NULL;
}

/* Does a view read one of these tables? */
static bool
reads(Oid view, const List *relids)
{
	Query	   *query = cm_matview_read_query(view);
	ListCell   *lc;

	foreach(lc, query != NULL ? query->rtable : NIL)
	{
		const RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION && list_member_oid(relids, rte->relid))
			return true;
	}
	return false;
}

/*
 * The views with a history that partitions of the parent may be in, of
 * CmHistory.  Told by the query alone, so that nothing that makes a refresh
 * impossible makes a history be forgotten.
 */
List *
cm_matview_histories(Oid parent)
{
	List	   *all = read_all();
	List	   *result = NIL;
	List	   *relids;
	ListCell   *lc;

	if (all == NIL)
		return NIL;
	relids = lcons_oid(parent, get_rel_relispartition(parent) ? get_partition_ancestors(parent) : NIL);
	foreach(lc, all)
	{
		if (reads(((CmHistory *) lfirst(lc))->view, relids))
			result = lappend(result, lfirst(lc));
	}
	return result;
}

/* Write the history's name to the row of a view; InvalidOid: none. */
static void
write_history(Oid view, Oid table)
{
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[4] = {0};
	char		nulls[4] = {' ', ' ', OidIsValid(table) ? ' ' : 'n', OidIsValid(table) ? ' ' : 'n'};
	CmScope		scope;

	values[0] = CStringGetTextDatum(cm_relation_schema(view));
	values[1] = CStringGetTextDatum(cm_relation_name(view));
	if (OidIsValid(table))
	{
		values[2] = CStringGetTextDatum(cm_relation_schema(table));
		values[3] = CStringGetTextDatum(cm_relation_name(table));
	}
	cm_catalog_enter(&scope);
	if (OidIsValid(table))
		cm_relation_remember(table);
	cm_query("UPDATE concertmaster.matview SET history_schema = $3, history_name = $4"
			 " WHERE schema_name = $1 AND view_name = $2",
			 4, types, values, nulls);
	cm_scope_leave(&scope);
}

/* Refuse a history, with the reason. */
static void
report_refused(Oid view, const CmMatviewCheck *check)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot keep a history of materialized view \"%s\"", get_rel_name(view)),
			 errdetail_internal("%s", check->detail),
			 errhint("%s", check->hint)));
}

/*
 * Begin or end the history of a view that has a row in matview.  wanted: NULL
 * keeps what it was, which has to be possible still.
 */
void
cm_matview_history_set(Oid view, const CmMatviewPlan *plan, const bool *wanted)
{
	const CmHistory *history = find_history(view);
	const CmMatviewCheck *check;

	if (wanted == NULL ? history == NULL : !*wanted)
	{
		cm_matview_history_leave(view);
		if (history != NULL)
			write_history(view, InvalidOid);
		return;
	}
	check = cm_matview_history_check(plan);
	if (check != NULL)
		report_refused(view, check);
	if (history == NULL || (wanted != NULL && !OidIsValid(history->table)))
		write_history(view, cm_matview_history_make(view, plan));
}

/* Say of a view whose history ends that what there is of it stays. */
void
cm_matview_history_leave(Oid view)
{
	const CmHistory *history = find_history(view);

	if (history != NULL && OidIsValid(history->table))
		ereport(NOTICE,
				(errmsg("table %s stays with its rows, and is not filled any more",
						cm_relation_quoted(history->table)),
				 errhint("Drop it when it is of no use.")));
}
