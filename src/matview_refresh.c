/*-------------------------------------------------------------------------
 *
 * matview_refresh.c
 *	  Refresh one materialized view, for a worker or for a caller.
 *
 * REFRESH runs as the view's owner with a pinned search_path, through SPI in
 * one transaction together with the row that says when it was done, so the
 * two cannot disagree.  We add no SECURITY_RESTRICTED_OPERATION: core has its
 * own around the query.
 *
 * Locks: CONCURRENTLY takes EXCLUSIVE on the view, which its readers do not
 * notice, so there is no deadline; a second refresh waits for the first.  The
 * other two modes need ACCESS EXCLUSIVE, and whoever wants to read the view
 * queues behind the wait for it: the lock is taken first, under the deadline
 * and with retries, and once it is held the refresh takes the time it takes.
 * What a view of catalog rows says about the mode is checked again by core
 * when it holds the lock.
 *
 * After an error the transaction (the worker's) or the subtransaction (a
 * function's) is aborted by attempt.c, and the view is as before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "matview.h"

PG_FUNCTION_INFO_V1(cm_refresh);

/* What a refresh needs and what it yields, for cm_attempt_*(). */
typedef struct RefreshStep
{
	Oid			relid;
	Oid			owner;
	CmMatviewResult result;
} RefreshStep;

/* Write when and how a managed view was refreshed; others have no row. */
static void
write_state(Oid relid, const CmMatviewResult *result)
{
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, FLOAT8OID};
	Datum		values[4];
	CmScope		scope;

	values[0] = CStringGetTextDatum(get_namespace_name(get_rel_namespace(relid)));
	values[1] = CStringGetTextDatum(get_rel_name(relid));
	values[2] = CStringGetTextDatum(cm_matview_mode_names[result->mode]);
	values[3] = Float8GetDatum(result->duration);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("INSERT INTO concertmaster.matview_state"
						  " (schema_name, view_name, last_refresh, last_mode, last_duration)"
						  " SELECT schema_name, view_name, now(), $3, $4 FROM concertmaster.matview"
						  "  WHERE schema_name = $1 AND view_name = $2"
						  " ON CONFLICT (schema_name, view_name) DO UPDATE"
						  "   SET last_refresh = EXCLUDED.last_refresh, last_mode = EXCLUDED.last_mode,"
						  "       last_duration = EXCLUDED.last_duration",
						  4, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
}

/* REFRESH, in the transaction that is open, as the owner. */
static void
run_refresh(Oid relid, Oid owner, bool concurrently)
{
	CmScope		scope;
	char	   *sql = psprintf("REFRESH MATERIALIZED VIEW %s%s",
							   concurrently ? "CONCURRENTLY " : "", cm_relation_quoted(relid));
	int			code;

	cm_owner_enter(&scope, owner, false);
	cm_scope_connect(&scope);
	code = SPI_execute(sql, false, 0);
	if (code < 0)
		elog(ERROR, "SPI_execute failed: %s: %s", SPI_result_code_string(code), sql);
	cm_scope_leave(&scope);
}

/*
 * The whole of it, in the transaction that is open.  Runs under a deadline,
 * which ends where no lock that others queue for is waited for any more.
 */
static void
refresh_step(void *arg)
{
	RefreshStep *step = arg;
	bool		allow_blocking;
	CmMatviewChoice choice;
	instr_time	start;
	instr_time	end;

	(void) cm_matview_settings(step->relid, &allow_blocking);
	choice = cm_matview_choose(step->relid, allow_blocking);
	if (choice.mode == CM_MATVIEW_NONE)
		cm_matview_report_blocking(step->relid, &choice);
	if (choice.mode == CM_MATVIEW_CONCURRENTLY)
		(void) cm_deadline_disarm();

	/*
	 * Before REFRESH takes its snapshot: if it waited for another refresh with
	 * the snapshot in hand, it would bring older data back.
	 */
	LockRelationOid(step->relid, choice.mode == CM_MATVIEW_CONCURRENTLY ?
					ExclusiveLock : AccessExclusiveLock);
	(void) cm_deadline_disarm();

	INSTR_TIME_SET_CURRENT(start);
	run_refresh(step->relid, step->owner, choice.mode == CM_MATVIEW_CONCURRENTLY);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	step->result.mode = choice.mode;
	step->result.duration = INSTR_TIME_GET_MILLISEC(end);
	write_state(step->relid, &step->result);
}

/* refresh(view regclass): mode, duration */
Datum
cm_refresh(PG_FUNCTION_ARGS)
{
	RefreshStep step = {0};
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	cm_require_primary("refresh()");
	PreventCommandIfReadOnly("refresh()");
	step.relid = PG_GETARG_OID(0);
	cm_matview_require(step.relid);
	step.owner = cm_relation_owner(step.relid);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	if (!cm_attempt_here(refresh_step, &step, NIL))
	{
		int			pid = cm_lock_holder(cm_lock_wish(NIL, step.relid, AccessExclusiveLock));

		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("could not refresh materialized view \"%s\" in time",
						get_rel_name(step.relid)),
				 pid > 0 ? errdetail("Process %d holds a lock that is needed.", pid) :
				 errdetail("A lock that is needed was not available in %d tries of %d ms.",
						   cm_ddl_attempts, cm_ddl_deadline),
				 errhint("Try again, or create a unique index so that it can be refreshed CONCURRENTLY.")));
	}
	values[0] = CStringGetTextDatum(cm_matview_mode_names[step.result.mode]);
	values[1] = Float8GetDatum(step.result.duration);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* Find the job's view, in a transaction of its own; an error if it is gone. */
static void
find_view(const CmJob *job, RefreshStep *step)
{
	cm_transaction_begin(GetSessionUserId());
	step->relid = cm_relation_resolve(job->schema_name, job->relation_name);
	if (!OidIsValid(step->relid) || get_rel_relkind(step->relid) != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("materialized view \"%s.%s\" does not exist",
						job->schema_name, job->relation_name),
				 errhint("If it was dropped for good, call concertmaster.unmanage_matview(%s).",
						 quote_literal_cstr(quote_qualified_identifier(job->schema_name,
																	   job->relation_name)))));
	step->owner = cm_relation_owner(step->relid);
	cm_transaction_commit();
}

/* Worker's entry: one refresh of one view. */
void
cm_matview_run(const CmJob *job, CmJobOutcome *outcome)
{
	RefreshStep step = {0};

	find_view(job, &step);
	cm_progress_report(0, 0, "refreshing %s.%s", job->schema_name, job->relation_name);
	if (!cm_attempt_commit(refresh_step, &step, step.owner, NIL))
	{
		outcome->deferred = true;
		outcome->blocked_by = Max(cm_lock_holder(cm_lock_wish(NIL, step.relid, AccessExclusiveLock)), 0);
		outcome->message = pstrdup("waits for a lock on the view");
		return;
	}
	outcome->message = psprintf("refreshed (%s)", cm_matview_mode_names[step.result.mode]);
}
