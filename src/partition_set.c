/*-------------------------------------------------------------------------
 *
 * partition_set.c
 *	  A set's rows in our catalog: its settings, and how it stands.
 *
 * partition_set holds what the user decided, partition_set_state how the last
 * pass went, partition_state the partitions that are on their way out or kept
 * from it.  All are read and written as the extension's owner; whoever calls
 * has asked whether the caller may.
 *
 * Locks: those of the statements, in the transaction that is open.
 *
 * What it does not do: look at the table itself, but for the type of its key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "partition.h"

/* The columns of partition_set that are settings, in the order of CmSetColumn. */
static const char *const column_names[CM_SET_COLUMNS] = {
	"period", "width", "epoch", "ahead", "start_at", "start_value", "timezone",
	"retention", "retention_width", "retention_keep", "retention_schema"
};

static const Oid column_types[CM_SET_COLUMNS] = {
	INTERVALOID, INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID, INT8OID, TEXTOID,
	INTERVALOID, INT8OID, BOOLOID, NAMEOID
};

/* A value of the first row of the last query, NULL as (Datum) 0. */
static Datum
column(CmSetColumn number, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number + 1, isnull);
}

static char *
text_column(CmSetColumn number)
{
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number + 1);
}

/* The settings from the row that was read.  In the context of the result. */
static void
read_settings(Oid key_type, CmPartitionSettings *settings)
{
	bool		isnull;
	Datum		value;

	memset(settings, 0, sizeof(*settings));
	settings->axis = cm_axis(key_type, text_column(CM_SET_EPOCH),
							 cm_axis_zone(text_column(CM_SET_TIMEZONE)));
	value = column(CM_SET_PERIOD, &isnull);
	if (isnull == cm_axis_is_time(&settings->axis))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the settings of the partition set do not fit its table any more"),
				 errdetail("The partition key is of type %s.", format_type_be(key_type)),
				 errhint("Call concertmaster.create_partition_set() for it anew.")));
	settings->period = isnull ?
		cm_partition_width(DatumGetInt64(column(CM_SET_WIDTH, &isnull))) :
		cm_partition_period(DatumGetIntervalP(value), key_type);
	settings->ahead = DatumGetInt32(column(CM_SET_AHEAD, &isnull));

	if (cm_axis_is_time(&settings->axis))
	{
		value = column(CM_SET_START_AT, &isnull);
		settings->has_start = !isnull;
		if (!isnull)
			settings->start = cm_axis_point(&settings->axis, DatumGetTimestampTz(value));
		value = column(CM_SET_RETENTION, &isnull);
		settings->has_retention = !isnull;
		if (!isnull)
			settings->retention = *DatumGetIntervalP(value);
	}
	else
	{
		value = column(CM_SET_START_VALUE, &isnull);
		settings->has_start = !isnull;
		settings->start = isnull ? 0 : DatumGetInt64(value);
		value = column(CM_SET_RETENTION_WIDTH, &isnull);
		settings->has_retention = !isnull;
		settings->retention_width = isnull ? 0 : DatumGetInt64(value);
	}
	settings->retention_keep = DatumGetBool(column(CM_SET_RETENTION_KEEP, &isnull));
	settings->retention_schema = text_column(CM_SET_RETENTION_SCHEMA);
	settings->xmin = DatumGetTransactionId(column(CM_SET_COLUMNS, &isnull));
}

/*
 * Run a statement about a set, a literal: $1 is its schema, $2 its name.  In
 * the catalog's scope.  Returns whether that came to any row.
 */
static bool
query_set(const char *sql, const char *schema_name, const char *table_name)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];

	values[0] = CStringGetTextDatum(schema_name);
	values[1] = CStringGetTextDatum(table_name);
	cm_query(sql, 2, types, values, NULL);
	return SPI_processed > 0;
}

/*
 * Read the set's settings.  Returns false if the table is no set.  Refuses a
 * table that cannot be one any more.
 */
bool
cm_partition_settings(Oid parent, CmPartitionSettings *settings)
{
	MemoryContext context = CurrentMemoryContext;
	CmScope		scope;
	Oid			key_type = cm_partition_key_type(parent);
	bool		found;

	cm_catalog_enter(&scope);
	found = query_set("SELECT period, width, epoch, ahead, start_at, start_value, timezone,"
					  "       retention, retention_width, retention_keep, retention_schema, xmin"
					  "  FROM concertmaster.partition_set"
					  " WHERE schema_name = $1 AND table_name = $2",
					  cm_relation_schema(parent), cm_relation_name(parent));
	if (found)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);

		read_settings(key_type, settings);
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return found;
}

/*
 * Write the set's row: the given columns, in the order of CmSetColumn, with
 * nulls as SPI has them, or CM_SET_CLEAR.  is_new: the row may be new, and all
 * is set; otherwise what is null stays, but for what is to be cleared.
 */
