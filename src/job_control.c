/*-------------------------------------------------------------------------
 *
 * job_control.c
 *	  The SQL doors of the job room.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "concertmaster.h"
#include "job.h"

#ifndef CM_VERSION
#define CM_VERSION "0.1.0"
#endif

/*
 * Is the extension installed in this database, with the library's version?
 * Sets *exists, *extension_oid (only if it matches) and *armed (whether the
 * launcher is to run jobs here).
 */
bool
cm_extension_matches(Oid *extension_oid, bool *exists, bool *armed)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		matches = false;

	*extension_oid = InvalidOid;
	*armed = false;
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("concertmaster"));
	scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	*exists = HeapTupleIsValid(tuple);
	if (*exists)
	{
		bool		isnull;
		Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion,
										   RelationGetDescr(relation), &isnull);

		matches = !isnull && strcmp(TextDatumGetCString(version), CM_VERSION) == 0;
		if (matches)
			*extension_oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);

	if (matches)
	{
		CmScope		scope;

		cm_catalog_enter(&scope);
		SPI_execute("SELECT 1 FROM concertmaster.armed a JOIN pg_database d ON d.oid = a.datid"
					" WHERE d.datname = current_database() AND a.driver = 'launcher'", true, 1);
		*armed = SPI_processed > 0;
		cm_scope_leave(&scope);
	}
	return matches;
}

PG_FUNCTION_INFO_V1(cm_run_job);

/* CALL run_job(name): run a job now, in a worker, and wait for its end. */
Datum
cm_run_job(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *message;

	cm_require_nonatomic(fcinfo, "run_job()");
	cm_require_primary("run_job()");
	if (cm_job_call(fcinfo, cm_job_find(name), &message))
	{
		if (message != NULL)
			ereport(NOTICE, (errmsg("%s: %s", name, message)));
	}
	else
		ereport(WARNING,
				(errmsg("job \"%s\" was put off", name),
				 message ? errdetail("%s", message) : 0,
				 errhint("It changed nothing that is half done; run it again later.")));
	PG_RETURN_VOID();
}
