/*-------------------------------------------------------------------------
 *
 * conversion_explain.c
 *	  explain_conversion(): what converting a table to a partitioned one meets,
 *	  and the steps that it takes.
 *
 * The first row sums up; then one row per finding, those that are in the way
 * first, and one per step, in order.
 *
 * Locks: ACCESS SHARE on the table (conversion_look.c).  Nothing to clean up.
 *
 * What it does not do: change anything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "concertmaster.h"
#include "conversion_do.h"
#include "pace.h"

PG_FUNCTION_INFO_V1(cm_explain_conversion);

/* In the order of CmFindingStatus. */
static const char *const status_names[] = {"ok", "carried over", "to accept", "accepted", "refused"};

/* In the order of CmConversionStepKind. */
static const char *const step_names[] = {
	"add_check", "validate_check", "set_not_null", "build_index",
	"add_column", "fill_column",
	"create_table", "swap", "validate_foreign_key", "drop_check", "analyze"
};

enum
{
	ARG_TABLE,
	ARG_COLUMN,
	ARG_PERIOD,
	ARG_FOREIGN_KEYS,
	ARG_ACCEPT,
	ARG_TIMEZONE,
	ARG_WIDTH,
	ARG_EPOCH
};

enum
{
	COL_STEP,
	COL_OBJECT,
	COL_STATUS,
	COL_CODE,
	COL_DETAIL,
	COL_REMEDY,
	COL_STATEMENT,
	COL_LOCK,
	COL_BLOCKS,
	COL_DURATION,
	COL_DISK_BYTES,
	COLUMNS
};

/* Set a text, or null. */
static void
set_text(Datum *values, bool *nulls, int column, const char *text)
{
	nulls[column] = text == NULL;
	if (text != NULL)
		values[column] = CStringGetTextDatum(text);
}

static void
put_finding(ReturnSetInfo *result, const CmFinding *finding)
{
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS];

	memset(nulls, true, sizeof(nulls));
	set_text(values, nulls, COL_OBJECT, finding->object);
	set_text(values, nulls, COL_STATUS, status_names[finding->status]);
	set_text(values, nulls, COL_CODE, finding->code);
	set_text(values, nulls, COL_DETAIL, finding->detail);
	set_text(values, nulls, COL_REMEDY, finding->remedy);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

static void
put_step(ReturnSetInfo *result, int number, const CmConversionStep *step)
{
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS];
	Interval   *duration = palloc0(sizeof(Interval));

	memset(nulls, true, sizeof(nulls));
	values[COL_STEP] = Int32GetDatum(number);
	values[COL_DISK_BYTES] = Int64GetDatum(step->disk_bytes);
	duration->time = (int64) step->milliseconds * 1000;
	values[COL_DURATION] = IntervalPGetDatum(duration);
	nulls[COL_STEP] = nulls[COL_DISK_BYTES] = nulls[COL_DURATION] = false;
	set_text(values, nulls, COL_OBJECT, step->object);
	set_text(values, nulls, COL_CODE, step_names[step->kind]);
	set_text(values, nulls, COL_DETAIL, step->detail);
	set_text(values, nulls, COL_STATEMENT, step->statement);
	set_text(values, nulls, COL_LOCK, step->lock);
	set_text(values, nulls, COL_BLOCKS, step->blocks ?
			 psprintf("readers and writers, for %d ms at most, then it gives way and tries again", cm_ddl_deadline) : "nothing");
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The row that sums up. */
static void
put_verdict(ReturnSetInfo *result, CmConversion *conversion)
{
	CmFinding	verdict = {.status = CM_FINDING_OK,.code = "verdict",.object = conversion->quoted};
	int			counts[lengthof(status_names)] = {0};
	StringInfoData codes;
	List	   *said = NIL;
	ListCell   *cell;

	initStringInfo(&codes);
	foreach(cell, conversion->findings)
	{
		CmFinding  *finding = lfirst(cell);

		counts[finding->status]++;
		if (finding->status == CM_FINDING_TO_ACCEPT && !list_member(said, makeString(finding->code)))
		{
			said = lappend(said, makeString(finding->code));
			appendStringInfo(&codes, "%s%s", codes.len > 0 ? "," : "", finding->code);
		}
	}
	if (counts[CM_FINDING_REFUSED] > 0)
	{
		verdict.status = CM_FINDING_REFUSED;
		verdict.remedy = "see what is refused, and its remedy";
	}
	else if (counts[CM_FINDING_TO_ACCEPT] > 0)
	{
		verdict.status = CM_FINDING_TO_ACCEPT;
		verdict.remedy = psprintf("read what changes; then say accept => '{%s}'", codes.data);
	}
	else
		verdict.remedy = "nothing is in the way";
	verdict.detail = psprintf("%d refused, %d to accept, %d accepted, %d carried over; %d steps",
							  counts[CM_FINDING_REFUSED], counts[CM_FINDING_TO_ACCEPT], counts[CM_FINDING_ACCEPTED],
							  counts[CM_FINDING_CARRIED], list_length(conversion->steps));
	put_finding(result, &verdict);
}

/* Is that index there by now, valid? */
static bool
is_built(const CmConversion *conversion, const CmConversionIndex *index)
{
	Oid			relid = get_relname_relid(index->replacement, get_rel_namespace(conversion->relid));

	return OidIsValid(relid) && get_rel_relkind(relid) == RELKIND_INDEX && get_index_isvalid(relid);
}

