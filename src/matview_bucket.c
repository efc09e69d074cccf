/*-------------------------------------------------------------------------
 *
 * matview_bucket.c
 *	  Times and the buckets that a view groups them by.
 *
 * A bucket expression is a chain of functions of core from one column of
 * type date, timestamp or timestamptz to a value of one of these types:
 * date_trunc(), date_bin(), AT TIME ZONE and casts, with constants beside.
 * Three questions are answered about it: which bucket a raw time is in
 * (apply), which raw times can be in a bucket (preimage), and which buckets a
 * range of raw times can touch (image).  The first is exact, by core's own
 * functions; the other two may answer more than there is, never less, since
 * whoever asks compares the bucket itself too.
 *
 * All steps are non-decreasing but those between local time and the time
 * line, where an hour comes twice when clocks are set back.  Around an end of
 * a range that is within ZONE_SLACK of a change of its zone's offset, the
 * range is widened by as much: no zone's offset ever changed by more.  Where
 * a zone is not one of the time zone database (an abbreviation), every end
 * counts as near a change.
 *
 * Only times of the years 1 to 200000 have a preimage: there no step can
 * overflow.  Callers do without ranges for the others.
 *
 * The functions are pure.  They lock nothing and read no table; they raise
 * errors for values outside the years above only, which cm_bucket_is_safe()
 * tells before.  Date arithmetic is that of core's timestamp.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "matview.h"

/* Wider than any change of a zone's offset (24 hours, at the date line). */
#define ZONE_SLACK			(26 * USECS_PER_HOUR)
#define ZONE_SLACK_DAYS		2

/* 0001-01-01 and 200000-01-01, in days and microseconds from 2000-01-01. */
#define FIRST_DAY			(-730119)
#define LAST_DAY			72318690
#define FIRST_TIME			(INT64CONST(-730119) * USECS_PER_DAY)
#define LAST_TIME			(INT64CONST(72318690) * USECS_PER_DAY)

/* The lengths of what date_trunc() cuts to. */
typedef struct Unit
{
	const char *name;
	Interval	length;
	bool		calendar;		/* cut in local time, day and longer */
} Unit;

static const Unit units[] = {
	{"microseconds", {.time = 1}, false},
	{"milliseconds", {.time = 1000}, false},
	{"second", {.time = USECS_PER_SEC}, false},
	{"minute", {.time = USECS_PER_MINUTE}, false},
	{"hour", {.time = USECS_PER_HOUR}, false},
	{"day", {.day = 1}, true},
	{"week", {.day = 7}, true},
	{"month", {.month = 1}, true},
	{"quarter", {.month = 3}, true},
	{"year", {.month = 12}, true},
	{"decade", {.month = 120}, true},
	{"century", {.month = 1200}, true},
	{"millennium", {.month = 12000}, true}
};

/* The unit that date_trunc() knows by this name; NULL if we do not. */
static const Unit *
find_unit(const char *name)
{
	for (int i = 0; i < lengthof(units); i++)
	{
		if (pg_strcasecmp(name, units[i].name) == 0)
			return &units[i];
	}
	return NULL;
}

/* A constant argument that is not null, or NULL. */
static Const *
constant_argument(FuncExpr *call, int n)
{
	Node	   *arg = list_nth(call->args, n);

	return IsA(arg, Const) && !((Const *) arg)->constisnull ? (Const *) arg : NULL;
}

/* A constant text argument, or NULL. */
static char *
text_argument(FuncExpr *call, int n)
{
	Const	   *constant = constant_argument(call, n);

	return constant != NULL ? TextDatumGetCString(constant->constvalue) : NULL;
}

/* Put a step before those that are known; they were found from the outside in. */
static void
add_step(CmBucket *bucket, CmBucketStepKind kind, char *unit, char *zone)
{
	CmBucketStep *step = palloc0(sizeof(CmBucketStep));

	step->kind = kind;
	step->unit = unit;
	step->zone = zone;
	bucket->steps = lcons(step, bucket->steps);
}

