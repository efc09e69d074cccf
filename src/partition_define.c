/*-------------------------------------------------------------------------
 *
 * partition_define.c
 *	  The SQL doors of the partition room that make, change and end a set.
 *
 * create_partition_set(), alter_partition_set() and forget_partition_set()
 * work in the caller's transaction, so they are all or nothing: partitions
 * are made in subtransactions, under the deadline and with retries, and
 * whatever locks a partition took are held until the caller commits.  What
 * would hold locks that others queue behind, or takes its time (rows of a
 * default partition, retirement, too many partitions), is left to the set's
 * job, which then is due at once.
 *
 * Every door asks first whether the caller owns the table, then works as the
 * table's owner (partition_leaf.c) or the extension's (partition_set.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "partition.h"
#include "partition_split.h"

PG_FUNCTION_INFO_V1(cm_create_partition_set);
PG_FUNCTION_INFO_V1(cm_alter_partition_set);
PG_FUNCTION_INFO_V1(cm_forget_partition_set);
PG_FUNCTION_INFO_V1(cm_forget_partition_set_by_name);

/* Positions of the arguments of create_ and alter_partition_set(). */
enum
{
	ARG_PARENT,
	ARG_PERIOD,
	ARG_AHEAD,
	ARG_START_AT,
	ARG_TIMEZONE,
	ARG_RETENTION,
	ARG_RETENTION_KEEP,
	ARG_RETENTION_SCHEMA,
	ARG_WIDTH,
	ARG_START_VALUE,
	ARG_RETENTION_WIDTH,
	ARG_EPOCH
};

/* The argument that each column of partition_set comes from. */
static const int argument_of[CM_SET_COLUMNS] = {
	[CM_SET_PERIOD] = ARG_PERIOD,
	[CM_SET_WIDTH] = ARG_WIDTH,
	[CM_SET_EPOCH] = ARG_EPOCH,
	[CM_SET_AHEAD] = ARG_AHEAD,
	[CM_SET_START_AT] = ARG_START_AT,
	[CM_SET_START_VALUE] = ARG_START_VALUE,
	[CM_SET_TIMEZONE] = ARG_TIMEZONE,
	[CM_SET_RETENTION] = ARG_RETENTION,
	[CM_SET_RETENTION_WIDTH] = ARG_RETENTION_WIDTH,
	[CM_SET_RETENTION_KEEP] = ARG_RETENTION_KEEP,
	[CM_SET_RETENTION_SCHEMA] = ARG_RETENTION_SCHEMA,
};

static bool
is_given(FunctionCallInfo fcinfo, int number)
{
	return number < PG_NARGS() && !PG_ARGISNULL(number);
}

/* Refuse NULL where a value is needed. */
static void
require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

/* Refuse a setting. */
static void
report_setting(int sqlstate, const char *message, const char *detail)
{
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg_internal("%s", message),
			 errdetail_internal("%s", detail)));
}

/* Refuse what does not go with the kind of key: times with numbers, and the other way round. */
static void
check_kind(FunctionCallInfo fcinfo, const CmAxis *axis)
{
	static const struct
	{
		int			number;
		const char *name;
		bool		for_time;
	}			kinds[] = {
		{ARG_PERIOD, "period", true}, {ARG_START_AT, "start_at", true},
		{ARG_RETENTION, "retention", true}, {ARG_WIDTH, "width", false},
		{ARG_START_VALUE, "start_value", false}, {ARG_RETENTION_WIDTH, "retention_width", false}
	};

	for (int i = 0; i < lengthof(kinds); i++)
	{
		if (is_given(fcinfo, kinds[i].number) && kinds[i].for_time != cm_axis_is_time(axis))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"%s\" does not go with a partition key of type %s",
							kinds[i].name, format_type_be(axis->key_type)),
					 cm_axis_is_time(axis) ?
					 errhint("Give \"period\", \"start_at\" and \"retention\".") :
					 errhint("Give \"width\", \"start_value\" and \"retention_width\", or, if it counts time since 1970, \"epoch\".")));
	}
}

