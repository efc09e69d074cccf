/*-------------------------------------------------------------------------
 *
 * matview_log.c
 *	  Log which groups of which views a written row belongs to.
 *
 * log_changes() is an AFTER ROW trigger of every tracked table and leaf, set
 * to fire ALWAYS.  For each view over the table it computes what the row,
 * before and after, tells of the view's key, and writes that pattern to
 * matview_log, once per transaction.  It is called for every row that anybody
 * writes, so what it needs of a table is kept in the session
 * (matview_log_table.c), values are computed without the executor where that
 * can be (matview_log_eval.c), and a pattern is compared with the one before
 * it and looked up among those of the transaction (matview_log_dedupe.c)
 * before anything is formed or written.
 *
 * The log is written before the transaction ends, in the same transaction, as
 * plain rows: a snapshot sees a row and its log, or neither, whatever becomes
 * of savepoints, PREPARE TRANSACTION or the server.
 *
 * The writer's privileges do not matter, nothing is run as the writer but
 * functions of core, and no error of ours reaches the writer's statement but
 * those that writing any row can raise.
 *
 * Locks: RowExclusiveLock on leaves of matview_log, which writers share.  What is known
 * of tables is of the session, freed at the end of a transaction after
 * something changed.  Nothing to clean up after an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "matview_log.h"

PG_FUNCTION_INFO_V1(cm_log_changes);

/* The entry of a table in the session's cache. */
typedef struct CacheEntry
{
	Oid			relid;
	CmLogTable *table;
} CacheEntry;

static HTAB *cache = NULL;

/* The table that was written to last; NULL or in the cache. */
static CmLogTable *latest = NULL;

/* Counts what can have outdated a table while it was being made. */
static uint64 invalidations = 0;

/* Counts rows, before and after. */
static uint64 row_count = 0;

/* The pattern at hand as bytes; grows to the longest one. */
static char *buffer = NULL;
static int	buffer_room = 0;

/* Something of a relation has changed, or of all if relid is 0. */
static void
on_relation_change(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CacheEntry *entry;

	invalidations++;
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		CmLogTable *table = entry->table;

		if (!table->valid)
			continue;
		if (relid == InvalidOid)
			table->valid = false;
		for (int i = 0; i < table->ndepends && table->valid; i++)
		{
			if (table->depends[i] == relid)
				table->valid = false;
		}
	}
}

/* A function has changed: expressions can have it inlined or evaluated. */
static void
on_function_change(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS status;
	CacheEntry *entry;

	invalidations++;
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->table->calls_functions)
			entry->table->valid = false;
	}
}

/* A role has changed: owners of views can have lost their rights on tables. */
static void
on_role_change(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS status;
	CacheEntry *entry;

	invalidations++;
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->table->valid = false;
}

/* First use in this process. */
static void
make_cache(void)
{
	HASHCTL		control = {.keysize = sizeof(Oid),.entrysize = sizeof(CacheEntry)};

	buffer_room = 256;
	buffer = MemoryContextAlloc(TopMemoryContext, buffer_room);
	cache = hash_create("concertmaster written tables", 32, &control, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(on_relation_change, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, on_function_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, on_role_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, on_role_change, (Datum) 0);
	cm_log_dedupe_init();
}

/*
 * Take what is outdated out of the cache.  A trigger further up can be at work
 * with it, so it lives as long as the transaction.
 */
static void
drop_outdated(void)
{
	HASH_SEQ_STATUS status;
	CacheEntry *entry;

	latest = NULL;
	hash_seq_init(&status, cache);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		CmLogTable *table = entry->table;

		if (table->valid)
			continue;
		(void) hash_search(cache, &entry->relid, HASH_REMOVE, NULL);
		MemoryContextSetParent(table->context, TopTransactionContext);
	}
}

