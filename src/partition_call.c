/*-------------------------------------------------------------------------
 *
 * partition_call.c
 *	  The SQL doors of the partition room.
 *
 * Functions (create_monthly_partition, create_partition_set,
 * alter_partition_set, forget_partition_set, plan_partitions) work in the
 * caller's transaction, so they are all or nothing: partitions are made in
 * subtransactions, under the deadline and with retries, and whatever locks a
 * partition took are held until the caller commits.  roll_partitions() is a
 * procedure: workers make the partitions, in transactions of their own.
 *
 * Every door asks first whether the caller owns the table, then works as the
 * table's owner (partition_leaf.c) or the extension's (catalog tables).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "partition.h"

PG_FUNCTION_INFO_V1(cm_create_monthly_partition);
PG_FUNCTION_INFO_V1(cm_create_partition_set);
PG_FUNCTION_INFO_V1(cm_alter_partition_set);
PG_FUNCTION_INFO_V1(cm_forget_partition_set);
PG_FUNCTION_INFO_V1(cm_forget_partition_set_by_name);
PG_FUNCTION_INFO_V1(cm_plan_partitions);
PG_FUNCTION_INFO_V1(cm_roll_partitions);
PG_FUNCTION_INFO_V1(cm__partition_plan);

/* Refuse NULL where a value is needed. */
static void
require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

/* Refuse on a standby and in a read-only transaction. */
static void
require_writable(const char *what)
{
	cm_require_primary(what);
	PreventCommandIfReadOnly(what);
}

/* What every door that changes a table asks first.  Returns the key's type. */
static Oid
open_door(Oid parent, const char *what)
{
	require_writable(what);
	if (!OidIsValid(parent) || get_rel_name(parent) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", parent)));
	cm_relation_require_owner(parent);
	return cm_partition_key_type(parent);
}

/* The lock was not to be had: say by whom. */
static void
report_deferred(const CmLeaf *leaf)
{
	int			pid = cm_partition_blocker(leaf->parent);

	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not make partition \"%s\" of table \"%s\" in time",
					leaf->name, get_rel_name(leaf->parent)),
			 pid != 0 ? errdetail("Process %d holds a lock that is needed.", pid) :
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
					   cm_partition_range_text(leaf->from, leaf->to, leaf->key_type),
					   get_rel_name(other->relid),
					   cm_partition_range_text(other->from, other->to, leaf->key_type)),
			 errhint("Choose a month that no partition holds any part of, or see concertmaster.create_partition_set(), which fills the gaps between partitions.")));
}

