/*-------------------------------------------------------------------------
 *
 * statement.c
 *	  One statement, one short transaction, a deadline.
 *
 * Every DDL statement that a worker runs comes through cm_statement_run():
 * it starts a transaction, becomes the given role, parses, plans and runs the
 * text as a top-level statement through a portal (CREATE INDEX CONCURRENTLY
 * and DETACH CONCURRENTLY commit inside and are refused anywhere else),
 * commits, and becomes the session's role again.  Whatever happens, it
 * returns or throws outside of any transaction.
 *
 * The deadline is a timer over the whole statement.  lock_timeout would not
 * do: it counts anew for every lock, and a statement that takes three locks
 * can make others queue three times as long.  When the timer fires, it asks
 * for a query cancel exactly as SIGINT does; a flag tells our cancel from a
 * user's.  A deadlock in which the statement was the victim counts as the
 * same thing: it was put off, not refused.
 *
 * A statement without a deadline, a concurrent build or detach, waits for old
 * transactions as long as they take; if one of these then asks for a lock that
 * the statement is in the way of, that closes a circle.  The server would have
 * the user's statement fail, as each process looks for a deadlock only once,
 * early in its wait, and the user's began later.  So ours looks again and again,
 * more often than the default deadlock_timeout of others, and gives way.
 *
 * Parse and plan trees live in a context under TopMemoryContext, because the
 * statement may commit before it is done with them.
 *
 * Locks: none of its own.  After an error the transaction is aborted here,
 * which releases what the statement took; the tree context is deleted here.
 *
 * What it does not do: choose what to do when a statement was put off (the
 * callers do), or run more than one statement of a text (it refuses).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "concertmaster.h"

/* Between two looks for a deadlock, in milliseconds. */
#define DEADLOCK_LOOKS_MS	200

/* The timer of those looks, registered once per process. */
static TimeoutId looks_timeout = MAX_TIMEOUTS;

/* That of the deadline, likewise; and whether it went off. */
static TimeoutId deadline_timeout = MAX_TIMEOUTS;
static volatile sig_atomic_t deadline_fired = false;

/* Whether it found us at work, and not waiting for a lock; until the next one. */
static volatile sig_atomic_t deadline_at_work = false;

/* Timer handler: ask for a cancel, as StatementCancelHandler does. */
static void
deadline_handler(void)
{
	deadline_fired = true;
	deadline_at_work = MyProc->waitStatus != PROC_WAIT_STATUS_WAITING;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/*
 * Start the deadline.  Every call is paired with cm_deadline_disarm(), in the
 * error path too.  Zero means none.
 */
void
cm_deadline_arm(int deadline_ms)
{
	deadline_fired = false;
	deadline_at_work = false;
	if (deadline_ms <= 0)
		return;
	if (deadline_timeout == MAX_TIMEOUTS)
		deadline_timeout = RegisterTimeout(USER_TIMEOUT, deadline_handler);
	enable_timeout_after(deadline_timeout, deadline_ms);
}

/*
 * Stop the deadline.  Returns whether it went off.
 *
 * If it did, but the statement got through all the same, the cancel that it
 * asked for must not hit the next statement.
 */
bool
cm_deadline_disarm(void)
{
	bool		fired;

	if (deadline_timeout != MAX_TIMEOUTS)
		disable_timeout(deadline_timeout, false);
	fired = deadline_fired;
	if (fired)
		QueryCancelPending = false;
	deadline_fired = false;
	return fired;
}

/* Did the last deadline pass without a lock being waited for at that moment? */
bool
cm_deadline_was_too_short(void)
{
	return deadline_at_work;
}

/* While a statement without a deadline runs: look for deadlocks that others close. */
static void
start_deadlock_looks(void)
{
	if (looks_timeout == MAX_TIMEOUTS)
		looks_timeout = RegisterTimeout(USER_TIMEOUT, CheckDeadLockAlert);
	enable_timeout_every(looks_timeout,
						 TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DEADLOCK_LOOKS_MS),
						 DEADLOCK_LOOKS_MS);
}

