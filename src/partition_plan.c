/*-------------------------------------------------------------------------
 *
 * partition_plan.c
 *	  Which partitions are to be made, which have had their time: settings +
 *	  what exists + now -> lists.
 *
 * The grid of a set consists of labels: wall clock readings in the set's
 * zone, whole periods apart, starting from a fixed origin (1 January 2000 for
 * months, Monday 3 January 2000 for days and hours, so weeks begin on
 * Mondays; 0 for numbers).  Calendar arithmetic is done on labels, where
 * every day has 24 hours; a label is turned into a point only at the end
 * (partition_axis.c).  The bounds of neighbours are the same label turned
 * once, so they meet whatever the clocks do: the day a clock goes forward is
 * 23 hours wide, the hour a clock goes back is two.  A label that no clock
 * showed is skipped, unless it opens a period that the clock did show.
 *
 * What exists is kept as it is: of each period in the window, the pieces that
 * no partition holds are planned, so a set made by hand with other bounds is
 * continued without a gap.  A set that nobody rolled for so long that nothing
 * holds now is continued from where it ended, unless that would be
 * CATCH_UP_LIMIT periods or more.
 *
 * A partition has had its time when all that it can hold is older than now
 * minus the retention, reckoned in the set's zone.
 *
 * Pure: no locks, no catalog, no clock but the "now" it is given.  Errors are
 * about its arguments.
 *
 * What it does not do: look at names that are taken (partition_leaf.c does),
 * or at rows (partition_default.c does).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/int.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "partition_pure.h"

/* Monday, 3 January 2000, 00:00: origin of every grid that is not monthly. */
#define GRID_ORIGIN		(2 * USECS_PER_DAY)

/* A set that ended longer ago than this many periods is begun anew. */
#define CATCH_UP_LIMIT	1000

/* How many periods back rows of a default partition are given their own. */
#define GAP_LIMIT		5000

/* Division that rounds down, for labels before the origin. */
static int64
floor_div(int64 a, int64 b)
{
	int64		q = a / b;

	return (a % b != 0 && a < 0) ? q - 1 : q;
}

/* Are the labels of this set numbers? */
static bool
counts_numbers(const CmPartitionSettings *settings)
{
	return !cm_axis_is_time(&settings->axis);
}

/* The grid's label at or before a label. */
static int64
label_floor(int64 label, const CmPartitionSettings *settings)
{
	const CmPeriod *period = &settings->period;
	int64		origin = counts_numbers(settings) ? 0 : GRID_ORIGIN;
	struct pg_tm tm;
	fsec_t		fsec;
	int64		month;
	Timestamp	result;

	if (period->months == 0)
	{
		if (pg_mul_s64_overflow(floor_div(label - origin, period->length), period->length, &result) ||
			pg_add_s64_overflow(result, origin, &result))
			cm_axis_report_out_of_range();
		return result;
	}
	cm_axis_split(label, &tm, &fsec);
	month = (tm.tm_year - 2000) * INT64CONST(12) + tm.tm_mon - 1;
	month = floor_div(month, period->months) * period->months;
	memset(&tm, 0, sizeof(tm));
	tm.tm_year = 2000 + floor_div(month, 12);
	tm.tm_mon = month - floor_div(month, 12) * 12 + 1;
	tm.tm_mday = 1;
	if (tm2timestamp(&tm, 0, NULL, &result) != 0)
		cm_axis_report_out_of_range();
	return result;
}

/* The label n periods after one.  Numbers end where 64 bits do. */
static int64
label_step(int64 label, const CmPartitionSettings *settings, int n)
{
	const CmPeriod *period = &settings->period;
	struct pg_tm tm;
	fsec_t		fsec;
	int64		month;
	Timestamp	result;

	if (period->months == 0)
	{
		bool		overflow = pg_mul_s64_overflow(n, period->length, &result) ||
			pg_add_s64_overflow(label, result, &result);

		if (counts_numbers(settings))
			return overflow ? (n < 0 ? PG_INT64_MIN : PG_INT64_MAX) : result;
		if (overflow || !IS_VALID_TIMESTAMP(result))
			cm_axis_report_out_of_range();
		return result;
	}
	cm_axis_split(label, &tm, &fsec);
	month = tm.tm_year * INT64CONST(12) + tm.tm_mon - 1 + (int64) n * period->months;
	tm.tm_year = floor_div(month, 12);
	tm.tm_mon = month - floor_div(month, 12) * 12 + 1;
	if (tm2timestamp(&tm, fsec, NULL, &result) != 0)
		cm_axis_report_out_of_range();
	return result;
}