/* create_monthly_partition(table_name text, start_date date) */
Datum
cm_create_monthly_partition(PG_FUNCTION_ARGS)
{
	char	   *table_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	DateADT		date = PG_GETARG_DATEADT(1);
	CmPartitionSettings settings = {0};
	char	   *schema_part;
	char	   *name_part;
	Oid			parent = cm_relation_parse(table_name, &schema_part, &name_part);
	CmPartitionPlanned *planned;
	CmLeaf	   *leaf;
	int			year;
	int			month;
	int			day;

	require_writable("create_monthly_partition()");
	if (!OidIsValid(parent))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", table_name),
				 errhint("Name the table as in SQL: with its schema if it is not in the search_path, quoted if it has capitals.")));
	if (DATE_NOT_FINITE(date))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("start date of a partition must be finite")));
	settings.key_type = open_door(parent, "create_monthly_partition()");
	cm_relations_reconcile();

	/* Outside a set, months begin where the session's literals would put them. */
	if (!cm_partition_settings(parent, &settings))
		settings.zone = session_timezone;
	j2date(date + POSTGRES_EPOCH_JDATE, &year, &month, &day);
	planned = cm_partition_month(&settings, year, month);
	leaf = cm_partition_leaf(parent, settings.key_type, planned);

	for (;;)
	{
		CmPartition *other = cm_partition_overlapping(cm_partition_existing(parent),
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

/* Refuse settings that no table could have. */
static void
check_numbers(int ahead, bool has_start, TimestampTz start_at)
{
	if (ahead < 0 || ahead > CM_PARTITION_LIMIT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid number of partitions ahead: %d", ahead),
				 errdetail("It must be between 0 and %d.", CM_PARTITION_LIMIT)));
	if (has_start && TIMESTAMP_NOT_FINITE(start_at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("start of a partition set must be finite")));
}

/* Write the set's row.  Where all is given it may be new; otherwise what is NULL stays. */
static void
write_set(Oid parent, const Interval *period, const int *ahead,
		  const TimestampTz *start_at, const char *timezone)
{
	Oid			types[6] = {TEXTOID, TEXTOID, INTERVALOID, INT4OID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', 'n', 'n', 'n', 'n'};
	const char *sql;
	CmScope		scope;

	values[0] = CStringGetTextDatum(get_namespace_name(get_rel_namespace(parent)));
	values[1] = CStringGetTextDatum(get_rel_name(parent));
	values[2] = values[3] = values[4] = values[5] = (Datum) 0;
	if (period != NULL)
		values[2] = IntervalPGetDatum(period), nulls[2] = ' ';
	if (ahead != NULL)
		values[3] = Int32GetDatum(*ahead), nulls[3] = ' ';
	if (start_at != NULL)
		values[4] = TimestampTzGetDatum(*start_at), nulls[4] = ' ';
	if (timezone != NULL)
		values[5] = CStringGetTextDatum(timezone), nulls[5] = ' ';

	cm_catalog_enter(&scope);
	cm_relation_remember(parent);
	if (period != NULL && ahead != NULL && timezone != NULL)
		sql = "INSERT INTO concertmaster.partition_set"
			" (schema_name, table_name, period, ahead, start_at, timezone)"
			" VALUES ($1, $2, $3, $4, $5, $6)"
			" ON CONFLICT (schema_name, table_name) DO UPDATE SET period = EXCLUDED.period,"
			" ahead = EXCLUDED.ahead, start_at = EXCLUDED.start_at, timezone = EXCLUDED.timezone";
	else
		sql = "UPDATE concertmaster.partition_set SET"
			" period = coalesce($3, period), ahead = coalesce($4, ahead),"
			" start_at = coalesce($5, start_at), timezone = coalesce($6, timezone)"
			" WHERE schema_name = $1 AND table_name = $2";
	SPI_execute_with_args(sql, 6, types, values, nulls, false, 0);
	cm_scope_leave(&scope);
}

/* How often the set is looked at: hourly, or often enough for short periods. */
static void
schedule_roll(Oid parent, const CmPartitionSettings *settings, bool run_now)
{
	Interval	every = {.time = USECS_PER_HOUR};

	if (settings->period.months == 0 && settings->period.usecs / 2 < every.time)
		every.time = Max(USECS_PER_SEC, settings->period.usecs / 2);
	(void) cm_job_upsert(CM_JOB_ROLL, parent, 0, &every, run_now);
}

/* One row of what a door did, or of what it would do. */
static void
put_row(ReturnSetInfo *result, const CmPartitionSettings *settings, const char *name,
		const CmPartition *existing, const CmPartitionPlanned *planned, const char *action)
{
	NameData	partition;
	bool		unbounded = existing != NULL && existing->is_default;
	Datum		values[4];
	bool		nulls[4] = {false, unbounded, unbounded, false};

	namestrcpy(&partition, name);
	values[0] = NameGetDatum(&partition);
	values[1] = TimestampTzGetDatum(cm_partition_instant(existing ? existing->from : planned->from,
														 settings->key_type, settings->zone));
	values[2] = TimestampTzGetDatum(cm_partition_instant(existing ? existing->to : planned->to,
														 settings->key_type, settings->zone));
	values[3] = CStringGetTextDatum(action);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* list_sort comparator by lower bound, the default partition last. */
static int
compare_existing(const ListCell *a, const ListCell *b)
{
	const CmPartition *x = lfirst(a);
	const CmPartition *y = lfirst(b);

	if (x->is_default != y->is_default)
		return x->is_default ? 1 : -1;
	return x->from < y->from ? -1 : (x->from > y->from ? 1 : 0);
}

/* Rows for the partitions that are there. */
static void
put_existing(ReturnSetInfo *result, const CmPartitionSettings *settings, List *existing)
{
	ListCell   *cell;

	list_sort(existing, compare_existing);
	foreach(cell, existing)
	{
		CmPartition *partition = lfirst(cell);
		char	   *name = get_rel_name(partition->relid);

		if (name != NULL)
			put_row(result, settings, name, partition, NULL, "kept");
	}
}

/*
 * Make what the plan wants, in the caller's transaction, and say so row by
 * row.  Returns false if something was left to the job: a lock was not to be
 * had, or it was too much for one transaction.
 *
 * Where attaching locks tables that others use, one partition is enough: they
 * would wait until the caller commits, for all that comes between.
 */
static bool
make_planned(Oid parent, const CmPartitionSettings *settings, ReturnSetInfo *result)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	int64		point = cm_partition_point(now, settings->key_type, settings->zone);
	List	   *existing = cm_partition_existing(parent);
	List	   *plan;
	int			limit = cm_partition_locks_others(parent) ? 1 : CM_PARTITION_AT_ONCE;
	bool		deferred = false;
	int			made = 0;
	ListCell   *cell;

	put_existing(result, settings, existing);
restart:
	plan = cm_partition_plan(settings, existing, now);
	foreach(cell, cm_partition_urgent_first(plan, point))
	{
		CmLeaf	   *leaf = cm_partition_leaf(parent, settings->key_type, lfirst(cell));
		CmLeafResult came_to = CM_LEAF_DEFERRED;

		if (!deferred && made < limit)
			came_to = cm_partition_make_here(leaf);
		if (came_to == CM_LEAF_STALE)
		{
			existing = cm_partition_existing(parent);
			goto restart;
		}
		made++;
		deferred = came_to == CM_LEAF_DEFERRED;
		put_row(result, settings, leaf->name, NULL, lfirst(cell),
				deferred ? "deferred" : "created");
	}
	return !deferred;
}

/*
 * Make the partitions of a set whose row has just been written, and its job.
 * What could not be made is made by the job, which then is due at once.
 */
static void
apply_set(Oid parent, ReturnSetInfo *result)
{
	CmPartitionSettings settings = {0};
	bool		complete;

	if (!cm_partition_settings(parent, &settings))
		elog(ERROR, "partition set of table %u was not written", parent);
	complete = make_planned(parent, &settings, result);
	schedule_roll(parent, &settings, !complete);
	if (!complete)
		ereport(NOTICE,
				(errmsg("some partitions of table \"%s\" are not made yet",
						get_rel_name(parent)),
				 errdetail("A lock that is needed was not available, or they are too many for one transaction, or others would wait for its end."),
				 errhint("The set's job goes on with them; see the view concertmaster.partition_sets.")));
}

/* create_partition_set(parent, period, ahead, start_at, timezone) */
Datum
cm_create_partition_set(PG_FUNCTION_ARGS)
{
	Oid			parent;
	Oid			key_type;
	Interval   *period;
	int			ahead;
	TimestampTz start_at = 0;
	char	   *timezone;

	require_argument(fcinfo, 0, "parent");
	require_argument(fcinfo, 1, "period");
	require_argument(fcinfo, 2, "ahead");
	require_argument(fcinfo, 4, "timezone");
	parent = PG_GETARG_OID(0);
	period = PG_GETARG_INTERVAL_P(1);
	ahead = PG_GETARG_INT32(2);
	if (!PG_ARGISNULL(3))
		start_at = PG_GETARG_TIMESTAMPTZ(3);
	timezone = text_to_cstring(PG_GETARG_TEXT_PP(4));

	key_type = open_door(parent, "create_partition_set()");
	(void) cm_partition_period(period, key_type);
	(void) cm_partition_zone(timezone);
	check_numbers(ahead, !PG_ARGISNULL(3), start_at);

	InitMaterializedSRF(fcinfo, 0);
	cm_relations_reconcile();
	write_set(parent, period, &ahead, PG_ARGISNULL(3) ? NULL : &start_at, timezone);
	apply_set(parent, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/* A table that is no set. */
static void
report_no_set(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("table \"%s\" is not a partition set", name),
			 errhint("Call concertmaster.create_partition_set() for it.")));
}

/* alter_partition_set(parent, period, ahead, start_at, timezone) */
Datum
cm_alter_partition_set(PG_FUNCTION_ARGS)
{
	CmPartitionSettings settings = {0};
	Oid			parent;
	Oid			key_type;
	Interval   *period = PG_ARGISNULL(1) ? NULL : PG_GETARG_INTERVAL_P(1);
	int			ahead = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT32(2);
	TimestampTz start_at = PG_ARGISNULL(3) ? 0 : PG_GETARG_TIMESTAMPTZ(3);
	char	   *timezone = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4));

	require_argument(fcinfo, 0, "parent");
	parent = PG_GETARG_OID(0);
	key_type = open_door(parent, "alter_partition_set()");
	cm_relations_reconcile();
	if (!cm_partition_settings(parent, &settings))
		report_no_set(get_rel_name(parent));
	if (period != NULL)
		(void) cm_partition_period(period, key_type);
	if (timezone != NULL)
		(void) cm_partition_zone(timezone);
	check_numbers(ahead, !PG_ARGISNULL(3), start_at);

	InitMaterializedSRF(fcinfo, 0);
	write_set(parent, period, PG_ARGISNULL(2) ? NULL : &ahead,
			  PG_ARGISNULL(3) ? NULL : &start_at, timezone);
	apply_set(parent, (ReturnSetInfo *) fcinfo->resultinfo);
	return (Datum) 0;
}

