/*-------------------------------------------------------------------------
 *
 * partition_pass.c
 *	  The worker's pass over one set: do what there is to do, say how it went.
 *
 * A pass finds out what there is to do (partition_work.c), makes partitions,
 * and finds out again until there is none to make: another session may have
 * attached something meanwhile, rows may have come into the default
 * partition.  Then it retires what has had its time, finishes what earlier
 * passes began, and clears up.  Making and retiring are never one
 * transaction, and neither are two of either, so no deadlock is of our
 * making.
 *
 * What needs the default partition divided comes after all other leaves, as it
 * may take its time.
 *
 * A leaf that fails, say because its name is taken, stops no other: a month
 * long ago must not keep the next one from being made.  The pass stops making
 * at the first leaf that has to be put off, as the next one would wait for the
 * same lock.  Retiring goes on all the same, as it
 * needs other locks, and stops likewise.
 *
 * How it went is written to partition_set_state whatever happened, then an
 * error is thrown on, so the job room records it too.  A lock that was not to
 * be had is no error; the pass is put off.
 *
 * What it does not do: wait.  What is put off is tried by the next run, which
 * comes soon.  Only a split that has begun is paused in place, see there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "partition.h"
#include "partition_split.h"

/* A pass without end would be one that is undone as it goes. */
#define MAX_ROUNDS		10

/* The pass and what came of it. */
typedef struct Pass
{
	const CmJob *job;
	CmPartitionWork work;
	bool		has_work;
	CmLeaf	   *leaf;			/* that make_one() is about */
	CmLeafResult leaf_result;	/* what came of it */
	ErrorData  *leaf_failure;	/* the first leaf's that could not be made */
	const CmRetiree *retiree;	/* that retire_one() is about */
	int			made;
	int64		moved;
	int			retired;
	int			kept_back;
	char	   *deferred;		/* the first step that was put off */
	bool		stopped;		/* one of retiring was */
	int			blocked_by;
	CmPace		pace;			/* why a split was put off, if that was no lock */
} Pass;

/* The job's table; an error if it is gone. */
static Oid
resolve_parent(const CmJob *job)
{
	Oid			parent = cm_relation_resolve(job->schema_name, job->relation_name);

	if (!OidIsValid(parent))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("partitioned table \"%s.%s\" does not exist",
						job->schema_name, job->relation_name),
				 errhint("If it was dropped for good, call concertmaster.forget_partition_set(%s).",
						 quote_literal_cstr(quote_qualified_identifier(job->schema_name,
																	   job->relation_name)))));
	return parent;
}

/* What is to be done now, in a transaction of its own. */
static void
find_work(Pass *pass)
{
	cm_transaction_begin(GetSessionUserId());
	cm_partition_work(resolve_parent(pass->job), &pass->work);
	pass->has_work = true;
	cm_transaction_commit();
}

/* A step was put off: who is in the way? */
static void
put_off(Pass *pass, char *what, Oid leaf, CmPartitionStep step)
{
	if (pass->deferred != NULL)
		return;
	pass->deferred = what;
	cm_transaction_begin(GetSessionUserId());
	pass->blocked_by = cm_lock_holder(cm_partition_wishes(pass->work.parent, leaf, step));
	cm_transaction_commit();
}

/* The step that a leaf is attached by. */
static CmPartitionStep
step_of(const CmLeaf *leaf)
{
	return leaf->kind == CM_LEAF_REBIND ? CM_STEP_REBIND :
		leaf->kind == CM_LEAF_DRAIN ? CM_STEP_DRAIN : CM_STEP_ATTACH;
}

/*
 * Make the leaves that the default partition has to be divided for.  False if
 * the work has to be found anew, which is so after a success too, or if it was
 * put off.
 */
static bool
split_default(Pass *pass)
{
	List	   *leaves = NIL;
	char	   *reason = NULL;
	CmLeafResult result;
	ListCell   *lc;

	foreach(lc, pass->work.leaves)
	{
		CmLeaf	   *leaf = lfirst(lc);

		if (leaf->kind != CM_LEAF_SPLIT)
			continue;
		if (leaf->obstacle != NULL)
		{
			pass->deferred = psprintf("making partition %s with " INT64_FORMAT " rows: %s",
									  leaf->name, leaf->rows, leaf->obstacle);
			return false;
		}
		leaves = lappend(leaves, leaf);
	}
	if (leaves == NIL)
		return true;
	result = cm_partition_split(&pass->work, &leaves, &reason, &pass->pace);
	if (result == CM_LEAF_DEFERRED && reason != NULL)
		pass->deferred = reason;
	else if (result == CM_LEAF_DEFERRED)
		put_off(pass, "splitting the default partition", InvalidOid, CM_STEP_DETACH);
	if (result != CM_LEAF_MADE)
		return false;
	foreach(lc, leaves)
	{
		pass->made++;
		pass->moved += ((CmLeaf *) lfirst(lc))->rows;
	}
	return false;
}

