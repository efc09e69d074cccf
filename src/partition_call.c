/*-------------------------------------------------------------------------
 *
 * partition_call.c
 *	  The SQL doors of the partition room that make and show.
 *
 * create_monthly_partition() works in the caller's transaction: the partition
 * is made in a subtransaction, under the deadline and with retries, and
 * whatever locks it took are held until the caller commits.  plan_partitions()
 * shows what the next pass does.  roll_partitions() is a procedure: workers do
 * the passes, in transactions of their own; for a set where there is nothing
 * to do none is started (partition_idle.c).
 *
 * Every door asks first whether the caller owns the table, then works as the
 * table's owner (partition_leaf.c) or the extension's (catalog tables).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "partition.h"
#include "partition_split.h"

PG_FUNCTION_INFO_V1(cm_create_monthly_partition);
PG_FUNCTION_INFO_V1(cm_plan_partitions);
PG_FUNCTION_INFO_V1(cm_roll_partitions);
PG_FUNCTION_INFO_V1(cm__partition_plan);

/* Refuse on a standby and in a read-only transaction. */
void
cm_partition_require_writable(const char *what)
{
	cm_require_primary(what);
	PreventCommandIfReadOnly(what);
}

/* What every door that changes a table asks first.  Returns the key's type. */
Oid
cm_partition_open_door(Oid parent, const char *what)
{
	cm_partition_require_writable(what);
	if (!OidIsValid(parent) || get_rel_name(parent) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", parent)));
	cm_relation_require_owner(parent);
	return cm_partition_key_type(parent);
}

/* A table that is no set. */
void
cm_partition_report_no_set(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table \"%s\" is not a partition set", name),
			 errhint("Call concertmaster.create_partition_set() for it.")));
}

/* The lock was not to be had: say by whom. */
static void
report_deferred(const CmLeaf *leaf)
{
	int			pid = cm_lock_holder(cm_partition_wishes(leaf->parent, InvalidOid, CM_STEP_ATTACH));

	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not make partition \"%s\" of table \"%s\" in time",
					leaf->name, get_rel_name(leaf->parent)),
			 pid > 0 ? errdetail("Process %d holds a lock that is needed.", pid) :
			 errdetail("A lock that is needed was not available in %d tries of %d ms.",
					   cm_ddl_attempts, cm_ddl_deadline),
			 errhint("Try again, or raise \"concertmaster.ddl_attempts\".")));
}

/* The range is held by another partition. */
static void
report_overlap(const CmLeaf *leaf, const CmPartition *other)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("partition \"%s\" would overlap partition \"%s\"",
					leaf->name, get_rel_name(other->relid)),
			 errdetail("It would hold values %s; \"%s\" holds values %s.",
					   cm_axis_range_text(&leaf->axis, leaf->from, leaf->to),
					   get_rel_name(other->relid),
					   cm_axis_range_text(&leaf->axis, other->from, other->to)),
			 errhint("Choose a month that no partition holds any part of, or see concertmaster.create_partition_set(), which fills the gaps between partitions.")));
}

/* The partition that holds the month of the date, to make; an error if the table's key is no time. */
static CmLeaf *
plan_month(Oid parent, DateADT date)
{
	CmPartitionSettings settings = {0};
	Oid			key_type = cm_partition_open_door(parent, "create_monthly_partition()");
	int			year;
	int			month;
	int			day;

	cm_relations_reconcile();

	/* Outside a set, months begin where the session's literals would put them. */
	if (!cm_partition_settings(parent, &settings))
		settings.axis = cm_axis(key_type, NULL, session_timezone);
	if (!cm_axis_is_time(&settings.axis))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("cannot make a monthly partition of table \"%s\"", get_rel_name(parent)),
				 errdetail("Its partition key is a number of type %s.", format_type_be(key_type)),
				 errhint("If it counts time since 1970, say so: concertmaster.create_partition_set(..., epoch => 'seconds').")));
	j2date(date + POSTGRES_EPOCH_JDATE, &year, &month, &day);
	return cm_partition_leaf(parent, &settings.axis, cm_partition_month(&settings.axis, year, month));
}

/* create_monthly_partition(table_name text, start_date date) */
Datum
cm_create_monthly_partition(PG_FUNCTION_ARGS)
{
	char	   *table_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	DateADT		date = PG_GETARG_DATEADT(1);
	char	   *schema_part;
	char	   *name_part;
	Oid			parent = cm_relation_parse(table_name, &schema_part, &name_part);
	CmLeaf	   *leaf;

	cm_partition_require_writable("create_monthly_partition()");
	if (!OidIsValid(parent))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", table_name),
				 errhint("Name the table as in SQL: with its schema if it is not in the search_path, quoted if it has capitals.")));
	if (DATE_NOT_FINITE(date))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("start date of a partition must be finite")));
	leaf = plan_month(parent, date);
	for (;;)
	{
		CmPartition *other = cm_partition_overlapping(cm_partition_existing(parent, &leaf->axis),
													  leaf->from, leaf->to);
		CmLeafResult result;

		if (other != NULL && other->from == leaf->from && other->to == leaf->to)
		{
			ereport(NOTICE,
					(errcode(ERRCODE_DUPLICATE_TABLE),
					 errmsg("partition \"%s\" holds this month already, skipping",
							get_rel_name(other->relid))));
			break;
		}
		if (other != NULL)
			report_overlap(leaf, other);
		result = cm_partition_make_here(leaf);
		if (result == CM_LEAF_DEFERRED)
			report_deferred(leaf);
		if (result == CM_LEAF_MADE)
			break;
	}
	PG_RETURN_VOID();
}

