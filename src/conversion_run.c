/*-------------------------------------------------------------------------
 *
 * conversion_run.c
 *	  Run a conversion's job: do what is left to be done.
 *
 * cm_conversion_run() is called by a worker, in no transaction.  It looks at
 * the table anew before each step, with the function whose answer
 * explain_conversion() shows, and does the first step that is not done yet,
 * as the server's catalog says:
 *
 *	 1. unique indexes that have the key, CONCURRENTLY; and foreign keys to the
 *		table that are to have it (conversion_fill.c)
 *	 2. the CHECK that holds the bound, NOT VALID, and its validation
 *	 3. NOT NULL for the key
 *	 4. the partitioned table (conversion_create.c)
 *	 5. the swap (conversion_swap.c)
 *	 6. foreign keys validated, the CHECK dropped, the set kept rolling,
 *		ANALYZE
 *
 * The CHECK refuses rows at the bound and above, so it is made after what
 * takes longest, taken away by the first run that finds values near the bound
 * (by the margin of conversion_rows.c, a day of time at least, or a whole
 * partition of numbers; a job is run again within an hour), whatever else is in
 * the way, and when the conversion is stopped.  A step that was
 * not to be had in time puts the run off; the job is run again.  Whatever
 * fails or dies, the table is as it was until step 5 commits; what stands
 * beside it is used by the next run, or removed by cancel_conversion().
 *
 * Before an index is built it is asked whether that may begin now (pace.h),
 * before the CHECK is added and validated only whether the disk is not near
 * full.  After that the conversion waits for nothing but locks: what is done
 * is not large any more, and whoever has a CHECK has it no longer than needed.
 *
 * Locks: SHARE UPDATE EXCLUSIVE for 1 and the validation, which waits as long
 * as it takes, in nobody's way; under the deadline what others queue behind.
 * After an error transactions are aborted by the functions that start them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/index.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "conversion_do.h"
#include "pace.h"

/* How long a run waits for standbys before an index is built, in ms. */
#define PATIENCE_MS		60000

/* Copies that are made of a table that keeps changing before the run gives up. */
#define MAX_COPIES	5

/* One run. */
typedef struct Run
{
	const CmJob *job;
	CmJobOutcome *outcome;
	MemoryContext context;		/* of a look; reset before each */
	CmConversionState *state;
	CmConversion *conversion;
	char	   *next_bound;		/* that would be chosen now; NULL: none can be */
} Run;

/*
 * Ask for one text about a relation and a name, in a transaction of its own;
 * NULL if there is no row.
 */
char *
cm_conversion_query(const char *sql, Oid relid, const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2];
	char	   *answer = NULL;
	CmScope		scope;

	values[0] = ObjectIdGetDatum(relid);
	values[1] = CStringGetTextDatum(name ? name : "");
	cm_transaction_begin(GetSessionUserId());
	cm_catalog_enter(&scope);
	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", sql);
	if (SPI_processed > 0)
		answer = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (answer != NULL)
		answer = MemoryContextStrdup(caller, answer);
	cm_scope_leave(&scope);
	cm_transaction_commit();
	MemoryContextSwitchTo(caller);
	return answer;
}

/*
 * What has to be accepted or changed first is an error, SQLSTATE 55000, with a
 * line for each.
 */
void
cm_conversion_require(const CmConversion *conversion)
{
	StringInfoData reasons;
	ListCell   *cell;

	initStringInfo(&reasons);
	foreach(cell, conversion->findings)
	{
		const CmFinding *finding = lfirst(cell);

		if (finding->status != CM_FINDING_REFUSED && finding->status != CM_FINDING_TO_ACCEPT)
			continue;
		appendStringInfo(&reasons, "%s%s: %s, %s: %s", reasons.len > 0 ? "\n" : "",
						 finding->status == CM_FINDING_REFUSED ? "refused" : "to accept",
						 finding->code, finding->object, finding->detail ? finding->detail : "");
	}
	if (reasons.len > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot convert table \"%s\" to a partitioned one", conversion->name),
				 errdetail("%s", reasons.data),
				 errhint("SELECT * FROM concertmaster.explain_conversion(...) tells what each means and what to do.")));
}