/* Does the error say that we shall stop? */
static bool
is_interrupt(const ErrorData *edata)
{
	return edata != NULL &&
		ERRCODE_TO_CATEGORY(edata->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION;
}

/* Do one part of the pass; its error, or NULL. */
static ErrorData *
try_part(Pass *pass, void (*part) (Pass *pass))
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *edata;

	PG_TRY();
	{
		part(pass);
		edata = NULL;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		FlushErrorState();
		cm_transaction_abort();
	}
	PG_END_TRY();
	return edata;
}

/* Make one leaf. */
static void
make_one(Pass *pass)
{
	pass->leaf_result = cm_partition_make(pass->leaf);
}

/* Try to make one leaf.  One that fails stops no other; false if it did. */
static bool
try_leaf(Pass *pass, CmLeaf *leaf)
{
	ErrorData  *edata;

	pass->leaf = leaf;
	edata = try_part(pass, make_one);
	if (is_interrupt(edata))
		ReThrowError(edata);
	if (pass->leaf_failure == NULL)
		pass->leaf_failure = edata;
	return edata == NULL;
}

/* Make the leaves of the work.  False if the work has to be found anew, or was put off. */
static bool
make_leaves(Pass *pass)
{
	ListCell   *lc;

	if (pass->work.leaves != NIL && !cm_partition_prove(&pass->work))
	{
		put_off(pass, "looking whether the default partition is free of rows",
				InvalidOid, CM_STEP_ATTACH);
		return false;
	}
	foreach(lc, pass->work.leaves)
	{
		CmLeaf	   *leaf = lfirst(lc);

		if (leaf->kind == CM_LEAF_SPLIT)
			continue;
		cm_progress_report(foreach_current_index(lc), list_length(pass->work.leaves),
						   leaf->rows > 0 ? "making partition %s with " INT64_FORMAT " rows" :
						   "making partition %s", leaf->name, leaf->rows);
		if (!try_leaf(pass, leaf))
			continue;
		if (pass->leaf_result == CM_LEAF_STALE)
			return false;
		if (pass->leaf_result == CM_LEAF_DEFERRED)
		{
			put_off(pass, psprintf("making partition %s", leaf->name), InvalidOid, step_of(leaf));
			return false;
		}
		pass->made++;
		if (leaf->kind == CM_LEAF_DRAIN)
			pass->moved += leaf->rows;
	}
	return split_default(pass);
}

/* Make partitions until there is none to make, or one was put off or failed. */
static void
make_all(Pass *pass)
{
	for (int round = 0; round < MAX_ROUNDS; round++)
	{
		find_work(pass);
		if (round == 0)
			(void) cm_partition_split_clear(pass->work.parent, pass->work.owner, pass->work.rest);
		if (pass->work.leaves == NIL)
			return;
		(void) make_leaves(pass);
		if (pass->deferred != NULL || pass->leaf_failure != NULL)
			return;
	}
	put_off(pass, "making partitions, which others change meanwhile", InvalidOid, CM_STEP_ATTACH);
}

/* Note what keeps a partition from retiring. */
static void
keep_back(Pass *pass, const CmRetiree *retiree)
{
	pass->kept_back++;
	cm_transaction_begin(GetSessionUserId());
	cm_partition_state_write(pass->job, retiree, "referenced", retiree->references);
	cm_transaction_commit();
}

/* Is the partition among those that have had their time?  kept: and is referenced. */
static bool
is_retiree(const Pass *pass, Oid relid, bool kept)
{
	ListCell   *lc;

	foreach(lc, pass->work.retirees)
	{
		const CmRetiree *retiree = lfirst(lc);

		if (retiree->relid == relid && (retiree->references != NULL) == kept)
			return true;
	}
	return false;
}

static bool
is_attached(const Pass *pass, Oid relid)
{
	ListCell   *lc;

	foreach(lc, pass->work.existing)
	{
		if (((CmPartition *) lfirst(lc))->relid == relid)
			return true;
	}
	return false;
}

