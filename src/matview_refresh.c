/*-------------------------------------------------------------------------
 *
 * matview_refresh.c
 *	  Refresh one materialized view, for a worker or for a caller.
 *
 * A managed view whose query allows it is refreshed from the log of its
 * tables' changes (matview_apply.c), once these have been made to log; that
 * is done by the worker, because it needs locks and a transaction of its own.
 * All others, those whose tables cannot be made to log, for whatever error, and
 * those for which the caller's transaction is not READ COMMITTED, are refreshed
 * by core's REFRESH.
 *
 * REFRESH runs as the view's owner with a pinned search_path and time zone,
 * through SPI in one transaction together with the row that says when it was
 * done, so the two cannot disagree.  We add no SECURITY_RESTRICTED_OPERATION:
 * core has its own around the query.
 *
 * Locks: CONCURRENTLY and the log take EXCLUSIVE on the view, which readers do
 * not notice, so there is no deadline; a second refresh waits for the first.
 * The other two modes need ACCESS EXCLUSIVE, and whoever wants to read the view
 * queues behind the wait for it: the lock is taken first, under the deadline
 * and with retries, and once it is held the refresh takes the time it takes.
 * What a view of catalog rows says about the mode is checked again by core
 * when it holds the lock; one that was emptied meanwhile is put off, too.
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
#include "matview_history.h"
#include "matview_query.h"

PG_FUNCTION_INFO_V1(cm_refresh);

/* Write when and how a managed view was refreshed; others have no row. */
static void
write_state(const CmRefresh *refresh)
{
	const CmMatviewResult *result = &refresh->result;
	Oid			types[8] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, FLOAT8OID, INT8OID, INT8OID, INT8OID};
	Datum		values[8];
	char		nulls[8] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
	CmScope		scope;

	values[0] = CStringGetTextDatum(cm_relation_schema(refresh->view));
	values[1] = CStringGetTextDatum(cm_relation_name(refresh->view));
	values[2] = CStringGetTextDatum(cm_matview_mode_names[result->mode]);
	values[3] = CStringGetTextDatum(result->reason);
	values[4] = Float8GetDatum(result->duration);
	values[5] = Int64GetDatum(result->groups);
	values[6] = Int64GetDatum(result->inserted);
	values[7] = Int64GetDatum(result->deleted);
	cm_catalog_enter(&scope);
	cm_query("INSERT INTO concertmaster.matview_state AS s"
			 " (schema_name, view_name, last_refresh, last_mode, last_reason, last_duration,"
			 "  last_groups, last_inserted, last_deleted)"
			 " SELECT schema_name, view_name, now(), $3, $4, $5,"
			 "        nullif($6, -1), nullif($7, -1), nullif($8, -1) FROM concertmaster.matview"
			 "  WHERE schema_name = $1 AND view_name = $2"
			 " ON CONFLICT (schema_name, view_name) DO UPDATE"
			 "   SET last_refresh = EXCLUDED.last_refresh, last_mode = EXCLUDED.last_mode,"
			 "       last_reason = EXCLUDED.last_reason, last_duration = EXCLUDED.last_duration,"
			 "       last_groups = EXCLUDED.last_groups, last_inserted = EXCLUDED.last_inserted,"
			 "       last_deleted = EXCLUDED.last_deleted",
			 8, types, values, nulls);
	cm_scope_leave(&scope);
}

/* REFRESH, in the transaction that is open, as the owner. */
void
cm_matview_core_refresh(CmRefresh *refresh, CmMatviewMode mode, const char *reason)
{
	CmScope		scope;
	char	   *sql = psprintf("REFRESH MATERIALIZED VIEW %s%s",
							   mode == CM_MATVIEW_CONCURRENTLY ? "CONCURRENTLY " : "",
							   cm_relation_quoted(refresh->view));
	int			code;

	cm_matview_owner_enter(&scope, refresh->owner, refresh->settings.timezone, false);
	cm_scope_connect(&scope);
	PG_TRY();
	{
		cm_matview_refreshing = refresh->view;
		code = SPI_execute(sql, false, 0);
	}
	PG_FINALLY();
	{
		cm_matview_refreshing = InvalidOid;
	}
	PG_END_TRY();
	if (code < 0)
		elog(ERROR, "SPI_execute failed: %s: %s", SPI_result_code_string(code), sql);
	cm_scope_leave(&scope);
	refresh->result.mode = mode;
	refresh->result.reason = reason;
	refresh->result.groups = -1;
	refresh->result.inserted = -1;
	refresh->result.deleted = -1;
}

