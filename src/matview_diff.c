/*-------------------------------------------------------------------------
 *
 * matview_diff.c
 *	  Compare the rows that a view holds with those that it shall hold.
 *
 * By image: rows are the same only if every column is stored as the same
 * bytes (after decompression), so a row that is equal but looks different is
 * a difference.  Of every row of the view that is concerned a hash and its
 * place are kept, in one array sorted by hash; a computed row is looked up
 * there, and what has its hash is fetched and compared.  Each row stands for
 * one of the other side, so rows that come twice are counted too.
 *
 * Memory: 12 bytes for a row of the view and a bit for a computed one.  Both
 * are what the caller's classes select, or all; cm_diff_fits() says before
 * whether all would be too much.
 *
 * Reads with the active snapshot.  The caller holds a lock on the view under
 * which nobody else changes it, if it wants to act on the answer.  After an
 * error everything goes with the memory context and the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "matview_merge.h"

/* A row of the view. */
typedef struct OldRow
{
	uint32		hash;
	ItemPointerData tid;
	bool		found;			/* it is among the computed rows */
} OldRow;

struct CmDiff
{
	Relation	view;
	Tuplestorestate *rows;
	OldRow	   *old;
	int64		nold;
	int64		capacity;
	uint8	   *found;			/* one bit per computed row: it is in the view */
	int64		nnew;
	TupleTableSlot *old_slot;
	TupleTableSlot *new_slot;
	MemoryContext row_context;
};

/* Hash the image of a row, whose columns begin at offset. */
static uint32
hash_row(TupleDesc desc, TupleTableSlot *slot, int offset)
{
	uint32		hash = 0;

	slot_getallattrs(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		uint32		value = 0;

		if (!slot->tts_isnull[i + offset])
			value = datum_image_hash(slot->tts_values[i + offset], column->attbyval, column->attlen);
		hash = hash_combine(hash, value);
	}
	return hash;
}

/* Are two rows stored as the same bytes? */
static bool
same_image(TupleDesc desc, TupleTableSlot *a, TupleTableSlot *b)
{
	slot_getallattrs(a);
	slot_getallattrs(b);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (a->tts_isnull[i] != b->tts_isnull[i])
			return false;
		if (!a->tts_isnull[i] &&
			!datum_image_eq(a->tts_values[i], b->tts_values[i], column->attbyval, column->attlen))
			return false;
	}
	return true;
}

/* Note a row of the view. */
static void
add_old(CmDiff *diff, ItemPointer tid, uint32 hash)
{
	OldRow	   *row;

	if (diff->nold == diff->capacity)
	{
		diff->capacity *= 2;
		diff->old = repalloc_huge(diff->old, diff->capacity * sizeof(OldRow));
	}
	row = &diff->old[diff->nold++];
	row->hash = hash;
	row->tid = *tid;
	row->found = false;
}

/* Where the rows of a class go: ctid, then the view's columns. */
static void
receive_old(TupleTableSlot *slot, void *arg)
{
	CmDiff	   *diff = arg;
	uint32		hash = hash_row(RelationGetDescr(diff->view), slot, 1);

	add_old(diff, (ItemPointer) DatumGetPointer(slot->tts_values[0]), hash);
}

/* Note all rows of the view. */
static void
scan_old(CmDiff *diff)
{
	TableScanDesc scan = table_beginscan(diff->view, GetActiveSnapshot(), 0, NULL);

	while (table_scan_getnextslot(scan, ForwardScanDirection, diff->old_slot))
	{
		MemoryContext caller = MemoryContextSwitchTo(diff->row_context);
		uint32		hash = hash_row(RelationGetDescr(diff->view), diff->old_slot, 0);

		MemoryContextSwitchTo(caller);
		add_old(diff, &diff->old_slot->tts_tid, hash);
		MemoryContextReset(diff->row_context);
		CHECK_FOR_INTERRUPTS();
	}
	table_endscan(scan);
}

static int
compare_old(const void *a, const void *b)
{
	const OldRow *left = a;
	const OldRow *right = b;

	if (left->hash != right->hash)
		return left->hash < right->hash ? -1 : 1;
	return ItemPointerCompare((ItemPointer) &left->tid, (ItemPointer) &right->tid);
}

/* Sort the view's rows by hash; one that several classes found is there once. */
static void
sort_old(CmDiff *diff)
{
	int64		kept = 0;

	if (diff->nold == 0)
		return;
	qsort(diff->old, diff->nold, sizeof(OldRow), compare_old);
	for (int64 i = 1; i < diff->nold; i++)
	{
		if (compare_old(&diff->old[kept], &diff->old[i]) != 0)
			diff->old[++kept] = diff->old[i];
	}
	diff->nold = kept + 1;
}