/* Look at the table as it is now, with the bound that its CHECK has. */
static void
look(Run *run)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			relid = run->state->relid;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(run->context);
	cm_transaction_begin(GetSessionUserId());
	MemoryContextSwitchTo(run->context);
	run->state = cm_conversion_state(relid);
	if (run->state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the conversion was forgotten meanwhile")));
	if (run->state->phase == CM_CONVERSION_PREPARING || run->state->phase == CM_CONVERSION_CANCELLED)
	{
		run->conversion = cm_conversion_look(run->state->relid, run->state->wish, false);
		run->next_bound = run->conversion->bound;
		if (run->state->bound != NULL)
			run->conversion->bound = run->state->bound;
	}
	cm_transaction_commit();
	MemoryContextSwitchTo(caller);
}

/* Say what is being done: the first step of that kind, or what of them has that statement. */
static void
tell(const Run *run, CmConversionStepKind kind, const char *statement, const char *what)
{
	int			before = 0;
	ListCell   *cell;

	foreach(cell, run->conversion->steps)
	{
		const CmConversionStep *step = lfirst(cell);

		if (step->kind == kind && (statement == NULL || strcmp(step->statement, statement) == 0))
			break;
		before++;
	}
	cm_progress_report(before, list_length(run->conversion->steps), "%s", what);
}

/*
 * The run is put off: a lock was not to be had, or, on a machine that is slow or
 * very busy, the deadline passed over the step's own work.  Always false.
 */
bool
cm_conversion_put_off(CmJobOutcome *outcome, const char *what, Oid relid, LOCKMODE mode)
{
	outcome->deferred = true;
	outcome->blocked_by = cm_lock_holder(cm_lock_wish(NIL, relid, mode));
	if (outcome->blocked_by == 0 && cm_deadline_was_too_short())
		what = psprintf("a step takes longer than concertmaster.ddl_deadline, %d ms, with no lock in its way", cm_ddl_deadline);
	outcome->message = MemoryContextStrdup(TopMemoryContext, psprintf("put off: %s", what));
	return false;
}

static bool
put_off(Run *run, const char *what, Oid relid, LOCKMODE mode)
{
	return cm_conversion_put_off(run->outcome, what, relid, mode);
}

/* May long work begin now?  False: put off. */
bool
cm_conversion_may(const CmPaceNeed *need, CmJobOutcome *outcome)
{
	CmPace		pace;

	if (cm_pace_may(need, &pace) || (pace.reason == CM_PACE_LAG && cm_pace_wait(need, PATIENCE_MS, &pace)))
		return true;
	outcome->deferred = true;
	outcome->not_before = pace.until;
	outcome->message = MemoryContextStrdup(TopMemoryContext, psprintf("put off: %s", pace.why));
	return false;
}

/* Likewise an index, of need->bytes: what memory cannot hold is sorted on disk. */
bool
cm_conversion_may_build(CmPaceNeed *need, CmJobOutcome *outcome)
{
	if (need->bytes > maintenance_work_mem * INT64CONST(1024))
		need->sort_bytes = need->bytes;
	return cm_conversion_may(need, outcome);
}

/* May a unique index be built now?  False: put off. */
static bool
may_build(Run *run, const CmConversionIndex *index)
{
	const CmConversion *conversion = run->conversion;
	CmPaceNeed	need = {
		.what = psprintf("building unique index \"%s\" on %s", index->replacement, conversion->quoted),
		.bytes = cm_conversion_index_bytes(conversion, index),
		.milliseconds = cm_build_milliseconds(conversion->heap_bytes, conversion->rows),
		.ignore_window = run->job->ignore_window,
	};

	return cm_conversion_may_build(&need, run->outcome);
}