static void
stop_deadlock_looks(void)
{
	if (looks_timeout != MAX_TIMEOUTS)
		disable_timeout(looks_timeout, false);
}

/*
 * Settings that a worker's whole session runs with, whatever the database or
 * the role has been given: names resolve in pg_catalog alone, every statement
 * sees what was committed before it and can write, nothing but our own
 * deadlines ends it, an autovacuum in the way is cancelled before these pass,
 * the server's log is not told of every wait, which our views show, and no
 * commit waits for a standby while it holds locks (the next
 * synchronous commit of anybody covers ours).
 */
void
cm_session_pin(void)
{
	char		timeout[32];

	snprintf(timeout, sizeof(timeout), "%dms", Max(1, Min(20, cm_ddl_deadline / 3)));
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("deadlock_timeout", timeout, PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("log_lock_waits", "off", PGC_SUSET, PGC_S_SESSION);
	SetConfigOption("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("statement_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	SetConfigOption("lock_timeout", "0", PGC_USERSET, PGC_S_SESSION);
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_USERSET, PGC_S_SESSION);
}

/* The role of the session, before and after anything done for others. */
static void
become_session_user(void)
{
	SetUserIdAndSecContext(GetSessionUserId(), 0);
}

/*
 * Start a transaction as userid, with a snapshot.  The current memory context
 * stays what it is, and must outlive the transaction.
 */
void
cm_transaction_begin(Oid userid)
{
	MemoryContext context = CurrentMemoryContext;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	SetUserIdAndSecContext(userid, SECURITY_LOCAL_USERID_CHANGE);
	PushActiveSnapshot(GetTransactionSnapshot());
	MemoryContextSwitchTo(context);
}

/* Commit what cm_transaction_begin() started. */
void
cm_transaction_commit(void)
{
	MemoryContext context = CurrentMemoryContext;

	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	become_session_user();
	MemoryContextSwitchTo(context);
}

/* Leave any transaction without a trace.  Safe when there is none. */
void
cm_transaction_abort(void)
{
	MemoryContext context = CurrentMemoryContext;

	AbortOutOfAnyTransaction();
	become_session_user();
	MemoryContextSwitchTo(context);
}

/* Parse a text that holds one statement. */
static RawStmt *
parse_one(const char *sql)
{
	List	   *parsed = pg_parse_query(sql);

	if (list_length(parsed) != 1)
		elog(ERROR, "expected one statement, got %d: %s", list_length(parsed), sql);
	return linitial_node(RawStmt, parsed);
}

/* Will the statement commit and go on in further transactions? */
static bool
commits_inside(const Node *stmt)
{
	if (IsA(stmt, IndexStmt))
		return ((const IndexStmt *) stmt)->concurrent;
	if (IsA(stmt, DropStmt))
		return ((const DropStmt *) stmt)->concurrent;
	if (IsA(stmt, AlterTableStmt))
	{
		const AlterTableCmd *cmd = linitial_node(AlterTableCmd, ((const AlterTableStmt *) stmt)->cmds);

		return cmd->subtype == AT_DetachPartition &&
			castNode(PartitionCmd, cmd->def)->concurrent;
	}
	return IsA(stmt, ReindexStmt);
}

/* Does the statement that runs commit inside? */
static bool lift_at_commit = false;

/* A transaction must not start with what become_owner() sets. */
static void
lift_restriction(XactEvent event, void *arg)
{
	Oid			userid;
	int			context;

	if (event != XACT_EVENT_PRE_COMMIT || !lift_at_commit)
		return;
	GetUserIdAndSecContext(&userid, &context);
	SetUserIdAndSecContext(userid, context & ~SECURITY_LOCAL_USERID_CHANGE);
}

/*
 * Become the role that the statement runs as.  SECURITY_LOCAL_USERID_CHANGE
 * keeps user code from SET ROLE, which would make it the session's role.  A
 * statement that commits inside has it up to there: then all of its user code
 * has run (DETACH CONCURRENTLY, whose check of foreign keys calls casts), or
 * core sets SECURITY_RESTRICTED_OPERATION around it (CREATE INDEX).
 */
static void
become_owner(Oid userid, const Node *stmt)
{
	static bool registered = false;

	if (!registered)
		RegisterXactCallback(lift_restriction, NULL);
	registered = true;
	lift_at_commit = commits_inside(stmt);
	SetUserIdAndSecContext(userid, SECURITY_LOCAL_USERID_CHANGE);
}

/* Plan and run one statement in the transaction that is open. */
static void
run_in_portal(RawStmt *raw, const char *sql)
{
	List	   *queries;
	List	   *plans;
	Portal		portal;
	DestReceiver *receiver;
	QueryCompletion completion;
	bool		snapshot = false;

	if (analyze_requires_snapshot(raw))
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		snapshot = true;
	}
	queries = pg_analyze_and_rewrite_fixedparams(raw, sql, NULL, 0, NULL);
	plans = pg_plan_queries(queries, sql, CURSOR_OPT_PARALLEL_OK, NULL);
	if (snapshot)
		PopActiveSnapshot();

	portal = CreatePortal("", true, true);
	portal->visible = false;
	PortalDefineQuery(portal, NULL, sql, CreateCommandTag(raw->stmt), plans, NULL);
	PortalStart(portal, NULL, 0, InvalidSnapshot);
	receiver = CreateDestReceiver(DestNone);
	(void) cm_compat_portal_run(portal, FETCH_ALL, true, receiver, receiver, &completion);
	receiver->rDestroy(receiver);
	PortalDrop(portal, false);
}

