/*-------------------------------------------------------------------------
 *
 * partition_plan.c
 *	  Which partitions are to be made: settings + what exists + now -> a list.
 *
 * The grid of a set consists of labels: wall clock readings in the set's
 * zone, whole periods apart, starting from a fixed origin (1 January 2000 for
 * months, Monday 3 January 2000 for days and hours, so weeks begin on
 * Mondays).  Calendar arithmetic is done on labels, where every day has 24
 * hours; a label is turned into an instant only at the end, if the key is a
 * timestamptz.  The bounds of neighbours are the same label turned once, so
 * they meet whatever the clocks do: the day a clock goes forward is 23 hours
 * wide, the hour a clock goes back is two.  A label that no clock showed is
 * skipped, unless it opens a period that the clock did show.
 *
 * What exists is kept as it is: of each period in the window, the pieces that
 * no partition holds are planned, so a set made by hand with other bounds is
 * continued without a gap.
 *
 * Pure: no locks, no catalog, no clock but the "now" it is given.  Errors are
 * about its arguments.
 *
 * What it does not do: look at names that are taken (partition_leaf.c does).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "partition.h"

/* Monday, 3 January 2000, 00:00: origin of every grid that is not monthly. */
#define GRID_ORIGIN		(2 * USECS_PER_DAY)

/* Division that rounds down, for labels before the origin. */
static int64
floor_div(int64 a, int64 b)
{
	int64		q = a / b;

	return (a % b != 0 && a < 0) ? q - 1 : q;
}

static void
report_out_of_range(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("partition bound out of range"),
			 errdetail("A bound would lie outside the dates that PostgreSQL can represent.")));
}

/* The fields of a wall clock reading. */
static void
split_wall(Timestamp wall, struct pg_tm *tm, fsec_t *fsec)
{
	if (timestamp2tm(wall, NULL, tm, fsec, NULL, NULL) != 0)
		report_out_of_range();
}

/* What a clock in the zone shows at an instant. */
static Timestamp
wall_of(TimestampTz instant, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;
	Timestamp	wall;

	if (TIMESTAMP_NOT_FINITE(instant))
		return instant;
	if (timestamp2tm(instant, &tz, &tm, &fsec, NULL, zone) != 0 ||
		tm2timestamp(&tm, fsec, NULL, &wall) != 0)
		report_out_of_range();
	return wall;
}

/* The instant at which a clock in the zone shows wall. */
static TimestampTz
instant_of(Timestamp wall, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;
	TimestampTz instant;

	if (TIMESTAMP_NOT_FINITE(wall))
		return wall;
	split_wall(wall, &tm, &fsec);
	tz = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, fsec, &tz, &instant) != 0)
		report_out_of_range();
	return instant;
}

/* An instant as a point of the key's axis. */
int64
cm_partition_point(TimestampTz instant, Oid key_type, pg_tz *zone)
{
	return key_type == TIMESTAMPTZOID ? instant : wall_of(instant, zone);
}

/* A point of the key's axis as an instant. */
TimestampTz
cm_partition_instant(int64 point, Oid key_type, pg_tz *zone)
{
	return key_type == TIMESTAMPTZOID ? point : instant_of(point, zone);
}

/* The label at or before a wall clock reading. */
static Timestamp
label_floor(Timestamp wall, const CmPeriod *period)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int64		month;
	Timestamp	label;

	if (period->months == 0)
		return GRID_ORIGIN +
			floor_div(wall - GRID_ORIGIN, period->usecs) * period->usecs;

	split_wall(wall, &tm, &fsec);
	month = (tm.tm_year - 2000) * INT64CONST(12) + tm.tm_mon - 1;
	month = floor_div(month, period->months) * period->months;
	memset(&tm, 0, sizeof(tm));
	tm.tm_year = 2000 + floor_div(month, 12);
	tm.tm_mon = month - floor_div(month, 12) * 12 + 1;
	tm.tm_mday = 1;
	if (tm2timestamp(&tm, 0, NULL, &label) != 0)
		report_out_of_range();
	return label;
}

/* The label n periods after one. */
static Timestamp
label_step(Timestamp label, const CmPeriod *period, int n)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int64		month;
	Timestamp	result;

	if (period->months == 0)
	{
		result = label + n * period->usecs;
		if (!IS_VALID_TIMESTAMP(result))
			report_out_of_range();
		return result;
	}
	split_wall(label, &tm, &fsec);
	month = tm.tm_year * INT64CONST(12) + tm.tm_mon - 1 + (int64) n * period->months;
	tm.tm_year = floor_div(month, 12);
	tm.tm_mon = month - floor_div(month, 12) * 12 + 1;
	if (tm2timestamp(&tm, fsec, NULL, &result) != 0)
		report_out_of_range();
	return result;
}

/* Does a period begin at this label, as clocks in the zone go? */
static bool
label_exists(Timestamp label, const CmPartitionSettings *settings)
{
	if (settings->key_type != TIMESTAMPTZOID)
		return true;
	return label_floor(wall_of(instant_of(label, settings->zone), settings->zone),
					   &settings->period) == label;
}

