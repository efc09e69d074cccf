/*-------------------------------------------------------------------------
 *
 * partition_split.c
 *	  Divide a default partition with many rows into partitions, online.
 *
 * Where thousands of rows of the default partition d belong into several
 * partitions, or some of them stay, they cannot be moved while others wait,
 * and d cannot become a partition itself.  Then copies are made beside it:
 *
 *	 1. A log, and a staging table with a partition for each piece (complete
 *		with indexes, as partition_leaf.c makes it) and one LIKE d for all that
 *		stays.  Each has a CHECK of what it can hold from the start, so that
 *		attaching it later scans nothing.
 *	 2. A trigger on d that writes changes into the log (partition_capture.c).
 *		CREATE TRIGGER waits until every writer that did not have it is done.
 *	 3. d is copied, page range by page range, and the log is replayed
 *		(partition_replay.c has the proof), a short transaction each.
 *	 4. Wait until every snapshot that does not see the copies is gone, as
 *		CREATE INDEX CONCURRENTLY does, and replay on meanwhile.
 *	 5. Hold off writers with locks of the session, replay the rest, and let
 *		the snapshots pass that do not see that, for a quarter of the deadline.
 *		Then in one transaction: lock parent and d, look whether everything is
 *		as it was, detach d, attach the copies, the one of what stays under d's
 *		name.  What does not come off is tried again after a pause without
 *		locks.
 *	 6. Drop d, the log and the staging table.
 *
 * A reader sees d or the copies, whose contents are the same at that moment,
 * to every snapshot that is older too.  (One exception is left: a REPEATABLE
 * READ transaction whose first statement is a write that waits for step 5.  It
 * keeps the snapshot that it took before it waited, and sees rows that the
 * last replay changed as they were.)
 *
 * Not more partitions are made at a time than step 5 can attach within the
 * deadline, those with the most rows; the next round makes more.  What can be
 * known before is not left to step 5: its statements are ready, and no table
 * is read but the end of the log.
 *
 * All that is made carries CM_SPLIT_MARK until it is a partition, and d once
 * it is none.  What has the mark holds copies and is dropped by the pass that
 * finds it (partition_leftover.c), after the trigger.  d is untouched until
 * step 5 commits, so a crash or an error at any point costs the work and
 * nothing else.
 *
 * It is begun, and goes on with each page range, only when that may be
 * (partition_pause.c).
 *
 * Locks: SHARE ROW EXCLUSIVE on d to make the trigger, ACCESS EXCLUSIVE to
 * drop it, ACCESS EXCLUSIVE on parent and d for step 5, all within the
 * deadline; else none that readers or writers queue behind.
 *
 * What it does not do: decide (partition_work.c), or split what
 * partition_obstacle.c refuses.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "commands/comment.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "partition_split.h"

/*
 * How long attaching one partition may take, in ms, on a busy machine: the
 * exchange attaches as many as fit into the deadline.
 */
#define ATTACH_TIME		4

#define STAGING_NAME	"_concertmaster_split"
#define LOG_NAME		"_concertmaster_log"
#define REST_NAME		"_concertmaster_rest"
#define OLD_NAME		"_concertmaster_old"
#define KEY_NAME		"_concertmaster_key"
#define RANGE_CHECK		"concertmaster_range"

/* What the steps below work on. */
typedef struct Work
{
	CmSplit		split;
	const CmPartitionWork *work;
	char	   *mark;			/* the comment, as a literal */
	char	   *outside;		/* what the copy of what stays can hold */
	char	   *rest_comment;	/* d's own, or NULL */
	Oid			model;			/* what the leaves take after */
	List	   *attach;			/* statements, one for each leaf */
	CmLeaf	   *leaf;			/* the one that stage_leaf() makes */
	BlockNumber blocks;			/* of d, to copy */
	CmSplitPause pause;
} Work;