/*
 * How to refresh the view, and why so.  Whether its tables log is asked here;
 * the log is of no use under a snapshot that is older than the last refresh.
 */
static void
decide(CmRefresh *refresh)
{
	CmMatviewChoice choice;

	cm_matview_settings(refresh->view, &refresh->settings);
	refresh->plan = refresh->settings.managed ? cm_matview_plan(refresh->view, &refresh->settings) : NULL;
	choice = cm_matview_choose(refresh->view, &refresh->settings, refresh->plan);
	if (refresh->plan != NULL &&
		(!refresh->plan->incremental || IsolationUsesXactSnapshot() ||
		 !cm_matview_is_tracked(refresh->view)))
		refresh->plan = NULL;
	if (choice.mode == CM_MATVIEW_INCREMENTAL && refresh->plan == NULL)
	{
		choice = cm_matview_choose(refresh->view, &refresh->settings, NULL);
		choice.reason = psprintf("%s; %s", IsolationUsesXactSnapshot() ?
								 "the transaction is not READ COMMITTED" :
								 refresh->settings.not_logging != NULL ? refresh->settings.not_logging :
								 "its tables do not log their changes yet", choice.reason);
	}
	refresh->mode = choice.mode;
	refresh->reason = choice.reason;
}

/* Lock the view so that no other refresh is under way; its readers may go on, or not. */
static void
lock_view(CmRefresh *refresh)
{
	bool		readers_go_on = refresh->mode == CM_MATVIEW_CONCURRENTLY ||
		refresh->mode == CM_MATVIEW_INCREMENTAL;

	if (readers_go_on)
		(void) cm_deadline_disarm();

	/*
	 * Before the refresh takes its snapshot: if it waited for another refresh
	 * with the snapshot in hand, it would bring older data back.
	 */
	LockRelationOid(refresh->view, readers_go_on ? ExclusiveLock : AccessExclusiveLock);
	(void) cm_deadline_disarm();
	if (get_rel_relkind(refresh->view) != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("materialized view with OID %u was dropped", refresh->view)));

	/* Only a first fill makes it readable again: decide anew. */
	if (readers_go_on && !cm_matview_is_populated(refresh->view))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("materialized view \"%s\" was emptied while its refresh waited",
						get_rel_name(refresh->view)),
				 errhint("Try again.")));
}

/*
 * A snapshot that may be older than the last refresh brings older rows back,
 * whose changes the log has forgotten.
 */
static void
distrust(Oid view)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(view)};
	CmScope		scope;

	cm_catalog_enter(&scope);
	cm_query("UPDATE concertmaster.matview_track SET stale = 'it was refreshed without the log'"
			 " WHERE view = $1",
			 1, types, values, NULL);
	cm_scope_leave(&scope);
}

/*
 * The whole of it, in the transaction that is open.  Runs under a deadline,
 * which ends where no lock that others queue for is waited for any more.
 */
static void
refresh_step(void *arg)
{
	CmRefresh  *refresh = arg;
	instr_time	start;
	instr_time	end;

	memset(&refresh->result, 0, sizeof(refresh->result));
	decide(refresh);
	if (refresh->mode == CM_MATVIEW_NONE)
		cm_matview_report_blocking(refresh->view);
	lock_view(refresh);

	INSTR_TIME_SET_CURRENT(start);
	if (refresh->plan != NULL)
		cm_matview_apply(refresh);
	else
	{
		distrust(refresh->view);
		cm_matview_core_refresh(refresh, refresh->mode, refresh->reason);
	}
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	refresh->result.duration = INSTR_TIME_GET_MILLISEC(end);
	write_state(refresh);
}

/* Say that a lock was not to be had. */
static void
report_put_off(Oid view)
{
	int			pid = cm_lock_holder(cm_lock_wish(NIL, view, AccessExclusiveLock));

	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not refresh materialized view \"%s\" in time", get_rel_name(view)),
			 pid > 0 ? errdetail("Process %d holds a lock that is needed.", pid) :
			 errdetail("A lock that is needed was not available in %d tries of %d ms.",
					   cm_ddl_attempts, cm_ddl_deadline),
			 errhint("Try again, or create a unique index so that it can be refreshed CONCURRENTLY.")));
}

