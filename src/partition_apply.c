/*-------------------------------------------------------------------------
 *
 * partition_apply.c
 *	  Make what is planned: under deadlines, with retries, one pass at a time.
 *
 * A function makes a leaf in a subtransaction of its caller's, both steps
 * together (cm_partition_make_here).  The worker makes each leaf in two
 * transactions (make_committing), so that no lock outlives the step that
 * needed it; what a crash leaves between the two is dealt with by the next
 * pass, which makes the leaf anew (partition_leaf.c) or, with nothing more to
 * make, drops it (partition_leftover.c).
 *
 * A pass reads the set, plans and makes until the plan is empty.  If another
 * session attached something meanwhile, the leaf that met it is dropped and
 * the plan made anew.  The pass stops at the first leaf that has to be put
 * off: the next one would wait for the same lock.  How it went is written to
 * partition_set_state whatever happened, then an error is thrown on, so the
 * job room records it too.
 *
 * Locks: those of partition_leaf.c, for one deadline at most.
 *
 * What it does not do: retire partitions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "partition.h"

/* A leaf to make, from the plan. */
CmLeaf *
cm_partition_leaf(Oid parent, Oid key_type, const CmPartitionPlanned *planned)
{
	CmLeaf	   *leaf = palloc0(sizeof(CmLeaf));

	leaf->parent = parent;
	leaf->owner = cm_relation_owner(parent);
	leaf->key_type = key_type;
	leaf->from = planned->from;
	leaf->to = planned->to;
	strlcpy(leaf->name, cm_partition_name(get_rel_name(parent), planned->suffix),
			NAMEDATALEN);
	return leaf;
}

/* Both steps at once: for one transaction, which keeps the lock between them. */
static void
create_and_attach(void *arg)
{
	CmLeaf	   *leaf = arg;

	cm_partition_leaf_create(leaf);
	if (!leaf->stale)
		cm_partition_leaf_attach(leaf);
}

/* Make a leaf in subtransactions of the caller's. */
CmLeafResult
cm_partition_make_here(CmLeaf *leaf)
{
	if (!cm_attempt_here(create_and_attach, leaf))
		return CM_LEAF_DEFERRED;
	return leaf->stale ? CM_LEAF_STALE : CM_LEAF_MADE;
}

/* Make a leaf in transactions of its own. */
static CmLeafResult
make_committing(CmLeaf *leaf)
{
	CmLeafResult result;

	if (!cm_attempt_commit(cm_partition_leaf_create, leaf, leaf->owner))
		return CM_LEAF_DEFERRED;
	if (leaf->stale)
		return CM_LEAF_STALE;
	if (!cm_attempt_commit(cm_partition_leaf_attach, leaf, leaf->owner))
		result = CM_LEAF_DEFERRED;
	else if (leaf->stale)
		result = CM_LEAF_STALE;
	else
		return CM_LEAF_MADE;
	(void) cm_attempt_commit(cm_partition_leaf_drop, leaf, leaf->owner);
	return result;
}

/* Drop what earlier passes left behind; what is in use, next time. */
static void
sweep(const CmJob *job, Oid parent)
{
	List	   *leftovers;
	ListCell   *cell;

	cm_transaction_begin(GetSessionUserId());
	leftovers = cm_partition_leftovers(parent, job->schema_name, job->relation_name,
									   cm_relation_owner(parent));
	cm_transaction_commit();
	foreach(cell, leftovers)
	{
		CmLeftover *leftover = lfirst(cell);

		(void) cm_attempt_commit(cm_partition_leftover_drop, leftover, leftover->owner);
	}
}

/*
 * A pid that holds what attaching to the parent waits for: the parent, its
 * default partition, a table at the other end of a foreign key.  0 if none
 * does any more.
 */