/* list_sort comparator: the most rows first. */
static int
compare_rows(const ListCell *a, const ListCell *b)
{
	const CmLeaf *x = lfirst(a);
	const CmLeaf *y = lfirst(b);

	return x->rows > y->rows ? -1 : (x->rows < y->rows ? 1 : 0);
}

/* The name of something that the split makes beside the parent. */
static char *
name_beside(Oid parent, const char *suffix)
{
	return cm_partition_name(cm_relation_name(parent), suffix);
}

/* Everything that is known beforehand, in a transaction of its own. */
static void
describe(Work *work, List **leaves)
{
	CmSplit    *split = &work->split;
	CmPartitionWork known = *work->work;
	List	   *ranges;
	ListCell   *lc;
	CmScope		scope;

	cm_transaction_begin(GetSessionUserId());
	split->parent = known.parent;
	split->owner = known.owner;
	split->rest = known.rest;
	list_sort(*leaves, compare_rows);
	split->leaves = *leaves = list_truncate(*leaves, Max(1, cm_ddl_deadline / ATTACH_TIME));
	split->log_schema = cm_relation_schema(split->parent);
	split->log_name = pstrdup(name_beside(split->parent, LOG_NAME));
	split->log = quote_qualified_identifier(split->log_schema, split->log_name);
	split->staging = quote_qualified_identifier(split->log_schema, name_beside(split->parent, STAGING_NAME));
	split->columns = cm_partition_columns(split->parent);
	split->pages = 64;
	work->mark = quote_literal_cstr(psprintf(CM_SPLIT_MARK "%s", cm_relation_quoted(split->parent)));
	work->rest_comment = GetComment(split->rest, RelationRelationId, 0);

	split->rest_leaf = *(CmLeaf *) linitial(split->leaves);
	split->rest_leaf.model = split->rest;
	split->rest_leaf.from = split->rest_leaf.to = DT_NOBEGIN;
	strlcpy(split->rest_leaf.name, name_beside(split->parent, REST_NAME), NAMEDATALEN);

	known.existing = cm_partition_existing(split->parent, &known.settings.axis);
	work->model = cm_partition_leaf_model(linitial(split->leaves), known.existing);
	foreach(lc, split->leaves)
		work->attach = lappend(work->attach,
							   cm_partition_attach_sql(cm_relation_quoted(split->parent), lfirst(lc), known.existing));

	ranges = list_copy(split->leaves);
	foreach(lc, known.existing)
	{
		const CmPartition *partition = lfirst(lc);
		CmLeaf	   *range = palloc0(sizeof(CmLeaf));

		range->from = partition->from;
		range->to = partition->to;
		if (!partition->is_default)
			ranges = lappend(ranges, range);
	}
	work->outside = cm_partition_outside(&known, ranges);

	cm_catalog_enter(&scope);
	split->stale = !cm_partition_split_key(split);
	cm_scope_leave(&scope);
	cm_transaction_commit();
}

/* A step: the log and the staging table, empty. */
static void
make_tables(void *arg)
{
	Work	   *work = arg;
	CmSplit    *split = &work->split;
	char	   *parent;
	char	   *key;
	CmScope		scope;

	cm_partition_enter(&scope, split->owner);
	parent = cm_relation_quoted(split->parent);
	key = TextDatumGetCString(OidFunctionCall1(F_PG_GET_PARTKEYDEF, ObjectIdGetDatum(split->parent)));
	cm_partition_execute(psprintf("CREATE UNLOGGED TABLE %s WITH (autovacuum_vacuum_scale_factor = 0,"
								  " autovacuum_vacuum_threshold = 10000, vacuum_truncate = off) AS"
								  " SELECT 0::bigint AS " CM_CAPTURE_NUMBER ", false AS " CM_CAPTURE_GONE ", %s FROM %s"
								  " WITH NO DATA", split->log, split->columns, parent));
	cm_partition_execute(psprintf("ALTER TABLE %s ALTER " CM_CAPTURE_NUMBER " SET NOT NULL", split->log));
	cm_partition_execute(psprintf("ALTER TABLE %s ALTER " CM_CAPTURE_NUMBER " ADD GENERATED ALWAYS AS IDENTITY,"
								  " ADD PRIMARY KEY (" CM_CAPTURE_NUMBER ")", split->log));
	cm_partition_execute(psprintf("COMMENT ON TABLE %s IS %s", split->log, work->mark));
	cm_partition_execute(psprintf("CREATE TABLE %s (LIKE %s INCLUDING GENERATED) PARTITION BY %s",
								  split->staging, parent, key));
	cm_partition_execute(psprintf("COMMENT ON TABLE %s IS %s", split->staging, work->mark));
	cm_scope_leave(&scope);
}

