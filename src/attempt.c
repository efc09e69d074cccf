/*-------------------------------------------------------------------------
 *
 * attempt.c
 *	  A step of several statements, tried until it gets its locks in time.
 *
 * A step is a function that works in the transaction that is open.  It is
 * run under the deadline of the settings (statement.c says why a timer and
 * not lock_timeout), either in a transaction of its own, by workers, or in a
 * subtransaction of the caller's, by functions.  When the deadline passes or
 * a deadlock picks us, the (sub)transaction is aborted, which gives back
 * every lock that this try took, and after a pause the step is run again.
 *
 * A step that holds its locks and has long work to do that nobody waits for
 * calls cm_deadline_disarm() itself.
 *
 * Where a transaction that is there to stay holds what the step needs
 * (lock_watch.c; the caller says which locks these are), the try is not even
 * made: it would make others queue for nothing.
 *
 * Errors other than being put off are thrown on, after the abort.  Where they
 * shall not be, cm_subtransaction() undoes a step and gives its error back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "concertmaster.h"

/*
 * After a failed try, outside what it was tried in: return if it was put off,
 * throw the error if not.
 */
static void
judge_failure(ErrorData *edata, bool deadline_was_hit)
{
	if (!cm_error_means_later(edata, deadline_was_hit))
		ReThrowError(edata);
	FreeErrorData(edata);
}

/*
 * Run a step once, in a transaction of its own as userid.  Returns false if it
 * was put off.  For those with another deadline than the settings' (in
 * milliseconds), or with something to do between two tries.  The caller is in
 * no transaction, before and after.
 */
bool
cm_attempt_once(CmStep step, void *arg, Oid userid, int deadline_ms)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *edata;
	bool		fired;

	Assert(!IsTransactionState());
	PG_TRY();
	{
		cm_transaction_begin(userid);
		cm_deadline_arm(deadline_ms);
		step(arg);
		/* The commit waits for no lock. */
		(void) cm_deadline_disarm();
		cm_transaction_commit();
		edata = NULL;
		fired = false;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		fired = cm_deadline_disarm();
		cm_transaction_abort();
	}
	PG_END_TRY();

	if (edata == NULL)
		return true;
	judge_failure(edata, fired);
	return false;
}

/*
 * The pause after a try that was put off: jittered, growing from one deadline
 * to a second.  The caller holds no lock that others could wait for.
 */
void
cm_retry_pause(int attempt)
{
	double		pause = Min(1000.0, cm_ddl_deadline * (1.0 + attempt / 2.0));

	pause *= 0.75 + 0.5 * pg_prng_double(&pg_global_prng_state);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 (long) pause, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* What is tried, and how. */
typedef struct Trial
{
	bool		(*try) (const struct Trial *trial);
	CmStep		step;
	void	   *arg;
	Oid			userid;
	const char *sql;
} Trial;

/* Try as often as the settings allow; false if it was put off every time. */
static bool
keep_trying(const Trial *trial, const List *wishes)
{
	for (int attempt = 1;; attempt++)
	{
		if (cm_lock_stayer(wishes) == 0 && trial->try(trial))
			return true;
		if (attempt >= cm_ddl_attempts)
			return false;
		cm_retry_pause(attempt);
	}
}

static bool
trial_commit(const Trial *trial)
{
	return cm_attempt_once(trial->step, trial->arg, trial->userid, cm_ddl_deadline);
}

/*
 * Run a step in a transaction of its own as userid, under the deadline, as
 * often as the settings allow.  wishes: the locks that it will ask for, as
 * CmLockWish.  Returns false if it was put off every time.  The caller is in
 * no transaction, before and after.
 */
bool
cm_attempt_commit(CmStep step, void *arg, Oid userid, const List *wishes)
{
	Trial		trial = {.try = trial_commit,.step = step,.arg = arg,.userid = userid};

	Assert(!IsTransactionState());
	return keep_trying(&trial, wishes);
}

static bool
trial_statement(const Trial *trial)
{
	return cm_statement_run(trial->sql, trial->userid, cm_ddl_deadline);
}

/* The same for one statement at top level. */
bool
cm_attempt_statement(const char *sql, Oid userid, const List *wishes)
{
	Trial		trial = {.try = trial_statement,.sql = sql,.userid = userid};

	return keep_trying(&trial, wishes);
}

/*
 * A caller's session has its own deadlock_timeout, by default longer than our
 * deadline: then an autovacuum in the way would never be cancelled.
 */
static void
shorten_deadlock_timeout(void)
{
	char		timeout[32];

	snprintf(timeout, sizeof(timeout), "%dms", Max(1, Min(20, cm_ddl_deadline / 3)));
	(void) set_config_option("deadlock_timeout", timeout, PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Wait for no lock, of a row or a relation, longer than the deadline: an error
 * otherwise (SQLSTATE 55P03).  For statements that take their time but not in
 * waiting.  Lasts as long as the GUC nest level that is open.
 */
void
cm_lock_waits_limit(void)
{
	char		timeout[32];

	snprintf(timeout, sizeof(timeout), "%dms", Max(1, cm_ddl_deadline));
	(void) set_config_option("lock_timeout", timeout, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Run a step in a subtransaction, which is undone if the step fails.  Returns
 * NULL or the error.  A deadline is its caller's business: this also serves
 * triggers that fire in somebody's step.
 */
ErrorData *
cm_subtransaction(CmStep step, void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *edata;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		step(arg);
		ReleaseCurrentSubTransaction();
		edata = NULL;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return edata;
}

/*
 * Is it an error that whoever fences a step must throw on: the statement is
 * cancelled, the session ends, or memory does?
 */
bool
cm_error_ends_all(const ErrorData *edata)
{
	switch (edata->sqlerrcode)
	{
		case ERRCODE_QUERY_CANCELED:
		case ERRCODE_OUT_OF_MEMORY:
		case ERRCODE_ADMIN_SHUTDOWN:
		case ERRCODE_CRASH_SHUTDOWN:
		case ERRCODE_DATABASE_DROPPED:
			return true;
		default:
			return false;
	}
}

/* What step_here() is about, and whether its deadline was hit. */
typedef struct TrialHere
{
	const Trial *trial;
	bool		deadline_was_hit;
} TrialHere;

static void
step_here(void *arg)
{
	TrialHere  *here = arg;
	int			nestlevel = NewGUCNestLevel();

	shorten_deadlock_timeout();
	cm_deadline_arm(cm_ddl_deadline);
	PG_TRY();
	{
		here->trial->step(here->trial->arg);
	}
	PG_FINALLY();
	{
		here->deadline_was_hit = cm_deadline_disarm();
	}
	PG_END_TRY();
	AtEOXact_GUC(false, nestlevel);
}

/* One try in a subtransaction. */
static bool
trial_here(const Trial *trial)
{
	TrialHere	here = {.trial = trial};
	ErrorData  *edata = cm_subtransaction(step_here, &here);

	if (edata == NULL)
		return true;
	judge_failure(edata, here.deadline_was_hit);
	return false;
}

/*
 * Run a step in subtransactions of the caller's transaction; otherwise as
 * cm_attempt_commit().  Locks of a step that got through are the caller's
 * until the end of the transaction.
 */
bool
cm_attempt_here(CmStep step, void *arg, const List *wishes)
{
	Trial		trial = {.try = trial_here,.step = step,.arg = arg};

	return keep_trying(&trial, wishes);
}
