/*-------------------------------------------------------------------------
 *
 * matview_merge.c
 *	  Make a materialized view hold what was computed.
 *
 * The executor refuses to write to a materialized view, but for its own
 * REFRESH, so the rows that differ are deleted and inserted through the table
 * access method, with their index entries.  Rows that do not differ are not
 * touched and keep their place.  Everything is deleted first, so that unique
 * indexes never see a group twice.
 *
 * Index expressions run as the view's owner, in the scope that the caller has
 * entered.  Readers see the old rows until the transaction commits.
 *
 * Locks: the caller holds at least ExclusiveLock on the view, taken before the
 * active snapshot, so that no other writer is possible; RowExclusiveLock on
 * its indexes.  After an error the (sub)transaction's abort undoes the writes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "matview_merge.h"

/* What writing needs. */
typedef struct Writer
{
	Relation	view;
	EState	   *estate;
	ResultRelInfo *target;
} Writer;

static void
delete_row(TupleTableSlot *slot, void *arg)
{
	Writer	   *writer = arg;

	simple_table_tuple_delete(writer->view, &slot->tts_tid, GetActiveSnapshot());
}

static void
insert_row(TupleTableSlot *slot, void *arg)
{
	Writer	   *writer = arg;

	simple_table_tuple_insert(writer->view, slot);
	if (writer->target->ri_NumIndices > 0)
		(void) cm_compat_insert_index_tuples(writer->target, slot, writer->estate);
	ResetPerTupleExprContext(writer->estate);
}

/*
 * Write the differences between computed rows and those of the view, of the
 * given classes or, if that is NULL, all; count them in result.
 */
void
cm_matview_merge(Oid view, const CmClasses *classes, Tuplestorestate *rows, CmMatviewResult *result)
{
	Relation	relation = table_open(view, RowExclusiveLock);
	CmDiff	   *diff = cm_diff_make(relation, classes, rows);
	Writer		writer = {.view = relation};

	writer.estate = CreateExecutorState();
	writer.target = makeNode(ResultRelInfo);
	InitResultRelInfo(writer.target, relation, 0, NULL, 0);
	ExecOpenIndices(writer.target, false);
	result->deleted = cm_diff_old(diff, delete_row, &writer);
	result->inserted = cm_diff_new(diff, insert_row, &writer);
	ExecCloseIndices(writer.target);
	cm_diff_end(diff);
	FreeExecutorState(writer.estate);
	table_close(relation, NoLock);
	CommandCounterIncrement();
}
