/*-------------------------------------------------------------------------
 *
 * index_call.c
 *	  The doors of the index room: build, check or drop a plan, look on.
 *
 * build_indexes() turns phases into jobs and waits for each.  A phase has one
 * job, "build phase N"; somebody who cannot act as that job's owner gets one
 * of their own beside it (cm_job_upsert_named() sees to that).  Two jobs of
 * one phase cannot get in each other's way: the table is locked against a
 * second build (see index_recover.c).
 *
 * Everybody may insert into index_plan, and the trigger there lets them plan
 * indexes for tables that they own, and nothing else.  It analyzes the
 * definition against the table, so that mistakes show at once.  A superuser's
 * COPY (a restore) and the extension's own writes are checked for syntax
 * alone: the table may not have all its columns yet, and a row that is
 * refused would end the restore.  Rows are removed by unplan_index(): more
 * privileges on the table would let anybody lock it against the workers.
 *
 * A stored row belongs to the relation that relation_map says it means, not
 * to whatever has that name now.
 *
 * What is behind view indexes never waits for a lock that somebody has.
 *
 * Locks: ACCESS SHARE on the table while a definition is analyzed.  Cleanup:
 * by transaction abort.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/rel.h"

#include "compat.h"
#include "concertmaster.h"
#include "index.h"

PG_FUNCTION_INFO_V1(cm_build_indexes);
PG_FUNCTION_INFO_V1(cm__index_plan_check);
PG_FUNCTION_INFO_V1(cm_unplan_index);
PG_FUNCTION_INFO_V1(cm__index_progress);
PG_FUNCTION_INFO_V1(cm__wake_hot_indexes);

/* A column of index_plan as text, or NULL. */
static char *
plan_field(HeapTuple tuple, TupleDesc desc, const char *column)
{
	int			number = SPI_fnumber(desc, column);

	if (number <= 0)
		elog(ERROR, "index_plan has no column \"%s\"", column);
	return SPI_getvalue(tuple, desc, number);
}

/* A column of SPI's current answer as text in a longer-lived context. */
static char *
copy_value(uint64 row, int column, MemoryContext context)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

/* The row as the room knows it.  False if a column that must be set is not. */
static bool
read_plan(CmIndexPlan *plan, HeapTuple tuple, TupleDesc desc)
{
	char	   *unique = plan_field(tuple, desc, "is_unique");

	memset(plan, 0, sizeof(CmIndexPlan));
	plan->schema_name = plan_field(tuple, desc, "schema_name");
	plan->table_name = plan_field(tuple, desc, "table_name");
	plan->index_name = plan_field(tuple, desc, "index_name");
	plan->definition = plan_field(tuple, desc, "definition");
	plan->is_unique = unique != NULL && *unique == 't';
	if (plan->schema_name == NULL || plan->table_name == NULL ||
		plan->index_name == NULL || plan->definition == NULL)
		return false;
	plan->relid = cm_relation_resolve(plan->schema_name, plan->table_name);
	return true;
}

/*
 * The relation that the names of a stored row were last known to mean, or
 * InvalidOid if it is gone or they are not known.
 */
static Oid
mapped_relation(const CmIndexPlan *plan)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	Oid			relid = InvalidOid;
	bool		isnull;
	CmScope		scope;

	values[0] = CStringGetTextDatum(plan->schema_name);
	values[1] = CStringGetTextDatum(plan->table_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT m.relid FROM concertmaster.relation_map m"
						  "  JOIN pg_class c ON c.oid = m.relid"
						  " WHERE m.schema_name = $1::name AND m.relation_name = $2::name",
						  2, types, values, NULL, false, 1);
	if (SPI_processed > 0)
		relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
											   SPI_tuptable->tupdesc, 1, &isnull));
	cm_scope_leave(&scope);
	return relid;
}

/*
 * Refuse unless the current user may decide about the row: of a stored row,
 * as the owner of the relation that it means, which can have another name by
 * now; of a new one, as the owner of the relation that it names.
 */
