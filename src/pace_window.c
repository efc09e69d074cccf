/*-------------------------------------------------------------------------
 *
 * pace_window.c
 *	  Times of the day and the week at which large work may run.
 *
 * A value of concertmaster.build_window is a list of windows and, at its end,
 * perhaps a time zone:
 *
 *		22:00-06:00
 *		Mon-Fri 22:00-06:00, Sat-Sun 00:00-24:00 Europe/Berlin
 *
 * A window that ends at or before the time that it begins at ends on the next
 * day; its days are those on which it begins.  Without a zone that of
 * log_timezone counts, which is the same in every session.
 *
 * Times are those of the clock on the wall.  Where the clock is put forward, a
 * time that does not exist is as much later; where it is put back, a time
 * that exists twice is the second one.  So a window can be an hour longer or
 * shorter on such a day, and one inside the hour that is left out is not
 * opened at all.
 *
 * Where an instant is, is found by laying out all windows around it, one day
 * after the other, and joining those that touch.
 *
 * Pure: no locks, no I/O but the server's time zone files, nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "concertmaster.h"
#include "pace_parts.h"

#define MINUTES_PER_DAY		(24 * 60)
#define ALL_DAYS			0x7f

#define WINDOW_HINT	"For instance \"22:00-06:00\" or \"Mon-Fri 22:00-06:00, Sat-Sun 00:00-24:00 Europe/Berlin\"; empty for always."

/* Days that are laid out before and after the instant: a weekly window more than once. */
#define DAYS_BEFORE			9
#define DAYS_AFTER			16

PG_FUNCTION_INFO_V1(cm_explain_build_window);

/* One opening. */
typedef struct Opening
{
	TimestampTz from;
	TimestampTz to;
} Opening;

static void
skip_space(const char **at)
{
	while (isspace((unsigned char) **at))
		(*at)++;
}

/* A day's name of three letters at *at, 0 for Sunday; -1 if there is none. */
static int
read_day(const char **at)
{
	static const char *const names[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (pg_strncasecmp(*at, names[i], 3) == 0 && !isalnum((unsigned char) (*at)[3]))
		{
			*at += 3;
			return i;
		}
	}
	return -1;
}

/* Days before a time, or none: all.  False if a day is missing after the dash. */
static bool
read_days(const char **at, int *days)
{
	int			from = read_day(at);
	int			to = from;

	*days = ALL_DAYS;
	if (from < 0)
		return true;
	if (**at == '-')
	{
		(*at)++;
		to = read_day(at);
		if (to < 0)
			return false;
	}
	*days = 1 << from;
	for (int day = from; day != to; day = (day + 1) % 7)
		*days |= 1 << ((day + 1) % 7);
	skip_space(at);
	return true;
}

/* HH:MM in minutes, up to 24:00; -1 if it is none. */
static int
read_time(const char **at)
{
	const char *s = *at;
	int			hour;
	int			minute;

	if (!isdigit((unsigned char) s[0]) || !isdigit((unsigned char) s[1]) || s[2] != ':' ||
		!isdigit((unsigned char) s[3]) || !isdigit((unsigned char) s[4]) || isdigit((unsigned char) s[5]))
		return -1;
	hour = (s[0] - '0') * 10 + s[1] - '0';
	minute = (s[3] - '0') * 10 + s[4] - '0';
	if (minute > 59 || hour * 60 + minute > MINUTES_PER_DAY)
		return -1;
	*at += 5;
	return hour * 60 + minute;
}

/* One window at *at; what is wrong with it, or NULL. */
static const char *
read_window(const char **at, CmWindow *window)
{
	skip_space(at);
	if (!read_days(at, &window->days))
		return "After the dash between two days a day is missing: Sun, Mon, Tue, Wed, Thu, Fri or Sat.";
	window->from = read_time(at);
	if (window->from < 0 || window->from == MINUTES_PER_DAY)
		return "A window begins with a time between 00:00 and 23:59, after its days if it has any.";
	skip_space(at);
	if (**at != '-')
		return "A window has a dash between the time that it begins at and the one that it ends at.";
	(*at)++;
	skip_space(at);
	window->to = read_time(at);
	if (window->to < 0)
		return "A window ends with a time between 00:00 and 24:00.";
	if (window->to == window->from)
		return "A window ends at another time than it begins at; a whole day is 00:00-24:00.";
	return NULL;
}

