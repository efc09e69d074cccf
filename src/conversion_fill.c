/*-------------------------------------------------------------------------
 *
 * conversion_fill.c
 *	  Have foreign keys to a table that becomes partitioned reference the
 *	  partition key, too: before the swap, in it, and back.
 *
 * What is made, and why so, is told in conversion_composite.c.  For each key:
 *
 *	 1. One transaction under the deadline: the column, the function, the
 *		triggers, the new foreign key NOT VALID, and a row of our catalog.  Rows
 *		that are written from here on are filled, and cannot go stale.
 *	 2. Rows that are there are filled, a few blocks at a time, a short
 *		transaction each.  Nobody is waited for: what is locked, here or in the
 *		referenced table, is left and tried again.  Whoever writes a row that is
 *		being filled waits for a batch, some milliseconds.
 *	 3. An index, CONCURRENTLY, unless one begins with what references.
 *	 4. VALIDATE, which also proves that step 2 has left nothing; once that is
 *		done, the first three are not looked at again.
 *
 * 2 and 3 are asked for before they begin, and 2 once a second between two
 * batches: what pace.h says may put the run off.
 *
 * Filling changes nothing that an application knows of, so it fires no trigger
 * but those ENABLEd ALWAYS or REPLICA, as logical replication does: updated_at stays,
 * nothing is audited, and what is logged for materialized views is not about
 * the new column.  Foreign keys are not checked either: what is written has
 * been read from the row that is referenced, which is locked meanwhile.
 *
 * A run that dies is gone on with by the next, which begins step 2 at the
 * first block again; blocks without work are only read.  Until the swap
 * everything can be taken back, one transaction for each key.
 *
 * Locks: 1 and the way back: ACCESS EXCLUSIVE on the referencing table, then
 * SHARE ROW EXCLUSIVE on the other, to drop ACCESS EXCLUSIVE too, under the
 * deadline.  2: ROW EXCLUSIVE.  3: SHARE UPDATE EXCLUSIVE, as long as it takes.
 * After an error transactions are aborted by the functions that start them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "conversion_composite.h"
#include "conversion_do.h"

/* Filled in one transaction. */
#define BATCH_BLOCKS	8

/* How often it is asked between batches whether to go on: a question takes as long as a batch, or longer. */
#define ASK_EVERY_MS	1000

/* How often what is locked is tried again before the run is put off. */
#define MOST_ROUNDS		60

/* What the steps below work on. */
typedef struct Making
{
	const CmConversion *conversion;
	const CmComposite *composite;
	bool		ignore_window;	/* of concertmaster.build_window: somebody said so */
	BlockNumber block;			/* where a batch begins */
	bool		left;			/* set: rows of it were locked */
} Making;

/* Run a statement that changes our catalog, with oids as parameters. */
static void
change_catalog(const char *sql, Oid first, Oid second)
{
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2] = {ObjectIdGetDatum(first), ObjectIdGetDatum(second)};
	CmScope		scope;

	cm_catalog_enter(&scope);
	if (SPI_execute_with_args(sql, 2, types, values, NULL, false, 0) < 0)
		elog(ERROR, "statement failed: %s", sql);
	cm_scope_leave(&scope);
}

/* The step: make it. */
static void
add_key(void *arg)
{
	const Making *making = arg;
	const CmComposite *composite = making->composite;
	const CmConversion *conversion = making->conversion;

	cm_conversion_run_all(cm_composite_statements(conversion, composite), conversion->owner);
	change_catalog(psprintf("INSERT INTO concertmaster.conversion_key (key, relid, new_key, referencing, column_number, function)"
							" SELECT $1, $2, k.oid, k.conrelid, k.conkey[array_length(k.conkey, 1)], t.tgfoid FROM pg_constraint k"
							"   JOIN pg_trigger t ON t.tgrelid = k.conrelid AND t.tgname = %s"
							"  WHERE k.conrelid = %u AND k.conname = %s",
							quote_literal_cstr(psprintf("zz_fill_%s_insert", composite->column)),
							composite->relid, quote_literal_cstr(cm_composite_key(composite))),
				   composite->key, conversion->relid);
}