static void
require_plan_owner(const CmIndexPlan *plan, bool stored)
{
	Oid			mapped = mapped_relation(plan);
	Oid			nspoid;

	if (OidIsValid(mapped) && mapped != plan->relid)
	{
		cm_relation_require_owner(mapped);
		if (stored)
			return;
	}
	if (OidIsValid(plan->relid))
	{
		cm_relation_require_owner(plan->relid);
		return;
	}

	/* Without the table, whoever could make it again may tidy up. */
	nspoid = get_namespace_oid(plan->schema_name, true);
	if (!OidIsValid(nspoid))
		return;
	if (cm_compat_namespace_aclcheck(nspoid, GetUserId(), ACL_CREATE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SCHEMA, plan->schema_name);
}

/* Refuse what has no indexes that a worker could build. */
static void
require_indexable(const CmIndexPlan *plan, Relation rel)
{
	switch (rel->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_MATVIEW:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s.%s\" is not a table or materialized view",
							plan->schema_name, plan->table_name)));
	}
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot plan indexes of temporary table \"%s\"", plan->table_name),
				 errdetail("Its indexes can only be built by its own session."),
				 errhint("Use CREATE INDEX.")));
}

/* Check a row that is to be stored: names, syntax, and against its table. */
static void
check_plan(const CmIndexPlan *plan, bool syntax_only)
{
	char	   *table = quote_qualified_identifier(plan->schema_name, plan->table_name);
	CmIndexShape shape;
	Relation	rel;
	CmScope		scope;

	(void) cm_index_parse(plan, cm_index_statement(plan, table, plan->index_name, ""));
	if (syntax_only)
		return;
	if (!OidIsValid(plan->relid) ||
		(rel = try_relation_open(plan->relid, AccessShareLock)) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", plan->schema_name, plan->table_name),
				 errhint("schema_name and table_name are taken as they are: not quoted, in the right case.")));
	require_indexable(plan, rel);
	cm_owner_enter(&scope, rel->rd_rel->relowner, true);
	cm_index_shape_planned(&shape, plan, rel);
	cm_scope_leave(&scope);
	relation_close(rel, NoLock);
}

/* Remember which relation the row's table is, so that a rename is followed. */
static void
remember_table(const CmIndexPlan *plan)
{
	CmScope		scope;

	cm_catalog_enter(&scope);
	cm_relation_remember(plan->relid);
	cm_scope_leave(&scope);
}

/* The row means another index now: what builds said of it is void. */
static void
forget_state(const CmIndexPlan *plan)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	CmScope		scope;

	values[0] = CStringGetTextDatum(plan->schema_name);
	values[1] = CStringGetTextDatum(plan->index_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("DELETE FROM concertmaster.index_state"
						  " WHERE schema_name = $1::name AND index_name = $2::name",
						  2, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
}

/* Do two versions of a row name the same table? */
static bool
same_table(const CmIndexPlan *a, const CmIndexPlan *b)
{
	return strcmp(a->schema_name, b->schema_name) == 0 &&
		strcmp(a->table_name, b->table_name) == 0;
}

/* Do two versions of a row plan the same index? */
static bool
same_plan(const CmIndexPlan *a, const CmIndexPlan *b)
{
	return a->is_unique == b->is_unique && same_table(a, b) &&
		strcmp(a->index_name, b->index_name) == 0 &&
		strcmp(a->definition, b->definition) == 0;
}

/* Is a superuser's COPY running: most likely a restore? */
static bool
restoring(void)
{
	return superuser() && ActivePortal != NULL && ActivePortal->commandTag == CMDTAG_COPY;
}

/* BEFORE trigger on index_plan, for each row inserted, updated or deleted. */
Datum
cm__index_plan_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	result;
	CmIndexPlan old;
	CmIndexPlan new;
	bool		update;
	bool		ours = superuser() && InLocalUserIdChange();

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function can only be called as the trigger of concertmaster.index_plan")));
	desc = RelationGetDescr(trigger->tg_relation);
	update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	result = update ? trigger->tg_newtuple : trigger->tg_trigtuple;

	if (!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		/* Our own updates follow renames; between two of them names are none. */
		if (ours)
			return PointerGetDatum(result);
		(void) read_plan(&old, trigger->tg_trigtuple, desc);
		require_plan_owner(&old, true);
		if (!update)
			return PointerGetDatum(result);
	}

	/* What must not be null is refused by the table itself. */
	if (!read_plan(&new, result, desc) || (update && same_plan(&old, &new)))
		return PointerGetDatum(result);
	if (ours || restoring())
	{
		check_plan(&new, true);
		if (update)
			forget_state(&old);
		return PointerGetDatum(result);
	}

	/* Not for an update: this could follow a rename in the very row. */
	if (!update)
		cm_relations_reconcile();
	require_plan_owner(&new, update && same_table(&old, &new));
	check_plan(&new, false);
	if (update)
		forget_state(&old);
	else
		remember_table(&new);
	return PointerGetDatum(result);
}

