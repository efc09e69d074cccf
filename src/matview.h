/*-------------------------------------------------------------------------
 *
 * matview.h
 *	  What the files of the matview room say to each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_MATVIEW_H
#define CM_MATVIEW_H

#include "concertmaster.h"

/* How a materialized view can be refreshed.  In the order of cm_matview_mode_names. */
typedef enum CmMatviewMode
{
	CM_MATVIEW_NONE,			/* not without blocking its readers */
	CM_MATVIEW_CONCURRENTLY,	/* readers go on */
	CM_MATVIEW_BLOCKING,		/* readers wait; its owner allows that */
	CM_MATVIEW_FIRST_FILL		/* it holds nothing yet that could be read */
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
	double		duration;		/* milliseconds */
} CmMatviewResult;

/* in matview_manage.c: what can be done with a view; catalog rows only */
extern const char *const cm_matview_mode_names[];
extern void cm_matview_require(Oid relid);
extern CmMatviewChoice cm_matview_choose(Oid relid, bool allow_blocking);
extern bool cm_matview_settings(Oid relid, bool *allow_blocking);
extern void cm_matview_report_blocking(Oid relid, const CmMatviewChoice *choice);

/* in matview_key.c: which columns could be a unique index */
extern char *cm_matview_suggest_key(Oid relid);

#endif							/* CM_MATVIEW_H */
