/*-------------------------------------------------------------------------
 *
 * install_apply.c
 *	  plan_install() shows a plan, install() does what can be done at once,
 *	  the job "adopt <schema>" does the rest.
 *
 * install() runs in the caller's transaction with a pinned search_path, as the
 * caller, or as the owner of the tables where a step reads those.  It creates new relations and writes our own catalog tables;
 * it takes no lock on a table that exists but what a SELECT takes.  Calls of
 * it wait for each other on concertmaster.installation.
 *
 * The job makes the plan anew (the schema can have changed since) and does
 * each pending step in a transaction of its own under the deadline, as the
 * owner of the table.  After a step that was put off or failed, the other
 * steps of that table wait for the next run, since they can depend on it.  A
 * step that fails does not keep other tables from theirs; the first error is
 * raised at the end.
 *
 * Locks: concertmaster.installation in SHARE ROW EXCLUSIVE mode until the
 * caller's commit.  After an error the caller's transaction undoes install();
 * of the job, the steps that were done stay done, and the next run goes on.
 *
 * What it does not do: wait for a lock that others queue behind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "concertmaster.h"
#include "install.h"

PG_FUNCTION_INFO_V1(cm_plan_install);
PG_FUNCTION_INFO_V1(cm_install);

/* In the order of CmStepAction, before and after. */
static const char *const action_names[] = {"create", "exists", "pending", "remains", "conflict"};
static const char *const done_names[] = {"created", "exists", "pending", "remains", "conflict"};

/* The schema that an argument names; an error unless it can be ours. */
static char *
schema_argument(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("schema name must not be null"),
				 errhint("Leave the argument out for schema \"public\".")));
	name = pstrdup(NameStr(*PG_GETARG_NAME(0)));
	if (strncmp(name, "pg_", 3) == 0 || strcmp(name, "information_schema") == 0 ||
		strcmp(name, CM_SCHEMA) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_RESERVED_NAME),
				 errmsg("cannot install in schema \"%s\"", name),
				 errdetail("It belongs to the system or to the extension."),
				 errhint("Choose a schema of your own; the default is \"public\".")));
	if (!OidIsValid(get_namespace_oid(name, true)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"%s\" does not exist", name),
				 errhint("Run CREATE SCHEMA %s first.", quote_identifier(name))));
	return name;
}

/*
 * Add a row of texts to a function's result, NULL where a pointer is NULL,
 * after the step's number if that is not 0.
 */
void
cm_install_emit(ReturnSetInfo *rsinfo, int count, const char *const *texts, int step)
{
	Datum		values[6];
	bool		nulls[6];
	int			first = 0;

	if (step > 0)
	{
		values[0] = Int32GetDatum(step);
		nulls[0] = false;
		first = 1;
	}
	for (int i = 0; i < count; i++)
	{
		nulls[first + i] = texts[i] == NULL;
		values[first + i] = texts[i] ? CStringGetTextDatum(texts[i]) : (Datum) 0;
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* The statements of a step as a script. */
static char *
step_script(const CmInstallStep *step)
{
	StringInfoData text;
	ListCell   *cell;

	if (step->statements == NIL && step->validate == NULL)
		return NULL;
	initStringInfo(&text);
	foreach(cell, step->statements)
		appendStringInfo(&text, "%s%s;", text.len > 0 ? "\n" : "", (char *) lfirst(cell));
	if (step->validate != NULL)
		appendStringInfo(&text, "%s%s;", text.len > 0 ? "\n" : "", step->validate);
	return text.data;
}

/* SQL: plan_install(schema_name) */
Datum
cm_plan_install(PG_FUNCTION_ARGS)
{
	char	   *schema_name = schema_argument(fcinfo);
	CmInstallPlan *plan;
	ListCell   *cell;
	int			number = 0;

	InitMaterializedSRF(fcinfo, 0);
	plan = cm_install_plan(schema_name, GetUserId());
	foreach(cell, plan->steps)
	{
		CmInstallStep *step = lfirst(cell);
		const char *texts[] = {step->object, action_names[step->action], step->lock,
		step_script(step), step->detail};

		cm_install_emit((ReturnSetInfo *) fcinfo->resultinfo, lengthof(texts), texts, ++number);
	}
	return (Datum) 0;
}

/* Refuse what install() cannot do, before it does anything. */
static void
require_installable(CmInstallPlan *plan)
{
	ListCell   *cell;

	if (cm_compat_namespace_aclcheck(get_namespace_oid(plan->schema_name, false),
									 plan->userid, ACL_CREATE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for schema %s", plan->schema_name),
				 errdetail("The platform's tables are created in it, owned by the caller."),
				 errhint("As its owner: GRANT CREATE ON SCHEMA %s TO %s.",
						 quote_identifier(plan->schema_name),
						 quote_identifier(GetUserNameFromId(plan->userid, false)))));
	foreach(cell, plan->steps)
	{
		CmInstallStep *step = lfirst(cell);

		if (step->action == CM_STEP_CONFLICT)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot install %s", step->object),
					 errdetail("The name belongs to another kind of object."),
					 errhint("Rename that object, or install in another schema.")));
	}
}

