/*-------------------------------------------------------------------------
 *
 * job_wake.c
 *	  Tell the launcher at the end of a transaction that changed a job.
 *
 * The launcher's workers see what is committed, so it is woken then and not
 * before; after an abort too, because rows that the transaction had locked are
 * free again.  A transaction that is prepared ends in another session: its
 * database is marked, and job_database.c wakes the launcher when one of those
 * is committed or rolled back.
 *
 * Locks: shared_state.c's.  Nothing to clean up, and no errors.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"

#include "concertmaster.h"
#include "shared_state.h"

/* Whether the end of this transaction shall wake the launcher. */
static bool wake_pending = false;
static bool wake_registered = false;

/* Transaction end: what cm_shared_wake_at_commit() asked for. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (!wake_pending)
		return;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
	{
		wake_pending = false;
		cm_database_wake(MyDatabaseId);
	}
	else if (event == XACT_EVENT_PREPARE)
	{
		wake_pending = false;
		cm_database_note_prepared(MyDatabaseId, true);
	}
}

/* Tell the launcher, when this transaction ends, to look at this database. */
void
cm_shared_wake_at_commit(void)
{
	cm_shared_attach();
	if (!wake_registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		wake_registered = true;
	}
	wake_pending = true;
}
