/*-------------------------------------------------------------------------
 *
 * matview_partition.c
 *	  Which rows of a view are made of the rows of one partition.
 *
 * A history (matview_keep.c) has to know of each row of the view which
 * partitions it is made of.  That is so where every table in the query that is
 * partitioned by range is partitioned by one column, a time, and the view is
 * grouped by a bucket of that column: then a partition's bounds are a range of
 * buckets.  cm_matview_history_check() says what is in the way, in the words
 * of explain_refresh().
 *
 * The range is to be neither too small, or rows would be lost, nor too large,
 * or rows would be kept before they are final.  Buckets do not decrease with
 * time, except where the clocks are set back; that reaches no further than
 * ZONE_SLACK.  So the first and the last bucket are looked for among those of
 * every minute within as much of either bound, since clocks are set back on
 * full minutes.  (Until 1972 some were not; buckets of less than a minute may
 * then be missed.)
 *
 * Locks: none but on system catalogs.  Nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "matview_history.h"

/* Wider than any change of a zone's offset, in minutes and days. */
#define ZONE_SLACK_MINUTES	(26 * 60)
#define ZONE_SLACK_DAYS		2

/* How a table is partitioned. */
typedef struct Partitioned
{
	bool		by_range;
	int			columns;
	AttrNumber	attno;			/* the first; 0: an expression */
	Oid			type;
} Partitioned;

static Partitioned
look_at(Oid relid)
{
	Partitioned result = {0};
	Relation	relation;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return result;
	relation = RelationIdGetRelation(relid);
	if (!RelationIsValid(relation))
		return result;
	if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		PartitionKey key = RelationGetPartitionKey(relation);

		result.by_range = get_partition_strategy(key) == PARTITION_STRATEGY_RANGE;
		result.columns = get_partition_natts(key);
		result.attno = get_partition_col_attnum(key, 0);
		result.type = get_partition_col_typid(key, 0);
	}
	RelationClose(relation);
	return result;
}

/* The key column that is a bucket of a column, told by its own rows; -1 if none. */
static int
bucket_of(const CmMatviewPlan *plan, const CmTracked *tracked, AttrNumber attno)
{
	for (int i = 0; i < plan->nkeys; i++)
	{
		const CmBucket *bucket = plan->keys[i].bucket;

		if (bucket != NULL && bucket->rti == tracked->rti && bucket->attno == attno &&
			(tracked->mask & (1U << i)) != 0)
			return i;
	}
	return -1;
}

/*
 * What is in the way of a history
 */

static CmMatviewCheck *
refuse(const char *reason_code, const char *detail, const char *hint)
{
	CmMatviewCheck *check = palloc0(sizeof(CmMatviewCheck));

	check->name = "history";
	check->reason_code = reason_code;
	check->detail = detail;
	check->hint = hint;
	return check;
}

/* The range table entries that are below a node of a FROM clause. */
static Bitmapset *
below(Node *node)
{
	Bitmapset  *result = NULL;
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
		return bms_make_singleton(((RangeTblRef *) node)->rtindex);
	if (IsA(node, JoinExpr))
		return bms_add_members(below(((JoinExpr *) node)->larg), below(((JoinExpr *) node)->rarg));
	foreach(lc, castNode(FromExpr, node)->fromlist)
		result = bms_add_members(result, below(lfirst(lc)));
	return result;
}

/* Can an outer join leave an entry's rows out and its other side's in? */
static bool
is_optional(Node *node, Index rti)
{
	JoinExpr   *join;
	ListCell   *lc;

	if (IsA(node, FromExpr))
	{
		foreach(lc, ((FromExpr *) node)->fromlist)
		{
			if (is_optional(lfirst(lc), rti))
				return true;
		}
		return false;
	}
	if (!IsA(node, JoinExpr))
		return false;
	join = (JoinExpr *) node;
	if (join->jointype != JOIN_INNER && join->jointype != JOIN_RIGHT && bms_is_member(rti, below(join->rarg)))
		return true;
	if (join->jointype != JOIN_INNER && join->jointype != JOIN_LEFT && bms_is_member(rti, below(join->larg)))
		return true;
	return is_optional(join->larg, rti) || is_optional(join->rarg, rti);
}

/* How often a table is in the query. */
static int
times_in(const CmMatviewPlan *plan, Oid relid)
{
	int			times = 0;
	ListCell   *lc;

	foreach(lc, plan->tracked)
		times += ((CmTracked *) lfirst(lc))->relid == relid;
	return times;
}

