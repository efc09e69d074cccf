/*-------------------------------------------------------------------------
 *
 * matview_manage.c
 *	  Which materialized views are kept fresh, and how each can be.
 *
 * The choice of how to refresh a view is made from catalog rows: CONCURRENTLY
 * where the view is filled and has an index that core accepts for it (unique,
 * valid, immediate, btree, whole rows, plain columns); plainly where it holds
 * nothing yet; plainly with its readers waiting only if its owner said so.
 * It is made anew for every refresh, because indexes come and go.
 *
 * A managed view whose query and owner allow it is refreshed incrementally
 * instead, once its tables log their changes; the job sees to that.
 *
 * A managed view has a row in matview and a job.  With every NULL somebody
 * else (pg_cron, say) refreshes it on schedule: the job then only runs on
 * request, so nothing is refreshed twice.
 *
 * Locks: none on the view.
 *
 * What it does not do: refresh (matview_refresh.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "matview_history.h"
#include "matview_query.h"

PG_FUNCTION_INFO_V1(cm_manage_matview);
PG_FUNCTION_INFO_V1(cm_unmanage_matview);
PG_FUNCTION_INFO_V1(cm_unmanage_matview_by_name);
PG_FUNCTION_INFO_V1(cm__matview_mode);

const char *const cm_matview_mode_names[] = {
	"none", "concurrently", "blocking", "first fill", "incremental", "full"
};

/* Refuse everything that is not a materialized view of the caller's. */
void
cm_matview_require(Oid relid)
{
	char		relkind = get_rel_relkind(relid);

	if (relkind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	cm_relation_require_owner(relid);
	if (relkind != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a materialized view", get_rel_name(relid)),
				 errdetail_relkind_not_supported(relkind)));
}

/* Would core take this index for REFRESH CONCURRENTLY? */
static bool
index_is_usable(HeapTuple tuple, TupleDesc desc)
{
	Form_pg_index index = (Form_pg_index) GETSTRUCT(tuple);
	HeapTuple	class_tuple;
	bool		btree;

	if (!index->indisunique || !index->indimmediate || !index->indisvalid ||
		index->indnatts == 0 || !heap_attisnull(tuple, Anum_pg_index_indpred, desc))
		return false;
	for (int i = 0; i < index->indnatts; i++)
	{
		if (index->indkey.values[i] <= 0)
			return false;
	}
	class_tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(index->indexrelid));
	if (!HeapTupleIsValid(class_tuple))
		return false;
	btree = ((Form_pg_class) GETSTRUCT(class_tuple))->relam == BTREE_AM_OID;
	ReleaseSysCache(class_tuple);
	return btree;
}

/* Has the view an index that REFRESH CONCURRENTLY can use? */
bool
cm_matview_has_usable_index(Oid relid)
{
	Relation	indexes = table_open(IndexRelationId, AccessShareLock);
	bool		found = false;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(indexes, IndexIndrelidIndexId, true, NULL, 1, &key);
	while (!found && (tuple = systable_getnext(scan)) != NULL)
		found = index_is_usable(tuple, RelationGetDescr(indexes));
	systable_endscan(scan);
	table_close(indexes, AccessShareLock);
	return found;
}

/* Does the view hold anything that can be read? */
bool
cm_matview_is_populated(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		populated;

	if (!HeapTupleIsValid(tuple))
		return false;
	populated = ((Form_pg_class) GETSTRUCT(tuple))->relispopulated;
	ReleaseSysCache(tuple);
	return populated;
}

/* How core can refresh a materialized view now, and why so. */
static CmMatviewChoice
choose_core(Oid relid, bool allow_blocking)
{
	CmMatviewChoice choice;

	if (!cm_matview_is_populated(relid))
	{
		choice.mode = CM_MATVIEW_FIRST_FILL;
		choice.reason = "it is not populated";
	}
	else if (cm_matview_has_usable_index(relid))
	{
		choice.mode = CM_MATVIEW_CONCURRENTLY;
		choice.reason = "it has a unique index";
	}
	else if (allow_blocking)
	{
		choice.mode = CM_MATVIEW_BLOCKING;
		choice.reason = "it has no unique index that is valid, immediate, without WHERE clause and on plain columns; its owner allows to block readers";
	}
	else
	{
		choice.mode = CM_MATVIEW_NONE;
		choice.reason = "it has no unique index that is valid, immediate, without WHERE clause and on plain columns";
	}
	return choice;
}

