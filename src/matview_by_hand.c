/*-------------------------------------------------------------------------
 *
 * matview_by_hand.c
 *	  Notice when somebody refreshes a tracked view with core's REFRESH.
 *
 * The view may then hold rows that no refresh of ours would have computed, in
 * groups that the log does not name: in another time zone, at another now(),
 * or older ones.  REFRESH takes its snapshot before it waits for its lock, so
 * one that has waited for a refresh of ours brings back what that replaced.
 * An event trigger writes a row to the log that stands for all groups: it is
 * committed together with the REFRESH, locks nothing that a refresh of ours
 * would wait for, and cannot be lost.
 *
 * Locks: as a writer's (matview_log_store.c).  After an error the statement is
 * undone, and the row with it.
 *
 * What it does not do: notice REFRESH where event triggers are disabled; a
 * plain one is seen by the view's file all the same (matview_stamp.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "commands/event_trigger.h"
#include "nodes/parsenodes.h"

#include "matview_log.h"

PG_FUNCTION_INFO_V1(cm__note_refresh);

Oid			cm_matview_refreshing = InvalidOid;

/* SQL: _note_refresh() */
Datum
cm__note_refresh(PG_FUNCTION_ARGS)
{
	EventTriggerData *event = (EventTriggerData *) fcinfo->context;
	Oid			view;
	Oid			log_relid;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"_note_refresh\" was not called by an event trigger")));
	if (!IsA(event->parsetree, RefreshMatViewStmt))
		PG_RETURN_NULL();
	view = RangeVarGetRelid(((RefreshMatViewStmt *) event->parsetree)->relation, NoLock, true);
	if (!OidIsValid(view) || view == cm_matview_refreshing)
		PG_RETURN_NULL();
	log_relid = cm_log_leaf(view);
	if (OidIsValid(log_relid) && cm_log_track_zone(view) != NULL)
		cm_log_insert(log_relid, view, 0, cm_log_reason(CM_LOG_BY_HAND));
	PG_RETURN_NULL();
}
