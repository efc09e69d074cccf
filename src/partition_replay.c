/*-------------------------------------------------------------------------
 *
 * partition_replay.c
 *	  Fill the copies of a default partition's rows, and keep them up to date.
 *
 * Writers go on in the default partition d while its rows are copied to the
 * staging table, page range by page range, each with a snapshot of its own.
 * From before the first copy on, every change of d is in the log
 * (partition_capture.c), and is replayed: for each row that the taken entries
 * name, whatever the staging table holds of it is deleted, and the last image
 * is inserted unless it is gone.  A row is told from the others by a unique
 * index of d: immediate, whole, of columns that are not null.
 *
 * Why this comes to the same rows, once the whole log was replayed while d
 * was locked:
 *
 *	 - A row that was not changed is in a page that d had when the trigger was
 *	   there, and is copied by the one range that its page is in.  No row that
 *	   conflicts with it was ever in d meanwhile, so the copy is not skipped.
 *	 - A row that was changed has a last entry.  Replaying that makes the
 *	   staging table agree with d, whatever was there before: nothing (not
 *	   copied yet, or skipped), an old image, or the same one.  Copies that come
 *	   later read d with a younger snapshot than the replay's, find that last
 *	   image, and skip it, or find none.
 *	 - Entries of one row are numbered in the order of its changes, since the
 *	   second writer waited for the first one's commit; who sees the second
 *	   sees the first.  So taking the lowest numbers that a snapshot shows takes
 *	   no entry before an older one of the same row, though an entry with a
 *	   lower number can turn up later, from a transaction that committed later:
 *	   it is about another row.
 *	 - The same holds for two rows that another unique index keeps apart: the
 *	   first one's end is numbered before the second one's beginning.  Between
 *	   ranges the staging table can hold the first one still, or a third that
 *	   came after; then ON CONFLICT DO NOTHING skips the second, and its own
 *	   entry, or one after it, is still to come.  That its last entry finds
 *	   nothing in the way follows as above.  A deferrable constraint would not
 *	   make the second wait, so tables with one are not split.
 *
 * One snapshot serves the three statements of a replay, so that what is taken
 * off the log is what was replayed.
 *
 * What would go round the trigger is seen from the outside: a table stored
 * anew (TRUNCATE, VACUUM FULL, ALTER TABLE), a trigger that was touched,
 * other columns, indexes or constraints.  All that is one text, the signature,
 * taken when the trigger was made and compared before the copies are used.
 *
 * Locks: ACCESS SHARE on d, ROW EXCLUSIVE on log and staging table, for a
 * short transaction each.  After an error, the abort.
 *
 * What it does not do: make the tables, or put them into place
 * (partition_split.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "partition_split.h"

/* How many entries one transaction takes off the log. */
#define REPLAY_ENTRIES	5000

/* Rounds of replaying until there is next to nothing left; more means that writers are faster. */
#define REPLAY_ROUNDS	1000

/* How long copying one range of pages shall take, in ms; and its bounds. */
#define COPY_TIME		100
#define COPY_PAGES_MIN	8
#define COPY_PAGES_MAX	8192

/* The first column of the first row, in a context that outlives SPI; or NULL. */
static char *
first_text(int column)
{
	char	   *text;

	if (SPI_processed == 0)
		return NULL;
	text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
	return text == NULL ? NULL : strcpy(SPI_palloc(strlen(text) + 1), text);
}

/*
 * The index that tells rows apart: best one that the parent has as well.  The
 * operators are those of the columns' default classes, as DISTINCT ON uses
 * them too.
 */
