/*-------------------------------------------------------------------------
 *
 * pace.h
 *	  May long work begin, or go on, now; and if not, why and until when.
 *
 * Three things are asked: the window (concertmaster.build_window), what the
 * standbys are behind (max_replica_lag, max_replica_lag_bytes) and the free
 * disk (min_free_disk).  pace.c says how each is meant.
 *
 * Work that cannot be paused (CREATE INDEX CONCURRENTLY) fills in what it is
 * going to take and asks once, before it begins and before it holds anything:
 *
 *		CmPaceNeed	need = {.what = "building index \"i\" on \"t\"",
 *			.tablespace = spc, .bytes = b, .sort_bytes = s, .milliseconds = ms};
 *
 *		if (!cm_pace_may(&need, &pace))
 *			... put off: pace.why, not before pace.until ...
 *
 * Work in batches asks so once for the whole, and then between two batches
 * with bytes and milliseconds zero, which means "no more than a batch":
 *
 *		if (!cm_pace_wait(&batch, patience_ms, &pace))
 *			... put off; or do what has to be done in a pause, and wait on ...
 *
 * Who is put off gives the answer to its job: outcome->deferred = true,
 * outcome->not_before = pace.until, outcome->message says pace.why.  The job
 * is then run again at that time, or some minutes later, whatever is earlier.
 *
 * Too little free disk is an error, SQLSTATE 53100, with detail and hint:
 * waiting frees none, somebody has to.  So both functions throw.
 *
 * Both are called in no transaction, take none of the locks that others wait
 * for, and hold nothing when they return or while they wait.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_PACE_H
#define CM_PACE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/guc.h"

/* What is about to be done, and what it takes. */
typedef struct CmPaceNeed
{
	const char *what;			/* for messages: what somebody is doing */
	Oid			tablespace;		/* where it writes; InvalidOid: the database's own */
	int64		bytes;			/* that it will write there, about; 0: no more than a batch */
	int64		sort_bytes;		/* that it will sort beside memory, about */
	double		milliseconds;	/* that it takes without a pause, about; 0: no more than a batch */
	bool		ignore_window;	/* somebody said so, or it is nothing large */
	bool		ignore_standbys;	/* it writes next to no WAL */
} CmPaceNeed;

/* What is in the way. */
typedef enum CmPaceReason
{
	CM_PACE_GO,					/* nothing */
	CM_PACE_WINDOW,
	CM_PACE_LAG
} CmPaceReason;

/* The answer. */
typedef struct CmPace
{
	CmPaceReason reason;
	TimestampTz until;			/* ask again then; 0 with CM_PACE_GO */
	char	   *why;			/* a phrase, palloc'd: "standby ... is behind"; NULL with CM_PACE_GO */
} CmPace;

/* in pace.c */
extern bool cm_pace_may(const CmPaceNeed *need, CmPace *pace);
extern bool cm_pace_wait(const CmPaceNeed *need, int patience_ms, CmPace *pace);
extern double cm_scan_milliseconds(double bytes);
extern double cm_build_milliseconds(double heap_bytes, double rows);

/* in pace_disk.c: for what is only shown; in a transaction */
extern bool cm_pace_has_room(const CmPaceNeed *need);
extern char *cm_size_text(int64 bytes);

/* in pace_window.c, pace_disk.c, pace_lag.c: what settings.c refuses */
extern bool cm_check_build_window(char **newval, void **extra, GucSource source);
extern bool cm_check_delayed_standbys(char **newval, void **extra, GucSource source);
extern bool cm_check_min_free_disk(char **newval, void **extra, GucSource source);

#endif							/* CM_PACE_H */
