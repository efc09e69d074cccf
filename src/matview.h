/*-------------------------------------------------------------------------
 *
 * matview.h
 *	  What the files of the matview room say to each other.
 *
 * Words: a group is a row of the view, told by the columns it is grouped by.
 * The key of a view is those of its grouped columns whose value a change to
 * some table tells; a pattern is a key of which some columns are known (a
 * mask) and the rest may be anything.  The log is made of patterns.  A bucket
 * is a grouped column made of a time; its raw column is that time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_MATVIEW_H
#define CM_MATVIEW_H

#include "concertmaster.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"

#include "matview_bucket.h"

/* How a materialized view can be refreshed.  In the order of cm_matview_mode_names. */
typedef enum CmMatviewMode
{
	CM_MATVIEW_NONE,			/* not without blocking its readers */
	CM_MATVIEW_CONCURRENTLY,	/* by core; readers go on */
	CM_MATVIEW_BLOCKING,		/* readers wait; its owner allows that */
	CM_MATVIEW_FIRST_FILL,		/* it holds nothing yet that could be read */
	CM_MATVIEW_INCREMENTAL,		/* what changed, merged */
	CM_MATVIEW_FULL				/* all of it, merged */
} CmMatviewMode;

/* A decision, and why. */
typedef struct CmMatviewChoice
{
	CmMatviewMode mode;
	const char *reason;
} CmMatviewChoice;

/* What a refresh did. */
typedef struct CmMatviewResult
{
	CmMatviewMode mode;
	const char *reason;			/* why that mode */
	double		duration;		/* milliseconds */
	int64		groups;			/* patterns computed anew, -1: all */
	int64		inserted;		/* rows of the view, -1: not known */
	int64		deleted;
} CmMatviewResult;

/* What the owner decided: the row in matview; defaults if there is none. */
typedef struct CmMatviewSettings
{
	bool		managed;
	bool		allow_blocking;
	bool		incremental;
	bool		allow_inexact;
	char	   *timezone;
	char	   *not_logging_code;	/* why its tables could not be made to log; NULL if they could */
	char	   *not_logging;
} CmMatviewSettings;

/* Why tables could not be made to log: one of these, and in words. */
#define CM_NOT_LOGGING_LOCK		"lock_not_available"
#define CM_NOT_LOGGING_DEADLINE	"deadline_too_short"
#define CM_NOT_LOGGING_ERROR	"trigger_failed"

typedef struct CmNotLogging
{
	const char *code;
	const char *reason;
} CmNotLogging;

/* How many columns a key can have: bits of matview_log.mask. */
#define CM_KEY_MAX			16

/* A log pattern whose values are longer than this leaves the longest out. */
#define CM_KEY_BYTES_MAX	1024

/* A column of the key. */
typedef struct CmKeyColumn
{
	AttrNumber	attno;			/* in the view */
	Oid			type;
	int32		typmod;
	Oid			collation;
	Oid			eqop;			/* what GROUP BY calls equal */
	Node	   *expr;			/* over the query's range table, join aliases and GROUP entry flattened */
	CmBucket   *bucket;			/* NULL: no bucket */
} CmKeyColumn;

/* A range table entry whose changes are logged. */
typedef struct CmTracked
{
	Index		rti;
	Oid			relid;
	bool		whole_row;		/* the query reads all columns */
	Bitmapset  *columns;		/* those it reads, by attribute number (all > 0) */
	uint32		mask;			/* key columns that a row of it tells; 0: any group */
	Node	   *exprs[CM_KEY_MAX];	/* how: expressions over rti alone; NULL if not in mask */
} CmTracked;

/*
 * A condition bucket <op> edge, where the edge moves with now().  Rows whose
 * bucket is between the edge as it was and as it is may have come or gone.
 */
typedef struct CmWindow
{
	int			key;			/* the key column that is a bucket of the same raw column */
	CmBucket   *bucket;			/* brought to the type of the comparison by steps of its own */
	Node	   *edge;			/* of bucket->type, reads no column; now() inside */
} CmWindow;

/* One check of the analysis, as explain_refresh() shows it. */
typedef struct CmMatviewCheck
{
	const char *name;			/* what was looked at */
	bool		ok;
	const char *reason_code;	/* stable; NULL if ok */
	const char *detail;			/* the clause concerned */
	const char *hint;			/* the change that would help */
} CmMatviewCheck;