/* The time zone at the end, or the server's own; what is wrong with it, or NULL. */
static const char *
read_zone(const char *text, CmWindows *windows)
{
	char		name[TZ_STRLEN_MAX + 1];

	strlcpy(name, text, sizeof(name));
	for (int end = strlen(name); end > 0 && isspace((unsigned char) name[end - 1]); end--)
		name[end - 1] = '\0';
	windows->zone = *name == '\0' ? log_timezone : pg_tzset(name);
	if (windows->zone == NULL || strlen(text) > TZ_STRLEN_MAX)
		return "What follows the last window is not the name of a time zone.";
	if (!pg_tz_acceptable(windows->zone))
		return "The time zone has leap seconds, which the server does not support.";
	return NULL;
}

/*
 * Read a value of the setting.  Returns what is wrong with it, a sentence, or
 * NULL.  Nothing is thrown.
 */
const char *
cm_windows_parse(const char *text, CmWindows *windows)
{
	const char *at = text;
	const char *wrong;

	windows->count = 0;
	windows->zone = log_timezone;
	skip_space(&at);
	if (*at == '\0')
		return NULL;
	for (;;)
	{
		if (windows->count == CM_MAX_WINDOWS)
			return "More than 32 windows are too many.";
		wrong = read_window(&at, &windows->windows[windows->count]);
		if (wrong != NULL)
			return wrong;
		windows->count++;
		if (*at != '\0' && *at != ',' && !isspace((unsigned char) *at))
			return "After a window comes a comma and the next one, a blank and a time zone, or nothing.";
		skip_space(&at);
		if (*at != ',')
			return read_zone(at, windows);
		at++;
	}
}

/* The setting's value, which its check has seen. */
void
cm_windows_current(CmWindows *windows)
{
	if (cm_windows_parse(cm_build_window, windows) != NULL)
		elog(ERROR, "invalid value of concertmaster.build_window: \"%s\"", cm_build_window);
}

/* Check hook of concertmaster.build_window. */
bool
cm_check_build_window(char **newval, void **extra, GucSource source)
{
	CmWindows	windows;
	const char *wrong = cm_windows_parse(*newval, &windows);

	if (wrong == NULL)
		return true;
	GUC_check_errdetail("%s", wrong);
	GUC_check_errhint(WINDOW_HINT);
	return false;
}

/* A time of a day, on the wall of the zone, as an instant. */
static TimestampTz
instant(int julian_day, int minutes, pg_tz *zone)
{
	struct pg_tm tm = {0};
	TimestampTz result;
	int			offset;

	j2date(julian_day + minutes / MINUTES_PER_DAY, &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	tm.tm_hour = minutes % MINUTES_PER_DAY / 60;
	tm.tm_min = minutes % 60;
	offset = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, 0, &offset, &result) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return result;
}

static int
compare_openings(const void *a, const void *b)
{
	TimestampTz x = ((const Opening *) a)->from;
	TimestampTz y = ((const Opening *) b)->from;

	return x < y ? -1 : x > y;
}

/* All openings of the days around an instant, sorted.  Returns how many. */
static int
lay_out(const CmWindows *windows, int today, Opening *openings)
{
	int			count = 0;

	for (int day = today - DAYS_BEFORE; day <= today + DAYS_AFTER; day++)
	{
		for (int i = 0; i < windows->count; i++)
		{
			const CmWindow *window = &windows->windows[i];
			Opening    *opening = &openings[count];

			if ((window->days & (1 << j2day(day))) == 0)
				continue;
			opening->from = instant(day, window->from, windows->zone);
			opening->to = instant(day, window->to + (window->to > window->from ? 0 : MINUTES_PER_DAY), windows->zone);
			if (opening->from < opening->to)
				count++;
		}
	}
	qsort(openings, count, sizeof(Opening), compare_openings);
	return count;
}