/* The first check that a query did not pass, for a reason; NULL if it passed all. */
static const char *
failed_check(const CmMatviewPlan *plan)
{
	ListCell   *cell;

	foreach(cell, plan->checks)
	{
		const CmMatviewCheck *check = lfirst(cell);

		if (!check->ok)
			return check->detail != NULL ? check->detail : check->reason_code;
	}
	return NULL;
}

/*
 * How to refresh a materialized view now, and why so.  plan is what is known
 * of its query, NULL if it is not managed, or has to be refreshed by core this
 * time whatever it is.
 */
CmMatviewChoice
cm_matview_choose(Oid relid, const CmMatviewSettings *settings, const CmMatviewPlan *plan)
{
	CmMatviewChoice choice = choose_core(relid, settings->allow_blocking);
	const char *failed = plan != NULL ? failed_check(plan) : NULL;

	if (choice.mode == CM_MATVIEW_FIRST_FILL)
		return choice;
	if (plan != NULL && plan->incremental)
	{
		choice.mode = CM_MATVIEW_INCREMENTAL;
		choice.reason = "its query says which groups a change touches";
	}
	else if (failed != NULL && choice.mode == CM_MATVIEW_CONCURRENTLY)
		choice.reason = failed;
	return choice;
}

/* Refuse to block readers unasked: say which index would help. */
void
cm_matview_report_blocking(Oid relid)
{
	char	   *columns = cm_matview_suggest_key(relid);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot refresh materialized view \"%s\" without blocking its readers",
					get_rel_name(relid)),
			 errdetail("It has no unique index that is valid, immediate, without WHERE clause and on plain columns."),
			 columns != NULL ?
			 errhint("CREATE UNIQUE INDEX ON %s (%s); or allow blocking with concertmaster.manage_matview(..., allow_blocking => true).",
					 cm_relation_quoted(relid), columns) :
			 errhint("CREATE UNIQUE INDEX ON %s (...) on columns that tell its rows apart; or allow blocking with concertmaster.manage_matview(..., allow_blocking => true).",
					 cm_relation_quoted(relid))));
}

/* What the owner decided: the view's row in matview, or what holds without one. */
void
cm_matview_settings(Oid relid, CmMatviewSettings *settings)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	CmScope		scope;

	values[0] = CStringGetTextDatum(cm_relation_schema(relid));
	values[1] = CStringGetTextDatum(cm_relation_name(relid));
	memset(settings, 0, sizeof(*settings));
	cm_catalog_enter(&scope);
	cm_query("SELECT v.allow_blocking, v.incremental, v.allow_inexact, v.timezone, s.not_logging_code, s.not_logging"
			 "  FROM concertmaster.matview v LEFT JOIN concertmaster.matview_state s USING (schema_name, view_name)"
			 " WHERE schema_name = $1 AND view_name = $2",
			 2, types, values, NULL);
	if (SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		settings->managed = true;
		settings->allow_blocking = DatumGetBool(SPI_getbinval(row, desc, 1, &isnull));
		settings->incremental = DatumGetBool(SPI_getbinval(row, desc, 2, &isnull));
		settings->allow_inexact = DatumGetBool(SPI_getbinval(row, desc, 3, &isnull));
		settings->timezone = MemoryContextStrdup(caller, SPI_getvalue(row, desc, 4));
		if (SPI_getvalue(row, desc, 6) != NULL)
		{
			settings->not_logging_code = MemoryContextStrdup(caller, SPI_getvalue(row, desc, 5));
			settings->not_logging = MemoryContextStrdup(caller, SPI_getvalue(row, desc, 6));
		}
	}
	cm_scope_leave(&scope);
}

/* Refuse periods that are none. */
static void
check_every(Interval *every)
{
	Interval	second = {.time = USECS_PER_SEC};

	if (DatumGetInt32(DirectFunctionCall2(interval_cmp, IntervalPGetDatum(every),
										  IntervalPGetDatum(&second))) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid refresh period: %s",
						DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(every)))),
				 errdetail("It must be at least one second."),
				 errhint("Use NULL for a view that something else refreshes on schedule.")));
}

