/*-------------------------------------------------------------------------
 *
 * partition_axis.c
 *	  What a partition key counts: values, points and labels of one axis.
 *
 * All planning is done on points, 64-bit integers that sort as the key does.
 * What a point is depends on the key:
 *
 *	 date, timestamp    the wall clock reading, in microseconds since 2000
 *	 timestamptz        the instant (UTC), likewise
 *	 integer, epoch     the instant; the key counts seconds, milliseconds,
 *						microseconds or nanoseconds since 1970
 *	 uuid               the instant in the first 48 bits of a uuid of version 7
 *						(RFC 9562), which are milliseconds since 1970
 *	 integer            the number itself
 *
 * A label is what a clock in the set's zone shows at a point (or the number);
 * calendar arithmetic is done on labels (partition_plan.c).
 *
 * Two kinds of key are finer than their points, or have values beyond them:
 * nanoseconds and uuids.  A bound that exists is therefore kept as a literal
 * too (CmPartition), and whoever makes its neighbour uses that literal.
 *
 * Pure: no locks, no catalog but the output functions of built-in types, no
 * clock.  Errors are about the arguments.
 *
 * What it does not do: say which partitions are to be made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/int.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "partition_pure.h"

/* 1970 as a point. */
#define UNIX_ORIGIN \
	((UNIX_EPOCH_JDATE - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)

/* The bits of a uuid of version 7 that say when it was made. */
#define UUID_V7_MSECS_LIMIT	(INT64CONST(1) << 48)

void
cm_axis_report_out_of_range(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("partition bound out of range"),
			 errdetail("A bound would lie outside what the type of the partition key can represent.")));
}

/* A time zone by name; an error if there is none. */
pg_tz *
cm_axis_zone(const char *name)
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

/* How many of the named units make a second. */
static int64
units_per_second(const char *epoch)
{
	if (pg_strcasecmp(epoch, "seconds") == 0)
		return 1;
	if (pg_strcasecmp(epoch, "milliseconds") == 0)
		return 1000;
	if (pg_strcasecmp(epoch, "microseconds") == 0)
		return 1000000;
	if (pg_strcasecmp(epoch, "nanoseconds") == 0)
		return 1000000000;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid unit of time since 1970: \"%s\"", epoch),
			 errhint("Valid units are \"seconds\", \"milliseconds\", \"microseconds\" and \"nanoseconds\".")));
}

/*
 * The axis of a key of this type.  epoch: for an integer, the unit of time
 * that it counts, or NULL for a number.
 */
CmAxis
cm_axis(Oid key_type, const char *epoch, pg_tz *zone)
{
	CmAxis		axis = {.key_type = key_type,.zone = zone};

	switch (key_type)
	{
		case DATEOID:
			axis.kind = CM_AXIS_DATE;
			break;
		case TIMESTAMPOID:
			axis.kind = CM_AXIS_TIMESTAMP;
			break;
		case TIMESTAMPTZOID:
			axis.kind = CM_AXIS_TIMESTAMPTZ;
			break;
		case UUIDOID:
			axis.kind = CM_AXIS_UUID;
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			axis.kind = epoch ? CM_AXIS_EPOCH : CM_AXIS_NUMBER;
			break;
		default:
			elog(ERROR, "unexpected type of partition key: %u", key_type);
	}
	if (epoch != NULL && axis.kind != CM_AXIS_EPOCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a unit of time since 1970 goes with an integer partition key only"),
				 errdetail("The partition key is of type %s.", format_type_be(key_type))));
	if (epoch != NULL)
		axis.per_second = units_per_second(epoch);
	return axis;
}

/* Is the axis one of time? */
bool
cm_axis_is_time(const CmAxis *axis)
{
	return axis->kind != CM_AXIS_NUMBER;
}

/* Are points wall clock readings, or numbers, rather than instants? */
static bool
is_label(const CmAxis *axis)
{
	return axis->kind == CM_AXIS_DATE || axis->kind == CM_AXIS_TIMESTAMP ||
		axis->kind == CM_AXIS_NUMBER;
}

/* The fields of a wall clock reading. */
void
cm_axis_split(Timestamp wall, struct pg_tm *tm, fsec_t *fsec)
{
	if (timestamp2tm(wall, NULL, tm, fsec, NULL, NULL) != 0)
		cm_axis_report_out_of_range();
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
		cm_axis_report_out_of_range();
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
	cm_axis_split(wall, &tm, &fsec);
	tz = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, fsec, &tz, &instant) != 0)
		cm_axis_report_out_of_range();
	return instant;
}

/* An instant as a point.  Not for numbers. */
int64
cm_axis_point(const CmAxis *axis, TimestampTz instant)
{
	return is_label(axis) ? wall_of(instant, axis->zone) : instant;
}

/* A point as an instant.  Not for numbers. */
TimestampTz
cm_axis_instant(const CmAxis *axis, int64 point)
{
	return is_label(axis) ? instant_of(point, axis->zone) : point;
}

/* A point as a label. */
int64
cm_axis_label(const CmAxis *axis, int64 point)
{
	return is_label(axis) ? point : wall_of(point, axis->zone);
}

/* A label as a point. */
int64
cm_axis_label_point(const CmAxis *axis, int64 label)
{
	return is_label(axis) ? label : instant_of(label, axis->zone);
}

/* The least and the greatest number that the key's type holds. */
static void
number_limits(Oid key_type, int64 *least, int64 *greatest)
{
	*least = key_type == INT2OID ? PG_INT16_MIN : key_type == INT4OID ? PG_INT32_MIN : PG_INT64_MIN;
	*greatest = key_type == INT2OID ? PG_INT16_MAX : key_type == INT4OID ? PG_INT32_MAX : PG_INT64_MAX;
}