void
cm_partition_set_write(Oid parent, bool is_new, const Datum *columns, const char *nulls)
{
	Oid			types[2 + CM_SET_COLUMNS] = {TEXTOID, TEXTOID};
	Datum		values[2 + CM_SET_COLUMNS];
	char		all_nulls[2 + CM_SET_COLUMNS] = {' ', ' '};
	StringInfoData names;
	StringInfoData parameters;
	StringInfoData updates;
	CmScope		scope;

	initStringInfo(&names);
	initStringInfo(&parameters);
	initStringInfo(&updates);
	values[0] = CStringGetTextDatum(cm_relation_schema(parent));
	values[1] = CStringGetTextDatum(cm_relation_name(parent));
	for (int i = 0; i < CM_SET_COLUMNS; i++)
	{
		const char *name = column_names[i];

		types[2 + i] = column_types[i];
		values[2 + i] = columns[i];
		all_nulls[2 + i] = nulls[i] == ' ' ? ' ' : 'n';
		appendStringInfo(&names, ", %s", name);
		appendStringInfo(&parameters, ", $%d", i + 3);
		if (is_new)
			appendStringInfo(&updates, "%s%s = EXCLUDED.%s", i ? ", " : "", name, name);
		else if (nulls[i] == CM_SET_CLEAR)
			appendStringInfo(&updates, "%s%s = NULL", i ? ", " : "", name);
		else
			appendStringInfo(&updates, "%s%s = coalesce($%d, %s)", i ? ", " : "", name, i + 3, name);
	}

	cm_catalog_enter(&scope);
	cm_relation_remember(parent);
	SPI_execute_with_args(is_new ?
						  psprintf("INSERT INTO concertmaster.partition_set (schema_name, table_name%s)"
								   " VALUES ($1, $2%s) ON CONFLICT (schema_name, table_name) DO UPDATE SET %s",
								   names.data, parameters.data, updates.data) :
						  psprintf("UPDATE concertmaster.partition_set SET %s"
								   " WHERE schema_name = $1 AND table_name = $2", updates.data),
						  2 + CM_SET_COLUMNS, types, values, all_nulls, false, 0);
	cm_scope_leave(&scope);
}

/* Delete the row of a set.  Returns whether there was one. */
bool
cm_partition_set_delete(const char *schema_name, const char *table_name)
{
	CmScope		scope;
	bool		found;

	cm_catalog_enter(&scope);
	found = query_set("DELETE FROM concertmaster.partition_set"
					  " WHERE schema_name = $1 AND table_name = $2", schema_name, table_name);
	cm_scope_leave(&scope);
	return found;
}

/*
 * Does the set's own state ask for a pass: was there none yet, did the last
 * one not go well, is something begun or kept back?
 */
bool
cm_partition_needs_pass(const char *schema_name, const char *table_name)
{
	CmScope		scope;
	bool		result;

	cm_catalog_enter(&scope);
	result = !query_set("SELECT FROM concertmaster.partition_set_state"
						" WHERE schema_name = $1 AND table_name = $2"
						"   AND deferred IS NULL AND sqlstate IS NULL AND last_success = last_roll"
						"   AND NOT EXISTS (SELECT FROM concertmaster.partition_state p"
						"                    WHERE p.schema_name = $1 AND p.table_name = $2)",
						schema_name, table_name);
	cm_scope_leave(&scope);
	return result;
}