/* date_trunc() in one of its forms.  False if it is none that we know. */
static bool
add_trunc(CmBucket *bucket, FuncExpr *call)
{
	char	   *unit = text_argument(call, 0);
	char	   *zone = NULL;

	if (unit == NULL || find_unit(unit) == NULL)
		return false;
	if (call->funcid == F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT && (zone = text_argument(call, 2)) == NULL)
		return false;
	add_step(bucket, call->funcid == F_DATE_TRUNC_TEXT_TIMESTAMP ? CM_BUCKET_TRUNC : CM_BUCKET_TRUNC_ZONE,
			 unit, zone);
	return true;
}

/* date_bin().  False where it would raise an error, or could overflow. */
static bool
add_bin(CmBucket *bucket, FuncExpr *call)
{
	Const	   *stride = constant_argument(call, 0);
	Const	   *origin = constant_argument(call, 2);
	CmBucketStep *step;
	Interval   *length;

	if (stride == NULL || origin == NULL)
		return false;
	length = DatumGetIntervalP(stride->constvalue);
	if (length->month != 0 || length->day < 0 || length->day > 366000 ||
		length->time < 0 || length->time > 366000 * USECS_PER_DAY ||
		(length->day == 0 && length->time == 0))
		return false;
	if (DatumGetTimestamp(origin->constvalue) < FIRST_TIME || DatumGetTimestamp(origin->constvalue) > LAST_TIME)
		return false;
	add_step(bucket, CM_BUCKET_BIN, NULL, NULL);
	step = linitial(bucket->steps);
	step->stride = length;
	step->origin = origin->constvalue;
	return true;
}

/* One function of the chain; *next is what it works on.  False if unknown. */
static bool
add_call(CmBucket *bucket, FuncExpr *call, Node **next)
{
	char	   *zone = NULL;

	*next = linitial(call->args);
	switch (call->funcid)
	{
		case F_DATE_TRUNC_TEXT_TIMESTAMP:
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ:
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT:
			*next = lsecond(call->args);
			return add_trunc(bucket, call);
		case F_DATE_BIN_INTERVAL_TIMESTAMP_TIMESTAMP:
		case F_DATE_BIN_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ:
			*next = lsecond(call->args);
			return add_bin(bucket, call);
		case F_TIMEZONE_TEXT_TIMESTAMPTZ:
		case F_TIMEZONE_TEXT_TIMESTAMP:
			*next = lsecond(call->args);
			zone = text_argument(call, 0);
			if (zone == NULL)
				return false;
			add_step(bucket, call->funcid == F_TIMEZONE_TEXT_TIMESTAMPTZ ?
					 CM_BUCKET_TO_LOCAL : CM_BUCKET_FROM_LOCAL, NULL, zone);
			return true;
		case F_TIMESTAMP_TIMESTAMPTZ:
			add_step(bucket, CM_BUCKET_TO_LOCAL, NULL, NULL);
			return true;
		case F_TIMESTAMPTZ_TIMESTAMP:
			add_step(bucket, CM_BUCKET_FROM_LOCAL, NULL, NULL);
			return true;
		case F_DATE_TIMESTAMP:
			add_step(bucket, CM_BUCKET_TO_DATE, NULL, NULL);
			return true;
		case F_DATE_TIMESTAMPTZ:
			add_step(bucket, CM_BUCKET_TO_DATE, NULL, NULL);
			add_step(bucket, CM_BUCKET_TO_LOCAL, NULL, NULL);
			return true;
		case F_TIMESTAMP_DATE:
			add_step(bucket, CM_BUCKET_FROM_DATE, NULL, NULL);
			return true;
		case F_TIMESTAMPTZ_DATE:
			add_step(bucket, CM_BUCKET_FROM_LOCAL, NULL, NULL);
			add_step(bucket, CM_BUCKET_FROM_DATE, NULL, NULL);
			return true;
	}
	return false;
}