/* Forget what was noted of partitions and is not so any more. */
static void
forget_outdated_notes(Pass *pass)
{
	const CmJob *job = pass->job;
	ListCell   *lc;

	cm_transaction_begin(GetSessionUserId());
	foreach(lc, cm_partition_state_list(job->schema_name, job->relation_name, "referenced"))
	{
		Oid			relid = ((CmRetiree *) lfirst(lc))->relid;

		if (!is_retiree(pass, relid, true))
			cm_partition_state_delete(relid);
	}
	foreach(lc, cm_partition_state_list(job->schema_name, job->relation_name, "retiring"))
	{
		Oid			relid = ((CmRetiree *) lfirst(lc))->relid;

		if (is_attached(pass, relid) && !is_retiree(pass, relid, false))
			cm_partition_state_delete(relid);
	}
	cm_transaction_commit();
}

/* What earlier passes began, then what has had its time. */
static List *
list_retirees(const Pass *pass)
{
	List	   *begun;
	List	   *result = NIL;
	ListCell   *lc;

	cm_transaction_begin(GetSessionUserId());
	begun = cm_partition_state_list(pass->job->schema_name, pass->job->relation_name, "retiring");
	cm_transaction_commit();
	foreach(lc, begun)
	{
		if (!is_attached(pass, ((CmRetiree *) lfirst(lc))->relid))
			result = lappend(result, lfirst(lc));
	}
	return list_concat(result, pass->work.retirees);
}

/* Retire one partition, or note what keeps it. */
static void
retire_one(Pass *pass)
{
	const CmRetiree *retiree = pass->retiree;
	CmPartitionStep step;

	if (retiree->references != NULL)
		keep_back(pass, retiree);
	else if (retiree->forbidden != NULL)
		ereport(ERROR,
				(errcode(retiree->forbidden_sqlstate),
				 errmsg_internal("%s", retiree->forbidden),
				 errdetail("Partition \"%s\" should retire, and stays where it is.", retiree->name)));
	else if (cm_partition_retire(pass->job, &pass->work, retiree, &step))
		pass->retired++;
	else
	{
		pass->stopped = true;
		put_off(pass, psprintf("retiring partition %s", retiree->name), retiree->relid, step);
	}
}

/*
 * Retire what has had its time.  One that fails stops no other; the first
 * error is returned.
 */
static ErrorData *
retire_all(Pass *pass)
{
	ErrorData  *failure = NULL;
	List	   *retirees;
	ListCell   *lc;

	forget_outdated_notes(pass);
	retirees = list_retirees(pass);
	foreach(lc, retirees)
	{
		ErrorData  *edata;

		pass->retiree = lfirst(lc);
		cm_progress_report(foreach_current_index(lc), list_length(retirees),
						   "retiring partition %s", pass->retiree->name);
		edata = try_part(pass, retire_one);
		if (failure == NULL)
			failure = edata;
		if (is_interrupt(edata))
			ReThrowError(edata);
		if (pass->stopped)
			break;
	}
	return failure;
}

/*
 * Drop what earlier passes left behind; what is in use, next time.  What a
 * split left, the trigger included, only if there can be any now.
 */
static void
sweep(Pass *pass)
{
	bool		clear_split = OidIsValid(pass->work.rest);
	List	   *leftovers;
	ListCell   *lc;

	cm_transaction_begin(GetSessionUserId());
	leftovers = cm_partition_leftovers(pass->work.parent, pass->job->schema_name,
									   pass->job->relation_name, pass->work.owner);
	cm_transaction_commit();
	foreach(lc, leftovers)
	{
		CmLeftover *leftover = lfirst(lc);

		if (leftover->is_copy)
			clear_split = true;
		else
			(void) cm_attempt_commit(cm_partition_leftover_drop, leftover, leftover->owner, NIL);
	}
	if (clear_split)
		(void) cm_partition_split_clear(pass->work.parent, pass->work.owner, pass->work.rest);
}

static void
append_count(StringInfo text, int64 count, const char *what, const char *one, const char *many)
{
	if (count > 0)
		appendStringInfo(text, "%s%s " INT64_FORMAT " %s", text->len ? ", " : "", what,
						 count, count == 1 ? one : many);
}

/* How far partitions reach, for a message. */
static void
append_runway(StringInfo text, const CmPartitionWork *work)
{
	const CmAxis *axis = &work->settings.axis;
	int64		until = cm_partition_covered_until(work->existing, work->now);

	if (until == DT_NOEND)
		appendStringInfoString(text, ", runway without end");
	else if (cm_axis_is_time(axis))
		appendStringInfo(text, ", runway until %s", timestamptz_to_str(cm_axis_instant(axis, until)));
	else
		appendStringInfo(text, ", runway until " INT64_FORMAT, until);
}