/* A label as a point of the key's axis. */
static int64
label_point(Timestamp label, const CmPartitionSettings *settings)
{
	return settings->key_type == TIMESTAMPTZOID ? instant_of(label, settings->zone) : label;
}

/* The name's suffix for a partition that starts at a wall clock reading. */
static void
format_suffix(char *buf, size_t size, Timestamp wall, const CmPeriod *period)
{
	struct pg_tm tm;
	fsec_t		fsec;

	split_wall(wall, &tm, &fsec);
	if (tm.tm_year < 1)
		report_out_of_range();
	if (tm.tm_sec != 0)
		snprintf(buf, size, "_%04d_%02d_%02d_%02d%02d%02d", tm.tm_year, tm.tm_mon,
				 tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
	else if (tm.tm_hour != 0 || tm.tm_min != 0 ||
			 (period->months == 0 && period->usecs % USECS_PER_DAY != 0))
		snprintf(buf, size, "_%04d_%02d_%02d_%02d%02d", tm.tm_year, tm.tm_mon,
				 tm.tm_mday, tm.tm_hour, tm.tm_min);
	else if (tm.tm_mday != 1 || period->months == 0)
		snprintf(buf, size, "_%04d_%02d_%02d", tm.tm_year, tm.tm_mon, tm.tm_mday);
	else if (tm.tm_mon != 1 || period->months % 12 != 0)
		snprintf(buf, size, "_%04d_%02d", tm.tm_year, tm.tm_mon);
	else
		snprintf(buf, size, "_%04d", tm.tm_year);
}

/* Add one partition to the plan. */
static List *
plan_piece(List *plan, int64 from, int64 to, const CmPartitionSettings *settings,
		   bool whole, Timestamp label)
{
	CmPartitionPlanned *planned;

	if (list_length(plan) >= CM_PARTITION_LIMIT)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d partitions would have to be made", CM_PARTITION_LIMIT),
				 errhint("Choose a longer period, a later start or fewer partitions ahead.")));
	planned = palloc0(sizeof(CmPartitionPlanned));
	planned->from = from;
	planned->to = to;
	if (!whole)
		label = settings->key_type == TIMESTAMPTZOID ? wall_of(from, settings->zone) : from;
	format_suffix(planned->suffix, sizeof(planned->suffix), label, &settings->period);
	/* A piece that starts within a month must not take the month's own name. */
	if (!whole && settings->period.months > 0)
	{
		CmPeriod	day = {0, USECS_PER_DAY};

		format_suffix(planned->suffix, sizeof(planned->suffix), label, &day);
	}
	return lappend(plan, planned);
}

/* list_sort comparator: the default partition last, the others by bound. */
static int
compare_partitions(const ListCell *a, const ListCell *b)
{
	const CmPartition *x = lfirst(a);
	const CmPartition *y = lfirst(b);

	if (x->is_default != y->is_default)
		return x->is_default ? 1 : -1;
	return x->from < y->from ? -1 : (x->from > y->from ? 1 : 0);
}

/* Plan what of from..to no partition of the sorted list holds. */
static List *
plan_period(List *plan, int64 from, int64 to, Timestamp label,
			const CmPartitionSettings *settings, const List *sorted)
{
	int64		at = from;
	ListCell   *cell;

	foreach(cell, sorted)
	{
		CmPartition *partition = lfirst(cell);

		if (partition->is_default || partition->from >= to)
			break;
		if (partition->to <= at)
			continue;
		if (partition->from > at)
			plan = plan_piece(plan, at, partition->from, settings, false, label);
		at = partition->to;
		if (at >= to)
			return plan;
	}
	return plan_piece(plan, at, to, settings, at == from, label);
}

/*
 * The partitions to make, oldest first, as CmPartitionPlanned: everything
 * that is not held yet from the start (or the present period) to the end of
 * the last period ahead.
 */
List *
cm_partition_plan(const CmPartitionSettings *settings, const List *existing,
				  TimestampTz now)
{
	const CmPeriod *period = &settings->period;
	TimestampTz start = settings->has_start ? settings->start_at : now;
	Timestamp	label = label_floor(wall_of(start, settings->zone), period);
	Timestamp	end = label_floor(wall_of(Max(start, now), settings->zone), period);
	List	   *sorted = list_copy(existing);
	List	   *plan = NIL;

	list_sort(sorted, compare_partitions);
	end = label_step(end, period, settings->ahead + 1);
	while (!label_exists(label, settings))
		label = label_step(label, period, -1);

	while (label < end)
	{
		Timestamp	next = label_step(label, period, 1);

		while (!label_exists(next, settings))
			next = label_step(next, period, 1);
		plan = plan_period(plan, label_point(label, settings),
						   label_point(next, settings), label, settings, sorted);
		label = next;
	}
	return plan;
}

/*
 * A plan in the order in which to carry it out: what holds the given point or
 * later ones first, oldest first; then the past, newest first.
 */
