/*-------------------------------------------------------------------------
 *
 * conversion_finish.c
 *	  What is left of a conversion after the swap, and the way back before it.
 *
 * After the swap everything works; what is left is that a partition set is
 * begun, whose job makes the next partitions long before the bound comes, that
 * foreign keys made anew are validated, that the CHECK goes, which the
 * partition's bound says as well, and that the partitioned table gets
 * statistics, which autovacuum never makes.
 *
 * Before the swap a conversion can be cancelled: the partitioned table, which
 * nobody uses, the CHECK and the unique indexes are dropped, and the table is
 * as it was, except that a key that was made NOT NULL stays so.
 *
 * Each step looks whether it is done.  Locks: the partitioned table's DROP
 * takes ACCESS EXCLUSIVE on what it references, dropping the CHECK takes it on
 * its table, both under the deadline; else none that others queue behind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "conversion_do.h"

/* Foreign keys that the swap made NOT VALID. */
static bool
validate_keys(const CmConversionState *state, Oid owner, CmJobOutcome *outcome)
{
	for (;;)
	{
		char	   *sql = cm_conversion_query("SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', k.conrelid::regclass, k.conname)"
											  "  FROM pg_constraint k WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conparentid = 0 AND NOT k.convalidated"
											  " ORDER BY k.oid LIMIT 1", state->parent, NULL);

		if (sql == NULL)
			return true;
		CHECK_FOR_INTERRUPTS();
		cm_progress_report(0, 0, "validating a foreign key");
		if (!cm_statement_run(sql, owner, 0))
			return cm_conversion_put_off(outcome, "a foreign key could not be validated", state->parent, RowShareLock);
	}
}

/* The CHECK on the old part. */
static bool
drop_bound(const CmConversionState *state, Oid owner, const char *check_name, CmJobOutcome *outcome)
{
	char	   *sql = cm_conversion_query("SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname) FROM pg_constraint k"
										  " WHERE k.conrelid = $1 AND k.contype = 'c' AND k.coninhcount = 0 AND k.conname = $2",
										  state->relid, check_name);

	if (sql == NULL || cm_attempt_statement(sql, owner, cm_lock_wish(NIL, state->relid, AccessExclusiveLock)))
		return true;
	return cm_conversion_put_off(outcome, "the old part was locked", state->relid, AccessExclusiveLock);
}

/* The step: have the set kept rolling, as was asked for. */
static void
begin_set(void *arg)
{
	const CmConversionState *state = arg;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(state->relid)};
	char	   *sql = NULL;
	MemoryContext caller = CurrentMemoryContext;
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT format('SELECT FROM concertmaster.create_partition_set(%s::regclass, period => %L, width => %L, epoch => %L,"
						  "                 timezone => %L, ahead => %s, retention => %L)',"
						  "              c.parent, c.period, c.width, c.epoch, c.timezone, c.ahead, c.retention)"
						  "  FROM concertmaster.conversion c WHERE c.relid = $1 AND NOT EXISTS ("
						  "       SELECT FROM concertmaster.partition_set s JOIN concertmaster.relation_map m"
						  "           ON (m.schema_name, m.relation_name) = (s.schema_name, s.table_name) WHERE m.relid = c.parent)",
						  1, types, values, NULL, false, 1);
	if (SPI_processed > 0)
		sql = MemoryContextStrdup(caller, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	cm_scope_leave(&scope);
	if (sql != NULL)
		cm_run_as(cm_relation_owner(state->parent), sql);
}

/*
 * The step: nothing is left.  Managed views of the table are refreshed soon:
 * their jobs have the new one logged for them from then on.
 */
static void
note_done(void *arg)
{
	const CmConversionState *state = arg;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(state->parent)};
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT concertmaster.request_job(j.name) FROM concertmaster.job j"
						  "  JOIN concertmaster.relation_map m ON (m.schema_name, m.relation_name) = (j.schema_name, j.relation_name)"
						  " WHERE j.kind = 'refresh' AND m.relid IN (SELECT w.ev_class FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid"
						  "         WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1)",
						  1, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
	cm_conversion_state_phase(state->relid, CM_CONVERSION_DONE);
}

/* All that is left after the swap.  False: put off.  In no transaction. */
bool
cm_conversion_finish(const CmConversionState *state, CmJobOutcome *outcome)
{
	char	   *name = cm_conversion_query("SELECT relname FROM pg_class WHERE oid = $1", state->parent, NULL);
	char	   *table = cm_conversion_query("SELECT $1::regclass::text", state->parent, NULL);
	char	   *owner_text = cm_conversion_query("SELECT relowner::text FROM pg_class WHERE oid = $1", state->parent, NULL);
	Oid			owner;

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("the partitioned table with OID %u was dropped", state->parent)));
	owner = atooid(owner_text);

	/* First: without it there is no partition from the bound on. */
	if (!cm_attempt_commit(begin_set, (void *) state, GetSessionUserId(), NIL))
		return cm_conversion_put_off(outcome, "the partition set could not be begun", state->parent, ShareUpdateExclusiveLock);
	if (!validate_keys(state, owner, outcome) ||
		!drop_bound(state, owner, state->check_name, outcome))
		return false;
	cm_progress_report(0, 0, "analyzing");
	if (!cm_statement_run(psprintf("ANALYZE %s", table), owner, 0))
		return cm_conversion_put_off(outcome, "ANALYZE met a lock", state->parent, ShareUpdateExclusiveLock);
	return cm_attempt_commit(note_done, (void *) state, GetSessionUserId(), NIL);
}

/* The last step of going back: our own row. */
static void
forget(void *arg)
{
	const CmConversionState *state = arg;

	cm_conversion_state_forget(state->relid);
}

/* Remove what stands beside the table.  False: put off.  In no transaction. */
bool
cm_conversion_undo(const CmConversionState *state, const CmConversion *conversion, CmJobOutcome *outcome)
{
	ListCell   *cell;

	if (!cm_attempt_commit(cm_conversion_drop_parent, (void *) conversion, GetSessionUserId(), NIL))
		return cm_conversion_put_off(outcome, "a table that this one references was locked", conversion->relid, AccessShareLock);
	if (!cm_conversion_drop_composites(conversion->relid, true, outcome))
		return false;
	if (state->bound != NULL &&
		!cm_attempt_commit(cm_conversion_drop_check, (void *) conversion, GetSessionUserId(),
						   cm_lock_wish(NIL, conversion->relid, AccessExclusiveLock)))
		return cm_conversion_put_off(outcome, "the table was locked", conversion->relid, AccessExclusiveLock);
	foreach(cell, conversion->unique_indexes)
	{
		CmConversionIndex *index = lfirst(cell);
		char	   *sql = cm_conversion_query("SELECT format('DROP INDEX CONCURRENTLY %s', i.indexrelid::regclass)"
											  "  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = $1 AND x.relname = $2",
											  conversion->relid, index->replacement);

		if (sql != NULL && !cm_statement_run(sql, conversion->owner, 0))
			return cm_conversion_put_off(outcome, "an index could not be dropped", conversion->relid, ShareUpdateExclusiveLock);
	}
	return cm_attempt_commit(forget, (void *) state, GetSessionUserId(), NIL);
}