/* What is known of a view's query. */
typedef struct CmMatviewPlan
{
	Oid			view;
	Query	   *query;			/* a copy that may be changed; no unused OLD and NEW in its FROM */
	bool		incremental;	/* every check is ok */
	List	   *checks;			/* of CmMatviewCheck */
	int			nkeys;
	CmKeyColumn keys[CM_KEY_MAX];
	TupleDesc	key_desc;		/* the key columns as a row */
	uint32		key_version;	/* of the functions of users that make it */
	List	   *tracked;		/* of CmTracked */
	List	   *windows;		/* of CmWindow */
	List	   *functions;		/* oids of functions that are not core's, for the stamp */
	bool		zone_matters;	/* the result depends on the pinned zone */
	List	   *zones;			/* of String: zones that the query names; "" if any can be meant */
	bool		now_matters;	/* ... on now() */
	struct CmStamp *seen;		/* what cm_matview_stamp_compare() found; NULL before */
} CmMatviewPlan;

/* All that a refresh has to compute anew. */
typedef struct CmDirty
{
	const char *stale;			/* why all of it; NULL if not */
	List	   *patterns;		/* of CmPattern, no two alike */
	List	   *ranges;			/* of CmDirtyRange */
	List	   *log_tids;		/* of ItemPointer: the log's rows that were read */
} CmDirty;

typedef struct CmPattern
{
	uint32		mask;
	Datum		values[CM_KEY_MAX];
	bool		nulls[CM_KEY_MAX];	/* unset and of no meaning outside mask */
} CmPattern;

/* in matview_manage.c: what can be done with a view; catalog rows only */
extern const char *const cm_matview_mode_names[];
extern void cm_matview_require(Oid relid);
extern CmMatviewChoice cm_matview_choose(Oid relid, const CmMatviewSettings *settings,
										 const CmMatviewPlan *plan);
extern bool cm_matview_has_usable_index(Oid relid);
extern void cm_matview_settings(Oid relid, CmMatviewSettings *settings);
extern void cm_matview_report_blocking(Oid relid);

/* in matview_key.c: which columns could be a unique index */
extern char *cm_matview_suggest_key(Oid relid);
extern Query *cm_matview_read_query(Oid relid);

/* in matview_query.c: what a view's query allows; pure but for catalog reads */
extern CmMatviewPlan *cm_matview_plan(Oid view, const CmMatviewSettings *settings);
extern CmMatviewPlan *cm_matview_plan_for_log(Oid view);

/* in matview_window.c: conditions that move with now(); pure */
extern Node *cm_matview_fix_now(Node *node, TimestampTz now);
extern bool cm_matview_window_range(const CmWindow *window, const char *zone,
									Datum edge, Datum other_edge, CmDirtyRange *range);

/* in matview_group.c: patterns as bytes */
extern bytea *cm_pattern_encode(const CmMatviewPlan *plan, CmPattern *pattern);
extern void cm_pattern_decode(const CmMatviewPlan *plan, uint32 mask, bytea *key, CmPattern *pattern);

/* in matview_log_store.c: read the log; matview_log.c writes it */
extern void cm_matview_log_read(const CmMatviewPlan *plan, CmDirty *dirty);
extern void cm_matview_log_consume(Oid view, const CmDirty *dirty);
extern void cm_matview_log_clear(Oid view);

/* in matview_track.c: make tables log */
extern bool cm_matview_is_tracked(Oid view);
extern bool cm_matview_track(CmMatviewPlan *plan, Oid owner, CmNotLogging *why);
extern void cm_matview_track_new(const CmMatviewPlan *plan, Oid owner);
extern void cm_matview_note_not_logging(Oid view, const CmNotLogging *why);
extern void cm_matview_untrack(Oid view);
extern void cm_matview_sources_lock(const CmMatviewPlan *plan);

/* in matview_stamp.c: see what no trigger sees */
extern void cm_matview_stamp_compare(CmMatviewPlan *plan, const char *zone, CmDirty *dirty);
extern bool cm_matview_stamp_holds(CmMatviewPlan *plan);
extern bool cm_matview_stamp_holds_for(const CmMatviewPlan *plan, const List *relids);
extern void cm_matview_stamp_write(const CmMatviewPlan *plan);
extern char *cm_matview_stamp_obstacle(const CmMatviewPlan *plan);

/* in matview_zone.c: rules of time zones */
extern uint32 cm_zone_number(const char *name);
extern uint32 cm_zones_number(const List *names);
extern void cm_zone_note(CmMatviewPlan *plan, Node *node);

/* in matview_by_hand.c: the view that we have core refresh, for as long as that goes on */
extern Oid	cm_matview_refreshing;

#endif							/* CM_MATVIEW_H */