/* One install() at a time; remember where. */
static void
record_installation(CmInstallPlan *plan)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	CmScope		scope;

	values[0] = CStringGetTextDatum(plan->schema_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("INSERT INTO concertmaster.installation (schema_name)"
						  " VALUES ($1::name) ON CONFLICT DO NOTHING",
						  1, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
}

/* Put a bundled index into index_plan. */
static void
record_index(CmInstallPlan *plan, CmInstallStep *step)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	CmScope		scope;

	values[0] = CStringGetTextDatum(plan->schema_name);
	values[1] = CStringGetTextDatum(step->index_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("INSERT INTO concertmaster.index_plan (phase, schema_name, table_name,"
						  "       index_name, is_unique, definition, purpose, hot_window)"
						  " SELECT phase, $1::name, table_name, index_name, is_unique,"
						  "        definition, purpose, hot_window"
						  "   FROM concertmaster._bundled_indexes($1::name)"
						  "  WHERE index_name = $2::name"
						  " ON CONFLICT DO NOTHING",
						  2, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
}

/*
 * Run a step's statements as the caller, or as the step's own role, in the
 * caller's transaction.
 */
static void
run_statements(CmInstallStep *step)
{
	ListCell   *cell;

	foreach(cell, step->statements)
		cm_run_as(OidIsValid(step->role) ? step->role : GetUserId(), lfirst(cell));
}

/* The name of the job that finishes an adoption. */
static char *
adopt_job_name(CmInstallPlan *plan)
{
	return psprintf("adopt %s", quote_identifier(plan->schema_name));
}

/* Do what a step asks of install(). */
static void
apply_step(CmInstallPlan *plan, CmInstallStep *step)
{
	switch (step->work)
	{
		case CM_WORK_INDEX:
			if (step->action == CM_STEP_PENDING)
				record_index(plan, step);
			break;
		case CM_WORK_BUILD_JOB:
			cm_job_upsert_named(psprintf("build phase %d", step->phase), CM_JOB_BUILD,
								NULL, step->phase, NULL, !plan->columns_pending);
			break;
		case CM_WORK_ADOPT_JOB:
			cm_job_upsert_named(adopt_job_name(plan), CM_JOB_ADOPT, plan->schema_name,
								0, NULL, true);
			break;
		case CM_WORK_SQL:
			if (step->action == CM_STEP_CREATE)
				run_statements(step);
			break;
	}
}

/* SQL: install(schema_name) */
Datum
cm_install(PG_FUNCTION_ARGS)
{
	char	   *schema_name;
	CmInstallPlan *plan;
	CmScope		scope;
	ListCell   *cell;

	cm_require_primary("install()");
	schema_name = schema_argument(fcinfo);
	InitMaterializedSRF(fcinfo, 0);

	cm_catalog_enter(&scope);
	SPI_execute("LOCK TABLE concertmaster.installation IN SHARE ROW EXCLUSIVE MODE", false, 0);
	cm_scope_leave(&scope);

	plan = cm_install_plan(schema_name, GetUserId());
	require_installable(plan);
	record_installation(plan);
	foreach(cell, plan->steps)
	{
		CmInstallStep *step = lfirst(cell);
		const char *texts[] = {step->object, done_names[step->action], step->detail};

		apply_step(plan, step);
		cm_install_emit((ReturnSetInfo *) fcinfo->resultinfo, lengthof(texts), texts, 0);
	}
	return (Datum) 0;
}

/* Is the schema still ours?  uninstall() can have come between. */
static bool
is_installed(const char *schema_name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	CmScope		scope;
	bool		found;

	values[0] = CStringGetTextDatum(schema_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT FROM concertmaster.installation WHERE schema_name = $1::name",
						  1, types, values, NULL, true, 1);
	found = SPI_processed > 0;
	cm_scope_leave(&scope);
	return found;
}

/* How a run of the job went. */
typedef struct AdoptRun
{
	CmInstallPlan *plan;
	List	   *waiting;		/* relids whose further steps wait for the next run */
	int			done;
	int			deferred;
	int			doubted;
	int			blocked_by;
	char	   *first_doubt;	/* object that rows stand against */
	ErrorData  *first_error;
} AdoptRun;

/*
 * The role that a pending step is run as: its own or the table's owner, whom
 * the job's owner must be able to act for.  Since the plan was made, the table can be
 * gone or have changed hands, or all can have been uninstalled.
 */
static bool
step_role(AdoptRun *run, CmInstallStep *step, Oid *role)
{
	bool		may;

	*role = run->plan->userid;
	cm_transaction_begin(run->plan->userid);
	if (!is_installed(run->plan->schema_name))
		may = false;
	else if (OidIsValid(step->role))
	{
		*role = step->role;
		may = has_privs_of_role(run->plan->userid, *role);
	}
	else if (!OidIsValid(step->relid))
		may = true;
	else if (get_rel_name(step->relid) == NULL)
		may = false;
	else
	{
		*role = cm_relation_owner(step->relid);
		may = has_privs_of_role(run->plan->userid, *role);
	}
	cm_transaction_commit();
	return may;
}

/* Do rows stand against the step?  Reads the table as a SELECT does. */
static bool
step_is_doubtful(CmInstallStep *step, Oid role)
{
	bool		found;

	if (step->doubt == NULL)
		return false;
	cm_transaction_begin(role);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute(step->doubt, true, 1) < 0)
		elog(ERROR, "query failed: %s", step->doubt);
	found = SPI_processed > 0;
	SPI_finish();
	cm_transaction_commit();
	return found;
}

/* Count a step that was put off, and who was in the way.  Returns false. */
static bool
put_off(AdoptRun *run, const List *wishes)
{
	run->deferred++;
	if (run->blocked_by == 0)
		run->blocked_by = Max(cm_lock_holder(wishes), 0);
	return false;
}

/* Do one pending step.  Returns false if it was put off or must not be done. */
static bool
run_pending_step(AdoptRun *run, CmInstallStep *step)
{
	Oid			role;
	List	   *wishes = OidIsValid(step->relid) ? cm_lock_wish(NIL, step->relid, step->mode) : NIL;
	ListCell   *cell;

	if (!step_role(run, step, &role))
		return false;
	if (step_is_doubtful(step, role))
	{
		run->doubted++;
		if (run->first_doubt == NULL)
			run->first_doubt = step->object;
		return true;
	}
	foreach(cell, step->statements)
	{
		if (step->unhurried ? !cm_statement_run(lfirst(cell), role, 0) :
			!cm_attempt_statement(lfirst(cell), role, wishes))
			return put_off(run, wishes);
	}

	/* Nobody who reads or writes waits for the lock of a validation. */
	if (step->validate != NULL && !cm_statement_run(step->validate, role, 0))
		return put_off(run, wishes);
	run->done++;
	return true;
}

/* Do one pending step; keep its error for the end of the run. */
static void
try_pending_step(AdoptRun *run, CmInstallStep *step)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool further = false;

	PG_TRY();
	{
		further = run_pending_step(run, step);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		FlushErrorState();
		cm_transaction_abort();
		if (run->first_error == NULL)
			run->first_error = edata;
	}
	PG_END_TRY();

	if (!further)
		run->waiting = lappend_oid(run->waiting, step->relid);
}