/* Write the row of a managed view. */
static void
write_matview(Oid relid, Interval *every, const CmMatviewSettings *settings)
{
	Oid			types[7] = {TEXTOID, TEXTOID, INTERVALOID, BOOLOID, BOOLOID, BOOLOID, TEXTOID};
	Datum		values[7];
	char		nulls[7] = {' ', ' ', every ? ' ' : 'n', ' ', ' ', ' ', ' '};
	CmScope		scope;

	values[0] = CStringGetTextDatum(cm_relation_schema(relid));
	values[1] = CStringGetTextDatum(cm_relation_name(relid));
	values[2] = every ? IntervalPGetDatum(every) : (Datum) 0;
	values[3] = BoolGetDatum(settings->allow_blocking);
	values[4] = BoolGetDatum(settings->incremental);
	values[5] = BoolGetDatum(settings->allow_inexact);
	values[6] = CStringGetTextDatum(settings->timezone);
	cm_catalog_enter(&scope);
	cm_relation_remember(relid);
	SPI_execute_with_args("INSERT INTO concertmaster.matview"
						  " (schema_name, view_name, every, allow_blocking, incremental, allow_inexact, timezone)"
						  " VALUES ($1, $2, $3, $4, $5, $6, $7)"
						  " ON CONFLICT (schema_name, view_name) DO UPDATE"
						  "   SET every = EXCLUDED.every, allow_blocking = EXCLUDED.allow_blocking,"
						  "       incremental = EXCLUDED.incremental, allow_inexact = EXCLUDED.allow_inexact,"
						  "       timezone = EXCLUDED.timezone",
						  7, types, values, nulls, false, 0);
	cm_scope_leave(&scope);
}

/* The canonical name of a time zone that the caller gave. */
static char *
checked_timezone(const char *name)
{
	pg_tz	   *zone = strlen(name) <= TZ_STRLEN_MAX ? pg_tzset(name) : NULL;

	if (zone == NULL || !pg_tz_acceptable(zone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name),
				 errhint("See the view pg_timezone_names.")));
	return pstrdup(pg_get_timezone_name(zone));
}

/* The settings that the caller gives, on top of what they were. */
static void
wanted_settings(FunctionCallInfo fcinfo, Oid relid, CmMatviewSettings *settings)
{
	cm_matview_settings(relid, settings);
	settings->managed = true;
	settings->allow_blocking = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
	settings->incremental = PG_ARGISNULL(3) || PG_GETARG_BOOL(3);
	settings->allow_inexact = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
	if (!PG_ARGISNULL(5))
		settings->timezone = checked_timezone(text_to_cstring(PG_GETARG_TEXT_PP(5)));
	else if (settings->timezone == NULL)
		settings->timezone = pstrdup(pg_get_timezone_name(session_timezone));
}

/*
 * Is the job to run at once?  A view that is not populated is filled, and one
 * that is to be refreshed incrementally gets its triggers.
 */
static bool
is_due_at_once(Oid relid, const CmMatviewChoice *choice, const CmMatviewPlan *plan)
{
	return choice->mode == CM_MATVIEW_FIRST_FILL ||
		(plan != NULL && plan->incremental && !cm_matview_is_tracked(relid));
}

/*
 * manage_matview(view regclass, every interval, allow_blocking boolean,
 *				  incremental boolean, allow_inexact boolean, timezone text,
 *				  history boolean)
 */