int
cm_partition_blocker(Oid parent)
{
	int			pid = cm_lock_blocker(parent, ShareUpdateExclusiveLock);
	CmScope		scope;
	Oid			types[1] = {OIDOID};
	Datum		values[1];
	ListCell   *cell;

	foreach(cell, cm_partition_existing(parent))
	{
		CmPartition *partition = lfirst(cell);

		if (pid == 0 && partition->is_default)
			pid = cm_lock_blocker(partition->relid, AccessExclusiveLock);
	}
	if (pid != 0)
		return pid;

	values[0] = ObjectIdGetDatum(parent);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT DISTINCT CASE conrelid WHEN $1 THEN confrelid ELSE conrelid END"
						  "  FROM pg_constraint WHERE contype = 'f' AND $1 IN (conrelid, confrelid)",
						  1, types, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed && pid == 0; i++)
	{
		bool		isnull;
		Datum		relid = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

		pid = cm_lock_blocker(DatumGetObjectId(relid), ShareRowExclusiveLock);
	}
	cm_scope_leave(&scope);
	return pid;
}

/*
 * Read the set's settings.  Returns false if the table is no set.  Refuses a
 * table that cannot be one any more.
 */
bool
cm_partition_settings(Oid parent, CmPartitionSettings *settings)
{
	MemoryContext context = CurrentMemoryContext;
	CmScope		scope;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	bool		found;
	bool		isnull;

	values[0] = CStringGetTextDatum(get_namespace_name(get_rel_namespace(parent)));
	values[1] = CStringGetTextDatum(get_rel_name(parent));
	settings->key_type = cm_partition_key_type(parent);

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT period, ahead, start_at, timezone"
						  "  FROM concertmaster.partition_set"
						  " WHERE schema_name = $1 AND table_name = $2",
						  2, types, values, NULL, false, 1);
	found = SPI_processed > 0;
	if (found)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		Interval   *period = DatumGetIntervalP(SPI_getbinval(row, desc, 1, &isnull));
		Datum		start_at = SPI_getbinval(row, desc, 3, &isnull);
		MemoryContext spi_context = MemoryContextSwitchTo(context);

		settings->has_start = !isnull;
		settings->start_at = isnull ? 0 : DatumGetTimestampTz(start_at);
		settings->period = cm_partition_period(period, settings->key_type);
		settings->ahead = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
		settings->zone = cm_partition_zone(SPI_getvalue(row, desc, 4));
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return found;
}

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

/*
 * What is to be made now, as CmLeaf, in a transaction of its own.  *until is
 * the end of what partitions hold from now on without a gap.
 */
static List *
plan_pass(const CmJob *job, Oid *parent, TimestampTz *until)
{
	CmPartitionSettings settings;
	List	   *existing;
	List	   *leaves = NIL;
	List	   *plan;
	TimestampTz now;
	int64		point;
	ListCell   *cell;

	cm_transaction_begin(GetSessionUserId());
	*parent = resolve_parent(job);
	if (!cm_partition_settings(*parent, &settings))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not a partition set", get_rel_name(*parent)),
				 errhint("Call concertmaster.create_partition_set() for it.")));
	now = GetCurrentTransactionStartTimestamp();
	point = cm_partition_point(now, settings.key_type, settings.zone);
	existing = cm_partition_existing(*parent);
	plan = cm_partition_plan(&settings, existing, now);
	foreach(cell, cm_partition_urgent_first(plan, point))
		leaves = lappend(leaves, cm_partition_leaf(*parent, settings.key_type, lfirst(cell)));
	*until = cm_partition_instant(cm_partition_covered_until(existing, point),
								  settings.key_type, settings.zone);
	cm_transaction_commit();
	return leaves;
}

