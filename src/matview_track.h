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
 * The name of the trigger of a partitioned table, which its partitions have
 * too, and that of a table that is none.  They differ because ATTACH PARTITION
 * refuses a table that has a trigger of the name.
 */
#define CM_LOG_TRIGGER			"concertmaster_log_changes"
#define CM_LOG_TABLE_TRIGGER	"concertmaster_log_table"

/* The trigger of a table that logs. */
typedef struct CmLogTrigger
{
	char		name[NAMEDATALEN];
	bool		always;			/* fires whatever session_replication_role is */
	char		stamp[32];		/* another one after every change */
} CmLogTrigger;

/* in matview_track.c */
extern bool cm_log_trigger_find(Oid relid, CmLogTrigger *trigger);
extern List *cm_tracked_relids(const CmMatviewPlan *plan);
extern List *cm_tracked_leaves(Oid root);
extern bool cm_log_trigger_drop(Oid relid, bool here);

#endif							/* CM_MATVIEW_TRACK_H */