/* Where an instant is in the windows. */
void
cm_windows_at(const CmWindows *windows, TimestampTz at, CmWindowState *state)
{
	Opening		openings[(DAYS_BEFORE + DAYS_AFTER + 1) * CM_MAX_WINDOWS];
	struct pg_tm tm;
	fsec_t		fsec;
	int			offset;
	int			today;
	int			count;

	*state = (CmWindowState) {.is_open = true,.since = DT_NOBEGIN,.until = DT_NOEND};
	if (windows->count == 0)
		return;
	if (TIMESTAMP_NOT_FINITE(at) || timestamp2tm(at, &offset, &tm, &fsec, NULL, windows->zone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	today = date2j(tm.tm_year, tm.tm_mon, tm.tm_mday);
	count = lay_out(windows, today, openings);
	for (int i = 0; i < count; i++)
	{
		Opening		joined = openings[i];

		for (; i + 1 < count && openings[i + 1].from <= joined.to; i++)
			joined.to = Max(joined.to, openings[i + 1].to);
		if (joined.to <= at)
			continue;
		state->is_open = joined.from <= at;
		state->next = joined.from;
		if (state->is_open)
		{
			/* What reaches over all that was laid out has no end. */
			state->since = joined.from <= instant(today - DAYS_BEFORE + 1, 0, windows->zone) ? DT_NOBEGIN : joined.from;
			state->until = joined.to >= instant(today + DAYS_AFTER, 0, windows->zone) ? DT_NOEND : joined.to;
		}
		return;
	}
	elog(ERROR, "no window opens within %d days", DAYS_AFTER);
}

/*
 * May work that takes so long begin in a window that is open?  If it ends
 * before the window does.  What takes longer than half of it may begin in the
 * first half all the same: else it would never be done.
 */
bool
cm_windows_fit(const CmWindowState *state, TimestampTz at, double milliseconds)
{
	double		left;
	double		whole;

	if (state->until == DT_NOEND || milliseconds <= 0)
		return true;
	left = (state->until - at) / 1000.0;
	whole = state->since == DT_NOBEGIN ? left : (state->until - state->since) / 1000.0;
	return Min(milliseconds, whole / 2) <= left;
}

/* An interval in milliseconds, months of 30 days; 0 without one. */
static double
interval_milliseconds(const Interval *interval)
{
	return interval->time / 1000.0 + (interval->day + interval->month * (double) DAYS_PER_MONTH) * SECS_PER_DAY * 1000.0;
}

/* explain_build_window(build_window text, at timestamptz, duration interval) */
Datum
cm_explain_build_window(PG_FUNCTION_ARGS)
{
	char	   *value = PG_ARGISNULL(0) ? cm_build_window : text_to_cstring(PG_GETARG_TEXT_PP(0));
	TimestampTz at = PG_ARGISNULL(1) ? GetCurrentTimestamp() : PG_GETARG_TIMESTAMPTZ(1);
	CmWindows	windows;
	CmWindowState state;
	const char *wrong = cm_windows_parse(value, &windows);
	TupleDesc	tupdesc;
	double		milliseconds = PG_ARGISNULL(2) ? 0 : interval_milliseconds(PG_GETARG_INTERVAL_P(2));
	Datum		values[6];
	bool		nulls[6] = {false};

	if (wrong != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid build window: \"%s\"", value),
				 errdetail("%s", wrong),
				 errhint(WINDOW_HINT)));
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	cm_windows_at(&windows, at, &state);
	values[0] = BoolGetDatum(state.is_open);
	values[1] = TimestampTzGetDatum(state.since);
	values[2] = TimestampTzGetDatum(state.until);
	values[3] = TimestampTzGetDatum(state.next);
	values[4] = BoolGetDatum(state.is_open && cm_windows_fit(&state, at, milliseconds));
	values[5] = CStringGetTextDatum(pg_get_timezone_name(windows.zone));
	nulls[1] = !state.is_open || state.since == DT_NOBEGIN;
	nulls[2] = !state.is_open || state.until == DT_NOEND;
	nulls[3] = state.is_open;
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}
