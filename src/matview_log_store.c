/*-------------------------------------------------------------------------
 *
 * matview_log_store.c
 *	  The rows of the log: write, read, delete, and show them.
 *
 * Rows are inserted and deleted by functions of heap, not by statements: a
 * writer has neither time for SPI nor rights on the table.  There is no index:
 * it would double what a writer pays.  A view's rows are in one leaf, together
 * with those of the views that share it, and the leaf is read as a whole, which
 * the settings keep short.
 *
 * A refresh reads the log with the snapshot that it computes with and deletes
 * just the rows that it has read, so a row that is committed in between stays
 * for the next refresh.  What a transaction has logged it does not log again;
 * that is forgotten when its rows are deleted.
 *
 * A row that somebody else has deleted meanwhile is passed over.  Refreshes of
 * one view exclude each other by their lock on the view, and so does whoever
 * empties its log (matview_prune.c).
 *
 * When the log has grown beyond what the settings allow, a writer asks for
 * the job that looks after it, once in a while and without writing anything:
 * the job's row would be a lock that writers wait for.
 *
 * Locks: RowExclusiveLock on a leaf until the end of the transaction,
 * AccessShareLock on it to read.  After an error everything is undone with the
 * (sub)transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "matview_log.h"

PG_FUNCTION_INFO_V1(cm__log_patterns);

/* Columns of matview_log. */
#define LOG_VIEW	1
#define LOG_MASK	2
#define LOG_KEY		3
#define LOG_COLUMNS	3

/* Rows of the usual size that a page of the log holds, at least. */
#define ROWS_PER_PAGE	64

/* A session asks for the job at most this often. */
#define ASK_EVERY_MS	10000

static TimestampTz last_asked = 0;

/* Why any group may have changed, as the key of a row with mask 0. */
bytea *
cm_log_reason(const char *reason)
{
	return (bytea *) cstring_to_text(reason);
}

static void
ask_step(void *arg)
{
	cm_shared_wake_at_commit();
}

/*
 * The log has more pages than the settings allow: ask for the job that cuts
 * it.  Where the library is not preloaded, there may be no shared memory left
 * to ask in; that is not the writer's error.
 */
static void
ask_for_prune(void)
{
	TimestampTz now = GetCurrentTimestamp();
	ErrorData  *edata;

	if (!TimestampDifferenceExceeds(last_asked, now, ASK_EVERY_MS))
		return;
	last_asked = now;
	edata = cm_subtransaction(ask_step, NULL);
	if (edata != NULL && cm_error_ends_all(edata))
		ReThrowError(edata);
}

/* Write a row of the log. */
void
cm_log_insert(Oid log_relid, Oid view, uint32 mask, bytea *key)
{
	Relation	log = table_open(log_relid, RowExclusiveLock);
	Datum		values[LOG_COLUMNS] = {ObjectIdGetDatum(view), UInt32GetDatum(mask), PointerGetDatum(key)};
	bool		nulls[LOG_COLUMNS] = {false, false, key == NULL};
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(log), values, nulls);

	simple_heap_insert(log, tuple);
	if (ItemPointerGetBlockNumber(&tuple->t_self) >= cm_matview_log_rows / ROWS_PER_PAGE + 1)
		ask_for_prune();
	heap_freetuple(tuple);
	table_close(log, NoLock);
}

/* Is the log so long that the job should look at it? */
bool
cm_matview_log_is_long(void)
{
	Oid			log_relid = cm_log_relation("matview_log");
	bool		is_long = false;
	ListCell   *lc;

	if (!OidIsValid(log_relid))
		return false;
	foreach(lc, find_inheritance_children(log_relid, AccessShareLock))
	{
		Relation	leaf = table_open(lfirst_oid(lc), NoLock);

		is_long |= RelationGetNumberOfBlocks(leaf) > cm_matview_log_rows / ROWS_PER_PAGE + 1;
		table_close(leaf, AccessShareLock);
	}
	return is_long;
}

