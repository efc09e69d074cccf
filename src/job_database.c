/*-------------------------------------------------------------------------
 *
 * job_database.c
 *	  Make way for commands that need a database to themselves.
 *
 * DROP DATABASE, CREATE DATABASE ... TEMPLATE, ALTER DATABASE ... RENAME and
 * SET TABLESPACE wait five seconds for other sessions to leave and then fail.
 * Our workers are such sessions, so a utility hook puts a hold on the
 * database, which keeps new workers out until the transaction ends, and asks
 * the workers in it to stop: by a cancel, which lets them record that their
 * run was put off, and by termination if that takes too long.  The launcher
 * is connected to no database and in nobody's way.
 *
 * Only a user who has the right to the command makes our workers stop; the
 * command itself checks it again.
 *
 * DROP EXTENSION concertmaster sees the workers of its database off likewise.
 * The same hook wakes the launcher when the extension is created or updated,
 * and when a prepared transaction ends in a database where such have to do
 * with jobs: then no transaction of ours ends that could.
 *
 * Locks: none held over the command.  Cleanup: the hold is given up at the
 * end of the transaction, whichever way it ends, and ignored once its holder
 * is gone.  Errors of our own are not raised here, except by a cancel of the
 * user's while waiting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/defrem.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "concertmaster.h"
#include "job.h"

/* How long workers may take to record that they made way. */
#define CANCEL_GRACE_MS		1500

static ProcessUtility_hook_type previous_hook = NULL;
static bool callback_registered = false;

/* The value of an option of CREATE or ALTER DATABASE, NULL if not given. */
static const char *
option_value(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/* The database that a command needs for itself, or NULL. */
static const char *
database_wanted(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return castNode(DropdbStmt, statement)->dbname;
		case T_CreatedbStmt:
			return option_value(castNode(CreatedbStmt, statement)->options, "template");
		case T_AlterDatabaseStmt:
			if (option_value(castNode(AlterDatabaseStmt, statement)->options, "tablespace") == NULL)
				return NULL;
			return castNode(AlterDatabaseStmt, statement)->dbname;
		case T_RenameStmt:
			if (castNode(RenameStmt, statement)->renameType != OBJECT_DATABASE)
				return NULL;
			return castNode(RenameStmt, statement)->subname;
		default:
			return NULL;
	}
}

/* May the current user create databases? */
static bool
may_create_databases(void)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	bool		may = false;

	if (HeapTupleIsValid(tuple))
	{
		may = ((Form_pg_authid) GETSTRUCT(tuple))->rolcreatedb;
		ReleaseSysCache(tuple);
	}
	return may || superuser();
}

/* Would the command get past its checks of privilege? */
static bool
user_may(Node *statement, Oid datid)
{
	HeapTuple	tuple;
	bool		is_template;

	if (object_ownercheck(DatabaseRelationId, datid, GetUserId()))
		return !IsA(statement, CreatedbStmt) && !IsA(statement, RenameStmt) ? true : may_create_databases();
	if (!IsA(statement, CreatedbStmt) || !may_create_databases())
		return false;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(datid));
	is_template = HeapTupleIsValid(tuple) && ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return is_template;
}

/* Give up this session's holds at the end of the transaction. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		cm_hold_release();
}

/* Keep workers out of the database, and see those that are in it off. */
static void
clear_database(Oid datid)
{
	if (!callback_registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		callback_registered = true;
	}
	(void) cm_hold_take(datid);
	if (cm_slots_signal(datid, SIGINT) == 0)
		return;

	for (int waited_ms = 0; waited_ms < CANCEL_GRACE_MS; waited_ms += 20)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 20, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (cm_slots_signal(datid, 0) == 0)
			return;
	}
	(void) cm_slots_signal(datid, SIGTERM);
}

/* Is this about our extension being created or updated? */
static bool
concerns_extension(Node *statement)
{
	if (IsA(statement, CreateExtensionStmt))
		return strcmp(castNode(CreateExtensionStmt, statement)->extname, "concertmaster") == 0;
	if (IsA(statement, AlterExtensionStmt))
		return strcmp(castNode(AlterExtensionStmt, statement)->extname, "concertmaster") == 0;
	return false;
}

/*
 * DROP EXTENSION waits for whoever uses our tables, which a worker can do for
 * as long as a refresh takes.
 */
static bool
drops_extension(Node *statement)
{
	ListCell   *cell;

	if (!IsA(statement, DropStmt) || castNode(DropStmt, statement)->removeType != OBJECT_EXTENSION)
		return false;
	foreach(cell, castNode(DropStmt, statement)->objects)
	{
		if (strcmp(strVal(lfirst(cell)), "concertmaster") == 0)
			return OidIsValid(get_extension_oid("concertmaster", true)) &&
				has_privs_of_role(GetUserId(), cm_extension_owner());
	}
	return false;
}

/* Does this end a prepared transaction? */
static bool
ends_prepared(Node *statement)
{
	return IsA(statement, TransactionStmt) &&
		(castNode(TransactionStmt, statement)->kind == TRANS_STMT_COMMIT_PREPARED ||
		 castNode(TransactionStmt, statement)->kind == TRANS_STMT_ROLLBACK_PREPARED);
}

/* The hook around every utility command. */
static void
process_utility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	const char *database = NULL;
	Oid			datid = InvalidOid;

	if (context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock())
		database = database_wanted(statement);
	if (database != NULL && !RecoveryInProgress())
		datid = get_database_oid(database, true);
	if (OidIsValid(datid) && datid != MyDatabaseId && user_may(statement, datid))
		clear_database(datid);
	else if (!RecoveryInProgress() && drops_extension(statement))
		clear_database(MyDatabaseId);

	if (previous_hook)
		previous_hook(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);

	if (OidIsValid(datid) && IsA(statement, DropdbStmt))
		cm_database_forget(datid);
	if (concerns_extension(statement))
		cm_shared_wake_at_commit();
	if (ends_prepared(statement) && cm_database_prepared(MyDatabaseId) != CM_PREPARED_NO)
		cm_database_wake(MyDatabaseId);
}

/* Install the hook.  Called from _PG_init when preloaded. */
void
cm_database_hook_install(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}