/* The plan of the job, made as the job's owner.  NULL if all was uninstalled. */
static CmInstallPlan *
plan_for_job(const CmJob *job)
{
	CmInstallPlan *plan = NULL;

	cm_transaction_begin(job->owner);
	if (OidIsValid(get_namespace_oid(job->schema_name, true)) &&
		is_installed(job->schema_name))
		plan = cm_install_plan(job->schema_name, job->owner);
	cm_transaction_commit();
	return plan;
}

/* Indexes that waited for columns can be built now. */
static void
request_builds(CmInstallPlan *plan)
{
	bool		requested[10] = {false};
	ListCell   *cell;

	cm_transaction_begin(plan->userid);
	foreach(cell, plan->steps)
	{
		CmInstallStep *step = lfirst(cell);

		if (step->work != CM_WORK_INDEX || step->phase >= lengthof(requested) || requested[step->phase])
			continue;
		requested[step->phase] = true;
		cm_job_upsert_named(psprintf("build phase %d", step->phase), CM_JOB_BUILD,
							NULL, step->phase, NULL, true);
	}
	cm_transaction_commit();
}

/* Run the job "adopt <schema>": do what install() left pending. */
void
cm_install_run(const CmJob *job, CmJobOutcome *outcome)
{
	AdoptRun	run = {0};
	ListCell   *cell;
	int			total;
	int			number = 0;

	run.plan = plan_for_job(job);
	if (run.plan == NULL)
	{
		outcome->message = psprintf("nothing is installed in schema %s", quote_identifier(job->schema_name));
		return;
	}
	total = list_length(run.plan->steps);
	foreach(cell, run.plan->steps)
	{
		CmInstallStep *step = lfirst(cell);

		number++;
		if (step->action != CM_STEP_PENDING || step->work != CM_WORK_SQL)
			continue;
		if (list_member_oid(run.waiting, step->relid))
			continue;
		cm_progress_report(number, total, "adopting %s", step->object);
		try_pending_step(&run, step);
		CHECK_FOR_INTERRUPTS();
	}
	if (run.done > 0 && run.plan->columns_pending)
		request_builds(run.plan);
	if (run.first_error != NULL)
		ReThrowError(run.first_error);

	outcome->deferred = run.deferred > 0;
	outcome->blocked_by = run.blocked_by;
	outcome->message = psprintf("%d done, %d put off", run.done, run.deferred);
	if (run.doubted > 0)
		outcome->message = psprintf("%s, %d not done because rows stand against it, first: %s",
									outcome->message, run.doubted, run.first_doubt);
}