static const char *const key_query =
"SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.ord),"
"       string_agg(format('p.%1$I OPERATOR(%2$I.%3$s) t.%1$I', a.attname, n.nspname, o.oprname), ' AND ' ORDER BY k.ord),"
"       h.inhrelid IS NULL"
"  FROM pg_index i"
"  LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid"
" CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])"
"                    WITH ORDINALITY k (attnum, class, coll, ord)"
"  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum"
"  JOIN pg_opclass c ON c.oid = k.class"
"  JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3"
"                AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype"
"  JOIN pg_operator o ON o.oid = m.amopopr"
"  JOIN pg_namespace n ON n.oid = o.oprnamespace"
" WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid"
"   AND i.indpred IS NULL AND i.indexprs IS NULL AND k.ord <= i.indnkeyatts"
" GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts, h.inhrelid"
" HAVING count(*) = i.indnkeyatts"
"    AND bool_and(a.attnotnull AND a.attgenerated = '' AND c.opcdefault AND k.coll = a.attcollation)"
"    AND NOT EXISTS (SELECT FROM pg_constraint x WHERE x.conrelid = $1 AND x.contype = 'n' AND NOT x.convalidated)"
" ORDER BY h.inhrelid IS NULL, i.indisprimary DESC, i.indnkeyatts, i.indexrelid"
" LIMIT 1";

/* Find what tells the default partition's rows apart.  False if nothing does.  In a scope with SPI. */
bool
cm_partition_split_key(CmSplit *split)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(split->rest)};
	bool		isnull;

	if (cm_query(key_query, 1, types, values, NULL) != SPI_OK_SELECT)
		elog(ERROR, "query failed");
	if (SPI_processed == 0)
		return false;
	split->key = first_text(1);
	split->key_match = first_text(2);
	split->own_key = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull));
	return true;
}

/*
 * All that the copies rely on: that d is the default partition, its file, its
 * columns and the parent's, the trigger as we made it, what the parent asks
 * of its partitions, and that the log is there.
 */
static const char *const signature_query =
"SELECT concat_ws(';',"
"   (SELECT partdefid FROM pg_partitioned_table WHERE partrelid = $1),"
"   pg_relation_filenode($2),"
"   (SELECT relowner FROM pg_class WHERE oid = $2),"
"   (SELECT string_agg(concat_ws(' ', attrelid, attnum, attname, atttypid, atttypmod, attcollation,"
"                                attnotnull, attgenerated), ',' ORDER BY attrelid, attnum)"
"      FROM pg_attribute WHERE attrelid IN ($1, $2) AND attnum > 0 AND NOT attisdropped),"
"   (SELECT concat_ws(' ', oid, tgenabled, xmin) FROM pg_trigger"
"     WHERE tgrelid = $2 AND tgname = '" CM_CAPTURE_TRIGGER "'),"
"   (SELECT string_agg(indexrelid::text, ' ' ORDER BY indexrelid) FROM pg_index WHERE indrelid = $1),"
"   (SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_constraint WHERE $1 IN (conrelid, confrelid)),"
"   to_regclass($3)::oid)";

/* In a scope with SPI. */
char *
cm_partition_split_signature(const CmSplit *split)
{
	Oid			types[3] = {OIDOID, OIDOID, TEXTOID};
	Datum		values[3];

	values[0] = ObjectIdGetDatum(split->parent);
	values[1] = ObjectIdGetDatum(split->rest);
	values[2] = CStringGetTextDatum(split->log);
	if (cm_query(signature_query, 3, types, values, NULL) != SPI_OK_SELECT)
		elog(ERROR, "query failed");
	return first_text(1);
}

/* Is everything as it was?  Otherwise split->stale is set. */
bool
cm_partition_split_unchanged(CmSplit *split)
{
	char	   *signature;

	if (get_rel_name(split->parent) == NULL || get_rel_name(split->rest) == NULL)
		split->stale = true;
	else
	{
		signature = cm_partition_split_signature(split);
		if (strcmp(signature, split->signature) != 0)
			split->stale = true;
		pfree(signature);
	}
	return !split->stale;
}

