/*-------------------------------------------------------------------------
 *
 * conversion_do.h
 *	  What those files of the conversion room say to each other that do what
 *	  explain_conversion() shows.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_CONVERSION_DO_H
#define CM_CONVERSION_DO_H

#include "concertmaster.h"
#include "conversion.h"
#include "pace.h"

/* How far a conversion has come; the order is that of state_names. */
typedef enum CmConversionPhase
{
	CM_CONVERSION_PREPARING,	/* the table is what it was, with something beside it */
	CM_CONVERSION_SWAPPED,		/* the partitioned table has its place */
	CM_CONVERSION_DONE,
	CM_CONVERSION_CANCELLED,	/* what is beside the table is to be removed */
	CM_CONVERSION_STOPPED		/* preparing, but only the next call goes on */
} CmConversionPhase;

/* A conversion that was begun. */
typedef struct CmConversionState
{
	Oid			relid;			/* the table; after the swap the old part */
	Oid			parent;			/* the partitioned table; InvalidOid: not made yet */
	CmConversionPhase phase;
	CmConversionWish *wish;
	char	   *bound;			/* literal in the table's CHECK; NULL: it has none */
	char	   *fingerprint;	/* of what the partitioned table was made of */
	char	   *check_name;		/* of that CHECK; NULL: it has none */
} CmConversionState;

/* The exchange of the two. */
typedef struct CmConversionSwap
{
	const CmConversion *conversion;
	Oid			parent;
	const char *fingerprint;
	bool		stale;			/* set: the table has changed since its copy was made */
} CmConversionSwap;

/* in conversion_state.c: rows of concertmaster.conversion; in a transaction */
extern CmConversionState *cm_conversion_state(Oid relid);
extern void cm_conversion_state_begin(Oid relid, const CmConversionWish *wish, int32 ahead, Interval *retention);
extern void cm_conversion_state_bound(Oid relid, const char *bound, const char *check_name);
extern void cm_conversion_state_created(Oid relid, Oid parent, const char *fingerprint);
extern void cm_conversion_state_phase(Oid relid, CmConversionPhase phase);
extern bool cm_conversion_state_cancel(Oid relid);
extern void cm_conversion_state_stop(Oid relid);
extern void cm_conversion_state_forget(Oid relid);

/* in conversion_create.c */
extern void cm_conversion_create(void *conversion);
extern void cm_conversion_drop_parent(void *conversion);
extern char *cm_conversion_fingerprint(const CmConversion *conversion);
extern List *cm_conversion_texts(const CmConversion *conversion, const char *sql);
extern List *cm_conversion_oids(const CmConversion *conversion, const char *sql);
extern void cm_conversion_run_all(const List *statements, Oid userid);
extern char *cm_conversion_quoted(const CmConversion *conversion, const char *name);
extern char *cm_conversion_meanwhile(Oid oid);
extern List *cm_conversion_copied_indexes(const CmConversion *conversion);

/* in conversion_swap.c, conversion_rebind.c: in a transaction that is all or nothing */
extern void cm_conversion_swap(void *swap);
extern void cm_conversion_rebind_view(Oid viewid, Oid from, Oid to);

/* in conversion_finish.c: what is left after the swap, and the way back before it */
extern bool cm_conversion_finish(const CmConversionState *state, CmJobOutcome *outcome);
extern bool cm_conversion_undo(const CmConversionState *state, const CmConversion *conversion,
							   CmJobOutcome *outcome);

/* in conversion_fill.c: foreign keys that are to reference the key, too */
extern bool cm_conversion_make_composites(const CmConversion *conversion, bool ignore_window, CmJobOutcome *outcome);
extern bool cm_conversion_composites_ready(const CmConversion *conversion);
extern void cm_conversion_swap_composites(const CmConversion *conversion);
extern bool cm_conversion_drop_composites(Oid relid, bool all, CmJobOutcome *outcome);

/* in conversion_explain.c: arguments of both doors; an error unless the table is the caller's */
extern Oid	cm_conversion_arguments(FunctionCallInfo fcinfo, CmConversionWish *wish);

/* in conversion_run.c */
extern char *cm_conversion_query(const char *sql, Oid relid, const char *name);
extern void cm_conversion_require(const CmConversion *conversion);
extern void cm_conversion_drop_check(void *conversion);
extern bool cm_conversion_may(const CmPaceNeed *need, CmJobOutcome *outcome);
extern bool cm_conversion_may_build(CmPaceNeed *need, CmJobOutcome *outcome);
extern bool cm_conversion_put_off(CmJobOutcome *outcome, const char *what, Oid relid, LOCKMODE mode);

#endif							/* CM_CONVERSION_DO_H */