/* What is in the way in one table that is partitioned by range; NULL if nothing. */
static CmMatviewCheck *
check_source(const CmMatviewPlan *plan, const CmTracked *tracked, const Partitioned *partitioned)
{
	const char *name = cm_relation_quoted(tracked->relid);
	const char *column = partitioned->attno > 0 ? get_attname(tracked->relid, partitioned->attno, true) : NULL;

	if (partitioned->columns > 1 || column == NULL ||
		(partitioned->type != DATEOID && partitioned->type != TIMESTAMPOID && partitioned->type != TIMESTAMPTZOID))
		return refuse("partition_key",
					  psprintf("Table %s is partitioned by something else than one column of type date, timestamp or timestamptz.", name),
					  "A history follows the time: partition the table by a column of one of these types.");
	if (times_in(plan, tracked->relid) > 1)
		return refuse("source_twice",
					  psprintf("Table %s is more than once in the query.", name),
					  "Write the query so that it reads the table once, for instance with FILTER.");
	if (is_optional((Node *) plan->query->jointree, tracked->rti))
		return refuse("source_optional",
					  psprintf("An outer join would keep rows whose partner in table %s has retired.", name),
					  "Use an inner join, or put the table on the side whose rows the join keeps.");
	if (bucket_of(plan, tracked, partitioned->attno) < 0)
		return refuse("no_bucket",
					  psprintf("The query is not grouped by column %s of table %s, which that is partitioned by, or by a bucket of it.",
							   quote_identifier(column), name),
					  psprintf("Group by date_trunc('day', %s), say, and select it.", quote_identifier(column)));
	return NULL;
}

/* The first check that the query did not pass. */
static const CmMatviewCheck *
failed_check(const CmMatviewPlan *plan)
{
	ListCell   *lc;

	foreach(lc, plan->checks)
	{
		const CmMatviewCheck *check = lfirst(lc);

		if (!check->ok)
			return refuse(check->reason_code,
						  psprintf("It is not refreshed incrementally: %s",
								   check->detail != NULL ? check->detail : check->reason_code),
						  check->hint != NULL ? check->hint : "See concertmaster.explain_refresh().");
	}
	return refuse("not_incremental", "It is not refreshed incrementally.", "See concertmaster.explain_refresh().");
}

/* Why a view cannot have a history; NULL if it can. */
const CmMatviewCheck *
cm_matview_history_check(const CmMatviewPlan *plan)
{
	int			sources = 0;
	ListCell   *lc;

	if (!plan->incremental)
		return failed_check(plan);
	if (plan->now_matters)
		return refuse("now", "Its rows leave it as the time goes, before their partitions retire.",
					  "Take now() out of its query: the retention of its table bounds what it holds.");
	foreach(lc, plan->tracked)
	{
		const CmTracked *tracked = lfirst(lc);
		Partitioned partitioned = look_at(tracked->relid);
		CmMatviewCheck *check;

		if (!partitioned.by_range)
			continue;
		sources++;
		check = check_source(plan, tracked, &partitioned);
		if (check != NULL)
			return check;
	}
	if (sources == 0)
		return refuse("no_partitions", "No table of its query is partitioned by range.",
					  "Only what retires needs a history: see concertmaster.create_partition_set().");
	return NULL;
}

/*
 * The key column by which history and view are compared first, because it is
 * NULL in no row of a partition that can retire; -1 if there are several
 * sources, whose columns may be NULL in each other's rows.
 */
int
cm_matview_history_key(const CmMatviewPlan *plan)
{
	int			key = -1;
	ListCell   *lc;

	foreach(lc, plan->tracked)
	{
		const CmTracked *tracked = lfirst(lc);
		Partitioned partitioned = look_at(tracked->relid);

		if (!partitioned.by_range)
			continue;
		if (key >= 0)
			return -1;
		key = bucket_of(plan, tracked, partitioned.attno);
	}
	return key;
}

/*
 * The buckets of a partition
 */

/* An end of a partition as a raw time. */
static Datum
bound(List *datums, Oid type, bool upper)
{
	PartitionRangeDatum *datum = linitial_node(PartitionRangeDatum, datums);
	int64		number;

	if (datum->kind == PARTITION_RANGE_DATUM_MINVALUE)
		return cm_number_time(type, type == DATEOID ? DATEVAL_NOBEGIN : DT_NOBEGIN);
	if (datum->kind == PARTITION_RANGE_DATUM_MAXVALUE)
		return cm_number_time(type, type == DATEOID ? DATEVAL_NOEND : DT_NOEND);
	number = cm_time_number(type, castNode(Const, datum->value)->constvalue);
	return cm_number_time(type, number - (upper ? 1 : 0));
}

/* The first and the last raw time that a partition can hold; false if not known. */
static bool
read_bounds(Oid partition, Oid type, Datum *lo, Datum *hi)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(partition));
	bool		found = false;
	bool		isnull;
	Datum		value;

	if (!HeapTupleIsValid(tuple))
		return false;
	value = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relpartbound, &isnull);
	if (!isnull)
	{
		PartitionBoundSpec *spec = stringToNode(TextDatumGetCString(value));

		if (!spec->is_default && spec->strategy == PARTITION_STRATEGY_RANGE)
		{
			*lo = bound(spec->lowerdatums, type, false);
			*hi = bound(spec->upperdatums, type, true);
			found = true;
		}
	}
	ReleaseSysCache(tuple);
	return found;
}

