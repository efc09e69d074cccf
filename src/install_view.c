/*-------------------------------------------------------------------------
 *
 * install_view.c
 *	  The steps of form_completion_stats, and of what lies around.
 *
 * Over new tables the view is made with its (empty) data.  Over tables that
 * exist it is made WITH NO DATA, which locks them no more than a SELECT would;
 * the first fill is left to its refresh job.  It is made by and for the role
 * that owns both tables, whoever calls: a refresh runs what the types and
 * policies of its tables call, and must not run it with a caller's rights.
 * For the same reason its columns must be of core's types.  A view that is there keeps its
 * definition and gets the unique index that REFRESH CONCURRENTLY needs.
 *
 * Where pg_cron refreshes the view already, our job has no schedule, so that
 * it is never refreshed twice; it does but the first fill of an empty view,
 * since REFRESH CONCURRENTLY refuses one.
 *
 * What lies around is only told: the strategy's own create_monthly_partition,
 * partitioned twins of our tables.
 *
 * Locks: none, see install_plan.c.
 *
 * What it does not do: see cron jobs that run from another database, or of a
 * role that has no more than MAINTAIN on the view, or compare the definition of a view that is there with ours.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "concertmaster.h"
#include "install.h"

PG_FUNCTION_INFO_V1(cm_refresh_on_request);

#define VIEW_NAME		"form_completion_stats"
#define INDEX_NAME		"form_completion_stats_form_schema_id_day_key"

/* What the view needs to know of the tables below it. */
typedef enum SourceState
{
	SOURCE_READY,
	SOURCE_INCOMPLETE,			/* columns are pending */
	SOURCE_FOREIGN,				/* somebody else's */
	SOURCE_MIXED,				/* of two roles */
	SOURCE_CLOSED,				/* their owner may not create in the schema */
	SOURCE_UNFIT				/* of other types */
} SourceState;

/* Why the view cannot be made, NULL if it can, now or later. */
static char *
source_objection(CmInstallPlan *plan, SourceState state)
{
	Oid			owner = cm_install_table(plan, "form_responses")->ownerid;

	switch (state)
	{
		case SOURCE_READY:
		case SOURCE_INCOMPLETE:
			break;
		case SOURCE_FOREIGN:
			return "not made: its tables belong to somebody else";
		case SOURCE_MIXED:
			return "not made: form_responses and form_schemas belong to different roles; give both to one: ALTER TABLE ... OWNER TO";
		case SOURCE_CLOSED:
			return psprintf("not made: the owner of its tables, who would own it, may not create in the schema: GRANT CREATE ON SCHEMA %s TO %s",
							quote_identifier(plan->schema_name),
							quote_identifier(GetUserNameFromId(owner, false)));
		case SOURCE_UNFIT:
			return "not made: its columns in form_responses or form_schemas are of other types";
	}
	return NULL;
}

/* Do the columns allow it?  Sets *with_time_zone. */
static SourceState
look_at_columns(CmInstallPlan *plan, Oid responses, Oid schemas, bool *with_time_zone)
{
	const char *args[] = {psprintf("%u", responses), psprintf("%u", schemas)};
	int			rows;
	SourceState state = SOURCE_READY;

	/*
	 * The keys are compared, where a type of a user's own could bring a cast
	 * along.  A name is only grouped by: a type that a superuser made, such
	 * as citext, or the table's owner, will do.
	 */
	*with_time_zone = true;
	rows = cm_install_ask(plan,
						  "SELECT n.relid::oid <> 0 AND a.attnum IS NULL AS missing,"
						  "       a.attnum IS NOT NULL AND CASE"
						  "         WHEN n.types IS NOT NULL THEN NOT format_type(a.atttypid, NULL) = ANY (n.types)"
						  "         WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN false"
						  "         WHEN n.name = 'name' THEN NOT (t.typowner = c.relowner OR r.rolsuper)"
						  "         ELSE true END AS unfit,"
						  "       n.name = 'submitted_at' AND a.atttypid = 'timestamp'::regtype AS without_zone"
						  "  FROM (VALUES ($1, 'form_schema_id', NULL),"
						  "               ($1, 'submitted_at', ARRAY['timestamp with time zone', 'timestamp without time zone']),"
						  "               ($1, 'data', ARRAY['jsonb', 'json']),"
						  "               ($2, 'id', NULL),"
						  "               ($2, 'name', NULL)) AS n (relid, name, types)"
						  "  LEFT JOIN pg_attribute a ON a.attrelid = n.relid::oid"
						  "   AND a.attname = n.name AND NOT a.attisdropped"
						  "  LEFT JOIN pg_class c ON c.oid = a.attrelid"
						  "  LEFT JOIN pg_type t ON t.oid = a.atttypid"
						  "  LEFT JOIN pg_roles r ON r.oid = t.typowner",
						  2, args);
	for (int i = 0; i < rows; i++)
	{
		if (cm_install_is_true(i, "unfit"))
			return SOURCE_UNFIT;
		if (cm_install_is_true(i, "missing"))
			state = SOURCE_INCOMPLETE;
		if (cm_install_is_true(i, "without_zone"))
			*with_time_zone = false;
	}
	return state;
}

