/*-------------------------------------------------------------------------
 *
 * matview_prune.c
 *	  Keep what is logged for views bounded, and clear what is left of them.
 *
 * Part of the prune job, which runs now and then and when a writer has seen
 * that the log grows (matview_log_store.c).  A view whose log has more rows
 * than the settings allow is made stale, that is, computed as a whole by its
 * next refresh, and its log is emptied; both are committed together.  Rows of
 * views that are gone or no longer tracked are deleted, and triggers that no
 * view needs are dropped, each in a transaction of its own as the table's
 * owner; where that fails the next run tries again.
 *
 * Rows of the log are deleted by cm_matview_log_clear() and not by DELETE,
 * which would refuse where all tables are published: the log has no key.
 *
 * Locks: ShareUpdateExclusiveLock on a view, if it is to be had at once: a
 * refresh that is going on will use up the log itself.  To drop a trigger,
 * AccessExclusiveLock under the deadline.  After an error the worker's
 * transaction is aborted, and the job is run again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "matview_track.h"

/* The oids in the first column of the last SPI result, in a context. */
static List *
result_oids(MemoryContext context)
{
	MemoryContext spi = MemoryContextSwitchTo(context);
	List	   *oids = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		oids = lappend_oid(oids, DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i],
																SPI_tuptable->tupdesc, 1, &isnull)));
	}
	MemoryContextSwitchTo(spi);
	return oids;
}

/* Delete what is left of views that are gone, but the log.  Caller is in a catalog scope. */
static void
delete_leftovers(void)
{
	cm_query("DELETE FROM concertmaster.matview_track t WHERE NOT EXISTS"
			 " (SELECT FROM pg_class c WHERE c.oid = t.view AND c.relkind = 'm')",
			 0, NULL, NULL, NULL);
	cm_query("DELETE FROM concertmaster.matview_source s WHERE NOT EXISTS"
			 " (SELECT FROM concertmaster.matview_track t WHERE t.view = s.view)",
			 0, NULL, NULL, NULL);
	cm_query("DELETE FROM concertmaster.matview_leaf l WHERE NOT EXISTS"
			 " (SELECT FROM concertmaster.matview_track t WHERE t.view = l.view)",
			 0, NULL, NULL, NULL);
}

/* Views that have rows in the log and are not tracked, likewise. */
static List *
find_orphans(MemoryContext context)
{
	cm_query("SELECT DISTINCT view FROM concertmaster.matview_log l WHERE NOT EXISTS"
			 " (SELECT FROM concertmaster.matview_track t WHERE t.view = l.view)",
			 0, NULL, NULL, NULL);
	return result_oids(context);
}

/* Views that have more rows in the log than the settings allow, likewise. */
static List *
find_long_logs(MemoryContext context)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(cm_matview_log_rows)};

	cm_query("SELECT view FROM concertmaster.matview_log GROUP BY view HAVING count(*) > $1",
			 1, types, values, NULL);
	return result_oids(context);
}

/* Give up on a view's log, unless a refresh is at it.  Likewise. */
static void
cut_log(Oid view)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2];

	if (!ConditionalLockRelationOid(view, ShareUpdateExclusiveLock))
		return;
	values[0] = ObjectIdGetDatum(view);
	values[1] = CStringGetTextDatum(psprintf("more than %d changed groups were logged", cm_matview_log_rows));
	cm_query("UPDATE concertmaster.matview_track SET stale = coalesce(stale, $2) WHERE view = $1",
			 2, types, values, NULL);
	cm_matview_log_clear(view);
}

/* Tables with a trigger of ours that no view needs, likewise. */
static List *
find_idle_triggers(MemoryContext context)
{
	cm_query("WITH RECURSIVE needed AS ("
			 "  SELECT relid FROM concertmaster.matview_source"
			 "  UNION SELECT h.inhparent FROM needed n JOIN pg_inherits h ON h.inhrelid = n.relid),"
			 " below AS ("
			 "  SELECT relid FROM concertmaster.matview_source"
			 "  UNION SELECT h.inhrelid FROM below b JOIN pg_inherits h ON h.inhparent = b.relid),"
			 " ours AS ("
			 "  SELECT tgrelid, bool_or(tgparentid = 0) AS own, bool_or(tgparentid <> 0) AS inherited FROM pg_trigger"
			 "   WHERE tgfoid = 'concertmaster.log_changes()'::regprocedure GROUP BY tgrelid)"
			 " SELECT tgrelid FROM ours"
			 "  WHERE own AND tgrelid NOT IN (SELECT relid FROM needed)"
			 "    AND (inherited OR tgrelid NOT IN (SELECT relid FROM below))",
			 0, NULL, NULL, NULL);
	return result_oids(context);
}

/* Part of the prune job; in no transaction, before and after. */
void
cm_matview_prune(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *idle;
	ListCell   *lc;
	CmScope		scope;

	cm_transaction_begin(GetSessionUserId());
	cm_catalog_enter(&scope);
	delete_leftovers();
	foreach(lc, find_orphans(context))
		cm_matview_log_clear(lfirst_oid(lc));
	foreach(lc, find_long_logs(context))
		cut_log(lfirst_oid(lc));
	idle = find_idle_triggers(context);
	cm_scope_leave(&scope);
	cm_transaction_commit();

	foreach(lc, idle)
		(void) cm_log_trigger_drop(lfirst_oid(lc), false);
}