/* Call a function for each row of a view that the active snapshot sees. */
typedef void (*RowFunction) (HeapTuple tuple, uint32 mask, bytea *key, void *arg);

static void
for_each_row(Oid view, RowFunction function, void *arg)
{
	Relation	log = table_open(cm_log_leaf(view), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, LOG_VIEW, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(view));
	scan = systable_beginscan(log, InvalidOid, false, GetActiveSnapshot(), 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;
		uint32		mask = DatumGetUInt32(heap_getattr(tuple, LOG_MASK, RelationGetDescr(log), &isnull));
		Datum		value = heap_getattr(tuple, LOG_KEY, RelationGetDescr(log), &isnull);

		CHECK_FOR_INTERRUPTS();
		function(tuple, mask, isnull ? NULL : DatumGetByteaPP(value), arg);
	}
	systable_endscan(scan);
	table_close(log, NoLock);
}

/* A pattern that was read; the key of a hash table. */
typedef struct SeenKey
{
	uint32		mask;
	int			length;
	const char *data;
} SeenKey;

static uint32
hash_seen(const void *key, Size keysize)
{
	const SeenKey *seen = key;

	return hash_bytes((const unsigned char *) seen->data, seen->length) ^ murmurhash32(seen->mask);
}

static int
match_seen(const void *a, const void *b, Size keysize)
{
	const SeenKey *left = a;
	const SeenKey *right = b;

	return left->mask == right->mask && left->length == right->length ?
		memcmp(left->data, right->data, left->length) : 1;
}

/* What cm_matview_log_read() works on. */
typedef struct Reading
{
	const CmMatviewPlan *plan;
	CmDirty    *dirty;
	HTAB	   *seen;
	MemoryContext context;		/* of the result */
} Reading;

/* Add what a row of the log says to what is dirty. */
static void
read_row(HeapTuple tuple, uint32 mask, bytea *key, void *arg)
{
	Reading    *reading = arg;
	MemoryContext caller = MemoryContextSwitchTo(reading->context);
	CmPattern	pattern;
	SeenKey		seen = {.mask = mask};
	bool		found;
	ItemPointer tid = palloc(sizeof(ItemPointerData));

	ItemPointerCopy(&tuple->t_self, tid);
	reading->dirty->log_tids = lappend(reading->dirty->log_tids, tid);
	if (key != NULL)
	{
		seen.length = VARSIZE_ANY_EXHDR(key);
		seen.data = VARDATA_ANY(key);
	}
	if (hash_search(reading->seen, &seen, HASH_FIND, NULL) == NULL)
	{
		SeenKey    *entry;

		cm_pattern_decode(reading->plan, mask, key, &pattern);
		if (pattern.mask == 0 && reading->dirty->stale == NULL)
			reading->dirty->stale = mask != 0 ? CM_LOG_OUTDATED : key != NULL ?
				text_to_cstring((struct varlena *) key) : CM_LOG_ANY_GROUP;
		else if (pattern.mask != 0)
		{
			CmPattern  *kept = palloc(sizeof(CmPattern));

			*kept = pattern;
			reading->dirty->patterns = lappend(reading->dirty->patterns, kept);
		}
		entry = hash_search(reading->seen, &seen, HASH_ENTER, &found);
		entry->data = seen.length > 0 ? memcpy(palloc(seen.length), seen.data, seen.length) : NULL;
	}
	MemoryContextSwitchTo(caller);
}

/*
 * Add the rows of the view's log that the active snapshot sees to what is
 * dirty: the patterns, each once, and where the rows are.  A row that stands
 * for any group makes all of it stale.
 */
