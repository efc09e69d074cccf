/*-------------------------------------------------------------------------
 *
 * row_trigger.c
 *	  Two row triggers: the time of change follows, the time of birth stays.
 *
 * set_updated_at() writes the transaction's time into a column of the row
 * that an UPDATE makes.  keep_created_at() refuses an UPDATE that changes a
 * column, which for a table partitioned by it would move the row.  Both take
 * the column's name as their optional argument and work on any table; the
 * column is looked up in the row's descriptor at each call, because leaves of
 * one table may number their columns differently.
 *
 * Locks: none.  Nothing to clean up after an error.
 *
 * What they do not do: run as statement or AFTER triggers, or on INSERT.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "concertmaster.h"

PG_FUNCTION_INFO_V1(cm_set_updated_at);
PG_FUNCTION_INFO_V1(cm_keep_created_at);

/* Refuse to be called but as a BEFORE UPDATE row trigger. */
static TriggerData *
require_before_update(FunctionCallInfo fcinfo, const char *name)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by a BEFORE UPDATE row trigger", name),
				 errhint("Use it in CREATE TRIGGER ... BEFORE UPDATE ... FOR EACH ROW.")));
	return trigger;
}

/* The number of the column that the trigger is about. */
static int
find_column(TriggerData *trigger, const char *default_name)
{
	const char *name = trigger->tg_trigger->tgnargs > 0 ?
		trigger->tg_trigger->tgargs[0] : default_name;
	int			attnum = SPI_fnumber(trigger->tg_relation->rd_att, name);

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Trigger \"%s\" is about it.", trigger->tg_trigger->tgname),
				 errhint("Drop the trigger, or give it the column's name as its argument.")));
	return attnum;
}

/* SQL: set_updated_at() */
Datum
cm_set_updated_at(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = require_before_update(fcinfo, "set_updated_at");
	TupleDesc	desc = trigger->tg_relation->rd_att;
	int			attnum = find_column(trigger, "updated_at");
	Datum		value = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	bool		isnull = false;
	HeapTuple	tuple;

	switch (getBaseType(TupleDescAttr(desc, attnum - 1)->atttypid))
	{
		case TIMESTAMPTZOID:
			break;
		case TIMESTAMPOID:
			/* In the session's zone, as DEFAULT now() would do it. */
			value = DirectFunctionCall1(timestamptz_timestamp, value);
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of relation \"%s\" is not a timestamp",
							NameStr(TupleDescAttr(desc, attnum - 1)->attname),
							RelationGetRelationName(trigger->tg_relation)),
					 errdetail("Trigger \"%s\" keeps the time of the last change in it.",
							   trigger->tg_trigger->tgname),
					 errhint("Make it timestamp with time zone, or drop the trigger.")));
	}

	tuple = heap_modify_tuple_by_cols(trigger->tg_newtuple, desc, 1,
									  &attnum, &value, &isnull);
	return PointerGetDatum(tuple);
}

/* SQL: keep_created_at() */
Datum
cm_keep_created_at(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = require_before_update(fcinfo, "keep_created_at");
	TupleDesc	desc = trigger->tg_relation->rd_att;
	int			attnum = find_column(trigger, "created_at");
	Form_pg_attribute column = TupleDescAttr(desc, attnum - 1);
	bool		old_isnull;
	bool		new_isnull;
	Datum		old_value = heap_getattr(trigger->tg_trigtuple, attnum, desc, &old_isnull);
	Datum		new_value = heap_getattr(trigger->tg_newtuple, attnum, desc, &new_isnull);

	if (old_isnull != new_isnull ||
		(!old_isnull && !datum_image_eq(old_value, new_value, column->attbyval, column->attlen)))
		ereport(ERROR,
				(errcode(ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION),
				 errmsg("cannot change column \"%s\" of table \"%s\"",
						NameStr(column->attname), RelationGetRelationName(trigger->tg_relation)),
				 errdetail("Trigger \"%s\" keeps it as it was when the row was made.",
						   trigger->tg_trigger->tgname),
				 errhint("Leave the column out of the UPDATE."),
				 errtablecol(trigger->tg_relation, attnum)));
	return PointerGetDatum(trigger->tg_newtuple);
}