/* An instant as a count of units since 1970; an error if there are too many. */
static int64
epoch_value(const CmAxis *axis, int64 point)
{
	int64		least;
	int64		greatest;
	int64		value;

	if (pg_sub_s64_overflow(point, UNIX_ORIGIN, &value))
		cm_axis_report_out_of_range();
	if (axis->per_second <= USECS_PER_SEC)
		value /= USECS_PER_SEC / axis->per_second;
	else if (pg_mul_s64_overflow(value, axis->per_second / USECS_PER_SEC, &value))
		cm_axis_report_out_of_range();
	number_limits(axis->key_type, &least, &greatest);
	if (value < least || value > greatest)
		cm_axis_report_out_of_range();
	return value;
}

/* A count of units since 1970 as an instant, without end if it is none. */
static int64
epoch_point(const CmAxis *axis, int64 value)
{
	int64		point;

	if (axis->per_second > USECS_PER_SEC)
		point = value / (axis->per_second / USECS_PER_SEC);
	else if (pg_mul_s64_overflow(value, USECS_PER_SEC / axis->per_second, &point))
		return value < 0 ? DT_NOBEGIN : DT_NOEND;
	if (pg_add_s64_overflow(point, UNIX_ORIGIN, &point) || !IS_VALID_TIMESTAMP(point))
		return value < 0 ? DT_NOBEGIN : DT_NOEND;
	return point;
}

/* The first uuid of version 7 of an instant. */
static char *
uuid_literal(int64 point)
{
	int64		msecs = (point - UNIX_ORIGIN) / 1000;

	if (msecs >= UUID_V7_MSECS_LIMIT)
		cm_axis_report_out_of_range();
	msecs = Max(msecs, 0);
	return psprintf("%08x-%04x-0000-0000-000000000000",
					(uint32) (msecs >> 16), (uint32) (msecs & 0xffff));
}

static int64
uuid_point(const pg_uuid_t *uuid)
{
	int64		msecs = 0;

	for (int i = 0; i < 6; i++)
		msecs = (msecs << 8) | uuid->data[i];

	return msecs * 1000 + UNIX_ORIGIN;
}

/* A value of the key as a point. */
int64
cm_axis_value_point(const CmAxis *axis, Datum value)
{
	int64		number;

	switch (axis->kind)
	{
		case CM_AXIS_DATE:
			{
				DateADT		date = DatumGetDateADT(value);

				if (DATE_IS_NOBEGIN(date))
					return DT_NOBEGIN;
				if (DATE_IS_NOEND(date))
					return DT_NOEND;
				return date * USECS_PER_DAY;
			}
		case CM_AXIS_TIMESTAMP:
		case CM_AXIS_TIMESTAMPTZ:
			return DatumGetTimestamp(value);
		case CM_AXIS_UUID:
			return uuid_point(DatumGetUUIDP(value));
		case CM_AXIS_EPOCH:
		case CM_AXIS_NUMBER:
			break;
	}
	number = axis->key_type == INT2OID ? DatumGetInt16(value) :
		axis->key_type == INT4OID ? DatumGetInt32(value) : DatumGetInt64(value);
	return axis->kind == CM_AXIS_EPOCH ? epoch_point(axis, number) : number;
}

/* A finite point as text that every DateStyle and TimeZone reads alike. */
char *
cm_axis_literal(const CmAxis *axis, int64 point)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char		buf[MAXDATELEN + 1];

	if (axis->kind == CM_AXIS_NUMBER)
		return psprintf(INT64_FORMAT, point);
	if (axis->kind == CM_AXIS_EPOCH)
		return psprintf(INT64_FORMAT, epoch_value(axis, point));
	if (axis->kind == CM_AXIS_UUID)
		return uuid_literal(point);

	cm_axis_split(point, &tm, &fsec);
	tm.tm_isdst = 0;			/* else the zone is left out */
	if (axis->kind == CM_AXIS_DATE)
		EncodeDateOnly(&tm, USE_ISO_DATES, buf);
	else
		EncodeDateTime(&tm, fsec, axis->kind == CM_AXIS_TIMESTAMPTZ, 0, NULL, USE_ISO_DATES, buf);
	return pstrdup(buf);
}

/* The literal of a bound's value, where its point does not say all; else NULL. */
char *
cm_axis_exact_literal(const CmAxis *axis, Datum value)
{
	Oid			output;
	bool		varlena;

	if (axis->kind != CM_AXIS_UUID && axis->kind != CM_AXIS_EPOCH)
		return NULL;
	getTypeOutputInfo(axis->key_type, &output, &varlena);
	return OidOutputFunctionCall(output, value);
}

/* A range for a message. */
char *
cm_axis_range_text(const CmAxis *axis, int64 from, int64 to)
{
	return psprintf("from %s to %s",
					from == DT_NOBEGIN ? "the beginning" : cm_axis_literal(axis, from),
					to == DT_NOEND ? "the end" : cm_axis_literal(axis, to));
}

/* A bound to make: without end where the key's type has no such value. */
int64
cm_axis_bound(const CmAxis *axis, int64 point)
{
	int64		least;
	int64		greatest;

	if (axis->kind != CM_AXIS_NUMBER)
		return point;
	number_limits(axis->key_type, &least, &greatest);
	return point < least ? DT_NOBEGIN : point > greatest ? DT_NOEND : point;
}