/* Write how the pass went, in the transaction that is open. */
static void
write_state(const CmJob *job, const CmJobOutcome *outcome, const ErrorData *edata)
{
	Oid			types[6] = {TEXTOID, TEXTOID, BOOLOID, INT4OID, TEXTOID, TEXTOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	CmScope		scope;

	values[0] = CStringGetTextDatum(job->schema_name);
	values[1] = CStringGetTextDatum(job->relation_name);
	values[2] = BoolGetDatum(outcome->deferred);
	values[3] = Int32GetDatum(outcome->blocked_by);
	nulls[3] = outcome->blocked_by != 0 ? ' ' : 'n';
	values[4] = edata ? CStringGetTextDatum(unpack_sql_state(edata->sqlerrcode)) : (Datum) 0;
	nulls[4] = edata ? ' ' : 'n';
	values[5] = edata ? CStringGetTextDatum(edata->message) : (Datum) 0;
	nulls[5] = edata ? ' ' : 'n';

	cm_catalog_enter(&scope);
	SPI_execute_with_args("INSERT INTO concertmaster.partition_set_state AS s"
						  " (schema_name, table_name, last_roll, last_success, deferred_since, blocked_by,"
						  "  first_failure, last_failure, failures, sqlstate, last_error)"
						  " SELECT schema_name, table_name, now(),"
						  "        CASE WHEN NOT $3 AND $5 IS NULL THEN now() END,"
						  "        CASE WHEN $3 THEN now() END, $4,"
						  "        CASE WHEN $5 IS NOT NULL THEN now() END,"
						  "        CASE WHEN $5 IS NOT NULL THEN now() END,"
						  "        CASE WHEN $5 IS NOT NULL THEN 1 ELSE 0 END, $5, $6"
						  "   FROM concertmaster.partition_set WHERE schema_name = $1 AND table_name = $2"
						  " ON CONFLICT (schema_name, table_name) DO UPDATE SET"
						  "   last_roll = EXCLUDED.last_roll,"
						  "   last_success = coalesce(EXCLUDED.last_success, s.last_success),"
						  "   deferred_since = CASE WHEN $3 THEN coalesce(s.deferred_since, now()) END,"
						  "   blocked_by = EXCLUDED.blocked_by,"
						  "   first_failure = CASE WHEN $5 IS NOT NULL THEN coalesce(s.first_failure, now()) END,"
						  "   last_failure = coalesce(EXCLUDED.last_failure, s.last_failure),"
						  "   failures = CASE WHEN $5 IS NOT NULL THEN s.failures + 1"
						  "                   WHEN $3 THEN s.failures ELSE 0 END,"
						  "   sqlstate = EXCLUDED.sqlstate, last_error = EXCLUDED.last_error",
						  6, types, values, nulls, false, 0);
	cm_scope_leave(&scope);
}

/* The pass itself.  Throws, or fills in the outcome. */
static void
run_pass(const CmJob *job, CmJobOutcome *outcome)
{
	int			made = 0;
	Oid			parent;
	TimestampTz until;
	List	   *leaves;

	while ((leaves = plan_pass(job, &parent, &until)) != NIL)
	{
		ListCell   *cell;

		foreach(cell, leaves)
		{
			CmLeaf	   *leaf = lfirst(cell);
			CmLeafResult result;

			cm_progress_report(foreach_current_index(cell), list_length(leaves),
							   "making partition %s", leaf->name);
			result = make_committing(leaf);
			if (result == CM_LEAF_MADE)
				made++;
			else if (result == CM_LEAF_STALE)
				break;
			else
			{
				cm_transaction_begin(GetSessionUserId());
				outcome->deferred = true;
				outcome->blocked_by = cm_partition_blocker(parent);
				outcome->message = psprintf("made %d partition%s; %s and later ones %s",
											made, made == 1 ? "" : "s", leaf->name,
											outcome->blocked_by != 0 ? "wait for a lock" :
											psprintf("took longer than concertmaster.ddl_deadline (%d ms)",
													 cm_ddl_deadline));
				cm_transaction_commit();
				return;
			}
		}
	}
	sweep(job, parent);
	if (made > 0)
		outcome->message = psprintf("made %d partition%s, runway until %s",
									made, made == 1 ? "" : "s", timestamptz_to_str(until));
	else
		outcome->message = psprintf("nothing to do, runway until %s", timestamptz_to_str(until));
}

/* Worker's entry: one pass over one set. */
void
cm_partition_run(const CmJob *job, CmJobOutcome *outcome)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *edata;

	PG_TRY();
	{
		run_pass(job, outcome);
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

	cm_transaction_begin(GetSessionUserId());
	write_state(job, outcome, edata);
	cm_transaction_commit();
	if (edata != NULL)
		ReThrowError(edata);
}