static Datum
text_or_null(const char *text, char *null)
{
	*null = text ? ' ' : 'n';
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

/* Write how a pass went, in the transaction that is open. */
void
cm_partition_set_report(const CmJob *job, const CmSetReport *report)
{
	Oid			types[10] = {TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID, INT8OID, INT8OID, TIMESTAMPTZOID, INT8OID};
	Datum		values[10];
	char		nulls[10] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
	const ErrorData *failure = report->failure;
	CmScope		scope;

	values[0] = CStringGetTextDatum(job->schema_name);
	values[1] = CStringGetTextDatum(job->relation_name);
	values[2] = text_or_null(report->deferred, &nulls[2]);
	values[3] = Int32GetDatum(report->blocked_by);
	nulls[3] = report->blocked_by > 0 ? ' ' : 'n';
	values[4] = text_or_null(failure ? unpack_sql_state(failure->sqlerrcode) : NULL, &nulls[4]);
	values[5] = text_or_null(failure ? failure->message : NULL, &nulls[5]);
	values[6] = Int64GetDatum(report->newest_value);
	nulls[6] = report->has_newest_value ? ' ' : 'n';
	values[7] = Int64GetDatum(report->default_rows);
	nulls[7] = report->has_default ? ' ' : 'n';
	values[8] = TimestampTzGetDatum(report->idle_until);
	values[9] = Int64GetDatum(report->idle_mark);
	nulls[8] = nulls[9] = report->idle_until != 0 ? ' ' : 'n';

	cm_catalog_enter(&scope);
	cm_query("INSERT INTO concertmaster.partition_set_state AS s"
			 " (schema_name, table_name, last_roll, last_success, deferred, deferred_since,"
			 "  blocked_by, first_failure, last_failure, failures, sqlstate, last_error,"
			 "  newest_value, default_rows, idle_until, idle_mark)"
			 " SELECT schema_name, table_name, now(),"
			 "        CASE WHEN $3 IS NULL AND $5 IS NULL THEN now() END, $3,"
			 "        CASE WHEN $3 IS NOT NULL THEN now() END, $4,"
			 "        CASE WHEN $5 IS NOT NULL THEN now() END,"
			 "        CASE WHEN $5 IS NOT NULL THEN now() END,"
			 "        CASE WHEN $5 IS NOT NULL THEN 1 ELSE 0 END, $5, $6, $7, $8, $9, $10"
			 "   FROM concertmaster.partition_set WHERE schema_name = $1 AND table_name = $2"
			 " ON CONFLICT (schema_name, table_name) DO UPDATE SET"
			 "   last_roll = EXCLUDED.last_roll,"
			 "   last_success = coalesce(EXCLUDED.last_success, s.last_success),"
			 "   deferred = EXCLUDED.deferred,"
			 "   deferred_since = CASE WHEN $3 IS NOT NULL THEN coalesce(s.deferred_since, now()) END,"
			 "   blocked_by = EXCLUDED.blocked_by,"
			 "   first_failure = CASE WHEN $5 IS NOT NULL THEN coalesce(s.first_failure, now())"
			 "                        WHEN $3 IS NOT NULL THEN s.first_failure END,"
			 "   last_failure = coalesce(EXCLUDED.last_failure, s.last_failure),"
			 "   failures = CASE WHEN $5 IS NOT NULL THEN s.failures + 1"
			 "                   WHEN $3 IS NOT NULL THEN s.failures ELSE 0 END,"
			 "   sqlstate = EXCLUDED.sqlstate, last_error = EXCLUDED.last_error,"
			 "   newest_value = coalesce(EXCLUDED.newest_value, s.newest_value),"
			 "   default_rows = EXCLUDED.default_rows,"
			 "   idle_until = EXCLUDED.idle_until, idle_mark = EXCLUDED.idle_mark",
						  10, types, values, nulls);
	cm_scope_leave(&scope);
}

/*
 * Note a partition's state, or keep the row that says so already.  detail may
 * be NULL.
 */
void
cm_partition_state_write(const CmJob *job, const CmRetiree *retiree, const char *state,
						 const char *detail)
{
	Oid			types[8] = {OIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT8OID, TEXTOID, TEXTOID};
	Datum		values[8];
	char		nulls[8] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
	CmScope		scope;

	values[0] = ObjectIdGetDatum(retiree->relid);
	values[1] = CStringGetTextDatum(job->schema_name);
	values[2] = CStringGetTextDatum(job->relation_name);
	values[3] = CStringGetTextDatum(retiree->schema_name);
	values[4] = CStringGetTextDatum(retiree->name);
	values[5] = Int64GetDatum(retiree->upper_bound);
	values[6] = CStringGetTextDatum(state);
	values[7] = text_or_null(detail, &nulls[7]);
	cm_catalog_enter(&scope);
	cm_query("INSERT INTO concertmaster.partition_state AS p"
			 " (relid, schema_name, table_name, partition_schema, partition_name, upper_bound, state, detail)"
			 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
			 " ON CONFLICT (relid) DO UPDATE SET schema_name = EXCLUDED.schema_name,"
			 "   table_name = EXCLUDED.table_name, partition_schema = EXCLUDED.partition_schema,"
			 "   partition_name = EXCLUDED.partition_name, upper_bound = EXCLUDED.upper_bound,"
			 "   since = CASE WHEN p.state = EXCLUDED.state THEN p.since ELSE now() END,"
			 "   state = EXCLUDED.state, detail = EXCLUDED.detail",
			 8, types, values, nulls);
	cm_scope_leave(&scope);
}

/* A partition is as any other again, or gone. */
void
cm_partition_state_delete(Oid relid)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1];
	CmScope		scope;

	values[0] = ObjectIdGetDatum(relid);
	cm_catalog_enter(&scope);
	cm_query("DELETE FROM concertmaster.partition_state WHERE relid = $1",
			 1, types, values, NULL);
	cm_scope_leave(&scope);
}

/*
 * The set's partitions in this state, as CmRetiree, oldest first.
 */
List *
cm_partition_state_list(const char *schema_name, const char *table_name, const char *state)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[3];
	List	   *result = NIL;
	CmScope		scope;

	values[0] = CStringGetTextDatum(schema_name);
	values[1] = CStringGetTextDatum(table_name);
	values[2] = CStringGetTextDatum(state);
	cm_catalog_enter(&scope);
	cm_query("SELECT relid, partition_schema, partition_name, upper_bound"
			 "  FROM concertmaster.partition_state"
			 " WHERE schema_name = $1 AND table_name = $2 AND state = $3 ORDER BY upper_bound",
			 3, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		CmRetiree  *retiree = palloc0(sizeof(CmRetiree));
		bool		isnull;

		retiree->relid = DatumGetObjectId(SPI_getbinval(row, desc, 1, &isnull));
		retiree->schema_name = SPI_getvalue(row, desc, 2);
		retiree->name = SPI_getvalue(row, desc, 3);
		retiree->upper_bound = DatumGetInt64(SPI_getbinval(row, desc, 4, &isnull));
		result = lappend(result, retiree);
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return result;
}