/* An error if the disk is near full.  What follows writes next to nothing. */
static void
require_disk(const CmConversion *conversion)
{
	CmPaceNeed	need = {.what = psprintf("converting %s", conversion->quoted),.ignore_window = true,.ignore_standbys = true};
	CmPace		pace;

	(void) cm_pace_may(&need, &pace);
}

/* A unique index that has the key; one that a build left invalid is made anew. */
static bool
build_index(Run *run, const CmConversionIndex *index)
{
	const CmConversion *conversion = run->conversion;
	char	   *valid = cm_conversion_query("SELECT i.indisvalid::text FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid"
							" WHERE i.indrelid = $1 AND x.relname = $2", conversion->relid, index->replacement);
	char	   *create = cm_conversion_unique_index(conversion, index);

	if (valid != NULL && strcmp(valid, "true") == 0)
		return true;
	if (!may_build(run, index))
		return false;
	tell(run, CM_CONVERT_BUILD_INDEX, create, psprintf("building unique index \"%s\"", index->replacement));
	if (valid != NULL &&
		!cm_statement_run(psprintf("DROP INDEX CONCURRENTLY %s", cm_conversion_quoted(conversion, index->replacement)),
						  conversion->owner, 0))
		return put_off(run, "an index that a build left could not be dropped", conversion->relid, ShareUpdateExclusiveLock);
	if (!cm_statement_run(create, conversion->owner, 0))
		return put_off(run, "a unique index could not be built", conversion->relid, ShareUpdateExclusiveLock);
	return true;
}

/* The statement that adds the CHECK. */
static char *
check_sql(const CmConversion *conversion)
{
	return psprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s IS NOT NULL AND %s < %s) NOT VALID",
					conversion->quoted, quote_identifier(conversion->check_name),
					conversion->key_quoted, conversion->key_quoted, conversion->bound);
}

/* Steps: the CHECK, with the bound in our catalog, and away with both. */
static void
add_check(void *arg)
{
	const CmConversion *conversion = arg;

	cm_run_as(conversion->owner, check_sql(conversion));
	cm_conversion_state_bound(conversion->relid, conversion->bound, conversion->check_name);
}

void
cm_conversion_drop_check(void *arg)
{
	const CmConversion *conversion = arg;

	cm_run_as(conversion->owner, psprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s",
										  conversion->quoted, quote_identifier(conversion->check_name)));
	cm_conversion_state_bound(conversion->relid, NULL, NULL);
}

/*
 * Take the CHECK away if values come near its bound, which is where another one
 * would be chosen now: until the swap it refuses what is beyond.  False: put off.
 */
static bool
forget_near_bound(Run *run)
{
	CmConversion *conversion = run->conversion;

	if (run->state->bound == NULL ||
		(run->next_bound != NULL && strcmp(run->next_bound, run->state->bound) == 0))
		return true;
	if (!cm_attempt_commit(cm_conversion_drop_check, conversion, GetSessionUserId(),
						   cm_lock_wish(NIL, conversion->relid, AccessExclusiveLock)))
		return put_off(run, "the table was locked", conversion->relid, AccessExclusiveLock);
	look(run);
	return true;
}