/* Find a row of index_plan by its index.  An error if there is none. */
static void
find_plan(CmIndexPlan *plan, const char *schema_name, const char *index_name)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	CmScope		scope;

	memset(plan, 0, sizeof(CmIndexPlan));
	values[0] = CStringGetTextDatum(schema_name);
	values[1] = CStringGetTextDatum(index_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT table_name FROM concertmaster.index_plan"
						  " WHERE schema_name = $1::name AND index_name = $2::name FOR UPDATE",
						  2, types, values, NULL, false, 1);
	if (SPI_processed > 0)
		plan->table_name = copy_value(0, 1, context);
	cm_scope_leave(&scope);
	if (plan->table_name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("index \"%s.%s\" is not planned", schema_name, index_name),
				 errhint("View concertmaster.indexes lists the planned indexes of your tables.")));
	plan->schema_name = pstrdup(schema_name);
	plan->index_name = pstrdup(index_name);
	plan->relid = cm_relation_resolve(plan->schema_name, plan->table_name);
}

/* unplan_index(schema_name, index_name): take an index out of the plan. */
Datum
cm_unplan_index(PG_FUNCTION_ARGS)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	CmIndexPlan plan;
	CmScope		scope;

	cm_require_primary("unplan_index()");
	cm_relations_reconcile();
	find_plan(&plan, NameStr(*PG_GETARG_NAME(0)), NameStr(*PG_GETARG_NAME(1)));
	require_plan_owner(&plan, true);

	values[0] = CStringGetTextDatum(plan.schema_name);
	values[1] = CStringGetTextDatum(plan.index_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("DELETE FROM concertmaster.index_plan"
						  " WHERE schema_name = $1::name AND index_name = $2::name",
						  2, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
	PG_RETURN_VOID();
}

/* The phases in which the current user has something to build, in order. */
static List *
list_phases(MemoryContext context, List **hot_phases)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(GetUserId())};
	List	   *phases = NIL;
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT p.phase, bool_or(p.hot_window IS NOT NULL AND c.relkind = 'p')"
						  "  FROM concertmaster.index_plan p"
						  "  LEFT JOIN pg_namespace n ON n.nspname = p.schema_name"
						  "  LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.table_name"
						  " WHERE pg_has_role($1, coalesce(c.relowner, 10::oid), 'USAGE')"
						  " GROUP BY p.phase ORDER BY p.phase",
						  1, types, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		bool		isnull;
		int			phase = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 1, &isnull));
		bool		hot = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i],
													 SPI_tuptable->tupdesc, 2, &isnull));

		phases = lappend_int(phases, phase);
		if (!isnull && hot)
			*hot_phases = lappend_int(*hot_phases, phase);
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return phases;
}

/* The phase that was asked for, as a list; an error if it is not planned. */
static List *
require_phase(List *phases, int phase)
{
	StringInfoData known;
	ListCell   *lc;

	if (list_member_int(phases, phase))
		return list_make1_int(phase);
	initStringInfo(&known);
	foreach(lc, phases)
		appendStringInfo(&known, "%s%d", known.len ? ", " : "", lfirst_int(lc));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("phase %d is not planned", phase),
			 errdetail("It has no index of a table that you own in concertmaster.index_plan."),
			 phases == NIL ?
			 errhint("Run concertmaster.install(), or insert rows for tables of your own.") :
			 errhint("Planned phases: %s.", known.data)));
}

/* Tell the caller about planned indexes whose names something else has. */
static void
warn_conflicts(int phase, MemoryContext context)
{
	Oid			types[2] = {INT4OID, OIDOID};
	Datum		values[2] = {Int32GetDatum(phase), ObjectIdGetDatum(GetUserId())};
	char	  **texts;
	uint64		count;
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT s.message, s.detail, s.hint"
						  "  FROM concertmaster.index_plan p"
						  "  JOIN concertmaster.index_state s USING (schema_name, index_name)"
						  "  JOIN pg_namespace n ON n.nspname = p.schema_name"
						  "  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.table_name"
						  " WHERE p.phase = $1 AND s.conflict_relid IS NOT NULL"
						  "   AND pg_has_role($2, c.relowner, 'USAGE')"
						  " ORDER BY s.schema_name, s.index_name",
						  2, types, values, NULL, true, 0);
	count = SPI_processed;
	texts = MemoryContextAlloc(context, sizeof(char *) * 3 * Max(1, count));
	for (uint64 i = 0; i < count; i++)
		for (int j = 0; j < 3; j++)
			texts[i * 3 + j] = copy_value(i, j + 1, context);
	cm_scope_leave(&scope);

	for (uint64 i = 0; i < count; i++)
		ereport(WARNING,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("%s", texts[i * 3] ? texts[i * 3] : "conflict"),
				 texts[i * 3 + 1] ? errdetail("%s", texts[i * 3 + 1]) : 0,
				 texts[i * 3 + 2] ? errhint("%s", texts[i * 3 + 2]) : 0));
}