List *
cm_partition_urgent_first(const List *plan, int64 point)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, plan)
	{
		if (((CmPartitionPlanned *) lfirst(cell))->to > point)
			result = lappend(result, lfirst(cell));
	}
	for (int i = list_length(plan) - 1; i >= 0; i--)
	{
		if (((CmPartitionPlanned *) list_nth(plan, i))->to <= point)
			result = lappend(result, list_nth(plan, i));
	}
	return result;
}

/* The partition that holds one calendar month, whatever exists. */
CmPartitionPlanned *
cm_partition_month(const CmPartitionSettings *settings, int year, int month)
{
	CmPartitionPlanned *planned = palloc0(sizeof(CmPartitionPlanned));
	CmPeriod	period = {1, 0};
	struct pg_tm tm;
	Timestamp	label;

	memset(&tm, 0, sizeof(tm));
	tm.tm_year = year;
	tm.tm_mon = month;
	tm.tm_mday = 1;
	if (tm2timestamp(&tm, 0, NULL, &label) != 0)
		report_out_of_range();
	planned->from = label_point(label, settings);
	planned->to = label_point(label_step(label, &period, 1), settings);
	format_suffix(planned->suffix, sizeof(planned->suffix), label, &period);
	return planned;
}

/*
 * table || suffix, if that is short enough for a name; else the table's name
 * is cut and a hash of the whole of it put in, so that two long names with
 * the same beginning do not meet.
 */
char *
cm_partition_name(const char *table, const char *suffix)
{
	int			room = NAMEDATALEN - 1 - strlen(suffix);
	int			length = strlen(table);
	uint32		hash;

	if (length <= room)
		return psprintf("%s%s", table, suffix);
	hash = DatumGetUInt32(hash_any((const unsigned char *) table, length));
	length = pg_mbcliplen(table, length, room - 9);
	return psprintf("%.*s_%08x%s", length, table, hash, suffix);
}

/*
 * A period as the planner wants it.  Refuses what is no width: zero, negative,
 * fractions of a second, months mixed with days, parts of a day for a date.
 */
CmPeriod
cm_partition_period(const Interval *period, Oid key_type)
{
	CmPeriod	result = {period->month, 0};
	int64		usecs = period->time;
	const char *detail = NULL;

	if (pg_mul_s64_overflow(period->day, USECS_PER_DAY, &result.usecs) ||
		pg_add_s64_overflow(result.usecs, usecs, &result.usecs))
		report_out_of_range();

	if (period->month < 0 || period->day < 0 || period->time < 0 ||
		(period->month == 0 && result.usecs == 0))
		detail = "The period of a partition set must be positive.";
	else if (period->month != 0 && result.usecs != 0)
		detail = "A period counts months, or days and hours, but not both: months differ in length.";
	else if (result.usecs % USECS_PER_SEC != 0)
		detail = "A period must be a whole number of seconds.";
	else if (key_type == DATEOID && result.usecs % USECS_PER_DAY != 0)
		detail = "The partition key is a date, so a period must be a whole number of days.";
	else if (result.usecs > 100000 * USECS_PER_DAY || period->month > 12000)
		detail = "A period can be at most 1000 years long.";

	if (detail != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid period for a partition set"),
				 errdetail("%s", detail),
				 errhint("Use for instance '1 month', '1 week' or '1 day'.")));
	return result;
}

/* A time zone by name; an error if there is none. */
pg_tz *
cm_partition_zone(const char *name)
{
	pg_tz	   *zone = pg_tzset(name);

	if (zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name),
				 errhint("See the view pg_timezone_names.")));
	if (!pg_tz_acceptable(zone))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" appears to use leap seconds", name),
				 errdetail("PostgreSQL does not support leap seconds.")));
	return zone;
}

/* A finite point, as text that every DateStyle and TimeZone reads alike. */
char *
cm_partition_literal(int64 point, Oid key_type)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char		buf[MAXDATELEN + 1];

	split_wall(point, &tm, &fsec);
	tm.tm_isdst = 0;			/* else the zone is left out */
	if (key_type == DATEOID)
		EncodeDateOnly(&tm, USE_ISO_DATES, buf);
	else
		EncodeDateTime(&tm, fsec, key_type == TIMESTAMPTZOID, 0, NULL, USE_ISO_DATES, buf);
	return pstrdup(buf);
}

/* A range for a message. */
char *
cm_partition_range_text(int64 from, int64 to, Oid key_type)
{
	return psprintf("from %s to %s",
					from == DT_NOBEGIN ? "the beginning" : cm_partition_literal(from, key_type),
					to == DT_NOEND ? "the end" : cm_partition_literal(to, key_type));
}

/*
 * Up to where partitions hold every value from the given point on, without a
 * gap; the point itself if none holds it.
 */
int64
cm_partition_covered_until(const List *existing, int64 point)
{
	List	   *sorted = list_copy(existing);
	ListCell   *cell;

	list_sort(sorted, compare_partitions);
	foreach(cell, sorted)
	{
		CmPartition *partition = lfirst(cell);

		if (partition->is_default || partition->from > point)
			break;
		if (partition->to > point)
			point = partition->to;
	}
	return point;
}
