/*-------------------------------------------------------------------------
 *
 * job_clock.c
 *	  Reckoning of times: when a job runs next, how long a failed one waits.
 *
 * Pure: no clock is read, no table, no setting.  A job's times lie on a grid:
 * start_at, or else the first time that the job had, plus whole periods.  The
 * next one is the first later than now, so times that were missed are skipped
 * and a late or long run moves nothing.  Periods with months or days in them
 * are counted on the calendar of the job's time zone: a daily job at 02:30
 * stays at 02:30 when the clocks change.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "datatype/timestamp.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "job.h"

/* The length of a period to steer by: exact unless months are in it. */
static double
rough_length(const Interval *every)
{
	return (double) every->time
		+ every->day * (double) USECS_PER_DAY
		+ every->month * (30.436875 * USECS_PER_DAY);
}

/* origin plus n periods, reckoned in the zone if the calendar matters. */
static TimestampTz
grid_time(const CmSchedule *schedule, TimestampTz origin, int64 n)
{
	const Interval *every = schedule->every;
	Interval	span;
	Datum		zone;
	Datum		local;

	if (every->month == 0 && every->day == 0)
		return origin + n * every->time;

	span.month = (int32) (every->month * n);
	span.day = (int32) (every->day * n);
	span.time = every->time * n;
	zone = CStringGetTextDatum(schedule->timezone);
	local = DirectFunctionCall2(timestamptz_zone, zone, TimestampTzGetDatum(origin));
	local = DirectFunctionCall2(timestamp_pl_interval, local, IntervalPGetDatum(&span));
	return DatumGetTimestampTz(DirectFunctionCall2(timestamp_zone, zone, local));
}

/*
 * The first time of the job's grid after now.  Returns false if the job has
 * no period, hence no next time.
 */
bool
cm_clock_next(const CmSchedule *schedule, TimestampTz now, TimestampTz *next)
{
	TimestampTz origin;
	int64		n;

	if (schedule->every == NULL)
		return false;
	origin = schedule->has_start_at ? schedule->start_at
		: schedule->has_anchor ? schedule->anchor : now;
	if (origin > now)
	{
		*next = origin;
		return true;
	}

	if (schedule->every->month == 0 && schedule->every->day == 0)
	{
		*next = grid_time(schedule, origin, (now - origin) / schedule->every->time + 1);
		return true;
	}

	/* Steer to just below, then step: months and days differ in length. */
	n = (int64) floor((double) (now - origin) / rough_length(schedule->every) * 0.999) - 4;
	n = Max(n, 0);
	do
		*next = grid_time(schedule, origin, n++);
	while (*next <= now);
	return true;
}

/*
 * Microseconds to wait after this many failures in a row: the first pause
 * doubled for each further one, up to the longest, a quarter more or less.
 * random is in [0, 1).
 */
int64
cm_clock_retry_delay(int failures, int first_s, int longest_s, double random)
{
	double		seconds = first_s * pow(2.0, Min(Max(failures, 1) - 1, 30));

	return (int64) (Min(seconds, (double) longest_s) * (0.75 + 0.5 * random) * USECS_PER_SEC);
}
