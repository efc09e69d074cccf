/*-------------------------------------------------------------------------
 *
 * pace_parts.h
 *	  What the files behind pace.h say to each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_PACE_PARTS_H
#define CM_PACE_PARTS_H

#include "postgres.h"

#include "access/xlogdefs.h"
#include "nodes/pg_list.h"
#include "pgtime.h"

#include "pace.h"

/* More of them in one setting is a mistake. */
#define CM_MAX_WINDOWS		32

/* A daily time of some days of the week, in minutes after midnight. */
typedef struct CmWindow
{
	int			days;			/* on which it begins: a bit each, 1 << 0 is Sunday */
	int			from;
	int			to;				/* not later than from: of the next day */
} CmWindow;

/* A value of concertmaster.build_window. */
typedef struct CmWindows
{
	int			count;			/* 0: always open */
	CmWindow	windows[CM_MAX_WINDOWS];
	pg_tz	   *zone;
} CmWindows;

/* Where an instant is in them. */
typedef struct CmWindowState
{
	bool		is_open;
	TimestampTz since;			/* these two if open; DT_NOBEGIN, DT_NOEND: without end */
	TimestampTz until;
	TimestampTz next;			/* if not open: when it opens */
} CmWindowState;

/* A file system that something is written to. */
typedef struct CmDisk
{
	char	   *name;			/* tablespace "x", WAL, for messages */
	uint64		device;			/* tells file systems apart */
	int64		size;
	int64		free;			/* for the server's user */
	int64		floor;
	int64		needed;
} CmDisk;

/* A standby, or another receiver that replays. */
typedef struct CmStandby
{
	char	   *name;
	int			pid;			/* of its WAL sender */
	bool		counts;			/* not in concertmaster.delayed_standbys */
	int64		bytes;			/* that it is behind */
	int64		milliseconds;	/* as it says itself; -1: nothing */
} CmStandby;

/* in pace_window.c: pure */
extern const char *cm_windows_parse(const char *text, CmWindows *windows);
extern void cm_windows_current(CmWindows *windows);
extern void cm_windows_at(const CmWindows *windows, TimestampTz at, CmWindowState *state);
extern bool cm_windows_fit(const CmWindowState *state, TimestampTz at, double milliseconds);

/* in pace_disk.c: in a transaction */
extern List *cm_disks_look(const CmPaceNeed *need, char **wal_kept);
extern bool cm_disk_is_short(const CmDisk *disk);
extern void cm_disks_require(const CmPaceNeed *need);

/* in pace_lag.c */
extern List *cm_standbys_look(XLogRecPtr upto);
extern char *cm_standby_excess(const CmStandby *standby, int64 waited_ms);
extern char *cm_standbys_behind(void);

/* in pace.c */
extern char *cm_duration_text(double milliseconds);

#endif							/* CM_PACE_PARTS_H */