/* What is known of a table, made anew if it is outdated. */
static CmLogTable *
find_table(Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	CacheEntry *entry;
	CmLogTable *table;
	uint64		before;
	bool		found;

	if (cache == NULL)
		make_cache();
	entry = hash_search(cache, &relid, HASH_FIND, NULL);
	if (entry != NULL && entry->table->valid)
	{
		latest = entry->table;
		return latest;
	}

	drop_outdated();
	before = invalidations;
	table = cm_log_table_build(relation, TopTransactionContext);

	/* Outdated meanwhile: good for this row, whose table we have locked, not for more. */
	if (invalidations != before)
		return table;
	entry = hash_search(cache, &relid, HASH_ENTER, &found);
	if (found)
		MemoryContextSetParent(entry->table->context, TopTransactionContext);
	entry->table = table;
	MemoryContextSetParent(table->context, CacheMemoryContext);
	latest = table;
	return table;
}

/* Have two values of a column the same bytes?  Toasted ones are not fetched. */
static inline bool
is_same_image(Form_pg_attribute column, Datum a, Datum b)
{
	if (column->attbyval)
		return a == b;
	if (column->attlen > 0)
		return memcmp(DatumGetPointer(a), DatumGetPointer(b), column->attlen) == 0;
	if (column->attlen == -1)
		return VARSIZE_ANY(DatumGetPointer(a)) == VARSIZE_ANY(DatumGetPointer(b)) &&
			memcmp(DatumGetPointer(a), DatumGetPointer(b), VARSIZE_ANY(DatumGetPointer(a))) == 0;
	return strcmp(DatumGetCString(a), DatumGetCString(b)) == 0;
}

/* Note which of the columns that are read an UPDATE has changed; false if none. */
static bool
find_changes(CmLogTable *table, TupleTableSlot *old, TupleTableSlot *new)
{
	bool		any = table->reads_unknown;

	slot_getsomeattrs(old, table->last_column);
	slot_getsomeattrs(new, table->last_column);
	for (int i = 0; i < table->ncolumns; i++)
	{
		int			at = table->columns[i] - 1;

		table->changed[i] = old->tts_isnull[at] != new->tts_isnull[at] ||
			(!old->tts_isnull[at] &&
			 !is_same_image((Form_pg_attribute) TupleDescAttr(old->tts_tupleDescriptor, at),
							old->tts_values[at], new->tts_values[at]));
		any |= table->changed[i];
	}
	return any;
}

/* Has the UPDATE changed a column that a target's view reads? */
static bool
is_affected(const CmLogTable *table, const CmLogTarget *target)
{
	if (target->plan == NULL)
		return true;
	for (int i = 0; i < target->ncolumns; i++)
	{
		if (table->changed[target->columns[i]])
			return true;
	}
	return false;
}

/* Append to the bytes of a pattern; returns the new length. */
static inline int
append_bytes(int length, const void *data, int size)
{
	if (length + size > buffer_room)
	{
		buffer = repalloc(buffer, 2 * (length + size));
		buffer_room = 2 * (length + size);
	}
	memcpy(buffer + length, data, size);
	return length + size;
}

/* Append the bytes of a value that is not null; -1 if it is too long for a key. */
static int
append_value(int length, const CmTeller *teller)
{
	struct varlena *value;
	int			size;

	if (teller->typbyval)
		return append_bytes(length, &teller->value, sizeof(Datum));
	if (teller->typlen > 0)
		return append_bytes(length, DatumGetPointer(teller->value), teller->typlen);
	if (teller->typlen == -2)
	{
		size = strlen(DatumGetCString(teller->value)) + 1;
		return size > CM_KEY_BYTES_MAX ? -1 :
			append_bytes(length, DatumGetCString(teller->value), size);
	}
	if (toast_raw_datum_size(teller->value) > CM_KEY_BYTES_MAX)
		return -1;
	value = PG_DETOAST_DATUM_PACKED(teller->value);
	size = VARSIZE_ANY_EXHDR(value);
	length = append_bytes(length, &size, sizeof(size));
	return append_bytes(length, VARDATA_ANY(value), size);
}

/*
 * Make the bytes of what a row tells a target: view, mask, which are null, and
 * the values.  Returns their length; *known is the mask of what is in them.
 */