/* The lowest or highest bucket within the slack of an end of a range, inwards. */
static Datum
outermost(const CmBucket *bucket, const char *zone, Datum end, Datum other_end, bool upper)
{
	int64		raw = cm_time_number(bucket->raw_type, end);
	int64		limit = cm_time_number(bucket->raw_type, other_end);
	int64		step = bucket->raw_type == DATEOID ? 1 : USECS_PER_MINUTE;
	int			steps = bucket->steps == NIL ? 0 :
		bucket->raw_type == DATEOID ? ZONE_SLACK_DAYS : ZONE_SLACK_MINUTES;
	int64		found = 0;

	if (!cm_bucket_is_safe(bucket, end))
		return cm_number_time(bucket->type, bucket->type == DATEOID ?
							  (upper ? DATEVAL_NOEND : DATEVAL_NOBEGIN) : (upper ? DT_NOEND : DT_NOBEGIN));
	for (int i = 0; i <= steps; i++)
	{
		Datum		value = cm_number_time(bucket->raw_type, raw);
		int64		number;

		if (!cm_bucket_is_safe(bucket, value))
			break;
		number = cm_time_number(bucket->type, cm_bucket_apply(bucket, zone, value));
		if (i == 0 || (upper ? number > found : number < found))
			found = number;
		raw += upper ? -step : step;
		if (upper ? raw < limit : raw > limit)
			break;
	}
	return cm_number_time(bucket->type, found);
}

/*
 * The buckets of the view that rows of a partition can be in, whose direct
 * parent is that; false if the view's query does not tell.
 */
bool
cm_matview_history_range(const CmMatviewPlan *plan, const char *zone, Oid parent, Oid partition,
						 CmHistoryRange *range)
{
	List	   *roots = lcons_oid(parent, get_rel_relispartition(parent) ? get_partition_ancestors(parent) : NIL);
	Partitioned partitioned = look_at(parent);
	char	   *column = partitioned.by_range && partitioned.columns == 1 && partitioned.attno > 0 ?
		get_attname(parent, partitioned.attno, true) : NULL;
	ListCell   *lc;

	range->key = -1;
	foreach(lc, plan->tracked)
	{
		const CmTracked *tracked = lfirst(lc);
		const CmBucket *bucket;
		Datum		lo;
		Datum		hi;

		if (!list_member_oid(roots, tracked->relid))
			continue;
		/* Twice in the query, one way or another. */
		if (range->key >= 0 || column == NULL)
			return false;
		range->key = bucket_of(plan, tracked, get_attnum(tracked->relid, column));
		if (range->key < 0)
			return false;
		bucket = plan->keys[range->key].bucket;
		if (bucket->raw_type != partitioned.type || !read_bounds(partition, bucket->raw_type, &lo, &hi))
			return false;
		range->first = outermost(bucket, zone, lo, hi, false);
		range->last = outermost(bucket, zone, hi, lo, true);
	}
	return range->key >= 0;
}

/* now(), as raw times of a type are written. */
static Datum
now_as(Oid type, const char *zone)
{
	Datum		now = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());

	if (type == TIMESTAMPTZOID)
		return now;
	now = DirectFunctionCall2(timestamptz_zone, CStringGetTextDatum(zone), now);
	return type == DATEOID ? DirectFunctionCall1(timestamp_date, now) : now;
}

/* Can no time that is still to come be in a bucket of the range? */
bool
cm_matview_history_is_over(const CmMatviewPlan *plan, const char *zone, const CmHistoryRange *range)
{
	const CmBucket *bucket = plan->keys[range->key].bucket;
	CmRawRange	raw;

	return !cm_bucket_preimage(bucket, zone, range->last, &raw) ||
		cm_time_number(bucket->raw_type, raw.hi) <=
		cm_time_number(bucket->raw_type, now_as(bucket->raw_type, zone));
}

/* Does what is dirty concern rows of the range? */
bool
cm_matview_history_touched(const CmMatviewPlan *plan, const CmHistoryRange *range, const CmDirty *dirty)
{
	Oid			type = plan->keys[range->key].bucket->type;
	int64		first = cm_time_number(type, range->first);
	int64		last = cm_time_number(type, range->last);
	ListCell   *lc;

	if (dirty->stale != NULL || dirty->ranges != NIL)
		return true;
	foreach(lc, dirty->patterns)
	{
		const CmPattern *pattern = lfirst(lc);
		int64		number;

		if ((pattern->mask & (1U << range->key)) == 0)
			return true;
		if (pattern->nulls[range->key])
			continue;
		number = cm_time_number(type, pattern->values[range->key]);
		if (number >= first && number <= last)
			return true;
	}
	return false;
}