/* The first row of the view with at least this hash. */
static int64
find_hash(const CmDiff *diff, uint32 hash)
{
	int64		low = 0;
	int64		high = diff->nold;

	while (low < high)
	{
		int64		middle = low + (high - low) / 2;

		if (diff->old[middle].hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Fetch a row that was there a moment ago. */
static void
fetch_old(CmDiff *diff, OldRow *row)
{
	if (!table_tuple_fetch_row_version(diff->view, &row->tid, GetActiveSnapshot(), diff->old_slot))
		elog(ERROR, "row of materialized view \"%s\" vanished", RelationGetRelationName(diff->view));
}

/* Look for the row in new_slot among those of the view; one is used up. */
static bool
find_old(CmDiff *diff)
{
	TupleDesc	desc = RelationGetDescr(diff->view);
	uint32		hash = hash_row(desc, diff->new_slot, 0);

	for (int64 i = find_hash(diff, hash); i < diff->nold && diff->old[i].hash == hash; i++)
	{
		if (diff->old[i].found)
			continue;
		fetch_old(diff, &diff->old[i]);
		if (same_image(desc, diff->old_slot, diff->new_slot))
		{
			diff->old[i].found = true;
			return true;
		}
	}
	return false;
}

/* Look for every computed row in the view. */
static void
match_rows(CmDiff *diff)
{
	diff->nnew = tuplestore_tuple_count(diff->rows);
	diff->found = palloc_extended(diff->nnew / 8 + 1, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	tuplestore_rescan(diff->rows);
	for (int64 i = 0; tuplestore_gettupleslot(diff->rows, true, false, diff->new_slot); i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(diff->row_context);

		if (find_old(diff))
			diff->found[i / 8] |= 1 << (i % 8);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(diff->row_context);
		CHECK_FOR_INTERRUPTS();
	}
}

/* Note the view's rows of all classes. */
static void
query_old(CmDiff *diff, const CmClasses *classes)
{
	ListCell   *cell;

	foreach(cell, classes->list)
	{
		PlannedStmt *plan = cm_query_plan(cm_restrict_view(classes, lfirst(cell), diff->view));

		cm_query_run(plan, classes->env, NULL, receive_old, diff);
	}
}

/*
 * Compare computed rows with those of the view, of the given classes or, if
 * that is NULL, all.
 */
CmDiff *
cm_diff_make(Relation view, const CmClasses *classes, Tuplestorestate *rows)
{
	CmDiff	   *diff = palloc0(sizeof(CmDiff));

	diff->view = view;
	diff->rows = rows;
	diff->capacity = 1024;
	diff->old = palloc(diff->capacity * sizeof(OldRow));
	diff->old_slot = table_slot_create(view, NULL);
	diff->new_slot = MakeSingleTupleTableSlot(RelationGetDescr(view), &TTSOpsMinimalTuple);
	diff->row_context = AllocSetContextCreate(CurrentMemoryContext, "concertmaster row",
											  ALLOCSET_DEFAULT_SIZES);
	if (classes == NULL)
		scan_old(diff);
	else
		query_old(diff, classes);
	sort_old(diff);
	match_rows(diff);
	return diff;
}

/* Hand over the rows that only the view has, with their places.  Returns their number. */
int64
cm_diff_old(CmDiff *diff, CmRowSink sink, void *arg)
{
	int64		count = 0;

	for (int64 i = 0; i < diff->nold; i++)
	{
		MemoryContext caller;

		if (diff->old[i].found)
			continue;
		CHECK_FOR_INTERRUPTS();
		fetch_old(diff, &diff->old[i]);
		caller = MemoryContextSwitchTo(diff->row_context);
		sink(diff->old_slot, arg);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(diff->row_context);
		count++;
	}
	ExecClearTuple(diff->old_slot);
	return count;
}

/* Hand over the rows that were computed and are not in the view.  Returns their number. */
int64
cm_diff_new(CmDiff *diff, CmRowSink sink, void *arg)
{
	int64		count = 0;

	tuplestore_rescan(diff->rows);
	for (int64 i = 0; tuplestore_gettupleslot(diff->rows, true, false, diff->new_slot); i++)
	{
		MemoryContext caller;

		CHECK_FOR_INTERRUPTS();
		if ((diff->found[i / 8] & (1 << (i % 8))) != 0)
			continue;
		caller = MemoryContextSwitchTo(diff->row_context);
		sink(diff->new_slot, arg);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(diff->row_context);
		count++;
	}
	ExecClearTuple(diff->new_slot);
	return count;
}

/* Give back what the comparison holds. */
void
cm_diff_end(CmDiff *diff)
{
	ExecDropSingleTupleTableSlot(diff->old_slot);
	ExecDropSingleTupleTableSlot(diff->new_slot);
	MemoryContextDelete(diff->row_context);
	pfree(diff->found);
	pfree(diff->old);
	pfree(diff);
}

/*
 * Can all rows of a view be compared at a time?  Generous: the array lives
 * shortly, once per view and worker, and the other way is core's join of the
 * whole view with all of its new rows.
 */
bool
cm_diff_fits(Oid view)
{
	Relation	relation = table_open(view, AccessShareLock);
	BlockNumber pages;
	double		rows;
	double		visible;

	estimate_rel_size(relation, NULL, &pages, &rows, &visible);
	table_close(relation, NoLock);
	return rows * sizeof(OldRow) <= 8.0 * get_hash_memory_limit();
}