/* Can the view be made over the two tables?  Sets *with_time_zone. */
static SourceState
look_at_sources(CmInstallPlan *plan, bool *with_time_zone)
{
	CmBundledTable *responses = cm_install_table(plan, "form_responses");
	CmBundledTable *schemas = cm_install_table(plan, "form_schemas");
	const char *args[] = {psprintf("%u", responses->ownerid), plan->schema_name};

	if ((OidIsValid(responses->relid) && !responses->owned) ||
		(OidIsValid(schemas->relid) && !schemas->owned))
		return SOURCE_FOREIGN;
	if (responses->ownerid != schemas->ownerid)
		return SOURCE_MIXED;
	if (responses->ownerid != plan->userid &&
		cm_install_ask(plan, "SELECT WHERE has_schema_privilege($1::oid, $2, 'CREATE')", 2, args) == 0)
		return SOURCE_CLOSED;
	return look_at_columns(plan, responses->relid, schemas->relid, with_time_zone);
}

/*
 * Create the view, its unique index and its comments.  Returns when that is,
 * CM_STEP_REMAINS if never.
 */
static CmStepAction
plan_new_view(CmInstallPlan *plan, const char *quoted)
{
	CmBundledTable *responses = cm_install_table(plan, "form_responses");
	CmBundledTable *schemas = cm_install_table(plan, "form_schemas");
	bool		empty = !OidIsValid(responses->relid) && !OidIsValid(schemas->relid);
	char	   *object = psprintf("materialized view %s", quoted);
	bool		with_time_zone = true;
	SourceState state = look_at_sources(plan, &with_time_zone);
	const char *args[] = {plan->schema_name, with_time_zone ? "true" : "false"};
	CmInstallStep *step;
	char	   *objection = source_objection(plan, state);
	char	   *query;

	if (objection != NULL)
	{
		cm_install_step(plan, CM_STEP_REMAINS, object, objection);
		return CM_STEP_REMAINS;
	}

	cm_install_ask(plan, "SELECT concertmaster._bundled_view_query($1::name, $2::boolean) AS query", 2, args);
	query = cm_install_value(0, "query");
	step = cm_install_step(plan, state == SOURCE_READY ? CM_STEP_CREATE : CM_STEP_PENDING, object,
						   empty ? NULL : "WITH NO DATA; its first refresh fills it");
	if (!empty)
		step->lock = psprintf("AccessShareLock on %s and %s", responses->quoted, schemas->quoted);
	step->unhurried = true;
	step->role = responses->ownerid;
	step->statements = list_make4(psprintf("CREATE MATERIALIZED VIEW %s AS\n%s\nWITH %sDATA",
										   quoted, query, empty ? "" : "NO "),
								  psprintf("CREATE UNIQUE INDEX %s ON %s (form_schema_id, day)",
										   INDEX_NAME, quoted),
								  psprintf("COMMENT ON MATERIALIZED VIEW %s IS 'answers per form and day of UTC: today and the 30 days before'",
										   quoted),
								  psprintf("COMMENT ON COLUMN %s.malformed_completion_times IS 'answers whose completion_time is no whole number; they are not in the average'",
										   quoted));
	return step->action;
}

/* The schedule of the view; only on request where pg_cron refreshes it. */
static void
plan_schedule(CmInstallPlan *plan, const char *quoted, CmStepAction action, const char *cron_job)
{
	char	   *literal = quote_literal_cstr(quoted);
	CmInstallStep *step;

	step = cm_install_step(plan, action, psprintf("job refresh %s", quoted), "every 15 minutes");
	step->unhurried = true;
	step->statements = list_make1(psprintf("SELECT concertmaster.manage_matview(%s::pg_catalog.regclass, every => interval '15 minutes')",
										   literal));
	if (cron_job == NULL)
		return;
	if (cron_job[0] == '\0')
		step->detail = pstrdup("only on request, because a pg_cron job of another role refreshes the view");
	else
		step->detail = psprintf("only on request, because pg_cron job %s refreshes the view; to change over: SELECT cron.unschedule(%s), then SELECT concertmaster.manage_matview(%s, every => '15 minutes')",
								cron_job, cron_job, literal);
	step->statements = lappend(step->statements,
							   psprintf("SELECT concertmaster._refresh_on_request(%s::pg_catalog.regclass)", literal));
}