/* Run one statement with the snapshot, and with what we did since.  Returns its count of rows. */
static int64
execute_at(Snapshot snapshot, const char *sql)
{
	SPIPlanPtr	plan = SPI_prepare(sql, 0, NULL);

	if (plan == NULL ||
		SPI_execute_snapshot(plan, NULL, NULL, snapshot, InvalidSnapshot, false, false, 0) < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", sql);
	SPI_freeplan(plan);
	return SPI_processed;
}

/*
 * For what evaluates expressions of the owner's: with what that may not do, all
 * rows in sight, and the plans that a log without statistics needs.
 */
static void
enter_restricted(CmScope *scope, Oid owner)
{
	const char *const off[] = {"enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"};

	cm_owner_enter(scope, owner, true);
	cm_partition_see_all_rows();
	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* Replay the first entries of the log, at most limit.  In a scope with SPI. */
void
cm_partition_split_replay(CmSplit *split, int limit)
{
	char	   *taken = psprintf("(SELECT * FROM %s ORDER BY " CM_CAPTURE_NUMBER " LIMIT %d) l", split->log, limit);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	CmScope		scope;

	enter_restricted(&scope, split->owner);
	(void) execute_at(snapshot, psprintf("DELETE FROM %s p USING (SELECT DISTINCT %s FROM %s) t WHERE %s",
										 split->staging, split->key, taken, split->key_match));
	(void) execute_at(snapshot, psprintf("INSERT INTO %s (%s) SELECT %s"
										 "  FROM (SELECT DISTINCT ON (%s) * FROM %s"
										 "         ORDER BY %s, " CM_CAPTURE_NUMBER " DESC) t"
										 " WHERE NOT " CM_CAPTURE_GONE " ON CONFLICT DO NOTHING",
										 split->staging, split->columns, split->columns,
										 split->key, taken, split->key));
	split->replayed = execute_at(snapshot, psprintf("DELETE FROM %s WHERE " CM_CAPTURE_NUMBER " IN"
													" (SELECT " CM_CAPTURE_NUMBER " FROM %s)",
													split->log, taken));
	cm_scope_leave(&scope);
	UnregisterSnapshot(snapshot);
}

/* A step: replay some of the log. */
void
cm_partition_split_catch_up(void *arg)
{
	CmSplit    *split = arg;
	CmScope		scope;

	/* None of our locks is in anybody's way. */
	(void) cm_deadline_disarm();
	cm_partition_enter(&scope, split->owner);
	if (cm_partition_split_unchanged(split))
		cm_partition_split_replay(split, REPLAY_ENTRIES);
	cm_scope_leave(&scope);
}

/* Replay until less than a full transaction's worth was there.  False if put off, or stale. */
bool
cm_partition_split_follow(CmSplit *split)
{
	for (int round = 0; round < REPLAY_ROUNDS; round++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!cm_attempt_commit(cm_partition_split_catch_up, split, split->owner, NIL) || split->stale)
			return false;
		if (split->replayed <= CM_LAST_ENTRIES)
			return true;
	}
	return false;
}

/* A step: copy the next range of pages; and say how many the next one shall have. */
void
cm_partition_split_copy(void *arg)
{
	CmSplit    *split = arg;
	CmScope		scope;
	CmScope		inner;
	instr_time	start;
	instr_time	took;

	(void) cm_deadline_disarm();
	INSTR_TIME_SET_CURRENT(start);
	cm_partition_enter(&scope, split->owner);
	if (cm_partition_split_unchanged(split))
	{
		enter_restricted(&inner, split->owner);
		cm_partition_execute(psprintf("INSERT INTO %s (%s) SELECT %s FROM ONLY %s"
									  " WHERE ctid >= '(%u,0)' AND ctid < '(%u,0)' ON CONFLICT DO NOTHING",
									  split->staging, split->columns, split->columns,
									  cm_relation_quoted(split->rest),
									  split->page, split->page + split->pages));
		cm_scope_leave(&inner);
		split->page += split->pages;
	}
	cm_scope_leave(&scope);

	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, start);
	if (INSTR_TIME_GET_MILLISEC(took) < COPY_TIME / 2)
		split->pages = Min(split->pages * 2, COPY_PAGES_MAX);
	else if (INSTR_TIME_GET_MILLISEC(took) > COPY_TIME * 2)
		split->pages = Max(split->pages / 2, COPY_PAGES_MIN);
}