/*
 * Build one phase in a worker and wait for it.  A phase with a hot window is
 * built again daily, for the partitions that were made or aged out since; what
 * was put off, as soon as the launcher gets to it.
 */
static void
call_phase(FunctionCallInfo fcinfo, int phase, bool hot, bool ignore_window, MemoryContext context)
{
	Interval	daily = {.day = 1};
	Interval   *every = hot ? &daily : NULL;
	char	   *name = cm_job_name(CM_JOB_BUILD, InvalidOid, phase);
	int64		job_id;
	char	   *message = NULL;

	name = MemoryContextStrdup(context, cm_job_own_name(name));
	job_id = cm_job_upsert_named(name, CM_JOB_BUILD, NULL, phase, every, false);
	if (cm_job_call_anytime(fcinfo, job_id, ignore_window, &message))
	{
		if (message != NULL)
			ereport(NOTICE, (errmsg("%s", message)));
	}
	else
	{
		(void) cm_job_upsert_named(name, CM_JOB_BUILD, NULL, phase, every, true);
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("some indexes of phase %d were put off", phase),
				 message ? errdetail("%s.", message) : 0,
				 errhint("Job \"%s\" tries again in the background; view concertmaster.indexes shows the state.", name)));
	}
	warn_conflicts(phase, context);
}

/* CALL build_indexes(phase, ignore_window): build one phase, or all in order, and wait. */
Datum
cm_build_indexes(PG_FUNCTION_ARGS)
{
	MemoryContext context = AllocSetContextCreate(PortalContext, "concertmaster build_indexes",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = CurrentMemoryContext;
	List	   *hot_phases = NIL;
	List	   *phases;
	ListCell   *lc;

	cm_require_nonatomic(fcinfo, "build_indexes()");
	cm_require_primary("build_indexes()");
	cm_relations_reconcile();
	phases = list_phases(context, &hot_phases);
	MemoryContextSwitchTo(context);
	if (!PG_ARGISNULL(0))
		phases = require_phase(phases, PG_GETARG_INT32(0));
	else if (phases == NIL)
		ereport(NOTICE,
				(errmsg("no index of a table that you own is planned"),
				 errhint("Run concertmaster.install(), or insert rows for tables of your own"
						 " into concertmaster.index_plan.")));

	foreach(lc, phases)
	{
		MemoryContextSwitchTo(context);
		call_phase(fcinfo, lfirst_int(lc), list_member_int(hot_phases, lfirst_int(lc)),
				   !PG_ARGISNULL(1) && PG_GETARG_BOOL(1), context);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	PG_RETURN_VOID();
}

/*
 * _index_progress(): the index builds of this database that are going on,
 * each with the part of its work that is done, 0 to 1: those on tables that
 * the caller owns, for members of pg_monitor all.  Read with the extension
 * owner's eyes, as the workers are not the caller's.
 */
Datum
cm__index_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[1] = {OIDOID};
	Datum		caller[1] = {ObjectIdGetDatum(GetUserId())};
	CmScope		scope;

	InitMaterializedSRF(fcinfo, 0);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT p.pid, p.relid, concertmaster._index_fraction(p.phase,"
						  "       p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total)"
						  "  FROM pg_stat_progress_create_index p JOIN pg_class c ON c.oid = p.relid"
						  " WHERE p.datname = current_database()"
						  "   AND (pg_has_role($1, c.relowner, 'USAGE') OR pg_has_role($1, 'pg_monitor', 'USAGE'))",
						  1, types, caller, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		Datum		values[3];
		bool		nulls[3];

		heap_deform_tuple(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	cm_scope_leave(&scope);
	return (Datum) 0;
}

/* _wake_hot_indexes(relation): what follows a change of partitions, for tests. */
Datum
cm__wake_hot_indexes(PG_FUNCTION_ARGS)
{
	cm_hot_indexes_wake(PG_GETARG_OID(0));
	PG_RETURN_VOID();
}