/* A row of what a door returns. */
typedef struct PartitionRow
{
	const CmAxis *axis;
	const List *all;			/* partitions whose bounds are there */
	const CmPartition *existing;	/* the one the row is about, or */
	int64		from;			/* the range of one to make */
	int64		to;
	const char *name;
	const char *action;
	int64		rows;			/* 0: none are moved */
	const char *detail;			/* or NULL */
} PartitionRow;

/* bounds as in SQL */
static char *
bounds_text(const PartitionRow *row)
{
	const CmPartition *partition = row->existing;

	if (partition == NULL)
		return cm_partition_bounds_sql(row->all, row->axis, row->from, row->to);
	return partition->is_default ? pstrdup("DEFAULT") :
		cm_partition_bounds_sql(row->all, row->axis, partition->from, partition->to);
}

/* One row of what a door did, or of what it would do. */
static void
put_row(ReturnSetInfo *result, const PartitionRow *row)
{
	NameData	partition;
	const CmPartition *existing = row->existing;
	bool		no_time = (existing != NULL && existing->is_default) || !cm_axis_is_time(row->axis);
	Datum		values[7] = {0};
	bool		nulls[7] = {false, no_time, no_time, false, false, row->rows == 0, row->detail == NULL};

	namestrcpy(&partition, row->name);
	values[0] = NameGetDatum(&partition);
	if (!no_time)
	{
		values[1] = TimestampTzGetDatum(cm_axis_instant(row->axis, existing ? existing->from : row->from));
		values[2] = TimestampTzGetDatum(cm_axis_instant(row->axis, existing ? existing->to : row->to));
	}
	values[3] = CStringGetTextDatum(row->action);
	values[4] = CStringGetTextDatum(bounds_text(row));
	values[5] = Int64GetDatum(row->rows);
	if (row->detail != NULL)
		values[6] = CStringGetTextDatum(row->detail);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* A row for a partition to make, or made. */
void
cm_partition_put_leaf(ReturnSetInfo *result, const List *existing, const CmLeaf *leaf, const char *action)
{
	PartitionRow row = {.axis = &leaf->axis,.all = existing,.name = leaf->name,
	.from = leaf->from,.to = leaf->to,.action = action,.rows = leaf->rows,.detail = leaf->obstacle};

	put_row(result, &row);
}

/* A row for a partition that is there. */
void
cm_partition_put_existing(ReturnSetInfo *result, const CmAxis *axis, const List *existing,
						  const CmPartition *partition, const char *action, const char *detail)
{
	PartitionRow row = {.axis = axis,.all = existing,.existing = partition,
	.name = get_rel_name(partition->relid),.action = action,.detail = detail};

	if (row.name != NULL)
		put_row(result, &row);
}

/* What the next pass does with a partition that is there. */
static const char *
action_for(const CmPartitionWork *work, const CmPartition *partition, const char **detail)
{
	ListCell   *lc;

	*detail = NULL;
	foreach(lc, work->retirees)
	{
		const CmRetiree *retiree = lfirst(lc);

		if (retiree->relid != partition->relid)
			continue;
		*detail = retiree->references ? retiree->references : retiree->forbidden;
		if (*detail != NULL)
			return "kept";
		if (retiree->is_pending)
			return "finalize";
		return work->settings.retention_keep ? "detach" : "drop";
	}
	return "kept";
}

static const char *
action_for_leaf(const CmLeaf *leaf)
{
	switch (leaf->kind)
	{
		case CM_LEAF_DRAIN:
			return "drain";
		case CM_LEAF_REBIND:
			return "rebind";
		case CM_LEAF_SPLIT:
			return "split";
		case CM_LEAF_CREATE:
			break;
	}
	return "create";
}

/* plan_partitions(parent): what the next roll would do, and what is kept */
Datum
cm_plan_partitions(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_GETARG_OID(0);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CmPartitionWork work;
	ListCell   *lc;

	if (get_rel_name(parent) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", parent)));
	cm_relation_require_owner(parent);

	InitMaterializedSRF(fcinfo, 0);
	cm_partition_work(parent, &work);
	list_sort(work.existing, cm_partition_compare);
	foreach(lc, work.existing)
	{
		const char *detail;
		const char *action = action_for(&work, lfirst(lc), &detail);

		cm_partition_put_existing(result, &work.settings.axis, work.existing, lfirst(lc), action, detail);
	}
	list_sort(work.leaves, cm_partition_leaf_compare);
	foreach(lc, work.leaves)
	{
		CmLeaf	   *leaf = lfirst(lc);

		if (leaf->obstacle == NULL)
			leaf->obstacle = cm_partition_leaf_taken(leaf);
		if (leaf->obstacle == NULL && leaf->kind == CM_LEAF_SPLIT)
			leaf->obstacle = cm_partition_split_cost(work.rest);
		cm_partition_put_leaf(result, work.existing, leaf, action_for_leaf(leaf));
	}
	return (Datum) 0;
}

/*
 * _partition_plan(table_name, key_type, period, ahead, start_at, timezone,
 * at, epoch): the pure planner on an empty table, for tests at any time
 */
Datum
cm__partition_plan(PG_FUNCTION_ARGS)
{
	char	   *table_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid			key_type = PG_GETARG_OID(1);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CmPartitionSettings settings = {0};
	ListCell   *lc;

	settings.axis = cm_axis(key_type, PG_ARGISNULL(7) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(7)),
							cm_axis_zone(text_to_cstring(PG_GETARG_TEXT_PP(5))));
	settings.period = cm_partition_period(PG_GETARG_INTERVAL_P(2), key_type);
	settings.ahead = PG_GETARG_INT32(3);
	settings.has_start = true;
	settings.start = cm_axis_point(&settings.axis, PG_GETARG_TIMESTAMPTZ(4));

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, cm_partition_plan(&settings, NIL, cm_axis_point(&settings.axis, PG_GETARG_TIMESTAMPTZ(6))))
	{
		CmPartitionPlanned *planned = lfirst(lc);
		PartitionRow row = {.axis = &settings.axis,.from = planned->from,.to = planned->to,.action = "create"};

		row.name = cm_partition_name(table_name, planned->suffix);
		put_row(result, &row);
	}
	return (Datum) 0;
}