/* Is it a type that buckets are made of? */
static bool
is_time(Oid type)
{
	return type == DATEOID || type == TIMESTAMPOID || type == TIMESTAMPTZOID;
}

/*
 * The bucket that an expression makes of one column, palloc'd; NULL if it is
 * none.  A plain column of a time type is one, without steps.
 */
CmBucket *
cm_bucket_parse(Node *expr)
{
	CmBucket   *bucket = palloc0(sizeof(CmBucket));
	Node	   *next = expr;

	bucket->type = exprType(expr);
	if (!is_time(bucket->type))
		return NULL;
	while (IsA(next, FuncExpr))
	{
		if (!add_call(bucket, (FuncExpr *) next, &next))
			return NULL;
	}
	if (!IsA(next, Var))
		return NULL;
	bucket->rti = ((Var *) next)->varno;
	bucket->attno = ((Var *) next)->varattno;
	bucket->raw_type = ((Var *) next)->vartype;
	return is_time(bucket->raw_type) && bucket->attno > 0 ? bucket : NULL;
}

/* Can no step fail on it? */
static bool
is_safe(Oid type, Datum value)
{
	if (type == DATEOID)
		return DatumGetDateADT(value) > FIRST_DAY && DatumGetDateADT(value) < LAST_DAY;
	return DatumGetTimestamp(value) > FIRST_TIME && DatumGetTimestamp(value) < LAST_TIME;
}

/* Can cm_bucket_apply() not fail on this raw time? */
bool
cm_bucket_is_safe(const CmBucket *bucket, Datum raw)
{
	return is_safe(bucket->raw_type, raw);
}

/* One step of a bucket, as core does it. */
static Datum
apply_step(const CmBucketStep *step, const char *pinned, Datum value)
{
	const char *zone = step->zone != NULL ? step->zone : pinned;

	switch (step->kind)
	{
		case CM_BUCKET_TRUNC:
			return DirectFunctionCall2(timestamp_trunc, CStringGetTextDatum(step->unit), value);
		case CM_BUCKET_TRUNC_ZONE:
			return DirectFunctionCall3(timestamptz_trunc_zone, CStringGetTextDatum(step->unit), value,
									   CStringGetTextDatum(zone));
		case CM_BUCKET_BIN:
			/* The same arithmetic serves timestamptz. */
			return DirectFunctionCall3(timestamp_bin, IntervalPGetDatum(step->stride), value, step->origin);
		case CM_BUCKET_TO_LOCAL:
			return DirectFunctionCall2(timestamptz_zone, CStringGetTextDatum(zone), value);
		case CM_BUCKET_FROM_LOCAL:
			return DirectFunctionCall2(timestamp_zone, CStringGetTextDatum(zone), value);
		case CM_BUCKET_TO_DATE:
			return DirectFunctionCall1(timestamp_date, value);
		case CM_BUCKET_FROM_DATE:
			return DirectFunctionCall1(date_timestamp, value);
	}
	elog(ERROR, "unrecognized bucket step: %d", (int) step->kind);
}

/* The bucket of a raw time for which cm_bucket_is_safe() holds. */
Datum
cm_bucket_apply(const CmBucket *bucket, const char *zone, Datum raw)
{
	ListCell   *lc;

	foreach(lc, bucket->steps)
		raw = apply_step(lfirst(lc), zone, raw);
	return raw;
}

/* Does a zone's offset change near this point of the time line? */
static bool
is_near_change(const char *zone_name, Timestamp instant)
{
	pg_tz	   *zone = pg_tzset(zone_name);
	pg_time_t	from;
	pg_time_t	boundary;
	long		before_gmtoff;
	long		after_gmtoff;
	int			before_isdst;
	int			after_isdst;
	int			found;

	if (zone == NULL)
		return true;
	from = timestamptz_to_time_t(instant - ZONE_SLACK);
	found = pg_next_dst_boundary(&from, &before_gmtoff, &before_isdst,
								 &boundary, &after_gmtoff, &after_isdst, zone);
	return found != 0 && (found < 0 || boundary <= timestamptz_to_time_t(instant + ZONE_SLACK) + 1);
}