static void
set_local(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_SUSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* Become a table's owner, firing no triggers, and let rows be found by their place. */
static void
enter_fill(CmScope *scope, Oid owner)
{
	cm_owner_enter(scope, owner, true);
	set_local("row_security", "off");
	set_local("session_replication_role", "replica");
	set_local("enable_seqscan", "off");
	set_local("enable_hashjoin", "off");
	set_local("enable_mergejoin", "off");
	cm_scope_connect(scope);
}

/*
 * Fill a batch, in the transaction that is open.  Rows are found as the owner
 * of the table that is converted, and written as that of their own: what is on
 * it and runs then (a trigger ENABLEd ALWAYS) is his.
 */
static void
fill_batch(Making *making)
{
	const CmComposite *composite = making->composite;
	char	   *range = psprintf("x.ctid >= '(%u,0)' AND x.ctid < '(%u,0)'", making->block, making->block + BATCH_BLOCKS);
	Oid			types[2] = {TIDARRAYOID, get_array_type(making->conversion->key_type)};
	Datum		values[2];
	bool		isnull;
	CmScope		scope;
	CmScope		inner;

	enter_fill(&scope, making->conversion->owner);
	if (SPI_execute(cm_composite_find(making->conversion, composite, range), false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "looking for rows to be filled failed");
	values[0] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	values[1] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	if (!isnull)
	{
		enter_fill(&inner, cm_relation_owner(composite->relid));
		if (SPI_execute_with_args(cm_composite_fill(composite), 2, types, values, NULL, false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "filling a column failed");
		cm_scope_leave(&inner);
	}
	if (SPI_execute(psprintf("SELECT FROM ONLY %s AS x WHERE %s AND %s AND x.%s IS NULL", composite->table, range,
							 composite->all_set, quote_identifier(composite->column)), false, 1) != SPI_OK_SELECT)
		elog(ERROR, "looking for rows that are not filled failed");
	making->left = SPI_processed > 0;
	cm_scope_leave(&scope);
}

/* The blocks that the table has, in a transaction of its own. */
static BlockNumber
count_blocks(const CmComposite *composite)
{
	char	   *blocks = cm_conversion_query("SELECT (pg_relation_size($1) / current_setting('block_size')::bigint)::text",
											 composite->relid, NULL);

	return blocks != NULL ? (BlockNumber) strtoul(blocks, NULL, 10) : 0;
}

/* Fill all rows.  False: put off.  Rows that come while it goes on are filled by the trigger. */
static bool
fill(Making *making, CmJobOutcome *outcome)
{
	const CmComposite *composite = making->composite;
	BlockNumber blocks = count_blocks(composite);
	CmPaceNeed	need = {.what = psprintf("filling column %s of %s", quote_identifier(composite->column), composite->table),
	.ignore_window = making->ignore_window};
	List	   *locked = NIL;
	TimestampTz asked;
	int			shown = -1;

	need.bytes = (int64) blocks * BLCKSZ;
	if (!cm_conversion_may(&need, outcome))
		return false;
	need.bytes = 0;
	asked = GetCurrentTimestamp();
	for (BlockNumber block = 0; block < blocks; block += BATCH_BLOCKS)
	{
		int			percent = (int) ((double) block / blocks * 20) * 5;

		CHECK_FOR_INTERRUPTS();
		if (TimestampDifferenceExceeds(asked, GetCurrentTimestamp(), ASK_EVERY_MS))
		{
			if (!cm_conversion_may(&need, outcome))
				return false;
			asked = GetCurrentTimestamp();
		}
		if (percent > shown)
			cm_progress_report(percent, 100, "filling column %s of %s", quote_identifier(composite->column), composite->table);
		shown = percent;
		making->block = block;
		cm_transaction_begin(GetSessionUserId());
		fill_batch(making);
		cm_transaction_commit();
		if (making->left)
			locked = lappend_int(locked, (int) block);
	}
	for (int round = 1; locked != NIL; round++)
	{
		ListCell   *cell;

		if (round > MOST_ROUNDS)
			return cm_conversion_put_off(outcome, "rows of a referencing table were locked", composite->relid, RowExclusiveLock);
		cm_retry_pause(round);
		foreach(cell, locked)
		{
			making->block = (BlockNumber) lfirst_int(cell);
			cm_transaction_begin(GetSessionUserId());
			fill_batch(making);
			cm_transaction_commit();
			if (!making->left)
				locked = foreach_delete_current(locked, cell);
		}
	}
	return true;
}

/* The index, where one is needed; what a build left invalid is made anew.  False: put off. */
static bool
build(const Making *making, CmJobOutcome *outcome)
{
	const CmConversion *conversion = making->conversion;
	const CmComposite *composite = making->composite;
	CmPaceNeed	need = {.what = psprintf("building an index on %s", composite->table),
		.bytes = cm_composite_index_bytes(composite),
	.milliseconds = cm_build_milliseconds(composite->bytes, composite->rows),.ignore_window = making->ignore_window};
	char	   *left;

	if (!composite->needs_index)
		return true;
	if (!cm_conversion_may_build(&need, outcome))
		return false;
	left = cm_conversion_query("SELECT format('DROP INDEX CONCURRENTLY %s', i.indexrelid::regclass) FROM pg_index i"
							   "  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
							   " WHERE i.indrelid = $1 AND NOT i.indisvalid AND a.attname = $2", composite->relid, composite->column);
	cm_progress_report(0, 0, "building an index of %s", composite->table);
	if (left != NULL && !cm_statement_run(left, conversion->owner, 0))
		return cm_conversion_put_off(outcome, "an index that a build left could not be dropped", composite->relid, ShareUpdateExclusiveLock);
	return cm_statement_run(cm_composite_index(composite), conversion->owner, 0) ||
		cm_conversion_put_off(outcome, "an index could not be built", composite->relid, ShareUpdateExclusiveLock);
}

/* Validate what is not.  False: put off. */
static bool
validate(const CmConversion *conversion, const CmComposite *composite, CmJobOutcome *outcome)
{
	cm_progress_report(0, 0, "validating a foreign key of %s", composite->table);
	for (;;)
	{
		char	   *sql = cm_conversion_query("SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', k.conrelid::regclass, k.conname) FROM pg_constraint k"
											  "  JOIN concertmaster.conversion_key n ON n.referencing = k.conrelid AND n.key::text = $2"
											  " WHERE k.conrelid = $1 AND NOT k.convalidated"
											  "   AND (k.oid = n.new_key OR k.contype = 'c' AND n.column_number = ANY (k.conkey)) ORDER BY k.contype LIMIT 1",
											  composite->relid, psprintf("%u", composite->key));

		if (sql == NULL)
			return true;
		CHECK_FOR_INTERRUPTS();
		if (!cm_statement_run(sql, conversion->owner, 0))
			return cm_conversion_put_off(outcome, "a foreign key could not be validated", composite->relid, ShareUpdateExclusiveLock);
	}
}

/* Steps 1 to 4 for one key.  False: put off. */
static bool
make_composite(const CmConversion *conversion, const CmComposite *composite, bool ignore_window, CmJobOutcome *outcome)
{
	Making		making = {.conversion = conversion,.composite = composite,.ignore_window = ignore_window};

	if (composite->validated)
		return true;
	if (!OidIsValid(composite->new_key))
	{
		List	   *wishes = cm_lock_wish(NIL, composite->relid, AccessExclusiveLock);

		cm_progress_report(0, 0, "adding column %s to %s", quote_identifier(composite->column), composite->table);
		if (!cm_attempt_commit(add_key, &making, GetSessionUserId(), cm_lock_wish(wishes, conversion->relid, ShareRowExclusiveLock)))
			return cm_conversion_put_off(outcome, "a table with a foreign key, or the table itself, was locked", composite->relid, AccessExclusiveLock);
	}
	return fill(&making, outcome) &&
		build(&making, outcome) &&
		validate(conversion, composite, outcome);
}

/* All that are to reference the key.  False: put off.  In no transaction. */
bool
cm_conversion_make_composites(const CmConversion *conversion, bool ignore_window, CmJobOutcome *outcome)
{
	ListCell   *cell;

	foreach(cell, conversion->composites)
	{
		if (!make_composite(conversion, lfirst(cell), ignore_window, outcome))
			return false;
	}
	return true;
}

/* Is everything there that the swap needs?  Else it would drop keys. */
bool
cm_conversion_composites_ready(const CmConversion *conversion)
{
	ListCell   *cell;

	foreach(cell, conversion->composites)
	{
		if (!((CmComposite *) lfirst(cell))->validated)
			return false;
	}
	return true;
}

/*
 * In the swap, when the new keys stand alone: the functions do what the old
 * ones did.  From now on nothing of them is ours.  The table may have got
 * another owner since they were made.
 */
void
cm_conversion_swap_composites(const CmConversion *conversion)
{
	const char *owner = quote_identifier(GetUserNameFromId(conversion->owner, false));
	ListCell   *cell;

	foreach(cell, conversion->composites)
	{
		const CmComposite *composite = lfirst(cell);

		cm_run_as(GetSessionUserId(), psprintf("ALTER FUNCTION %s() OWNER TO %s", composite->function, owner));
		cm_run_as(conversion->owner, cm_composite_function(conversion, composite, true));
	}
	change_catalog("DELETE FROM concertmaster.conversion_key WHERE relid = $1", conversion->relid, InvalidOid);
}

/* One that is to be dropped. */
typedef struct Dropping
{
	Oid			key;
	Oid			table;
	char	   *column;			/* NULL: it is gone, as are those below then */
	char	   *constraint;
	char	   *function;
	Oid			function_owner;
} Dropping;

/* The step: take back what was made. */
static void
drop_key(void *arg)
{
	const Dropping *dropping = arg;

	if (dropping->table != InvalidOid)
	{
		Oid			owner = cm_relation_owner(dropping->table);
		char	   *table = cm_relation_quoted(dropping->table);
		static const char *const names[] = {"zz_fill_%s_insert", "zz_fill_%s_update", "Fill_%s", "Fill_%s_now"};

		/* Locks the table first, as writers do. */
		if (dropping->constraint != NULL)
			cm_run_as(owner, psprintf("ALTER TABLE %s DROP CONSTRAINT %s", table, quote_identifier(dropping->constraint)));
		for (int i = 0; dropping->column != NULL && i < lengthof(names); i++)
			cm_run_as(owner, psprintf("DROP TRIGGER IF EXISTS %s ON %s", quote_identifier(psprintf(names[i], dropping->column)), table));
		if (dropping->column != NULL)
			cm_run_as(owner, psprintf("ALTER TABLE %s DROP COLUMN %s", table, quote_identifier(dropping->column)));
	}
	if (dropping->function != NULL)
		cm_run_as(dropping->function_owner, psprintf("DROP FUNCTION %s", dropping->function));
	change_catalog("DELETE FROM concertmaster.conversion_key WHERE key = $1", dropping->key, InvalidOid);
}

/* The next that is to be dropped, or NULL; in a transaction of its own. */
static Dropping *
next_to_drop(Oid relid, bool all)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {OIDOID, BOOLOID};
	Datum		values[2] = {ObjectIdGetDatum(relid), BoolGetDatum(all)};
	Dropping   *dropping = NULL;
	CmScope		scope;

	cm_transaction_begin(GetSessionUserId());
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT n.key::text, c.oid::text, a.attname, k.conname, f.oid::regprocedure::text, f.proowner::text"
						  "  FROM concertmaster.conversion_key n LEFT JOIN pg_class c ON c.oid = n.referencing"
						  "  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = n.column_number AND NOT a.attisdropped"
						  "  LEFT JOIN pg_constraint k ON k.oid = n.new_key AND k.conrelid = c.oid LEFT JOIN pg_proc f ON f.oid = n.function"
						  " WHERE n.relid = $1 AND ($2 OR k.oid IS NULL OR NOT EXISTS (SELECT FROM pg_constraint o WHERE o.oid = n.key AND o.confrelid = $1))"
						  " ORDER BY n.key LIMIT 1", 2, types, values, NULL, false, 0);
	if (SPI_processed > 0)
	{
		char	   *texts[6];

		for (int i = 0; i < lengthof(texts); i++)
		{
			texts[i] = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);
			if (texts[i] != NULL)
				texts[i] = MemoryContextStrdup(caller, texts[i]);
		}
		dropping = MemoryContextAllocZero(caller, sizeof(Dropping));
		dropping->key = atooid(texts[0]);
		dropping->table = texts[1] ? atooid(texts[1]) : InvalidOid;
		dropping->column = texts[2];
		dropping->constraint = texts[3];
		dropping->function = texts[4];
		dropping->function_owner = texts[5] ? atooid(texts[5]) : InvalidOid;
	}
	cm_scope_leave(&scope);
	cm_transaction_commit();
	MemoryContextSwitchTo(caller);
	return dropping;
}

/*
 * Take back what was made for foreign keys to a table: all of it, or what was
 * made for keys that are gone or has been damaged.  False: put off.  In no
 * transaction.
 */
bool
cm_conversion_drop_composites(Oid relid, bool all, CmJobOutcome *outcome)
{
	Dropping   *dropping;

	while ((dropping = next_to_drop(relid, all)) != NULL)
	{
		List	   *wishes = cm_lock_wish(NIL, relid, AccessExclusiveLock);

		CHECK_FOR_INTERRUPTS();
		if (OidIsValid(dropping->table))
			wishes = cm_lock_wish(wishes, dropping->table, AccessExclusiveLock);
		if (!cm_attempt_commit(drop_key, dropping, GetSessionUserId(), wishes))
			return cm_conversion_put_off(outcome, "a table with a foreign key, or the table itself, was locked", relid, AccessExclusiveLock);
	}
	return true;
}