/* A step: one copy, empty, as a partition of the staging table. */
static void
stage_leaf(void *arg)
{
	Work	   *work = arg;
	CmSplit    *split = &work->split;
	CmLeaf	   *leaf = work->leaf;
	bool		is_rest = leaf == &split->rest_leaf;
	char	   *name;
	CmScope		scope;

	cm_partition_leaf_create(leaf);
	if (leaf->stale)
		return;
	cm_partition_enter(&scope, split->owner);
	name = cm_partition_leaf_quoted(leaf);
	cm_partition_execute(psprintf("COMMENT ON TABLE %s IS %s", name, work->mark));
	cm_partition_execute(psprintf("ALTER TABLE %s ADD CONSTRAINT " RANGE_CHECK " CHECK (%s)", name,
								  is_rest ? work->outside : cm_partition_inside(work->work, leaf->from, leaf->to)));
	if (is_rest)
		cm_partition_alike_identity(cm_relation_resolve(split->log_schema, leaf->name), split->rest);
	else if (split->own_key)
		cm_partition_execute(psprintf("CREATE UNIQUE INDEX %s ON %s (%s)",
									  quote_identifier(cm_partition_name(leaf->name, KEY_NAME)), name, split->key));
	cm_partition_execute(is_rest ? psprintf("ALTER TABLE %s ATTACH PARTITION %s DEFAULT", split->staging, name) :
						 cm_partition_attach_sql(split->staging, leaf,
												 cm_partition_existing(split->parent, &leaf->axis)));
	cm_scope_leave(&scope);
}

/*
 * A step, as the session's role, since nobody else may use the function: from
 * here on changes are written down.
 */