/*
 * The pg_cron job of this database that refreshes the view of this owner, as
 * a literal that cron.unschedule() takes; NULL if there is none, "" if it is
 * not the caller's to know.  A job counts that runs as a role with the owner's rights; another
 * cannot refresh the view.
 */
static char *
find_cron_job(CmInstallPlan *plan, Oid view_owner)
{
	const char *args[] = {psprintf("%u", view_owner), GetUserNameFromId(plan->userid, false)};

	/*
	 * We read it as the extension's owner, so it must be pg_cron's own table:
	 * anybody could make a view of that name that calls a function.
	 */
	if (cm_install_ask(plan,
					   "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
					   "  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'"
					   "  JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid"
					   "  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'jobname'"
					   " WHERE n.nspname = 'cron' AND c.relname = 'job' AND c.relkind = 'r'"
					   "   AND e.extname = 'pg_cron'", 0, NULL) == 0)
		return NULL;

	/* Nor do its row policies keep us from others' jobs; their names stay theirs. */
	if (cm_install_ask(plan,
					   "SELECT coalesce(quote_literal(j.jobname), j.jobid::text) AS job,"
					   "       pg_has_role($2::name, r.oid, 'USAGE') AS visible"
					   "  FROM cron.job j JOIN pg_roles r ON r.rolname = j.username"
					   " WHERE j.active AND j.database = current_database()"
					   "   AND j.command ~* E'\\\\mrefresh\\\\M.*\\\\m" VIEW_NAME "\\\\M'"
					   "   AND pg_has_role(r.oid, $1::oid, 'USAGE')"
					   " ORDER BY 2 DESC, j.jobid LIMIT 1", 2, args) == 0)
		return NULL;
	return cm_install_is_true(0, "visible") ? cm_install_value(0, "job") : pstrdup("");
}

/* A materialized view of the name is there: keep it, make it refreshable. */
static void
plan_existing_view(CmInstallPlan *plan, const char *quoted, Oid owner)
{
	const char *args[] = {plan->schema_name, VIEW_NAME};
	char	   *object = psprintf("materialized view %s", quoted);
	CmInstallStep *step;
	Oid			relid;
	bool		indexed;
	bool		bundled;
	bool		managed;

	cm_install_ask(plan,
				   "SELECT c.oid,"
				   "       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid"
				   "          AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL) AS indexed,"
				   "       (SELECT count(*) = 2 FROM pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped"
				   "          AND a.attname IN ('form_schema_id', 'day')) AS indexable,"
				   "       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid"
				   "          AND a.attname = 'malformed_completion_times') AS bundled,"
				   "       EXISTS (SELECT FROM concertmaster.matview m"
				   "          WHERE m.schema_name = $1::name AND m.view_name = $2::name) AS managed"
				   "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
				   " WHERE n.nspname = $1 AND c.relname = $2",
				   2, args);
	relid = (Oid) strtoul(cm_install_value(0, "oid"), NULL, 10);
	indexed = cm_install_is_true(0, "indexed");
	bundled = cm_install_is_true(0, "bundled");
	managed = cm_install_is_true(0, "managed");

	cm_install_step(plan, CM_STEP_EXISTS, object, bundled ? NULL :
					psprintf("keeps its own definition; for ours, which no malformed answer can stop: DROP MATERIALIZED VIEW %s, then SELECT concertmaster.install(%s)",
							 quoted, quote_literal_cstr(plan->schema_name)));
	if (!indexed)
	{
		if (!cm_install_is_true(0, "indexable"))
		{
			cm_install_step(plan, CM_STEP_REMAINS, psprintf("unique index of %s", quoted),
							"REFRESH CONCURRENTLY needs one: CREATE UNIQUE INDEX over columns that tell its rows apart, then SELECT concertmaster.manage_matview()");
			return;
		}
		step = cm_install_step(plan, CM_STEP_PENDING, psprintf("unique index of %s", quoted),
							   "(form_schema_id, day), so that it can be refreshed CONCURRENTLY");
		step->lock = psprintf("ShareLock on %s, which only a refresh waits for", quoted);
		step->relid = relid;
		step->mode = ShareLock;
		step->unhurried = true;
		step->statements = list_make1(psprintf("CREATE UNIQUE INDEX ON %s (form_schema_id, day)", quoted));
	}
	if (managed)
		cm_install_step(plan, CM_STEP_EXISTS, psprintf("job refresh %s", quoted), NULL);
	else
		plan_schedule(plan, quoted, indexed ? CM_STEP_CREATE : CM_STEP_PENDING,
					  find_cron_job(plan, owner));
}

