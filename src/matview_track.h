/*-------------------------------------------------------------------------
 *
 * matview_track.h
 *	  What the files that look after tracked tables say to each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_MATVIEW_TRACK_H
#define CM_MATVIEW_TRACK_H

#include "matview.h"

/*
 * The name of the trigger of a partitioned table, its oid left out, which its
 * partitions have too, and that of a table that is none.
 */
#define CM_LOG_TRIGGER			"concertmaster_log_"
#define CM_LOG_TABLE_TRIGGER	"concertmaster_log_table"

/* Leaves for which triggers are made together, in a fraction of the default deadline. */
#define CM_LEAVES_AT_ONCE		64

/* The trigger of a table that logs. */
typedef struct CmLogTrigger
{
	char		name[NAMEDATALEN];
	bool		own;			/* there is one that is no clone */
	bool		inherited;		/* there is a clone of a parent's */
	bool		always;			/* fires whatever session_replication_role is */
	char		stamp[32];		/* another one after every change */
} CmLogTrigger;

/* What is made to log, for cm_attempt_commit(). */
typedef struct CmLogStep
{
	CmMatviewPlan *plan;		/* NULL for a leaf alone */
	List	   *roots;
	bool		making;			/* all locks are held */
} CmLogStep;

/* in matview_trigger.c */
extern bool cm_log_trigger_find(Oid relid, CmLogTrigger *trigger);
extern void cm_log_trigger_make(Oid relid);
extern bool cm_log_trigger_drop(Oid relid, bool here);
extern bool cm_log_is_made(Oid root);
extern Oid	cm_log_silent_leaf(Oid relid);
extern bool cm_log_is_needed(Oid relid);
extern List *cm_log_bare_leaves(const List *roots, bool begun);
extern bool cm_log_attempt(CmStep run, CmLogStep *step, const List *roots, Oid userid, CmNotLogging *why);
extern bool cm_log_leaves_make(const List *leaves, Oid userid, CmNotLogging *why);

/* in matview_track.c */
extern List *cm_tracked_relids(const CmMatviewPlan *plan);
extern List *cm_tracked_leaves(Oid root);
extern uint32 cm_attach_version(Oid leaf, Oid root);
extern Datum cm_oid_array(const List *oids);

#endif							/* CM_MATVIEW_TRACK_H */