static int
gather(CmLogTarget *target, TupleTableSlot *slot, uint64 row, uint32 *known)
{
	uint32		head[3] = {target->view, 0, 0};
	int			length = sizeof(head);

	for (int i = 0; (target->mask >> i) != 0; i++)
	{
		CmTeller   *teller = target->tellers[i];
		int			longer;

		if (teller == NULL)
			continue;
		cm_teller_tell(teller, slot, row);
		if (!teller->known)
			continue;
		if (teller->isnull)
			head[2] |= 1 << i;
		else
		{
			longer = append_value(length, teller);
			if (longer < 0)
				continue;
			length = longer;
		}
		head[1] |= 1 << i;
	}
	memcpy(buffer, head, sizeof(head));
	*known = head[1];
	return length;
}

/* Write the pattern at hand, or that of any group if it comes to that. */
static void
write_pattern(CmLogTarget *target, uint32 known, int length)
{
	CmPattern	pattern = {.mask = known};
	bytea	   *key = NULL;
	const char *reason = target->plan == NULL ? target->no_plan : CM_LOG_ANY_GROUP;

	for (int i = 0; (known >> i) != 0; i++)
	{
		if (!(known & (1 << i)))
			continue;
		pattern.values[i] = target->tellers[i]->value;
		pattern.nulls[i] = target->tellers[i]->isnull;
	}
	if (target->state->count >= cm_matview_log_transaction_groups)
	{
		pattern.mask = 0;
		reason = CM_LOG_MANY_GROUPS;
	}
	if (pattern.mask != 0)
		key = cm_pattern_encode(target->plan, &pattern);
	cm_log_insert(target->log_relid, target->view, pattern.mask,
				  pattern.mask != 0 ? key : cm_log_reason(reason));
	cm_log_remember(target->state, buffer, length, pattern.mask == 0);
}

/* Keep the pattern at hand as the target's last one. */
static void
keep_last(CmLogTarget *target, MemoryContext context, int length)
{
	if (length > target->last_room)
	{
		if (target->last != NULL)
			pfree(target->last);
		target->last_room = 0;
		target->last = MemoryContextAlloc(context, 2 * length);
		target->last_room = 2 * length;
	}
	memcpy(target->last, buffer, length);
	target->last_length = length;
}

/* Log one row, before or after, for one target, unless it is logged. */
static void
log_for_target(const CmLogTable *table, CmLogTarget *target, TupleTableSlot *slot, uint64 row)
{
	uint32		known;
	int			length;

	if (target->epoch != cm_log_epoch)
	{
		target->state = cm_log_view_state(target->view);
		target->last_length = 0;
		target->epoch = cm_log_epoch;
	}
	if (target->state->all)
		return;

	/* Changes nothing: what it calls cannot write. */
	length = gather(target, slot, row, &known);
	if (length == target->last_length && memcmp(buffer, target->last, length) == 0)
		return;
	if (!cm_log_is_known(buffer, length))
		write_pattern(target, known, length);
	keep_last(target, table->context, length);
}

/* Log one row, before or after; changes: only for targets that these affect. */
static void
log_row(CmLogTable *table, TupleTableSlot *slot, bool changes)
{
	uint64		row = ++row_count;

	for (int i = 0; i < table->ntargets; i++)
	{
		CmLogTarget *target = &table->targets[i];

		if (!changes || is_affected(table, target))
			log_for_target(table, target, slot, row);
	}
}

/* Refuse to be called but as an AFTER ROW trigger. */
static void
require_after_row(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"log_changes\" was not called by an AFTER ROW trigger"),
				 errhint("It is for triggers that concertmaster makes itself.")));
}

/* SQL: log_changes() */
Datum
cm_log_changes(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	CmLogTable *table = latest;

	require_after_row(fcinfo);
	if (table == NULL || !table->valid || table->relid != RelationGetRelid(trigger->tg_relation))
		table = find_table(trigger->tg_relation);
	if (table->ntargets == 0)
		return PointerGetDatum(NULL);

	if (!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		log_row(table, trigger->tg_trigslot, false);
	else if (find_changes(table, trigger->tg_trigslot, trigger->tg_newslot))
	{
		log_row(table, trigger->tg_trigslot, true);
		log_row(table, trigger->tg_newslot, true);
	}
	return PointerGetDatum(NULL);
}