/* The CHECK, validated.  False: put off. */
static bool
prove_bound(Run *run)
{
	CmConversion *conversion = run->conversion;
	char	   *valid;

	if (run->state->bound == NULL)
	{
		require_disk(conversion);
		tell(run, CM_CONVERT_ADD_CHECK, NULL, psprintf("adding constraint \"%s\"", conversion->check_name));
		if (!cm_attempt_commit(add_check, conversion, GetSessionUserId(),
							   cm_lock_wish(NIL, conversion->relid, AccessExclusiveLock)))
			return put_off(run, "the table was locked", conversion->relid, AccessExclusiveLock);
	}
	valid = cm_conversion_query("SELECT convalidated::text FROM pg_constraint WHERE conrelid = $1 AND conname = $2",
								conversion->relid, conversion->check_name);
	if (valid == NULL)
	{
		/* Somebody dropped it: begin with it again. */
		cm_transaction_begin(GetSessionUserId());
		cm_conversion_state_bound(conversion->relid, NULL, NULL);
		cm_transaction_commit();
		return put_off(run, "the constraint that holds the bound is gone, and is made anew", conversion->relid, AccessExclusiveLock);
	}
	if (strcmp(valid, "true") == 0)
		return true;
	require_disk(conversion);
	tell(run, CM_CONVERT_VALIDATE_CHECK, NULL, psprintf("validating constraint \"%s\"", conversion->check_name));
	return cm_statement_run(psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", conversion->quoted, quote_identifier(conversion->check_name)),
							conversion->owner, 0) ||
		put_off(run, "the constraint could not be validated", conversion->relid, ShareUpdateExclusiveLock);
}

/* NOT NULL, which the CHECK proves. */
static bool
set_not_null(Run *run)
{
	const CmConversion *conversion = run->conversion;

	if (conversion->key_not_null)
		return true;
	tell(run, CM_CONVERT_SET_NOT_NULL, NULL, psprintf("setting column %s NOT NULL", conversion->key_quoted));
	return cm_attempt_statement(psprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", conversion->quoted, conversion->key_quoted),
								conversion->owner, cm_lock_wish(NIL, conversion->relid, AccessExclusiveLock)) ||
		put_off(run, "the table was locked", conversion->relid, AccessExclusiveLock);
}

/* The partitioned table, and the swap; again if the table changed in between. */
static bool
exchange(Run *run)
{
	for (int i = 0; i < MAX_COPIES; i++)
	{
		CmConversionSwap swap = {0};
		ListCell   *cell;

		look(run);
		cm_conversion_require(run->conversion);

		/* One that was added meanwhile. */
		foreach(cell, run->conversion->unique_indexes)
		{
			if (!build_index(run, lfirst(cell)))
				return false;
		}
		if (!cm_conversion_make_composites(run->conversion, run->job->ignore_window, run->outcome))
			return false;
		if (!OidIsValid(run->state->parent) || run->state->fingerprint == NULL || i > 0)
		{
			tell(run, CM_CONVERT_CREATE, NULL, psprintf("making the partitioned table \"%s\"", run->conversion->new_name));
			if (!cm_attempt_commit(cm_conversion_drop_parent, run->conversion, GetSessionUserId(), NIL) ||
				!cm_attempt_commit(cm_conversion_create, run->conversion, GetSessionUserId(), NIL))
				return put_off(run, "a table that this one references was locked", run->conversion->relid, AccessShareLock);
			look(run);
		}
		swap.conversion = run->conversion;
		swap.parent = run->state->parent;
		swap.fingerprint = run->state->fingerprint;
		tell(run, CM_CONVERT_SWAP, NULL, "exchanging the tables");
		if (!cm_attempt_commit(cm_conversion_swap, &swap, GetSessionUserId(),
							   cm_lock_wish(NIL, run->conversion->relid, AccessExclusiveLock)))
			return put_off(run, "the table, or what the swap locks beside it, was locked", run->conversion->relid, AccessExclusiveLock);
		if (!swap.stale)
			return true;
	}
	return put_off(run, "the table's definition keeps changing", run->conversion->relid, AccessShareLock);
}

static bool
wants_composites(const CmConversion *conversion)
{
	return conversion->wish->foreign_keys != NULL && strcmp(conversion->wish->foreign_keys, "composite") == 0;
}