/* Delete the row of a set.  Returns whether there was one. */
static bool
delete_set(const char *schema_name, const char *table_name)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	CmScope		scope;
	bool		found;

	values[0] = CStringGetTextDatum(schema_name);
	values[1] = CStringGetTextDatum(table_name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("DELETE FROM concertmaster.partition_set"
						  " WHERE schema_name = $1 AND table_name = $2",
						  2, types, values, NULL, false, 0);
	found = SPI_processed > 0;
	cm_scope_leave(&scope);
	return found;
}

/* Drop what was to become a partition of a set that is no more. */
static void
sweep_here(Oid parent, const char *schema_name, const char *table_name)
{
	ListCell   *cell;

	foreach(cell, cm_partition_leftovers(parent, schema_name, table_name, GetUserId()))
	{
		CmLeftover *leftover = lfirst(cell);

		if (!cm_attempt_here(cm_partition_leftover_drop, leftover))
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
	if (!delete_set(get_namespace_name(get_rel_namespace(parent)), get_rel_name(parent)))
		report_no_set(get_rel_name(parent));
	(void) cm_job_remove(CM_JOB_ROLL, parent, 0);
	sweep_here(parent, get_namespace_name(get_rel_namespace(parent)), get_rel_name(parent));
}

/* forget_partition_set(parent regclass) */
Datum
cm_forget_partition_set(PG_FUNCTION_ARGS)
{
	require_writable("forget_partition_set()");
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

	require_writable("forget_partition_set()");
	if (OidIsValid(parent))
		forget(parent);
	else if (schema_part == NULL || !cm_relation_forget_job("roll", schema_part, table_part))
		report_no_set(name);
	else
	{
		(void) delete_set(schema_part, table_part);
		sweep_here(InvalidOid, schema_part, table_part);
	}
	PG_RETURN_VOID();
}

/* plan_partitions(parent): what the next roll would do, and what is kept */
Datum
cm_plan_partitions(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_GETARG_OID(0);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CmPartitionSettings settings = {0};
	List	   *existing;
	ListCell   *cell;

	if (get_rel_name(parent) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", parent)));
	cm_relation_require_owner(parent);
	(void) cm_partition_key_type(parent);
	if (!cm_partition_settings(parent, &settings))
		report_no_set(get_rel_name(parent));

	InitMaterializedSRF(fcinfo, 0);
	existing = cm_partition_existing(parent);
	put_existing(result, &settings, existing);
	foreach(cell, cm_partition_plan(&settings, existing, GetCurrentTransactionStartTimestamp()))
	{
		CmLeaf	   *leaf = cm_partition_leaf(parent, settings.key_type, lfirst(cell));

		put_row(result, &settings, leaf->name, NULL, lfirst(cell), "create");
	}
	return (Datum) 0;
}

/*
 * _partition_plan(table_name, key_type, period, ahead, start_at, timezone,
 * at): the pure planner on an empty table, for tests at any time
 */
Datum
cm__partition_plan(PG_FUNCTION_ARGS)
{
	char	   *table_name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	CmPartitionSettings settings = {0};
	ListCell   *cell;

	settings.key_type = PG_GETARG_OID(1);
	settings.period = cm_partition_period(PG_GETARG_INTERVAL_P(2), settings.key_type);
	settings.ahead = PG_GETARG_INT32(3);
	settings.has_start = true;
	settings.start_at = PG_GETARG_TIMESTAMPTZ(4);
	settings.zone = cm_partition_zone(text_to_cstring(PG_GETARG_TEXT_PP(5)));

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, cm_partition_plan(&settings, NIL, PG_GETARG_TIMESTAMPTZ(6)))
	{
		CmPartitionPlanned *planned = lfirst(cell);

		put_row(result, &settings, cm_partition_name(table_name, planned->suffix),
				NULL, planned, "create");
	}
	return (Datum) 0;
}

/* One set to roll. */
typedef struct RollTarget
{
	int64		job_id;
	char	   *name;
} RollTarget;

/* The jobs to run: of one table, or of every set that the caller may manage. */
static List *
find_targets(Oid parent)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2];
	List	   *targets = NIL;
	CmScope		scope;

	values[0] = ObjectIdGetDatum(parent);
	values[1] = ObjectIdGetDatum(GetUserId());
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT j.job_id, format('%I.%I', j.schema_name, j.relation_name)"
						  "  FROM concertmaster.job j"
						  "  JOIN concertmaster.relation_map m USING (schema_name, relation_name)"
						  "  JOIN pg_class c ON c.oid = m.relid"
						  " WHERE j.kind = 'roll' AND (c.oid = $1 OR $1 = 0)"
						  "   AND pg_has_role($2, c.relowner, 'USAGE')"
						  " ORDER BY j.schema_name, j.relation_name",
						  2, types, values, NULL, false, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);
		RollTarget *target = palloc(sizeof(RollTarget));
		bool		isnull;

		target->job_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
													 SPI_tuptable->tupdesc, 1, &isnull));
		target->name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
		targets = lappend(targets, target);
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return targets;
}