/*
 * Is there room for the indexes?  Not among what cm_conversion_look() finds:
 * a conversion that is under way asks before each, and else never again.
 */
static void
look_at_disk(CmConversion *conversion)
{
	CmPaceNeed	need = {0};
	ListCell   *cell;

	foreach(cell, conversion->unique_indexes)
	{
		if (!is_built(conversion, lfirst(cell)))
			need.bytes += cm_conversion_index_bytes(conversion, lfirst(cell));
	}
	if (need.bytes == 0 || cm_pace_has_room(&need))
		return;
	(void) cm_conversion_find(conversion, CM_FINDING_REFUSED, "free_disk", NULL,
							  psprintf("the indexes need about " INT64_FORMAT " bytes, and less would stay free than concertmaster.min_free_disk, which is \"%s\"",
									   need.bytes, cm_min_free_disk),
							  "make room on the disk; view build_conditions shows what is free");
}

/* Everything, in order. */
static void
put_all(ReturnSetInfo *result, CmConversion *conversion)
{
	static const CmFindingStatus order[] = {
		CM_FINDING_REFUSED, CM_FINDING_TO_ACCEPT, CM_FINDING_ACCEPTED, CM_FINDING_CARRIED, CM_FINDING_OK
	};
	ListCell   *cell;
	int			number = 0;

	put_verdict(result, conversion);
	for (int i = 0; i < lengthof(order); i++)
	{
		foreach(cell, conversion->findings)
		{
			if (((CmFinding *) lfirst(cell))->status == order[i])
				put_finding(result, lfirst(cell));
		}
	}
	foreach(cell, conversion->steps)
		put_step(result, ++number, lfirst(cell));
}

/* An argument as text, or NULL. */
static char *
text_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/* Elements of an array of text. */
static List *
list_argument(FunctionCallInfo fcinfo, int number)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *result = NIL;

	if (PG_ARGISNULL(number))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(number), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (!nulls[i])
			result = lappend(result, TextDatumGetCString(elements[i]));
	}
	return result;
}

/* Period for times, width for plain numbers; refuse the other combinations. */
static void
check_period(const CmConversionWish *wish, Oid key_type)
{
	bool		is_number = (key_type == INT2OID || key_type == INT4OID || key_type == INT8OID) && wish->epoch == NULL;

	if (wish->period == NULL && !is_number)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"period\" must not be null"),
				 errdetail("Partitions by column \"%s\" are periods of time.", wish->column_name),
				 errhint("For instance interval '1 month'.")));
	if (is_number && wish->width <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" is a number, so the width of a partition is needed", wish->column_name),
				 errhint("Say width => how many numbers a partition holds, or epoch => 'seconds' if the numbers count time since 1970.")));
	if (!is_number && wish->width != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"width\" is for keys that are numbers"),
				 errhint("Leave it out.")));
	if (wish->foreign_keys != NULL && strcmp(wish->foreign_keys, "drop") != 0 &&
		strcmp(wish->foreign_keys, "composite") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"foreign_keys\" must be \"composite\", \"drop\" or null")));
}

/* The table that an argument names; an error unless it is the caller's. */
static Oid
table_argument(FunctionCallInfo fcinfo)
{
	Oid			relid = PG_ARGISNULL(ARG_TABLE) ? InvalidOid : PG_GETARG_OID(ARG_TABLE);
	char		relkind;

	if (PG_ARGISNULL(ARG_TABLE) || PG_ARGISNULL(ARG_COLUMN))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("table and column must not be null")));
	(void) cm_relation_owner(relid);
	cm_relation_require_owner(relid);
	relkind = get_rel_relkind(relid);
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", get_rel_name(relid))));
	return relid;
}

/*
 * The arguments of explain_conversion() and convert_to_partitioned(), as far
 * as they are the same.  Returns the table, which is the caller's.
 */
Oid
cm_conversion_arguments(FunctionCallInfo fcinfo, CmConversionWish *wish)
{
	Oid			relid = table_argument(fcinfo);
	AttrNumber	key;

	wish->column_name = pstrdup(NameStr(*PG_GETARG_NAME(ARG_COLUMN)));
	wish->period = PG_ARGISNULL(ARG_PERIOD) ? NULL : PG_GETARG_INTERVAL_P(ARG_PERIOD);
	wish->foreign_keys = text_argument(fcinfo, ARG_FOREIGN_KEYS);
	wish->accept = list_argument(fcinfo, ARG_ACCEPT);
	wish->timezone = PG_ARGISNULL(ARG_TIMEZONE) ? "UTC" : text_argument(fcinfo, ARG_TIMEZONE);
	wish->width = PG_ARGISNULL(ARG_WIDTH) ? 0 : PG_GETARG_INT64(ARG_WIDTH);
	wish->epoch = text_argument(fcinfo, ARG_EPOCH);
	key = get_attnum(relid, wish->column_name);
	if (key > InvalidAttrNumber)
		check_period(wish, getBaseType(get_atttype(relid, key)));
	return relid;
}

/* explain_conversion(table_name, column_name, period, foreign_keys, accept, timezone, width, epoch) */
Datum
cm_explain_conversion(PG_FUNCTION_ARGS)
{
	CmConversionWish wish = {0};
	Oid			relid = cm_conversion_arguments(fcinfo, &wish);
	CmConversion *conversion = cm_conversion_look(relid, &wish, true);

	look_at_disk(conversion);
	InitMaterializedSRF(fcinfo, 0);
	put_all((ReturnSetInfo *) fcinfo->resultinfo, conversion);
	return (Datum) 0;
}