/* Was this error our deadline, or something that a later try can get past? */
bool
cm_error_means_later(const ErrorData *edata, bool deadline_was_hit)
{
	switch (edata->sqlerrcode)
	{
		case ERRCODE_QUERY_CANCELED:
			return deadline_was_hit;
		case ERRCODE_T_R_DEADLOCK_DETECTED:
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return true;
		default:
			return false;
	}
}

/*
 * Run one statement at top level in a transaction of its own, as userid.
 *
 * Returns false if it was put off: its deadline (in milliseconds, 0 for none)
 * passed, or a deadlock chose it.  Any other error is thrown.  The caller is
 * in no transaction, before and after.
 */
bool
cm_statement_run(const char *sql, Oid userid, int deadline_ms)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext trees;
	ErrorData  *volatile edata = NULL;
	volatile bool fired = false;

	Assert(!IsTransactionState());
	trees = AllocSetContextCreate(TopMemoryContext, "concertmaster statement",
								  ALLOCSET_DEFAULT_SIZES);
	PG_TRY();
	{
		RawStmt    *raw;

		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		MemoryContextSwitchTo(trees);
		raw = parse_one(sql);
		become_owner(userid, raw->stmt);
		cm_deadline_arm(deadline_ms);
		if (deadline_ms <= 0)
			start_deadlock_looks();
		run_in_portal(raw, sql);
		CommitTransactionCommand();
		stop_deadlock_looks();
		fired = cm_deadline_disarm();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		stop_deadlock_looks();
		fired = cm_deadline_disarm();
	}
	PG_END_TRY();

	MemoryContextSwitchTo(caller);
	lift_at_commit = false;
	if (edata != NULL)
		AbortOutOfAnyTransaction();
	become_session_user();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(trees);

	if (edata == NULL)
		return true;
	if (cm_error_means_later(edata, fired))
	{
		FreeErrorData(edata);
		return false;
	}
	ReThrowError(edata);
}

/*
 * Refuse to go on unless called by a plain CALL outside a transaction block:
 * what waits for a worker must be able to commit first, or the worker would
 * wait for it in turn.
 */
void
cm_require_nonatomic(FunctionCallInfo fcinfo, const char *what)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", what),
				 errdetail("It commits before it waits for its worker."),
				 errhint("CALL it as a statement of its own, outside BEGIN and outside functions.")));
}