static void
capture(void *arg)
{
	CmSplit    *split = arg;
	char	   *rest;
	CmScope		scope;

	cm_partition_enter(&scope, GetSessionUserId());
	LockRelationOid(split->rest, ShareRowExclusiveLock);
	rest = cm_relation_quoted(split->rest);
	cm_partition_execute(psprintf("CREATE TRIGGER " CM_CAPTURE_TRIGGER " AFTER INSERT OR UPDATE OR DELETE ON %s"
								  " FOR EACH ROW EXECUTE FUNCTION " CM_SCHEMA "._partition_capture(%s, %s)", rest,
								  quote_literal_cstr(split->log_schema), quote_literal_cstr(split->log_name)));
	cm_partition_execute(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER " CM_CAPTURE_TRIGGER, rest));
	split->signature = cm_partition_split_signature(split);
	cm_scope_leave(&scope);
}

/* A step: no more, of the table whose oid it is given.  Table or trigger can be gone. */
void
cm_partition_capture_no_more(void *arg)
{
	Oid			rest = *(Oid *) arg;
	CmScope		scope;

	LockRelationOid(rest, AccessExclusiveLock);
	if (get_rel_name(rest) == NULL)
		return;
	cm_partition_enter(&scope, cm_relation_owner(rest));
	cm_partition_execute(psprintf("DROP TRIGGER IF EXISTS " CM_CAPTURE_TRIGGER " ON %s", cm_relation_quoted(rest)));
	cm_scope_leave(&scope);
}

/* Steps 1 and 2.  False if put off, or stale. */
static bool
prepare(Work *work)
{
	CmSplit    *split = &work->split;
	ListCell   *lc;

	if (!cm_attempt_commit(make_tables, work, split->owner, NIL))
		return false;
	work->leaf = &split->rest_leaf;
	if (!cm_attempt_commit(stage_leaf, work, split->owner, NIL))
		return false;
	foreach(lc, split->leaves)
	{
		work->leaf = lfirst(lc);
		if (!cm_attempt_commit(stage_leaf, work, split->owner, NIL))
			return false;
		split->stale = split->stale || work->leaf->stale;
	}
	return !split->stale &&
		cm_attempt_commit(capture, split, GetSessionUserId(),
						  cm_lock_wish(NIL, split->rest, ShareRowExclusiveLock));
}

/* How many pages there are to copy: those that are there now. */
static BlockNumber
count_pages(Oid rest)
{
	BlockNumber result = 0;
	Relation	rel;

	cm_transaction_begin(GetSessionUserId());
	rel = try_relation_open(rest, AccessShareLock);
	if (rel != NULL)
	{
		result = RelationGetNumberOfBlocks(rel);
		relation_close(rel, AccessShareLock);
	}
	cm_transaction_commit();
	return result;
}

/* A step: statistics of one copy, so that plans are right from the first moment. */
static void
analyze_leaf(void *arg)
{
	CmLeaf	   *leaf = arg;
	CmScope		scope;

	(void) cm_deadline_disarm();
	cm_partition_enter(&scope, leaf->owner);
	cm_partition_execute(psprintf("ANALYZE %s", cm_partition_leaf_quoted(leaf)));
	cm_scope_leave(&scope);
}

/* Step 3.  False if put off, or stale. */
static bool
copy_rows(Work *work)
{
	CmSplit    *split = &work->split;
	ListCell   *lc;

	work->blocks = count_pages(split->rest);
	while (split->page < work->blocks)
	{
		CHECK_FOR_INTERRUPTS();
		if (!cm_partition_split_pause(split, &work->pause))
			return false;
		cm_progress_report(split->page, work->blocks, "splitting the default partition: copying its pages");
		if (!cm_attempt_commit(cm_partition_split_copy, split, split->owner, NIL) || split->stale ||
			!cm_attempt_commit(cm_partition_split_catch_up, split, split->owner, NIL) || split->stale)
			return false;
	}
	cm_progress_report(work->blocks, work->blocks, "splitting the default partition: following its changes");
	if (!cm_partition_split_follow(split))
		return false;
	foreach(lc, lappend(list_copy(split->leaves), &split->rest_leaf))
	{
		if (!cm_attempt_commit(analyze_leaf, lfirst(lc), split->owner, NIL))
			return false;
	}
	return cm_partition_split_follow(split);
}

/* Step 4.  False if put off, or stale. */
static bool
outlive_snapshots(CmSplit *split)
{
	CmSnapshots *snapshots = cm_snapshots_note();
	int			pid;

	while ((pid = cm_snapshots_holder(snapshots, false)) != 0)
	{
		cm_progress_report(0, 0, "splitting the default partition: waiting for process %d, whose snapshot is older than the copies", pid);
		cm_retry_pause(1);
		if (!cm_partition_split_follow(split))
			return false;
	}
	return true;
}

/* Is there more in the log than can be replayed while others wait? */
static bool
is_behind(const CmSplit *split)
{
	SPI_execute(psprintf("SELECT FROM %s", split->log), true, CM_LAST_ENTRIES + 1);
	return SPI_processed > CM_LAST_ENTRIES;
}

/* A copy becomes a partition.  Caller has the locks. */
static void
place_leaf(const Work *work, const CmLeaf *leaf, const char *attach)
{
	const CmSplit *split = &work->split;
	char	   *name = cm_partition_leaf_quoted(leaf);

	cm_partition_execute(psprintf("ALTER TABLE %s DETACH PARTITION %s", split->staging, name));
	if (split->own_key)
		cm_partition_execute(psprintf("DROP INDEX %s",
									  quote_qualified_identifier(split->log_schema,
																 cm_partition_name(leaf->name, KEY_NAME))));
	cm_partition_execute(attach);
	cm_partition_leaf_identity(cm_relation_resolve(split->log_schema, leaf->name), work->model);
	cm_partition_execute(psprintf("ALTER TABLE %s DROP CONSTRAINT " RANGE_CHECK, name));
	cm_partition_execute(psprintf("COMMENT ON TABLE %s IS NULL", name));
}

/* What stays takes the name and the place of the default partition, which steps aside. */
static void
place_rest(const Work *work)
{
	const CmSplit *split = &work->split;
	char	   *parent = cm_relation_quoted(split->parent);
	char	   *old_name = cm_relation_name(split->rest);
	char	   *schema = cm_relation_schema(split->rest);
	char	   *name = quote_qualified_identifier(schema, old_name);

	cm_partition_execute(psprintf("ALTER TABLE %s RENAME TO %s", name,
								  quote_identifier(name_beside(split->parent, OLD_NAME))));
	if (strcmp(schema, split->log_schema) != 0)
		cm_partition_execute(psprintf("ALTER TABLE %s SET SCHEMA %s", cm_relation_quoted(split->rest),
									  quote_identifier(split->log_schema)));
	cm_partition_execute(psprintf("COMMENT ON TABLE %s IS %s", cm_relation_quoted(split->rest), work->mark));

	cm_partition_execute(psprintf("ALTER TABLE %s DETACH PARTITION %s", split->staging,
								  cm_partition_leaf_quoted(&split->rest_leaf)));
	if (strcmp(schema, split->log_schema) != 0)
		cm_partition_execute(psprintf("ALTER TABLE %s SET SCHEMA %s",
									  cm_partition_leaf_quoted(&split->rest_leaf), quote_identifier(schema)));
	cm_partition_execute(psprintf("ALTER TABLE %s RENAME TO %s",
								  quote_qualified_identifier(schema, split->rest_leaf.name), quote_identifier(old_name)));
	cm_partition_execute(psprintf("ALTER TABLE %s ATTACH PARTITION %s DEFAULT", parent, name));
	cm_partition_alike_names(cm_relation_resolve(schema, old_name), split->rest);
	cm_partition_execute(psprintf("ALTER TABLE %s DROP CONSTRAINT " RANGE_CHECK, name));
	cm_partition_execute(psprintf("COMMENT ON TABLE %s IS %s", name,
								  work->rest_comment ? quote_literal_cstr(work->rest_comment) : "NULL"));
}

/*
 * First the copies, which nobody but autovacuum can have locked, so that nobody
 * waits while that ends; then what others queue behind, in the order in which
 * writers lock it.
 */
static void
lock_all(const CmSplit *split)
{
	ListCell   *lc;

	foreach(lc, split->leaves)
		LockRelationOid(cm_relation_resolve(split->log_schema, ((CmLeaf *) lfirst(lc))->name), AccessExclusiveLock);
	LockRelationOid(cm_relation_resolve(split->log_schema, split->rest_leaf.name), AccessExclusiveLock);
	LockRelationOid(split->parent, AccessExclusiveLock);
	LockRelationOid(split->rest, AccessExclusiveLock);
}

/* Was one of the ranges taken by another partition? */
static bool
is_taken(const CmSplit *split)
{
	List	   *existing = cm_partition_existing(split->parent, &split->rest_leaf.axis);
	ListCell   *lc;

	foreach(lc, split->leaves)
	{
		const CmLeaf *leaf = lfirst(lc);

		if (cm_partition_overlapping(existing, leaf->from, leaf->to) != NULL)
			return true;
	}
	return false;
}

/* Step 5, itself a step. */
static void
exchange(void *arg)
{
	Work	   *work = arg;
	CmSplit    *split = &work->split;
	CmScope		scope;
	ListCell   *leaf;
	ListCell   *attach;

	cm_partition_enter(&scope, split->owner);
	lock_all(split);
	split->stale = !cm_partition_split_unchanged(split) || is_taken(split);
	split->behind = !split->stale && is_behind(split);
	if (!split->stale && !split->behind)
	{
		cm_partition_split_replay(split, CM_LAST_ENTRIES);
		cm_partition_execute(psprintf("ALTER TABLE %s DETACH PARTITION %s", cm_relation_quoted(split->parent),
									  cm_relation_quoted(split->rest)));
		forboth(leaf, split->leaves, attach, work->attach)
			place_leaf(work, lfirst(leaf), lfirst(attach));
		place_rest(work);
	}
	cm_scope_leave(&scope);
}

/* Keep a lock that this transaction has, until release_lock() or an abort. */
static void
keep_lock(Oid relid)
{
	LockRelId	id = {.relId = relid,.dbId = MyDatabaseId};

	LockRelationIdForSession(&id, ShareRowExclusiveLock);
}

static void
release_lock(Oid relid)
{
	LockRelId	id = {.relId = relid,.dbId = MyDatabaseId};
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	if (cm_compat_lock_held(&tag, ShareRowExclusiveLock))
		UnlockRelationIdForSession(&id, ShareRowExclusiveLock);
}

/* A step: hold off writers, for longer than the transaction, and replay the rest. */
static void
hold_writers(void *arg)
{
	CmSplit    *split = arg;
	CmScope		scope;

	cm_partition_enter(&scope, split->owner);
	LockRelationOid(split->parent, ShareRowExclusiveLock);
	LockRelationOid(split->rest, ShareRowExclusiveLock);
	split->stale = !cm_partition_split_unchanged(split);
	split->behind = !split->stale && is_behind(split);
	if (!split->stale && !split->behind)
	{
		keep_lock(split->parent);
		keep_lock(split->rest);
		cm_partition_split_replay(split, CM_LAST_ENTRIES);
	}
	cm_scope_leave(&scope);
}

/*
 * Let every snapshot pass that does not see what hold_writers() replayed.
 * Statements come to their end in a moment; those that wait for us take a new
 * snapshot after that.  False if one stays for longer than can be waited now.
 */
static bool
let_snapshots_pass(void)
{
	CmSnapshots *snapshots = cm_snapshots_note();
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), Max(2, cm_ddl_deadline / 4));

	while (cm_snapshots_holder(snapshots, true) != 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (GetCurrentTimestamp() >= end)
			return false;
		pg_usleep(1000);
	}
	return true;
}

