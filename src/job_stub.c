/*-------------------------------------------------------------------------
 *
 * job_stub.c
 *	  TEMPORARY: weak stand-ins for the rooms that have not landed yet.
 *	  To be deleted when the last of them has.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "concertmaster.h"

#define STAND_IN(function) \
__attribute__((weak)) void \
function(const CmJob *job, CmJobOutcome *outcome) \
{ \
	ereport(ERROR, \
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED), \
			 errmsg("job \"%s\" cannot be run: its code is not linked", job->name))); \
}

STAND_IN(cm_partition_run)
STAND_IN(cm_install_run)

/* Plain refresh, enough to have jobs that do something. */
__attribute__((weak)) void
cm_matview_run(const CmJob *job, CmJobOutcome *outcome)
{
	cm_statement_run(psprintf("REFRESH MATERIALIZED VIEW %s",
							  quote_qualified_identifier(job->schema_name, job->relation_name)),
					 job->owner, 0);
}
