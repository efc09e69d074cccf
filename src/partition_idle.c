/*-------------------------------------------------------------------------
 *
 * partition_idle.c
 *	  Which sets have nothing to do, so that no worker is started for them.
 *
 * What a pass would do is found out by reading the bounds of every partition
 * (cm_partition_work).  That is most of what a call over many sets costs, and
 * nearly always the answer is the same as the last time.  So a pass that ends
 * with nothing left to do writes down what that depends on, and until when:
 *
 *	 idle_mark   which table it is, which version of the settings' row, and
 *				 which rows of pg_inherits the table has, with the transactions
 *				 that wrote them.  The bounds of a partition never change while
 *				 it is attached, and attaching, detaching, and the first half of
 *				 DETACH CONCURRENTLY write such a row
 *	 idle_until  the end of the present period, or before the next partition
 *				 has had its time (cm_partition_idle_until).  The plan changes
 *				 with nothing else
 *
 * A set whose mark is the same before that time has nothing to do.  One whose
 * mark is not gets a worker: most likely there is something to do, and if not,
 * the pass writes a mark that holds.  No mark is written where rows decide:
 * with a default partition, or by numbers; nor where something was put off,
 * failed, is half retired or kept back.  Such a set is looked at as a pass
 * would.
 *
 * The mark is taken before the bounds are read, so a change in between is one
 * since the mark.  Should one be held to be right all the same that is not
 * (new rules of a time zone, a clock that goes back over midnight), then for
 * as long as it takes the set's job to come round: that always makes a pass.
 *
 * Locks: none.  The listing and the looks are one transaction's.
 *
 * What it does not do: decide what a pass does, or write (partition_pass.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"

#include "compat.h"
#include "partition.h"

/* A set that the caller may roll.  Begins with what cm_jobs_call() wants. */
typedef struct Target
{
	CmJobCall	call;
	Oid			parent;
	TransactionId settings_xmin;
	bool		has_mark;
	int64		mark;
	bool		in_time;		/* the mark has not run out */
} Target;

/* The row of one partition, as the mark has it. */
static uint64
hash_child(const HeapTuple tuple)
{
	Form_pg_inherits form = (Form_pg_inherits) GETSTRUCT(tuple);
	uint32		facts[3] = {form->inhrelid, HeapTupleHeaderGetRawXmin(tuple->t_data), form->inhdetachpending};

	return hash_bytes_extended((const unsigned char *) facts, sizeof(facts), 0);
}

/*
 * What a set's work depends on, but for the clock, in one number.
 * settings_xmin: who wrote the row of its settings.
 */
int64
cm_partition_mark(Oid parent, TransactionId settings_xmin)
{
	uint32		facts[2] = {parent, settings_xmin};
	uint64		mark = hash_bytes_extended((const unsigned char *) facts, sizeof(facts), 0);
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(parent));
	scan = systable_beginscan(inherits, InheritsParentIndexId, true, NULL, 1, &key);

	/* A sum: the order of the rows says nothing. */
	while ((tuple = systable_getnext(scan)) != NULL)
		mark += hash_child(tuple);
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return (int64) mark;
}

/* One row of the listing. */
static Target *
read_target(HeapTuple row, TupleDesc desc)
{
	Target	   *target = palloc0(sizeof(Target));
	bool		isnull;

	target->call.job_id = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
	target->call.name = SPI_getvalue(row, desc, 2);
	target->parent = DatumGetObjectId(SPI_getbinval(row, desc, 3, &isnull));
	target->settings_xmin = DatumGetTransactionId(SPI_getbinval(row, desc, 4, &isnull));
	target->mark = DatumGetInt64(SPI_getbinval(row, desc, 5, &isnull));
	target->has_mark = !isnull;
	target->in_time = DatumGetBool(SPI_getbinval(row, desc, 6, &isnull)) && !isnull;
	return target;
}

/*
 * The jobs to run: of one table, or, if that is InvalidOid, of every set that
 * the caller may manage; as CmJobCall.
 */
List *
cm_partition_sets_find(Oid parent)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2] = {ObjectIdGetDatum(parent), ObjectIdGetDatum(GetUserId())};
	List	   *targets = NIL;
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT j.job_id, format('%I.%I', j.schema_name, j.relation_name), m.relid, s.xmin,"
						  "       t.idle_mark, t.last_roll <= now() AND now() < t.idle_until AND NOT EXISTS"
						  "         (SELECT FROM concertmaster.partition_state p"
						  "           WHERE (p.schema_name, p.table_name) = (s.schema_name, s.table_name))"
						  "  FROM concertmaster.job j"
						  "  JOIN concertmaster.relation_map m USING (schema_name, relation_name)"
						  "  LEFT JOIN concertmaster.partition_set s"
						  "    ON (s.schema_name, s.table_name) = (j.schema_name, j.relation_name)"
						  "  LEFT JOIN concertmaster.partition_set_state t"
						  "    ON (t.schema_name, t.table_name) = (j.schema_name, j.relation_name)"
						  " WHERE j.kind = 'roll' AND (m.relid = $1 OR $1 = 0)"
						  "   AND pg_has_role($2, (SELECT c.relowner FROM pg_class c WHERE c.oid = m.relid), 'USAGE')"
						  " ORDER BY j.schema_name, j.relation_name",
						  2, types, values, NULL, false, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);

		targets = lappend(targets, read_target(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return targets;
}

/* What look_step() is about. */
typedef struct Look
{
	Oid			parent;
	bool		idle;
} Look;

static void
look_step(void *arg)
{
	Look	   *look = arg;

	look->idle = cm_partition_is_idle(look->parent);
}

/*
 * Is there nothing to do for a set, as a pass would see it?  Found out in a
 * subtransaction; if that fails, its worker will find the same, and record it.
 */
static bool
looks_idle(Oid parent)
{
	Look		look = {.parent = parent};
	ErrorData  *edata = cm_subtransaction(look_step, &look);

	if (edata != NULL && cm_error_ends_all(edata))
		ReThrowError(edata);
	return edata == NULL && look.idle;
}

/* Those of the sets that were found where there is something to do. */
List *
cm_partition_sets_busy(List *targets)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "concertmaster idle sets",
												  ALLOCSET_DEFAULT_SIZES);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, targets)
	{
		Target	   *target = lfirst(lc);
		bool		idle;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(context);
		if (target->has_mark)
			idle = target->in_time &&
				cm_partition_mark(target->parent, target->settings_xmin) == target->mark;
		else
			idle = looks_idle(target->parent);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
		if (!idle)
			result = lappend(result, target);
	}
	MemoryContextDelete(context);
	return result;
}