/* All up to the swap. */
static bool
prepare(Run *run)
{
	ListCell   *cell;

	/* Even where the rest cannot be done. */
	if (!forget_near_bound(run) ||
		!cm_conversion_drop_composites(run->state->relid, !wants_composites(run->conversion), run->outcome))
		return false;
	look(run);
	cm_conversion_require(run->conversion);
	foreach(cell, run->conversion->unique_indexes)
	{
		if (!build_index(run, lfirst(cell)))
			return false;
	}
	if (!cm_conversion_make_composites(run->conversion, run->job->ignore_window, run->outcome))
		return false;

	/* That can have taken days. */
	look(run);
	return forget_near_bound(run) && prove_bound(run) && set_not_null(run) && exchange(run);
}

/* The conversion that a job is about; an error if there is none. */
static CmConversionState *
load_state(const CmJob *job)
{
	MemoryContext caller = CurrentMemoryContext;
	CmConversionState *state = NULL;
	Oid			relid;

	cm_transaction_begin(GetSessionUserId());
	MemoryContextSwitchTo(caller);
	relid = cm_relation_resolve(job->schema_name, job->relation_name);
	if (OidIsValid(relid))
		state = cm_conversion_state(relid);
	cm_transaction_commit();
	MemoryContextSwitchTo(caller);
	return state;
}

/*
 * The step that stops a conversion.  Its CHECK goes, as nobody would see its
 * bound come near; if that is not to be had, the job goes on.
 */
static void
stop(void *arg)
{
	Oid			relid = *(Oid *) arg;
	CmConversionState *state = cm_conversion_state(relid);

	if (state != NULL && state->check_name != NULL)
		cm_run_as(cm_relation_owner(relid),
				  psprintf("ALTER TABLE %s DROP CONSTRAINT IF EXISTS %s", cm_relation_quoted(relid),
						   quote_identifier(state->check_name)));
	cm_conversion_state_bound(relid, NULL, NULL);
	cm_conversion_state_stop(relid);
}

/*
 * All up to the swap.  Who cancels it shall not find it done an hour later, so
 * then the job's next runs do nothing until somebody calls again.
 */
static bool
prepare_or_stop(Run *run)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			relid = run->state->relid;
	ErrorData  *volatile edata = NULL;
	volatile bool done = false;

	PG_TRY();
	{
		done = prepare(run);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();

	if (edata == NULL)
		return done;
	cm_transaction_abort();
	MemoryContextSwitchTo(context);
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		(void) cm_attempt_commit(stop, &relid, GetSessionUserId(),
								 cm_lock_wish(NIL, relid, AccessExclusiveLock));
	MemoryContextSwitchTo(context);
	ReThrowError(edata);
}

/* Convert, or go on with it.  Called by a worker outside of any transaction. */
void
cm_conversion_run(const CmJob *job, CmJobOutcome *outcome)
{
	Run			run = {.job = job,.outcome = outcome};
	bool		done = false;

	run.state = load_state(job);
	if (run.state == NULL)
	{
		outcome->message = "there is no conversion of this table";
		return;
	}
	if (run.state->phase == CM_CONVERSION_STOPPED)
	{
		outcome->message = "stopped: the next call of convert_to_partitioned() goes on";
		return;
	}
	run.context = AllocSetContextCreate(CurrentMemoryContext, "concertmaster conversion look", ALLOCSET_DEFAULT_SIZES);
	if (run.state->phase == CM_CONVERSION_PREPARING || run.state->phase == CM_CONVERSION_CANCELLED)
		look(&run);
	if (run.state->phase == CM_CONVERSION_CANCELLED)
	{
		if (cm_conversion_undo(run.state, run.conversion, outcome))
			outcome->message = "cancelled: the table is as it was";
		return;
	}
	if (run.state->phase == CM_CONVERSION_PREPARING)
	{
		if (!prepare_or_stop(&run))
			return;
		look(&run);
	}
	done = run.state->phase == CM_CONVERSION_DONE || cm_conversion_finish(run.state, outcome);
	if (done)
		outcome->message = "the table is partitioned";
}
