/*-------------------------------------------------------------------------
 *
 * matview_verify.c
 *	  Compare a materialized view with what its query says.
 *
 * Both are read under the snapshot of the calling statement, the query as the
 * view's owner, in the view's time zone, and with now() as it was in the last
 * refresh that we know of.  What differs is what was written since that
 * refresh, or what a refresh got wrong.
 *
 * Locks: AccessShareLock on the view and on what its query reads.  Nothing is
 * written; after an error the transaction's abort cleans up.
 *
 * What it does not do: say why a row differs, or excuse results that depend
 * on the order of rows, such as sums of floating-point numbers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "matview_merge.h"

PG_FUNCTION_INFO_V1(cm_verify_matview);

/* Where differences go. */
typedef struct Report
{
	ReturnSetInfo *result;
	Relation	view;
	const char *found_in;
} Report;

/* What now() was in the last refresh that we know of; false if we know of none. */
static bool
last_refresh(Oid view, TimestampTz *refreshed_at)
{
	Oid			types[3] = {OIDOID, TEXTOID, TEXTOID};
	Datum		values[3];
	CmScope		scope;
	bool		isnull = true;

	values[0] = ObjectIdGetDatum(view);
	values[1] = CStringGetTextDatum(cm_relation_schema(view));
	values[2] = CStringGetTextDatum(cm_relation_name(view));
	cm_catalog_enter(&scope);
	/* Read-only, so that it reads the snapshot that the view is read with. */
	(void) SPI_execute_with_args("SELECT greatest((SELECT refreshed_at FROM concertmaster.matview_track WHERE view = $1),"
								 " (SELECT last_refresh FROM concertmaster.matview_state"
								 "   WHERE schema_name = $2 AND view_name = $3))",
								 3, types, values, NULL, true, 1);
	if (SPI_processed > 0)
		*refreshed_at = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
														  1, &isnull));
	cm_scope_leave(&scope);
	return !isnull;
}

/* A row as text, into the result. */
static void
report_row(TupleTableSlot *slot, void *arg)
{
	Report	   *report = arg;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	HeapTuple	tuple;

	slot_getallattrs(slot);
	tuple = heap_form_tuple(RelationGetDescr(report->view), slot->tts_values, slot->tts_isnull);
	values[0] = CStringGetTextDatum(report->found_in);
	values[1] = CStringGetTextDatum(OidOutputFunctionCall(F_RECORD_OUT,
														  heap_copy_tuple_as_datum(tuple, RelationGetDescr(report->view))));
	tuplestore_putvalues(report->result->setResult, report->result->setDesc, values, nulls);
}

/* Compare, in the scope of the view's owner. */
static void
compare_view(Report *report, Query *query)
{
	CmClasses  *all = NULL;
	Tuplestorestate *rows = cm_matview_compute(query, &all);
	CmDiff	   *diff = cm_diff_make(report->view, NULL, rows);

	report->found_in = "view";
	(void) cm_diff_old(diff, report_row, report);
	report->found_in = "query";
	(void) cm_diff_new(diff, report_row, report);
	cm_diff_end(diff);
	tuplestore_end(rows);
}

/* verify_matview(view regclass): found_in, row_value */
Datum
cm_verify_matview(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Report		report = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
	CmMatviewSettings settings;
	TimestampTz refreshed_at = 0;
	Query	   *query;
	CmScope		scope;

	InitMaterializedSRF(fcinfo, 0);
	cm_matview_require(relid);
	report.view = table_open(relid, AccessShareLock);
	if (!RelationIsPopulated(report.view))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("materialized view \"%s\" has not been populated", get_rel_name(relid)),
				 errhint("Use concertmaster.refresh() or the REFRESH MATERIALIZED VIEW command.")));
	cm_matview_settings(relid, &settings);
	query = cm_matview_read_query(relid);
	if (last_refresh(relid, &refreshed_at))
		query = (Query *) cm_matview_fix_now((Node *) query, refreshed_at);

	cm_matview_owner_enter(&scope, report.view->rd_rel->relowner, settings.timezone, true);
	compare_view(&report, query);
	cm_scope_leave(&scope);
	table_close(report.view, NoLock);
	return (Datum) 0;
}