/* The pass in one line. */
static char *
describe(const Pass *pass)
{
	StringInfoData text;

	initStringInfo(&text);
	append_count(&text, pass->made, "made", "partition", "partitions");
	append_count(&text, pass->moved, "moved", "row", "rows");
	append_count(&text, pass->retired, "retired", "partition", "partitions");
	append_count(&text, pass->kept_back, "kept", "referenced partition", "referenced partitions");
	if (pass->deferred != NULL)
		appendStringInfo(&text, "%sput off: %s%s", text.len ? "; " : "", pass->deferred,
						 pass->blocked_by > 0 ? psprintf(", process %d is in the way", pass->blocked_by) :
						 pass->blocked_by < 0 ? ", a prepared transaction is in the way" : "");
	else
	{
		if (text.len == 0)
			appendStringInfoString(&text, "nothing to do");
		append_runway(&text, &pass->work);
	}
	return text.data;
}

/* Other partitions are inside the hot windows of planned indexes now. */
static void
wake_hot_indexes(const Pass *pass)
{
	cm_transaction_begin(GetSessionUserId());
	cm_hot_indexes_wake(pass->work.parent);
	cm_transaction_commit();
}

/* Whatever came of making: rows are not refused any longer than that. */
static void
drop_proof(Pass *pass)
{
	if (pass->has_work && !cm_partition_prove_no_more(&pass->work))
		put_off(pass, "dropping a constraint of the default partition", InvalidOid, CM_STEP_ATTACH);
}

static void
retire_and_sweep(Pass *pass)
{
	ErrorData  *failure = retire_all(pass);

	if (pass->made > 0 || pass->retired > 0)
		wake_hot_indexes(pass);
	if (pass->deferred == NULL)
		sweep(pass);
	if (failure != NULL)
		ReThrowError(failure);
}

/* The pass itself: fills in what came of it, and returns the first error. */
static ErrorData *
run_pass(Pass *pass)
{
	ErrorData  *failure = try_part(pass, make_all);
	ErrorData  *later = try_part(pass, drop_proof);

	if (failure == NULL)
		failure = later;
	if (pass->leaf_failure != NULL && !is_interrupt(failure))
		failure = pass->leaf_failure;
	if (!pass->has_work || is_interrupt(failure))
		return failure;

	/* What cannot be made is no reason to keep what has had its time. */
	later = try_part(pass, retire_and_sweep);
	return failure != NULL ? failure : later;
}

/* After a pass that went well: is nothing left, and until when? */
static void
note_idle(const CmPartitionWork *work, CmSetReport *report)
{
	const CmAxis *axis = &work->settings.axis;

	/* Rows come at any time. */
	if (OidIsValid(work->rest) || !cm_axis_is_time(axis) ||
		work->leaves != NIL || work->retirees != NIL)
		return;
	report->idle_until = cm_axis_instant(axis, cm_partition_idle_until(&work->settings, work->existing, work->now));
	report->idle_mark = work->mark;
}

/* Write how it went. */
static void
report(const Pass *pass, const ErrorData *failure)
{
	CmSetReport report = {.deferred = pass->deferred,.blocked_by = pass->blocked_by,.failure = failure};

	report.has_newest_value = pass->has_work && pass->work.has_newest_value;
	report.newest_value = pass->work.now;
	report.has_default = pass->has_work && OidIsValid(pass->work.rest);
	report.default_rows = pass->work.rest_rows;
	if (pass->has_work && pass->deferred == NULL && failure == NULL)
		note_idle(&pass->work, &report);
	cm_transaction_begin(GetSessionUserId());
	cm_partition_set_report(pass->job, &report);
	cm_transaction_commit();
}

/*
 * Has a pass over the set nothing to do, and did the last one go well?  In the
 * transaction that is open; as the caller, who may.
 */
bool
cm_partition_is_idle(Oid parent)
{
	char	   *schema_name = get_namespace_name(get_rel_namespace(parent));
	char	   *table_name = get_rel_name(parent);
	CmPartitionWork work;

	if (table_name == NULL || cm_partition_needs_pass(schema_name, table_name))
		return false;
	cm_partition_work(parent, &work);
	return work.leaves == NIL && work.retirees == NIL;
}

/* Worker's entry: one pass over one set. */
void
cm_partition_run(const CmJob *job, CmJobOutcome *outcome)
{
	Pass	   *pass = palloc0(sizeof(Pass));
	ErrorData  *edata;

	pass->job = job;
	edata = run_pass(pass);
	if (edata != NULL && cm_error_means_later(edata, false))
	{
		pass->deferred = edata->message;
		edata = NULL;
	}
	report(pass, edata);
	if (edata != NULL)
		ReThrowError(edata);
	outcome->deferred = pass->deferred != NULL;
	outcome->blocked_by = Max(pass->blocked_by, 0);
	if (!pass->stopped)
		outcome->not_before = pass->pace.until;
	outcome->message = describe(pass);
}