/* Tell the caller how it went with a set; false if it failed. */
static bool
tell_outcome(const CmJobCall *target)
{
	if (target->status == NULL)
		ereport(WARNING,
				(errmsg("partition set %s was not rolled", target->name),
				 errdetail("Its worker ended before."),
				 errhint("More details are in the server log.")));
	else if (strcmp(target->status, "succeeded") == 0)
		ereport(NOTICE,
				(errmsg("%s: %s", target->name, target->message ? target->message : "done")));
	else if (strcmp(target->status, "deferred") == 0)
		ereport(WARNING,
				(errmsg("partition set %s was put off", target->name),
				 target->message ? errdetail("%s", target->message) : 0,
				 errhint("The set's job tries again by itself; see the view concertmaster.partition_sets.")));
	else
		ereport(WARNING,
				(errcode(target->sqlerrcode),
				 errmsg("could not roll partition set %s: %s", target->name,
						target->message ? target->message : "its worker ended before it recorded an outcome"),
				 target->detail ? errdetail("%s", target->detail) : 0,
				 target->hint ? errhint("%s", target->hint) : 0));
	return target->status != NULL &&
		(strcmp(target->status, "succeeded") == 0 || strcmp(target->status, "deferred") == 0);
}

/* Roll one set: its error is the caller's. */
static void
roll_one(FunctionCallInfo fcinfo, CmJobCall *target)
{
	target->status = cm_job_call(fcinfo, target->job_id, &target->message) ? "succeeded" : "deferred";
	(void) tell_outcome(target);
}

/* CALL roll_partitions(parent regclass) */
Datum
cm_roll_partitions(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	List	   *targets;
	int			total;
	int			failed = 0;
	ListCell   *lc;

	cm_require_nonatomic(fcinfo, "roll_partitions()");
	cm_require_primary("roll_partitions()");
	if (OidIsValid(parent))
		(void) cm_partition_open_door(parent, "roll_partitions()");
	cm_relations_reconcile();
	targets = cm_partition_sets_find(parent);
	total = list_length(targets);

	if (OidIsValid(parent))
	{
		if (targets == NIL)
			cm_partition_report_no_set(get_rel_name(parent));
		roll_one(fcinfo, linitial(targets));
		PG_RETURN_VOID();
	}
	targets = cm_partition_sets_busy(targets);
	if (list_length(targets) < total)
		ereport(NOTICE,
				(errmsg_plural("%d partition set has nothing to do",
							   "%d partition sets have nothing to do",
							   total - list_length(targets), total - list_length(targets))));
	cm_jobs_call(fcinfo, targets, "roll_partitions");
	foreach(lc, targets)
	{
		if (!tell_outcome(lfirst(lc)))
			failed++;
	}
	if (failed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not roll %d of %d partition sets", failed, total),
				 errdetail("The other sets were rolled and that is committed."),
				 errhint("See the warnings above and the view concertmaster.partition_sets.")));
	PG_RETURN_VOID();
}