/* Refuse numbers that no set could have. */
static void
check_numbers(FunctionCallInfo fcinfo)
{
	if (is_given(fcinfo, ARG_AHEAD) &&
		(PG_GETARG_INT32(ARG_AHEAD) < 0 || PG_GETARG_INT32(ARG_AHEAD) > CM_PARTITION_LIMIT))
		report_setting(ERRCODE_INVALID_PARAMETER_VALUE,
					   psprintf("invalid number of partitions ahead: %d", PG_GETARG_INT32(ARG_AHEAD)),
					   psprintf("It must be between 0 and %d.", CM_PARTITION_LIMIT));
	if (is_given(fcinfo, ARG_START_AT) && TIMESTAMP_NOT_FINITE(PG_GETARG_TIMESTAMPTZ(ARG_START_AT)))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("start of a partition set must be finite")));
	if (is_given(fcinfo, ARG_WIDTH))
		(void) cm_partition_width(PG_GETARG_INT64(ARG_WIDTH));
	if (is_given(fcinfo, ARG_RETENTION_WIDTH) && PG_GETARG_INT64(ARG_RETENTION_WIDTH) < 0)
		report_setting(ERRCODE_INVALID_PARAMETER_VALUE, "invalid retention for a partition set",
					   "It must be positive; 0 means that partitions never retire.");
}

/* Refuse a retention that is no age; and a schema that is none. */
static void
check_retention(FunctionCallInfo fcinfo)
{
	if (is_given(fcinfo, ARG_RETENTION))
	{
		const Interval *age = PG_GETARG_INTERVAL_P(ARG_RETENTION);

		if (age->month < 0 || age->day < 0 || age->time < 0 || age->month > 12000 || age->day > 366000)
			report_setting(ERRCODE_INVALID_PARAMETER_VALUE, "invalid retention for a partition set",
						   "It must be positive and at most 1000 years; 0 means that partitions never retire.");
	}
	if (is_given(fcinfo, ARG_RETENTION_SCHEMA) &&
		NameStr(*PG_GETARG_NAME(ARG_RETENTION_SCHEMA))[0] != '\0')
		(void) get_namespace_oid(NameStr(*PG_GETARG_NAME(ARG_RETENTION_SCHEMA)), false);
}

/* All that can be asked of the arguments alone. */
static void
check_arguments(FunctionCallInfo fcinfo, const CmAxis *axis)
{
	check_kind(fcinfo, axis);
	if (is_given(fcinfo, ARG_PERIOD))
		(void) cm_partition_period(PG_GETARG_INTERVAL_P(ARG_PERIOD), axis->key_type);
	if (is_given(fcinfo, ARG_TIMEZONE))
		(void) cm_axis_zone(text_to_cstring(PG_GETARG_TEXT_PP(ARG_TIMEZONE)));
	check_numbers(fcinfo);
	check_retention(fcinfo);
}

/* Is a retention given that means never; or a schema that means nowhere? */
static bool
clears(FunctionCallInfo fcinfo, CmSetColumn column)
{
	const Interval *age;

	if (!is_given(fcinfo, argument_of[column]))
		return false;
	switch (column)
	{
		case CM_SET_RETENTION:
			age = PG_GETARG_INTERVAL_P(ARG_RETENTION);
			return age->month == 0 && age->day == 0 && age->time == 0;
		case CM_SET_RETENTION_WIDTH:
			return PG_GETARG_INT64(ARG_RETENTION_WIDTH) == 0;
		case CM_SET_RETENTION_SCHEMA:
			return NameStr(*PG_GETARG_NAME(ARG_RETENTION_SCHEMA))[0] == '\0';
		default:
			return false;
	}
}

/* Write the set's row from the arguments. */
static void
write_set(FunctionCallInfo fcinfo, Oid parent, bool is_new)
{
	Datum		columns[CM_SET_COLUMNS];
	char		nulls[CM_SET_COLUMNS];

	for (int i = 0; i < CM_SET_COLUMNS; i++)
	{
		bool		given = is_given(fcinfo, argument_of[i]);

		columns[i] = given ? PG_GETARG_DATUM(argument_of[i]) : (Datum) 0;
		nulls[i] = clears(fcinfo, i) ? CM_SET_CLEAR : given ? ' ' : 'n';
	}
	cm_partition_set_write(parent, is_new, columns, nulls);
}