/* One try of step 5.  False if put off, behind or stale. */
static bool
try_exchange(Work *work, const List *wishes)
{
	CmSplit    *split = &work->split;
	bool		done;

	if (cm_lock_stayer(wishes) != 0 || !cm_attempt_once(hold_writers, split, split->owner, cm_ddl_deadline) ||
		split->stale || split->behind)
		return false;
	done = let_snapshots_pass() && cm_attempt_once(exchange, work, split->owner, cm_ddl_deadline) &&
		!split->stale && !split->behind;
	release_lock(split->rest);
	release_lock(split->parent);
	return done;
}

/* Step 5, until it gets its locks.  False if put off, or stale. */
static bool
exchange_tables(Work *work)
{
	CmSplit    *split = &work->split;
	List	   *wishes;

	cm_transaction_begin(GetSessionUserId());
	wishes = cm_partition_wishes(split->parent, InvalidOid, CM_STEP_DETACH);
	cm_transaction_commit();
	cm_progress_report(work->blocks, work->blocks, "splitting the default partition: exchanging the tables");
	for (int attempt = 1; attempt <= cm_ddl_attempts; attempt++)
	{
		if (!cm_partition_split_follow(split))
			return false;
		if (try_exchange(work, wishes))
			return true;
		if (split->stale)
			return false;
		cm_retry_pause(attempt);
	}
	return false;
}

