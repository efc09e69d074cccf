/*-------------------------------------------------------------------------
 *
 * concertmaster.c
 *	  The front door: what happens when the library is loaded.
 *
 * Loaded through shared_preload_libraries, it defines the settings, asks for
 * shared memory, installs the hooks and registers the launcher, in that
 * order.  Loaded by a function call in one session, it defines the settings
 * alone: shared memory is then attached when first needed, and the launcher
 * can be started by start_launcher().  It never raises an error for a missing
 * preload, because pg_upgrade loads every library.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "concertmaster.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

/* Called by the server once per process that loads the library. */
void
_PG_init(void)
{
	cm_settings_define();
	cm_partition_keeper = &cm_matview_keeper;
	if (!process_shared_preload_libraries_in_progress)
		return;

	cm_shared_request();
	cm_database_hook_install();
	if (IsBinaryUpgrade)
		return;
	cm_launcher_register();
}