/* How often the set is looked at: hourly, or often enough for short periods. */
static void
schedule_roll(Oid parent, const CmPartitionSettings *settings, bool run_now)
{
	Interval	every = {.time = USECS_PER_HOUR};

	if (cm_axis_is_time(&settings->axis) && settings->period.months == 0 &&
		settings->period.length / 2 < every.time)
		every.time = Max(USECS_PER_SEC, settings->period.length / 2);
	(void) cm_job_upsert(CM_JOB_ROLL, parent, 0, &every, run_now);
}

/* Is the partition one of the leaves? */
static bool
is_among(const CmPartition *partition, const List *leaves)
{
	ListCell   *lc;

	foreach(lc, leaves)
	{
		const CmLeaf *leaf = lfirst(lc);

		if (!partition->is_default && partition->from == leaf->from && partition->to == leaf->to)
			return true;
	}
	return false;
}

/*
 * Make the empty partitions of the plan in the caller's transaction, until one
 * has to be put off.  Returns those made.  If others have made some meanwhile,
 * the plan is anew.
 *
 * Where attaching locks tables that others use, one partition is enough: they
 * would wait until the caller commits, for all that comes between.
 */
static List *
make_planned(Oid parent, CmPartitionWork *work)
{
	int			limit = cm_partition_locks_others(parent) ? 1 : CM_PARTITION_AT_ONCE;
	List	   *made = NIL;
	ListCell   *lc;

restart:
	foreach(lc, work->leaves)
	{
		CmLeaf	   *leaf = lfirst(lc);
		CmLeafResult came_to;

		if (leaf->kind != CM_LEAF_CREATE)
			continue;
		if (list_length(made) == limit)
			break;
		came_to = cm_partition_make_here(leaf);
		if (came_to == CM_LEAF_STALE)
		{
			cm_partition_work(parent, work);
			goto restart;
		}
		if (came_to == CM_LEAF_DEFERRED)
			break;
		made = lappend(made, leaf);
	}
	return made;
}

/*
 * Rows for the partitions that were there, those made, and those left to the
 * job.  Those of an earlier plan are among the existing ones of the last.
 */
static void
put_planned(ReturnSetInfo *result, const CmPartitionWork *work, const List *made)
{
	List	   *sorted = list_copy(work->existing);
	ListCell   *lc;

	list_sort(sorted, cm_partition_compare);
	foreach(lc, sorted)
	{
		if (!is_among(lfirst(lc), made))
			cm_partition_put_existing(result, &work->settings.axis, work->existing, lfirst(lc), "kept", NULL);
	}
	foreach(lc, made)
	{
		if (!list_member_ptr(work->leaves, lfirst(lc)))
			cm_partition_put_leaf(result, work->existing, lfirst(lc), "created");
	}
	foreach(lc, work->leaves)
		cm_partition_put_leaf(result, work->existing, lfirst(lc),
							  list_member_ptr(made, lfirst(lc)) ? "created" : "deferred");
}

/* Is nothing of the plan left to the job? */
static bool
is_complete(const CmPartitionWork *work, const List *made)
{
	ListCell   *lc;

	foreach(lc, work->leaves)
	{
		if (!list_member_ptr(made, lfirst(lc)))
			return false;
	}
	return work->retirees == NIL;
}

/*
 * Make the partitions of a set whose row has just been written, and its job.
 * What could not be made is made by the job, which then is due at once.
 */
static void
apply_set(Oid parent, ReturnSetInfo *result)
{
	CmPartitionWork work;
	List	   *made;
	bool		complete;

	cm_partition_work(parent, &work);
	made = make_planned(parent, &work);
	put_planned(result, &work, made);
	complete = is_complete(&work, made);
	schedule_roll(parent, &work.settings, !complete);
	if (!complete)
		ereport(NOTICE,
				(errmsg("some partitions of table \"%s\" are not made or retired yet",
						get_rel_name(parent)),
				 errdetail("A lock that is needed was not available, or they are too many for one transaction, or others would wait for its end."),
				 errhint("The set's job goes on with them; see the view concertmaster.partition_sets.")));
}

