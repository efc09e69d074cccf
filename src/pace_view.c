/*-------------------------------------------------------------------------
 *
 * pace_view.c
 *	  View build_conditions: what pace.c would say now, in rows.
 *
 * One row for the window, one for each file system that holds a tablespace or
 * WAL, one for each standby.  What a build needs is not known here, so that of
 * a file system tells whether anything at all could begin.  For time, standbys
 * are judged by what they say themselves (see pace_lag.c for why a worker does
 * not), as a view must not wait.
 *
 * Locks: none.  Nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "concertmaster.h"
#include "pace_parts.h"

PG_FUNCTION_INFO_V1(cm__build_conditions);

enum
{
	COL_CONDITION,
	COL_OBJECT,
	COL_OK,
	COL_DETAIL,
	COL_UNTIL,
	COL_SIZE_BYTES,
	COL_FREE_BYTES,
	COL_FLOOR_BYTES,
	COL_LAG_BYTES,
	COL_LAG,
	COLUMNS
};

/* A row being made. */
typedef struct Row
{
	Datum		values[COLUMNS];
	bool		nulls[COLUMNS];
} Row;

static void
set_value(Row *row, int column, Datum value)
{
	row->values[column] = value;
	row->nulls[column] = false;
}

/* Begin a row. */
static void
begin_row(Row *row, const char *condition, const char *object, bool ok, const char *detail)
{
	memset(row->nulls, true, sizeof(row->nulls));
	set_value(row, COL_CONDITION, CStringGetTextDatum(condition));
	set_value(row, COL_OBJECT, CStringGetTextDatum(object));
	set_value(row, COL_OK, BoolGetDatum(ok));
	if (detail != NULL)
		set_value(row, COL_DETAIL, CStringGetTextDatum(detail));
}

static void
end_row(ReturnSetInfo *result, Row *row)
{
	tuplestore_putvalues(result->setResult, result->setDesc, row->values, row->nulls);
}

static void
put_window(ReturnSetInfo *result)
{
	CmWindows	windows;
	CmWindowState state;
	Row			row;

	cm_windows_current(&windows);
	cm_windows_at(&windows, GetCurrentTimestamp(), &state);
	begin_row(&row, "window", windows.count == 0 ? "always" : cm_build_window, state.is_open,
			  windows.count == 0 ? NULL :
			  psprintf("times are those of %s", pg_get_timezone_name(windows.zone)));
	if (!state.is_open)
		set_value(&row, COL_UNTIL, TimestampTzGetDatum(state.next));
	else if (state.until != DT_NOEND)
		set_value(&row, COL_UNTIL, TimestampTzGetDatum(state.until));
	end_row(result, &row);
}

static void
put_disks(ReturnSetInfo *result)
{
	char	   *wal_kept;
	ListCell   *lc;

	foreach(lc, cm_disks_look(NULL, &wal_kept))
	{
		const CmDisk *disk = lfirst(lc);
		Row			row;

		begin_row(&row, "disk", disk->name, !cm_disk_is_short(disk),
				  strstr(disk->name, "WAL") != NULL ? wal_kept : NULL);
		set_value(&row, COL_SIZE_BYTES, Int64GetDatum(disk->size));
		set_value(&row, COL_FREE_BYTES, Int64GetDatum(disk->free));
		set_value(&row, COL_FLOOR_BYTES, Int64GetDatum(disk->floor));
		end_row(result, &row);
	}
}

static void
put_standbys(ReturnSetInfo *result)
{
	XLogRecPtr	upto = RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : GetFlushRecPtr(NULL);
	ListCell   *lc;

	foreach(lc, cm_standbys_look(upto))
	{
		const CmStandby *standby = lfirst(lc);
		char	   *excess = cm_standby_excess(standby, 0);
		Interval   *lag = palloc0(sizeof(Interval));
		Row			row;

		begin_row(&row, "standby", standby->name, excess == NULL,
				  excess != NULL || standby->counts ? excess : "does not count: it is in concertmaster.delayed_standbys");
		set_value(&row, COL_LAG_BYTES, Int64GetDatum(standby->bytes));
		lag->time = standby->milliseconds * 1000;
		if (standby->milliseconds >= 0)
			set_value(&row, COL_LAG, IntervalPGetDatum(lag));
		end_row(result, &row);
	}
}

/* _build_conditions() */
Datum
cm__build_conditions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	put_window(result);
	put_disks(result);
	put_standbys(result);
	return (Datum) 0;
}