/* Does a period begin at this label, as clocks in the zone go? */
static bool
label_exists(int64 label, const CmPartitionSettings *settings)
{
	const CmAxis *axis = &settings->axis;

	return label_floor(cm_axis_label(axis, cm_axis_label_point(axis, label)), settings) == label;
}

/* Does a period begin at this point? */
bool
cm_partition_on_grid(const CmPartitionSettings *settings, int64 point)
{
	int64		label = cm_axis_label(&settings->axis, point);

	return label_floor(label, settings) == label;
}

/* The first label that exists after one. */
static int64
next_label(int64 label, const CmPartitionSettings *settings)
{
	do
		label = label_step(label, settings, 1);
	while (!label_exists(label, settings));
	return label;
}

/* The label of the period that holds a point. */
static int64
label_of_period(int64 point, const CmPartitionSettings *settings)
{
	int64		label = label_floor(cm_axis_label(&settings->axis, point), settings);

	while (!label_exists(label, settings))
		label = label_step(label, settings, -1);
	return label;
}

/* The name's suffix for a partition that starts at a label. */
static void
format_suffix(char *buf, size_t size, int64 label, const CmPeriod *period, bool is_number)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (is_number)
	{
		snprintf(buf, size, label < 0 ? "_m" UINT64_FORMAT : "_" UINT64_FORMAT,
				 label < 0 ? -(uint64) label : (uint64) label);
		return;
	}
	cm_axis_split(label, &tm, &fsec);
	if (tm.tm_year < 1)
		cm_axis_report_out_of_range();
	if (tm.tm_sec != 0)
		snprintf(buf, size, "_%04d_%02d_%02d_%02d%02d%02d", tm.tm_year, tm.tm_mon,
				 tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
	else if (tm.tm_hour != 0 || tm.tm_min != 0 ||
			 (period->months == 0 && period->length % USECS_PER_DAY != 0))
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
		   bool whole, int64 label)
{
	CmPartitionPlanned *planned;
	CmPeriod	period = settings->period;

	if (list_length(plan) >= CM_PARTITION_LIMIT)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d partitions would have to be made", CM_PARTITION_LIMIT),
				 errhint("Choose a longer period, a later start or fewer partitions ahead.")));
	planned = palloc0(sizeof(CmPartitionPlanned));
	planned->from = from;
	planned->to = to;
	if (!whole)
	{
		label = cm_axis_label(&settings->axis, from);
		/* A piece that starts within a month must not take the month's own name. */
		if (period.months > 0)
			period = (CmPeriod) {.length = USECS_PER_DAY};
	}
	format_suffix(planned->suffix, sizeof(planned->suffix), label, &period,
				  counts_numbers(settings));
	return lappend(plan, planned);
}

/* list_sort comparator: the default partition last, the others by bound. */
int
cm_partition_compare(const ListCell *a, const ListCell *b)
{
	const CmPartition *x = lfirst(a);
	const CmPartition *y = lfirst(b);

	if (x->is_default != y->is_default)
		return x->is_default ? 1 : -1;
	return x->from < y->from ? -1 : (x->from > y->from ? 1 : 0);
}