/* Refuse everything that is not a materialized view of the caller's. */
static void
require_own_view(Oid relid)
{
	cm_relation_require_owner(relid);
	if (get_rel_relkind(relid) != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a materialized view", get_rel_name(relid))));
}

/*
 * SQL: _refresh_on_request(view).  The refresh job of a view that somebody
 * else refreshes: without a period, due once if the view was never filled.
 */
Datum
cm_refresh_on_request(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	CmScope		scope;

	require_own_view(relid);
	cm_relations_reconcile();
	values[0] = Int64GetDatum(cm_job_upsert(CM_JOB_REFRESH, relid, 0, NULL, true));
	cm_catalog_enter(&scope);
	SPI_execute_with_args("UPDATE concertmaster.job_state s SET next_run = NULL"
						  "  FROM concertmaster.job j"
						  " WHERE s.job_id = $1 AND j.job_id = $1"
						  "   AND (SELECT c.relispopulated FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
						  "         WHERE n.nspname = j.schema_name AND c.relname = j.relation_name)",
						  1, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
	PG_RETURN_VOID();
}

/* Add the steps of the view to the plan. */
void
cm_install_plan_view(CmInstallPlan *plan)
{
	const char *args[] = {plan->schema_name, VIEW_NAME, GetUserNameFromId(plan->userid, false)};
	char	   *quoted = quote_qualified_identifier(plan->schema_name, VIEW_NAME);
	char	   *object = psprintf("materialized view %s", quoted);

	if (cm_install_ask(plan,
					   "SELECT c.relkind, c.relowner, pg_get_userbyid(c.relowner) AS owner,"
					   "       pg_has_role($3::name, c.relowner, 'USAGE') AS owned"
					   "  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
					   " WHERE n.nspname = $1 AND c.relname = $2",
					   3, args) == 0)
	{
		CmStepAction action = plan_new_view(plan, quoted);

		if (action != CM_STEP_REMAINS)
			plan_schedule(plan, quoted, action,
						  find_cron_job(plan, cm_install_table(plan, "form_responses")->ownerid));
	}
	else if (cm_install_value(0, "relkind")[0] != RELKIND_MATVIEW)
		cm_install_step(plan, CM_STEP_CONFLICT, object, "the name belongs to another kind of object");
	else if (!cm_install_is_true(0, "owned"))
		cm_install_step(plan, CM_STEP_REMAINS, object,
						psprintf("belongs to role \"%s\"", cm_install_value(0, "owner")));
	else
		plan_existing_view(plan, quoted, (Oid) strtoul(cm_install_value(0, "relowner"), NULL, 10));
}

/* Add what the user has to know of what lies around. */
void
cm_install_plan_surroundings(CmInstallPlan *plan)
{
	const char *args[] = {plan->schema_name};
	int			rows;

	if (cm_install_ask(plan,
					   "SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
					   " WHERE n.nspname = $1 AND p.proname = 'create_monthly_partition'"
					   "   AND oidvectortypes(p.proargtypes) = 'text, date'",
					   1, args) > 0)
	{
		char	   *quoted = quote_qualified_identifier(plan->schema_name, "create_monthly_partition");

		cm_install_step(plan, CM_STEP_REMAINS, psprintf("function %s", quoted),
						psprintf("not ours and kept; it locks the parent against everybody. concertmaster.create_monthly_partition() takes the same arguments: DROP FUNCTION %s(text, date) and call that",
								 quoted));
	}

	rows = cm_install_ask(plan,
						  "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
						  "  JOIN concertmaster._bundled_tables() b ON c.relname = b.table_name || '_partitioned'"
						  " WHERE n.nspname = $1 AND c.relkind = 'p'"
						  "   AND NOT EXISTS (SELECT FROM concertmaster.partition_set s"
						  "        WHERE s.schema_name = n.nspname AND s.table_name = c.relname)"
						  " ORDER BY 1",
						  1, args);
	for (int i = 0; i < rows; i++)
	{
		char	   *quoted = quote_qualified_identifier(plan->schema_name, cm_install_value(i, "relname"));

		cm_install_step(plan, CM_STEP_REMAINS, psprintf("partition set %s", quoted),
						psprintf("nobody makes its partitions; to have them made: SELECT concertmaster.create_partition_set(%s, '1 month')",
								 quote_literal_cstr(quoted)));
	}
}
