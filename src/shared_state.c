/*-------------------------------------------------------------------------
 *
 * shared_state.c
 *	  The one shared struct: workers' slots and databases' due times.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pgstat.h"
#include "utils/backend_status.h"

#include "concertmaster.h"

/* Tell the launcher, when this transaction commits, to look at this database. */
void
cm_shared_wake_at_commit(void)
{
}

/* Say how far this process's work has come; shown by views and to callers. */
void
cm_progress_report(int64 done, int64 total, const char *fmt,...)
{
	char		text[256];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	pgstat_report_activity(STATE_RUNNING, text);
}