/* Is there a trigger of ours on the table?  In no transaction. */
static bool
is_captured(Oid rest)
{
	bool		result;

	cm_transaction_begin(GetSessionUserId());
	result = OidIsValid(rest) && OidIsValid(get_trigger_oid(rest, CM_CAPTURE_TRIGGER, true));
	cm_transaction_commit();
	return result;
}

/*
 * Step 6, also after a failure or a crash: drop whatever a split left behind,
 * the trigger first, so that it never misses its log.  rest: the default
 * partition that the trigger may be on.  False if something is in use and
 * stays for the next time.  In no transaction.
 */
bool
cm_partition_split_clear(Oid parent, Oid owner, Oid rest)
{
	bool		clear = true;
	List	   *leftovers;
	ListCell   *lc;

	if (is_captured(rest) &&
		!cm_attempt_commit(cm_partition_capture_no_more, &rest, GetSessionUserId(),
						   cm_lock_wish(NIL, rest, AccessExclusiveLock)))
		return false;
	cm_transaction_begin(GetSessionUserId());
	leftovers = get_rel_name(parent) == NULL ? NIL :
		cm_partition_leftovers(parent, cm_relation_schema(parent), cm_relation_name(parent), owner);
	cm_transaction_commit();
	foreach(lc, leftovers)
	{
		CmLeftover *leftover = lfirst(lc);

		if (leftover->is_copy)
			clear = cm_attempt_commit(cm_partition_leftover_drop, leftover, leftover->owner, NIL) && clear;
	}
	return clear;
}