/* Roll one set and tell the caller how it went. */
static void
roll_target(FunctionCallInfo fcinfo, const RollTarget *target)
{
	char	   *message = NULL;

	if (cm_job_call(fcinfo, target->job_id, &message))
		ereport(NOTICE,
				(errmsg("%s: %s", target->name, message ? message : "done")));
	else
		ereport(WARNING,
				(errmsg("partition set %s was put off", target->name),
				 message ? errdetail("%s", message) : 0,
				 errhint("The set's job tries again by itself; see the view concertmaster.partition_sets.")));
}

/*
 * Roll one of several sets.  If its run failed, say so, and leave the
 * transaction in which that was found out.  Returns whether it went well.
 *
 * An interrupt or a lack of workers concerns every set and is thrown on.
 */
static bool
roll_or_warn(FunctionCallInfo fcinfo, const RollTarget *target)
{
	MemoryContext caller = CurrentMemoryContext;
	ErrorData  *edata;
	int			class;

	PG_TRY();
	{
		roll_target(fcinfo, target);
		edata = NULL;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		class = ERRCODE_TO_CATEGORY(edata->sqlerrcode);
		if (class == ERRCODE_OPERATOR_INTERVENTION || class == ERRCODE_INSUFFICIENT_RESOURCES ||
			class == ERRCODE_INTERNAL_ERROR)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	if (edata == NULL)
		return true;

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	SPI_rollback();
	SPI_finish();
	MemoryContextSwitchTo(caller);
	ereport(WARNING,
			(errcode(edata->sqlerrcode),
			 errmsg("could not roll partition set %s: %s", target->name, edata->message),
			 edata->detail ? errdetail("%s", edata->detail) : 0,
			 edata->hint ? errhint("%s", edata->hint) : 0));
	return false;
}

/* CALL roll_partitions(parent regclass) */
Datum
cm_roll_partitions(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	List	   *targets;
	int			failed = 0;
	ListCell   *cell;

	cm_require_nonatomic(fcinfo, "roll_partitions()");
	cm_require_primary("roll_partitions()");
	if (OidIsValid(parent))
		(void) open_door(parent, "roll_partitions()");
	cm_relations_reconcile();
	targets = find_targets(parent);

	if (OidIsValid(parent))
	{
		if (targets == NIL)
			report_no_set(get_rel_name(parent));
		roll_target(fcinfo, linitial(targets));
		PG_RETURN_VOID();
	}
	foreach(cell, targets)
	{
		if (!roll_or_warn(fcinfo, lfirst(cell)))
			failed++;
	}
	if (failed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not roll %d of %d partition sets", failed, list_length(targets)),
				 errdetail("The other sets were rolled and that is committed."),
				 errhint("See the warnings above and the view concertmaster.partition_sets.")));
	PG_RETURN_VOID();
}