Datum
cm_manage_matview(PG_FUNCTION_ARGS)
{
	Oid			relid;
	Interval   *every = PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1);
	bool		history = !PG_ARGISNULL(6) && PG_GETARG_BOOL(6);
	CmMatviewSettings settings;
	CmMatviewPlan *plan;
	CmMatviewChoice choice;

	cm_require_primary("manage_matview()");
	PreventCommandIfReadOnly("manage_matview()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"view\" must not be null")));
	relid = PG_GETARG_OID(0);
	cm_matview_require(relid);
	if (every != NULL)
		check_every(every);

	cm_relations_reconcile();
	wanted_settings(fcinfo, relid, &settings);
	plan = cm_matview_plan(relid, &settings);
	/* An empty view may be filled once by blocking nobody, but not again. */
	if (!settings.allow_blocking && !cm_matview_has_usable_index(relid) &&
		(plan == NULL || !plan->incremental))
		cm_matview_report_blocking(relid);
	choice = cm_matview_choose(relid, &settings, plan);

	write_matview(relid, every, &settings);
	cm_matview_history_set(relid, plan, PG_ARGISNULL(6) ? NULL : &history);
	if (plan == NULL || !plan->incremental)
		cm_matview_untrack(relid);
	if (every == NULL)
		(void) cm_job_remove(CM_JOB_REFRESH, relid, 0);
	(void) cm_job_upsert(CM_JOB_REFRESH, relid, 0, every,
						 every != NULL && is_due_at_once(relid, &choice, plan));
	PG_RETURN_TEXT_P(cstring_to_text(cm_matview_mode_names[choice.mode]));
}

/* A view that is not managed. */
static void
report_unmanaged(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("materialized view \"%s\" is not managed", name),
			 errhint("See the view concertmaster.matviews.")));
}

/* Delete the row of a managed view.  Returns whether there was one. */
static bool
delete_matview(const char *schema_name, const char *view_name)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	CmScope		scope;
	bool		found;

	values[0] = CStringGetTextDatum(schema_name);
	values[1] = CStringGetTextDatum(view_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("DELETE FROM concertmaster.matview WHERE schema_name = $1 AND view_name = $2",
						  2, types, values, NULL, false, 0);
	found = SPI_processed > 0;
	cm_scope_leave(&scope);
	return found;
}

/* Stop managing a view that exists. */
static void
unmanage(Oid relid)
{
	cm_matview_require(relid);
	cm_relations_reconcile();
	cm_matview_history_leave(relid);
	if (!delete_matview(cm_relation_schema(relid), cm_relation_name(relid)))
		report_unmanaged(get_rel_name(relid));
	cm_matview_untrack(relid);
	(void) cm_job_remove(CM_JOB_REFRESH, relid, 0);
}

/* unmanage_matview(view regclass) */
Datum
cm_unmanage_matview(PG_FUNCTION_ARGS)
{
	cm_require_primary("unmanage_matview()");
	PreventCommandIfReadOnly("unmanage_matview()");
	unmanage(PG_GETARG_OID(0));
	PG_RETURN_VOID();
}

/* unmanage_matview(view text): also for a view that is gone */
Datum
cm_unmanage_matview_by_name(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *schema_part;
	char	   *view_part;
	Oid			relid = cm_relation_parse(name, &schema_part, &view_part);

	cm_require_primary("unmanage_matview()");
	PreventCommandIfReadOnly("unmanage_matview()");
	if (OidIsValid(relid))
		unmanage(relid);
	else if (schema_part == NULL || !cm_relation_forget_job("refresh", schema_part, view_part))
		report_unmanaged(name);
	else
		(void) delete_matview(schema_part, view_part);
	PG_RETURN_VOID();
}

/*
 * _matview_mode(view oid, allow_blocking boolean, incremental boolean,
 *				 allow_inexact boolean, timezone text): mode, reason
 */
Datum
cm__matview_mode(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	CmMatviewSettings settings = {
		.managed = true,
		.allow_blocking = PG_GETARG_BOOL(1),
		.incremental = PG_GETARG_BOOL(2),
		.allow_inexact = PG_GETARG_BOOL(3),
		.timezone = text_to_cstring(PG_GETARG_TEXT_PP(4))
	};
	CmMatviewPlan *plan;
	CmMatviewChoice choice;
	char	   *obstacle;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (get_rel_relkind(relid) != RELKIND_MATVIEW)
		PG_RETURN_NULL();
	plan = cm_matview_plan(relid, &settings);
	choice = cm_matview_choose(relid, &settings, plan);
	if (choice.mode == CM_MATVIEW_INCREMENTAL && (obstacle = cm_matview_stamp_obstacle(plan)) != NULL)
		choice.reason = psprintf("all of it next: %s", obstacle);
	values[0] = CStringGetTextDatum(cm_matview_mode_names[choice.mode]);
	values[1] = CStringGetTextDatum(choice.reason);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