/* Widen a range of the time line whose ends may be off by a change of offset. */
static void
widen(CmRawRange *range, const char *zone, Timestamp lo, Timestamp hi)
{
	bool		wide_lo = is_near_change(zone, lo);
	bool		wide_hi = is_near_change(zone, hi);

	range->exact = range->exact && !wide_lo && !wide_hi;
	if (wide_lo)
		range->lo = TimestampGetDatum(DatumGetTimestamp(range->lo) - ZONE_SLACK);
	if (wide_hi)
		range->hi = TimestampGetDatum(DatumGetTimestamp(range->hi) + ZONE_SLACK);
}

/* The end of the cut that begins at this time; of local time if calendar. */
static Timestamp
end_of_cut(const Unit *unit, const char *zone, Timestamp start)
{
	Interval	length = unit->length;
	Datum		value = TimestampGetDatum(start);

	if (zone != NULL && unit->calendar)
		value = DirectFunctionCall2(timestamptz_zone, CStringGetTextDatum(zone), value);
	value = DirectFunctionCall2(timestamp_pl_interval, value, IntervalPGetDatum(&length));
	if (zone != NULL && unit->calendar)
		value = DirectFunctionCall2(timestamp_zone, CStringGetTextDatum(zone), value);
	return DatumGetTimestamp(value);
}

/* What a cutting step can have made values of a range from. */
static void
undo_cut(const CmBucketStep *step, const char *pinned, CmRawRange *range)
{
	const char *zone = step->kind != CM_BUCKET_TRUNC_ZONE ? NULL :
		step->zone != NULL ? step->zone : pinned;
	Datum		last = apply_step(step, pinned, TimestampGetDatum(DatumGetTimestamp(range->hi) - 1));
	Timestamp	end;

	if (step->kind == CM_BUCKET_BIN)
	{
		/*
		 * Servers before 15.6 put a time that is before the origin and
		 * exactly on the grid into the bin before.
		 */
		end = DatumGetTimestamp(last) + step->stride->day * USECS_PER_DAY + step->stride->time;
		range->exact = range->exact && apply_step(step, pinned, range->lo) == range->lo;
		if (apply_step(step, pinned, TimestampGetDatum(end)) == last)
			end++;
	}
	else
		end = end_of_cut(find_unit(step->unit), zone, DatumGetTimestamp(last));
	range->hi = TimestampGetDatum(end);
	if (zone != NULL)
		widen(range, zone, DatumGetTimestamp(range->lo), end);
}

/* What a step between local time and the time line can have made them from. */
static void
undo_zone(const CmBucketStep *step, const char *pinned, CmRawRange *range)
{
	const char *zone = step->zone != NULL ? step->zone : pinned;
	bool		to_local = step->kind == CM_BUCKET_TO_LOCAL;
	PGFunction	back = to_local ? timestamp_zone : timestamptz_zone;
	CmRawRange	made = *range;

	range->lo = DirectFunctionCall2(back, CStringGetTextDatum(zone), made.lo);
	range->hi = DirectFunctionCall2(back, CStringGetTextDatum(zone), made.hi);
	widen(range, zone,
		  DatumGetTimestamp(to_local ? range->lo : made.lo),
		  DatumGetTimestamp(to_local ? range->hi : made.hi));
}