void
cm_matview_log_read(const CmMatviewPlan *plan, CmDirty *dirty)
{
	HASHCTL		control = {.keysize = sizeof(SeenKey),.entrysize = sizeof(SeenKey),.hash = hash_seen,.match = match_seen,.hcxt = CurrentMemoryContext};
	Reading		reading = {.plan = plan,.dirty = dirty,.context = CurrentMemoryContext};

	reading.seen = hash_create("concertmaster patterns", 256, &control,
							   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	for_each_row(plan->view, read_row, &reading);
	hash_destroy(reading.seen);
}

/* Delete a row of the log, if it is still there. */
static void
delete_row(Relation log, ItemPointer tid)
{
	TM_FailureData failure;

	(void) table_tuple_delete(log, tid, GetCurrentCommandId(true), InvalidSnapshot, InvalidSnapshot,
							  true, &failure, false);
}

/* Delete the rows of the view's log that were read. */
void
cm_matview_log_consume(Oid view, const CmDirty *dirty)
{
	Relation	log;
	ListCell   *lc;

	if (dirty->log_tids == NIL)
		return;
	log = table_open(cm_log_leaf(view), RowExclusiveLock);
	foreach(lc, dirty->log_tids)
	{
		CHECK_FOR_INTERRUPTS();
		delete_row(log, lfirst(lc));
	}
	table_close(log, NoLock);
	cm_log_forget_all();
}

/* Note where a row is. */
static void
note_row(HeapTuple tuple, uint32 mask, bytea *key, void *arg)
{
	CmDirty    *dirty = arg;
	ItemPointer tid = palloc(sizeof(ItemPointerData));

	ItemPointerCopy(&tuple->t_self, tid);
	dirty->log_tids = lappend(dirty->log_tids, tid);
}

/* Delete all rows of a view's log that the active snapshot sees. */
void
cm_matview_log_clear(Oid view)
{
	CmDirty		dirty = {0};

	for_each_row(view, note_row, &dirty);
	cm_matview_log_consume(view, &dirty);
}

/* Append "name=value" for a column of a pattern. */
static void
append_column(StringInfo text, const CmMatviewPlan *plan, const CmPattern *pattern, int i)
{
	char	   *name = get_attname(plan->view, plan->keys[i].attno, true);

	appendStringInfo(text, "%s%s=", text->len > 0 ? ", " : "", name != NULL ? name : "?");
	if (pattern->nulls[i])
		appendStringInfoString(text, "NULL");
	else
	{
		Oid			output;
		bool		is_varlena;

		getTypeOutputInfo(plan->keys[i].type, &output, &is_varlena);
		appendStringInfoString(text, OidOutputFunctionCall(output, pattern->values[i]));
	}
}

/* For the rows of _log_patterns(). */
typedef struct Showing
{
	const CmMatviewPlan *plan;
	ReturnSetInfo *rsinfo;
} Showing;

static void
show_row(HeapTuple tuple, uint32 mask, bytea *key, void *arg)
{
	Showing    *showing = arg;
	CmPattern	pattern;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	StringInfoData text;

	initStringInfo(&text);
	cm_pattern_decode(showing->plan, mask, key, &pattern);
	for (int i = 0; i < showing->plan->nkeys; i++)
	{
		if (pattern.mask & (1 << i))
			append_column(&text, showing->plan, &pattern, i);
	}
	if (pattern.mask == 0 && mask == 0 && key != NULL)
		appendStringInfoString(&text, text_to_cstring((struct varlena *) key));
	values[0] = UInt32GetDatum(pattern.mask);
	values[1] = CStringGetTextDatum(text.data);
	tuplestore_putvalues(showing->rsinfo->setResult, showing->rsinfo->setDesc, values, nulls);
}

/* SQL: _log_patterns(view oid) */
Datum
cm__log_patterns(PG_FUNCTION_ARGS)
{
	Showing		showing = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};

	InitMaterializedSRF(fcinfo, 0);
	showing.plan = cm_matview_plan_for_log(PG_GETARG_OID(0));
	if (showing.plan != NULL)
		for_each_row(PG_GETARG_OID(0), show_row, &showing);
	return (Datum) 0;
}
