/*-------------------------------------------------------------------------
 *
 * matview_log.h
 *	  What the files that write the log say to each other.
 *
 * Words: a written table is one whose trigger has fired, a leaf if it is
 * partitioned.  A target is one entry of a view's range table that the written
 * table is part of.  A teller computes one key column from one row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_MATVIEW_LOG_H
#define CM_MATVIEW_LOG_H

#include "matview.h"

#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/relcache.h"

/* What a mask-0 row of the log says in place of a key. */
#define CM_LOG_ANY_GROUP	"a table was written to that tells no group"
#define CM_LOG_NO_QUERY		"its query could not be read when its tables were written to"
#define CM_LOG_MANY_GROUPS	"too many groups were written to in one transaction"
#define CM_LOG_OUTDATED		"what was logged is of an older version of the extension or of a function"
#define CM_LOG_NOT_OWNER	"a table was written to that its owner has no rights on"
#define CM_LOG_BY_HAND		"refreshed by hand"

typedef enum CmTellerKind
{
	CM_TELLER_COLUMN,			/* the value of a column */
	CM_TELLER_BUCKET,			/* the bucket of a column */
	CM_TELLER_SAFE,				/* an expression that cannot fail */
	CM_TELLER_CORE,				/* one that can, but calls functions of core alone */
	CM_TELLER_OWNER				/* any other: runs as the view's owner */
} CmTellerKind;

typedef struct CmSpans CmSpans;

typedef struct CmTeller
{
	CmTellerKind kind;
	Node	   *expr;			/* over the written table as range table entry 1 */
	int16		typlen;			/* of its value */
	bool		typbyval;
	AttrNumber	attno;			/* COLUMN and BUCKET */
	CmBucket   *bucket;			/* BUCKET */
	char	   *zone;			/* the pinned one */
	CmSpans    *spans;			/* buckets that were computed */
	Oid			owner;			/* of the view */
	ExprState  *state;			/* the others */
	ExprContext *context;

	uint64		row;			/* that the value is of; 0: none */
	Datum		value;
	bool		isnull;
	bool		known;
} CmTeller;

/* A view's patterns in this transaction; see matview_log_dedupe.c. */
typedef struct CmLogView
{
	Oid			view;
	int64		count;			/* how many are logged */
	bool		all;			/* any group: nothing more need be logged */
} CmLogView;

typedef struct CmLogTarget
{
	Oid			view;
	Oid			log_relid;		/* the leaf of matview_log that has its rows */
	CmMatviewPlan *plan;		/* its key alone; NULL: could not be made */
	const char *no_plan;		/* why not */
	uint32		mask;			/* key columns that have a teller */
	CmTeller   *tellers[CM_KEY_MAX];
	int			ncolumns;		/* columns that the view reads ... */
	int		   *columns;		/* ... as indexes into the table's */
	uint64		epoch;			/* of state and last */
	CmLogView  *state;
	int			last_length;	/* of the last pattern; 0: none */
	int			last_room;
	char	   *last;
} CmLogTarget;

/* A written table, and for which views. */
typedef struct CmLogTable
{
	Oid			relid;
	bool		valid;			/* nothing it is made of has changed */
	bool		calls_functions;	/* that are not core's */
	bool		reads_unknown;	/* a target's columns are not known */
	MemoryContext context;
	int			ndepends;
	Oid		   *depends;		/* relations that it is made of */
	int			ncolumns;		/* columns that any view reads */
	AttrNumber *columns;
	bool	   *changed;		/* by the UPDATE at hand */
	AttrNumber	last_column;	/* the highest of them */
	int			ntargets;
	CmLogTarget *targets;
} CmLogTable;

/* in matview_log_eval.c */
extern CmTeller *cm_teller_make(Node *expr, bool is_bucket, const char *zone, Oid owner);
extern void cm_teller_tell(CmTeller *teller, TupleTableSlot *slot, uint64 row);

/* in matview_log_table.c */
extern CmLogTable *cm_log_table_build(Relation relation, MemoryContext parent);
extern Oid	cm_log_relation(const char *name);
extern Oid	cm_log_leaf(Oid view);
extern char *cm_log_track_zone(Oid view);

/* in matview_log_dedupe.c */
extern uint64 cm_log_epoch;
extern void cm_log_dedupe_init(void);
extern CmLogView *cm_log_view_state(Oid view);
extern bool cm_log_is_known(const char *bytes, int length);
extern void cm_log_remember(CmLogView *state, const char *bytes, int length, bool all);
extern void cm_log_forget_all(void);

/* in matview_log_store.c: rows of the log */
extern void cm_log_insert(Oid log_relid, Oid view, uint32 mask, bytea *key);
extern bytea *cm_log_reason(const char *reason);

#endif							/* CM_MATVIEW_LOG_H */