/* What a step can have made values of a range from. */
static void
undo_step(const CmBucketStep *step, const char *pinned, CmRawRange *range)
{
	switch (step->kind)
	{
		case CM_BUCKET_TRUNC:
		case CM_BUCKET_TRUNC_ZONE:
		case CM_BUCKET_BIN:
			undo_cut(step, pinned, range);
			break;
		case CM_BUCKET_TO_LOCAL:
		case CM_BUCKET_FROM_LOCAL:
			undo_zone(step, pinned, range);
			break;
		case CM_BUCKET_TO_DATE:
			range->lo = DirectFunctionCall1(date_timestamp, range->lo);
			range->hi = DirectFunctionCall1(date_timestamp, range->hi);
			break;
		case CM_BUCKET_FROM_DATE:
			range->lo = DirectFunctionCall1(timestamp_date, range->lo);
			range->hi = DirectFunctionCall1(timestamp_date,
											TimestampGetDatum(DatumGetTimestamp(range->hi) - 1));
			range->hi = DateADTGetDatum(DatumGetDateADT(range->hi) + 1);
			break;
	}
}

/* The type that a step works on. */
static Oid
input_type(const CmBucketStep *step)
{
	return step->kind == CM_BUCKET_FROM_DATE ? DATEOID : TIMESTAMPOID;
}

/*
 * The raw times that can be in a bucket.  range->exact: all that are in the
 * range are in it.  False if the value is infinite or out of the years that we
 * reckon with.
 */
bool
cm_bucket_preimage(const CmBucket *bucket, const char *zone, Datum value, CmRawRange *range)
{
	if (!is_safe(bucket->type, value))
		return false;
	range->lo = value;
	range->hi = bucket->type == DATEOID ? DateADTGetDatum(DatumGetDateADT(value) + 1) :
		TimestampGetDatum(DatumGetTimestamp(value) + 1);
	range->exact = true;
	for (int i = list_length(bucket->steps) - 1; i >= 0; i--)
	{
		const CmBucketStep *step = list_nth(bucket->steps, i);

		undo_step(step, zone, range);
		if (!is_safe(input_type(step), range->lo) || !is_safe(input_type(step), range->hi))
			return false;
	}
	return true;
}

/* Does a chain pass between local time and the time line? */
static bool
has_zone_step(const CmBucket *bucket)
{
	ListCell   *lc;

	foreach(lc, bucket->steps)
	{
		const CmBucketStep *step = lfirst(lc);

		if (step->kind == CM_BUCKET_TRUNC_ZONE || step->kind == CM_BUCKET_TO_LOCAL ||
			step->kind == CM_BUCKET_FROM_LOCAL)
			return true;
	}
	return false;
}

/* A raw time moved by so many slacks; as it is if it is infinite. */
static Datum
move(Oid type, Datum raw, int slacks)
{
	if (!is_safe(type, raw))
		return raw;
	return type == DATEOID ? DateADTGetDatum(DatumGetDateADT(raw) + slacks * ZONE_SLACK_DAYS) :
		TimestampGetDatum(DatumGetTimestamp(raw) + slacks * ZONE_SLACK);
}

/* An end of what there is, of a type. */
static Datum
infinite(Oid type, bool upper)
{
	DateADT		date;
	Timestamp	time;

	if (type == DATEOID)
	{
		if (upper)
			DATE_NOEND(date);
		else
			DATE_NOBEGIN(date);
		return DateADTGetDatum(date);
	}
	if (upper)
		TIMESTAMP_NOEND(time);
	else
		TIMESTAMP_NOBEGIN(time);
	return TimestampGetDatum(time);
}

/*
 * The first and the last bucket, inclusive, that raw times of a range (its
 * ends included) can be in: infinite where the range's ends are out of the
 * years that we reckon with.
 */
void
cm_bucket_image(const CmBucket *bucket, const char *zone, const CmDirtyRange *range,
				Datum *first, Datum *last)
{
	int			slack = has_zone_step(bucket) ? 1 : 0;
	Datum		lo = move(bucket->raw_type, range->lo, -slack);
	Datum		hi = move(bucket->raw_type, range->hi, slack);

	*first = is_safe(bucket->raw_type, lo) ? cm_bucket_apply(bucket, zone, lo) :
		infinite(bucket->type, false);
	*last = is_safe(bucket->raw_type, hi) ? cm_bucket_apply(bucket, zone, hi) :
		infinite(bucket->type, true);
}