/* Plan what of from..to no partition of the sorted list holds. */
static List *
plan_period(List *plan, int64 from, int64 to, int64 label,
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
 * All of the periods from the one that holds the point from to the label end
 * (exclusive) that no partition holds, oldest first, as CmPartitionPlanned.
 */
static List *
plan_periods(const CmPartitionSettings *settings, const List *existing, int64 from, int64 end)
{
	const CmAxis *axis = &settings->axis;
	int64		label = label_of_period(from, settings);
	List	   *sorted = list_copy(existing);
	List	   *plan = NIL;

	list_sort(sorted, cm_partition_compare);
	while (label < end)
	{
		int64		next = next_label(label, settings);
		int64		to = cm_axis_bound(axis, cm_axis_label_point(axis, next));

		plan = plan_period(plan, cm_axis_bound(axis, cm_axis_label_point(axis, label)), to,
						   label, settings, sorted);
		if (to == DT_NOEND)
			break;
		label = next;
	}
	return plan;
}

/* The label at which the last period ahead ends. */
static int64
end_label(const CmPartitionSettings *settings, int64 now)
{
	int64		from = settings->has_start ? Max(settings->start, now) : now;

	return label_step(label_of_period(from, settings), settings, settings->ahead + 1);
}

/* The label n periods before one, but none before our era. */
static int64
label_back(int64 label, const CmPartitionSettings *settings, int n)
{
	const CmPeriod *period = &settings->period;
	int64		most = n;

	if (period->months > 0)
		most = (label / USECS_PER_DAY + 1999 * INT64CONST(365)) / 31 / period->months;
	else if (!counts_numbers(settings))
		most = (label + 1999 * INT64CONST(365) * USECS_PER_DAY) / period->length;
	return label_step(label, settings, -(int) Max(0, Min(n, most)));
}

/*
 * Where a set without a start begins to be filled: now, or, if it was not
 * rolled for so long that nothing holds now, where its partitions end.  (A gap
 * before partitions that hold now is somebody's wish, or around a row that came
 * out of a default partition.)
 */
static int64
continue_from(const CmPartitionSettings *settings, const List *existing, int64 now)
{
	int64		end = DT_NOBEGIN;
	int64		oldest;
	ListCell   *cell;

	foreach(cell, existing)
	{
		CmPartition *partition = lfirst(cell);

		if (!partition->is_default && partition->to <= now)
			end = Max(end, partition->to);
	}
	if (end == DT_NOBEGIN || cm_partition_covered_until(existing, now) > now)
		return now;
	oldest = cm_axis_label_point(&settings->axis,
								 label_back(label_of_period(now, settings), settings, CATCH_UP_LIMIT));
	return end < oldest ? now : end;
}

/*
 * The point before which partitions have had their time.  Returns false if
 * the set keeps everything.
 */
bool
cm_partition_cutoff(const CmPartitionSettings *settings, int64 now, int64 *cutoff)
{
	Datum		label;

	if (!settings->has_retention)
		return false;
	if (counts_numbers(settings))
	{
		if (pg_sub_s64_overflow(now, settings->retention_width, cutoff))
			*cutoff = DT_NOBEGIN;
		return true;
	}
	label = DirectFunctionCall2(timestamp_mi_interval,
								TimestampGetDatum(cm_axis_label(&settings->axis, now)),
								IntervalPGetDatum(&settings->retention));
	*cutoff = cm_axis_label_point(&settings->axis, DatumGetTimestamp(label));
	return true;
}

/*
 * Of periods that hold the cutoff or later ones, the pieces that are not over
 * with: in a set of narrower partitions, those before the cutoff have retired.
 */
static List *
leave_out_outdated(List *plan, int64 cutoff)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, plan)
	{
		if (((CmPartitionPlanned *) lfirst(cell))->to > cutoff)
			result = lappend(result, lfirst(cell));
	}
	return result;
}

/*
 * The partitions to make, oldest first, as CmPartitionPlanned: everything
 * that is not held yet from the start (or where the set ended, or the present
 * period) to the end of the last period ahead, and is not over with already.
 */
List *
cm_partition_plan(const CmPartitionSettings *settings, const List *existing, int64 now)
{
	int64		start = settings->has_start ? settings->start :
		continue_from(settings, existing, now);
	int64		cutoff;

	if (!cm_partition_cutoff(settings, now, &cutoff))
		return plan_periods(settings, existing, start, end_label(settings, now));
	start = Max(start, cutoff);
	return leave_out_outdated(plan_periods(settings, existing, start, end_label(settings, now)), cutoff);
}

/*
 * The periods that hold none of the window that cm_partition_plan() fills,
 * but that rows of a default partition may belong to: from the point low, or
 * GAP_LIMIT periods back if that is later, to where the plan begins.
 */
List *
cm_partition_gaps(const CmPartitionSettings *settings, const List *existing,
				  int64 low, int64 now)
{
	int64		end = end_label(settings, now);
	int64		oldest = cm_axis_label_point(&settings->axis,
											 label_back(end, settings, GAP_LIMIT));
	int64		cutoff;

	low = Max(low, oldest);
	if (!cm_partition_cutoff(settings, now, &cutoff))
		return plan_periods(settings, existing, low, end);
	return leave_out_outdated(plan_periods(settings, existing, Max(low, cutoff), end), cutoff);
}

