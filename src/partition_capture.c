/*-------------------------------------------------------------------------
 *
 * partition_capture.c
 *	  A trigger that writes down what happens to a default partition while it
 *	  is being split (partition_split.c).
 *
 * It is an AFTER ROW trigger, ENABLEd ALWAYS, on the default partition alone,
 * and writes images of rows into a log: the old row, gone, for DELETE, the new
 * row for INSERT, both for UPDATE.  The log numbers them.  Two changes of one
 * row, or of two rows that a unique index keeps apart, are numbered in the
 * order in which they happened, since the second one waited for the first
 * one's commit.  TRUNCATE and ALTER TABLE that writes the table anew are not
 * seen; the splitter finds that the table is stored elsewhere.
 *
 * A writer must never fail because of us.  So a log that is not there is no
 * error, and a column that the log does not have, or has with another type, is
 * left out: the splitter compares the tables' columns before it relies on the
 * log, and begins anew.  The log is unlogged, as a crash ends the split
 * anyway, and is written as the table's owner, whose table it is: as a
 * superuser, triggers of the owner's on it would be run as one.  So a writer
 * does fail while the owner has no USAGE on the schema of its own table.  To
 * leave the row out would be worse, as it would be lost in the exchange.
 *
 * The statement that writes is prepared once per session and table, and made
 * anew when one of the two relations changed.
 *
 * Locks: ROW EXCLUSIVE on the log, until the writer's transaction ends.  After
 * an error the abort restores role and SPI.
 *
 * What it does not do: run for others.  Nobody but a superuser may make a
 * trigger of it (EXECUTE is revoked), so nobody can have it write elsewhere.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "partition_split.h"

PG_FUNCTION_INFO_V1(cm__partition_capture);

/* How the table that the trigger last fired for is written to its log. */
typedef struct Capture
{
	bool		valid;
	Oid			relid;
	Oid			log;
	int			count;
	AttrNumber *columns;		/* of the table, that are written */
	SPIPlanPtr	plan;
} Capture;

static Capture capture;

/* Relation cache callback: what was prepared may not fit any more. */
static void
forget_capture(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == capture.relid || relid == capture.log)
		capture.valid = false;
}

/* Refuse to be called but as an AFTER ROW trigger with two arguments. */
static TriggerData *
require_after_row(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs != 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by a trigger that splits a default partition",
						"_partition_capture"),
				 errhint("It is for the extension's own use.")));
	return trigger;
}

/* Can the column's value be written into the log's column of that name? */
static bool
is_captured(Form_pg_attribute column, Oid log)
{
	AttrNumber	attnum;
	Oid			type;
	int32		typmod;
	Oid			collation;

	if (column->attisdropped || column->attgenerated != '\0')
		return false;
	attnum = get_attnum(log, NameStr(column->attname));
	if (attnum == InvalidAttrNumber)
		return false;
	get_atttypetypmodcoll(log, attnum, &type, &typmod, &collation);
	return type == column->atttypid;
}

/* Prepare the statement that writes a row's image.  SPI is connected. */
static void
prepare(Relation rel, Oid log)
{
	static bool registered = false;
	TupleDesc	desc = RelationGetDescr(rel);
	Oid		   *types = palloc(sizeof(Oid) * (desc->natts + 1));
	StringInfoData names;
	StringInfoData values;

	if (!registered)
		CacheRegisterRelcacheCallback(forget_capture, (Datum) 0);
	registered = true;
	if (capture.plan != NULL)
		SPI_freeplan(capture.plan);
	if (capture.columns != NULL)
		pfree(capture.columns);
	memset(&capture, 0, sizeof(capture));
	capture.columns = MemoryContextAlloc(TopMemoryContext, sizeof(AttrNumber) * (desc->natts + 1));

	initStringInfo(&names);
	initStringInfo(&values);
	types[0] = BOOLOID;
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (!is_captured(column, log))
			continue;
		capture.columns[capture.count++] = i + 1;
		types[capture.count] = column->atttypid;
		appendStringInfo(&names, ", %s", quote_identifier(NameStr(column->attname)));
		appendStringInfo(&values, ", $%d", capture.count + 1);
	}
	capture.plan = SPI_prepare(psprintf("INSERT INTO %s (" CM_CAPTURE_GONE "%s) VALUES ($1%s)",
										cm_relation_quoted(log), names.data, values.data),
							   capture.count + 1, types);
	if (capture.plan == NULL || SPI_keepplan(capture.plan) != 0)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	capture.relid = RelationGetRelid(rel);
	capture.log = log;
	capture.valid = true;
}

/* Write one image. */
static void
write_image(HeapTuple tuple, TupleDesc desc, bool gone)
{
	Datum	   *values = palloc(sizeof(Datum) * (capture.count + 1));
	char	   *nulls = palloc(capture.count + 1);

	values[0] = BoolGetDatum(gone);
	nulls[0] = ' ';
	for (int i = 0; i < capture.count; i++)
	{
		bool		isnull;

		values[i + 1] = heap_getattr(tuple, capture.columns[i], desc, &isnull);
		nulls[i + 1] = isnull ? 'n' : ' ';
	}
	if (SPI_execute_plan(capture.plan, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "SPI_execute_plan failed");
}

/* SQL: _partition_capture(), with schema and name of the log as arguments */
Datum
cm__partition_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = require_after_row(fcinfo);
	Relation	rel = trigger->tg_relation;
	Oid			log = cm_relation_resolve(trigger->tg_trigger->tgargs[0], trigger->tg_trigger->tgargs[1]);
	bool		old = !TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	bool		new = !TRIGGER_FIRED_BY_DELETE(trigger->tg_event);
	CmScope		scope;

	if (!OidIsValid(log))
		return PointerGetDatum(NULL);
	cm_owner_enter(&scope, rel->rd_rel->relowner, true);
	cm_scope_connect(&scope);
	if (!capture.valid || capture.relid != RelationGetRelid(rel) || capture.log != log)
		prepare(rel, log);
	if (old)
		write_image(trigger->tg_trigtuple, RelationGetDescr(rel), true);
	if (new)
		write_image(old ? trigger->tg_newtuple : trigger->tg_trigtuple, RelationGetDescr(rel), false);
	cm_scope_leave(&scope);
	return PointerGetDatum(NULL);
}