/* refresh(view regclass): mode, reason, duration, groups, inserted, deleted */
Datum
cm_refresh(PG_FUNCTION_ARGS)
{
	CmRefresh	refresh = {0};
	TupleDesc	desc;
	Datum		values[6];
	bool		nulls[6] = {false};

	cm_require_primary("refresh()");
	PreventCommandIfReadOnly("refresh()");
	refresh.view = PG_GETARG_OID(0);
	cm_matview_require(refresh.view);
	refresh.owner = cm_relation_owner(refresh.view);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	if (!cm_attempt_here(refresh_step, &refresh, NIL))
		report_put_off(refresh.view);
	values[0] = CStringGetTextDatum(cm_matview_mode_names[refresh.result.mode]);
	values[1] = CStringGetTextDatum(refresh.result.reason);
	values[2] = Float8GetDatum(refresh.result.duration);
	values[3] = Int64GetDatum(refresh.result.groups);
	values[4] = Int64GetDatum(refresh.result.inserted);
	values[5] = Int64GetDatum(refresh.result.deleted);
	nulls[3] = refresh.result.groups < 0;
	nulls[4] = refresh.result.inserted < 0;
	nulls[5] = refresh.result.deleted < 0;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* Find the job's view, in a transaction of its own; an error if it is gone. */
static void
find_view(const CmJob *job, CmRefresh *refresh)
{
	cm_transaction_begin(GetSessionUserId());
	refresh->view = cm_relation_resolve(job->schema_name, job->relation_name);
	if (!OidIsValid(refresh->view) || get_rel_relkind(refresh->view) != RELKIND_MATVIEW)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("materialized view \"%s.%s\" does not exist",
						job->schema_name, job->relation_name),
				 errhint("If it was dropped for good, call concertmaster.unmanage_matview(%s).",
						 quote_literal_cstr(quote_qualified_identifier(job->schema_name,
																	   job->relation_name)))));
	refresh->owner = cm_relation_owner(refresh->view);
	cm_transaction_commit();
}

/*
 * Make the view's tables log their changes, if it is wanted, possible, and not
 * done; or let them stop.  Each in transactions of its own.  Returns whether
 * they log now and did not before.
 */
static bool
adjust_tracking(CmRefresh *refresh)
{
	CmMatviewSettings settings;
	CmMatviewPlan *plan;
	bool		wanted;
	bool		tracked;
	CmNotLogging why;

	cm_transaction_begin(GetSessionUserId());
	cm_matview_settings(refresh->view, &settings);
	plan = settings.managed ? cm_matview_plan(refresh->view, &settings) : NULL;
	wanted = plan != NULL && plan->incremental;
	tracked = cm_matview_is_tracked(refresh->view);
	if (!wanted)
		cm_matview_untrack(refresh->view);
	if ((!wanted || tracked) && settings.not_logging != NULL)
		cm_matview_note_not_logging(refresh->view, NULL);
	cm_transaction_commit();
	if (wanted && tracked)
		cm_matview_track_new(plan, refresh->owner);
	if (!wanted || tracked)
		return false;
	if (cm_matview_track(plan, refresh->owner, &why))
		return true;
	cm_transaction_begin(GetSessionUserId());
	cm_matview_note_not_logging(refresh->view, &why);
	cm_transaction_commit();
	return false;
}

/*
 * Make the view's tables log, if they do not, and refresh it, in transactions
 * of their own.  False if it was put off.  The caller is in none.
 */
bool
cm_matview_refresh_apart(CmRefresh *refresh)
{
	(void) adjust_tracking(refresh);
	return cm_attempt_commit(refresh_step, refresh, refresh->owner, NIL);
}

/* Refresh a view in the transaction that is open, with what locks it can get. */
void
cm_matview_refresh_here(CmRefresh *refresh)
{
	refresh_step(refresh);
}

/* Worker's entry: one refresh of one view. */
void
cm_matview_run(const CmJob *job, CmJobOutcome *outcome)
{
	CmRefresh	refresh = {0};

	find_view(job, &refresh);
	cm_progress_report(0, 0, "refreshing %s.%s", job->schema_name, job->relation_name);
	if (!cm_matview_refresh_apart(&refresh))
	{
		outcome->deferred = true;
		outcome->blocked_by = Max(cm_lock_holder(cm_lock_wish(NIL, refresh.view, AccessExclusiveLock)), 0);
		outcome->message = pstrdup("waits for a lock on the view");
		return;
	}
	outcome->message = psprintf("refreshed (%s)", cm_matview_mode_names[refresh.result.mode]);

	/* Now that it holds something, its tables may log what comes next. */
	if (refresh.result.mode == CM_MATVIEW_FIRST_FILL && adjust_tracking(&refresh))
		(void) cm_attempt_commit(refresh_step, &refresh, refresh.owner, NIL);
}