/*
 * The partitions that have had their time, oldest first, as CmPartition; never
 * the default partition, and never the newest, however old.
 */
List *
cm_partition_outdated(const CmPartitionSettings *settings, const List *existing, int64 now)
{
	List	   *sorted = list_copy(existing);
	List	   *result = NIL;
	int64		cutoff;
	int			attached = 0;
	ListCell   *cell;

	if (!cm_partition_cutoff(settings, now, &cutoff))
		return NIL;
	list_sort(sorted, cm_partition_compare);
	foreach(cell, sorted)
	{
		CmPartition *partition = lfirst(cell);

		attached += !partition->is_default && !partition->is_pending;
	}
	foreach(cell, sorted)
	{
		CmPartition *partition = lfirst(cell);

		if (partition->is_default || partition->is_pending)
			continue;
		if (partition->to > cutoff || attached-- <= 1)
			break;
		result = lappend(result, partition);
	}
	return result;
}

/*
 * The point up to which a set that has nothing to do now will have nothing to
 * do, if nothing but the clock changes.  What is to be made depends on the
 * period that holds now, and as the cutoff goes on becomes less; what has had
 * its time becomes more.  With a retention of other units than the period, the
 * next partition retires within one: then it is a point not too near before.
 */
int64
cm_partition_idle_until(const CmPartitionSettings *settings, const List *existing, int64 now)
{
	int64		until = cm_axis_label_point(&settings->axis,
											next_label(label_of_period(now, settings), settings));

	while (until > now && cm_partition_outdated(settings, existing, until - 1) != NIL)
		until = now + (until - now) / 2;
	return until;
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
cm_partition_month(const CmAxis *axis, int year, int month)
{
	CmPartitionPlanned *planned = palloc0(sizeof(CmPartitionPlanned));
	CmPartitionSettings monthly = {.axis = *axis,.period = {.months = 1}};
	struct pg_tm tm;
	Timestamp	label;

	memset(&tm, 0, sizeof(tm));
	tm.tm_year = year;
	tm.tm_mon = month;
	tm.tm_mday = 1;
	if (tm2timestamp(&tm, 0, NULL, &label) != 0)
		cm_axis_report_out_of_range();
	planned->from = cm_axis_label_point(axis, label);
	planned->to = cm_axis_label_point(axis, label_step(label, &monthly, 1));
	format_suffix(planned->suffix, sizeof(planned->suffix), label, &monthly.period, false);
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

/* Refuse a width of partitions. */
static void
report_period(const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid period for a partition set"),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

/*
 * A period as the planner wants it.  Refuses what is no width: zero, negative,
 * fractions of a second, months mixed with days, parts of a day for a date.
 */
CmPeriod
cm_partition_period(const Interval *period, Oid key_type)
{
	CmPeriod	result = {period->month, 0};
	const char *detail = NULL;

	if (pg_mul_s64_overflow(period->day, USECS_PER_DAY, &result.length) ||
		pg_add_s64_overflow(result.length, period->time, &result.length))
		cm_axis_report_out_of_range();

	if (period->month < 0 || period->day < 0 || period->time < 0 ||
		(period->month == 0 && result.length == 0))
		detail = "The period of a partition set must be positive.";
	else if (period->month != 0 && result.length != 0)
		detail = "A period counts months, or days and hours, but not both: months differ in length.";
	else if (result.length % USECS_PER_SEC != 0)
		detail = "A period must be a whole number of seconds.";
	else if (key_type == DATEOID && result.length % USECS_PER_DAY != 0)
		detail = "The partition key is a date, so a period must be a whole number of days.";
	else if (result.length > 100000 * USECS_PER_DAY || period->month > 12000)
		detail = "A period can be at most 1000 years long.";

	if (detail != NULL)
		report_period(detail, "Use for instance '1 month', '1 week' or '1 day'.");
	return result;
}

/* The width of partitions by number, as the planner wants it. */
CmPeriod
cm_partition_width(int64 width)
{
	if (width <= 0)
		report_period("The width of a partition must be positive.",
					  "Use for instance width => 1000000.");
	return (CmPeriod) {.length = width};
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

	list_sort(sorted, cm_partition_compare);
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