/* All of it.  False if put off, or stale. */
static bool
split_tables(Work *work)
{
	CmSplit    *split = &work->split;

	return prepare(work) && copy_rows(work) && outlive_snapshots(split) && exchange_tables(work);
}

/*
 * Move the rows of the default partition that belong into the leaves there;
 * *leaves comes back with those that were chosen.  Where it is put off for
 * another reason than a lock, *put_off says so, and *pace when to come again.
 * In no transaction.
 */
CmLeafResult
cm_partition_split(const CmPartitionWork *work, List **leaves, char **put_off, CmPace *pace)
{
	MemoryContext context = CurrentMemoryContext;
	Work	   *state = palloc0(sizeof(Work));
	ErrorData  *volatile edata = NULL;
	volatile bool done = false;

	if (!cm_partition_split_clear(work->parent, work->owner, work->rest))
		return CM_LEAF_DEFERRED;
	state->work = work;
	state->pause.pace = pace;
	describe(state, leaves);
	if (state->split.stale)
		return CM_LEAF_STALE;
	if (!cm_partition_split_may_begin(&state->split, work, &state->pause))
	{
		*put_off = psprintf("splitting the default partition: %s", pace->why);
		return CM_LEAF_DEFERRED;
	}
	PG_TRY();
	{
		done = split_tables(state);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		cm_transaction_abort();
	}
	PG_END_TRY();
	/* An interrupt between two transactions leaves the session's locks. */
	release_lock(work->rest);
	release_lock(work->parent);
	(void) cm_partition_split_clear(work->parent, work->owner, work->rest);
	if (edata != NULL)
		ReThrowError(edata);
	if (done)
		return CM_LEAF_MADE;
	if (state->split.stale)
		return CM_LEAF_STALE;
	if (pace->reason != CM_PACE_GO)
		*put_off = psprintf("splitting the default partition, which paused for too long: %s", pace->why);
	else if (state->split.replayed > CM_LAST_ENTRIES)
		*put_off = "splitting the default partition, whose rows change faster than can be followed";
	return CM_LEAF_DEFERRED;
}