/* create_partition_set(parent, period, ...) */
Datum
cm_create_partition_set(PG_FUNCTION_ARGS)
{
	Oid			parent;
	CmAxis		axis;

	require_argument(fcinfo, ARG_PARENT, "parent");
	require_argument(fcinfo, ARG_AHEAD, "ahead");
	require_argument(fcinfo, ARG_TIMEZONE, "timezone");
	require_argument(fcinfo, ARG_RETENTION_KEEP, "retention_keep");
	parent = PG_GETARG_OID(ARG_PARENT);
	axis = cm_axis(cm_partition_open_door(parent, "create_partition_set()"),
				   PG_ARGISNULL(ARG_EPOCH) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(ARG_EPOCH)),
				   NULL);
	check_arguments(fcinfo, &axis);
	if (cm_axis_is_time(&axis))
		require_argument(fcinfo, ARG_PERIOD, "period");
	else
		require_argument(fcinfo, ARG_WIDTH, "width");

	InitMaterializedSRF(fcinfo, 0);
	cm_relations_reconcile();
	write_set(fcinfo, parent, true);
	apply_set(parent, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/* alter_partition_set(parent, period, ...) */
Datum
cm_alter_partition_set(PG_FUNCTION_ARGS)
{
	CmPartitionSettings settings;
	Oid			parent;

	require_argument(fcinfo, ARG_PARENT, "parent");
	parent = PG_GETARG_OID(ARG_PARENT);
	(void) cm_partition_open_door(parent, "alter_partition_set()");
	cm_relations_reconcile();
	if (!cm_partition_settings(parent, &settings))
		cm_partition_report_no_set(get_rel_name(parent));
	check_arguments(fcinfo, &settings.axis);

	InitMaterializedSRF(fcinfo, 0);
	write_set(fcinfo, parent, false);
	apply_set(parent, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/*
 * Drop what was to become a partition of a set that is no more; and before
 * that the trigger of a split, which writes to one of these tables.
 */
static void
sweep_here(Oid parent, const char *schema_name, const char *table_name)
{
	Oid			rest = OidIsValid(parent) ? get_default_partition_oid(parent) : InvalidOid;
	bool		captured = OidIsValid(rest) && OidIsValid(get_trigger_oid(rest, CM_CAPTURE_TRIGGER, true));
	ListCell   *cell;

	if (captured)
		captured = !cm_attempt_here(cm_partition_capture_no_more, &rest,
									cm_lock_wish(NIL, rest, AccessExclusiveLock));
	foreach(cell, cm_partition_leftovers(parent, schema_name, table_name, GetUserId()))
	{
		CmLeftover *leftover = lfirst(cell);

		if ((leftover->is_copy && captured) ||
			!cm_attempt_here(cm_partition_leftover_drop, leftover, NIL))
			ereport(NOTICE,
					(errmsg("table \"%s\", which was to become a partition, is in use and stays",
							get_rel_name(leftover->relid)),
					 errhint("Drop it when nobody uses it any more.")));
	}
}

/* Forget a set whose table exists. */
static void
forget(Oid parent)
{
	if (get_rel_name(parent) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", parent)));
	cm_relation_require_owner(parent);
	cm_relations_reconcile();
	if (!cm_partition_set_delete(cm_relation_schema(parent), cm_relation_name(parent)))
		cm_partition_report_no_set(get_rel_name(parent));
	(void) cm_job_remove(CM_JOB_ROLL, parent, 0);
	sweep_here(parent, cm_relation_schema(parent), cm_relation_name(parent));
}

/* forget_partition_set(parent regclass) */
Datum
cm_forget_partition_set(PG_FUNCTION_ARGS)
{
	cm_partition_require_writable("forget_partition_set()");
	forget(PG_GETARG_OID(0));
	PG_RETURN_VOID();
}

/* forget_partition_set(parent text): also for a table that is gone */
Datum
cm_forget_partition_set_by_name(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *schema_part;
	char	   *table_part;
	Oid			parent = cm_relation_parse(name, &schema_part, &table_part);

	cm_partition_require_writable("forget_partition_set()");
	if (OidIsValid(parent))
		forget(parent);
	else if (schema_part == NULL || !cm_relation_forget_job("roll", schema_part, table_part))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not a partition set", name),
				 errdetail("There is no such table, and no set of yours of that name whose table was dropped."),
				 errhint("Name it with its schema, as in the view concertmaster.partition_sets.")));
	else
	{
		(void) cm_partition_set_delete(schema_part, table_part);
		sweep_here(InvalidOid, schema_part, table_part);
	}
	PG_RETURN_VOID();
}

