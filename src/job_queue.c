/*-------------------------------------------------------------------------
 *
 * job_queue.c
 *	  The job table: make a job, drop a job.
 *
 * All statements run in a cm_catalog_enter() scope, in the caller's
 * transaction.  A change of the table tells the launcher at commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "concertmaster.h"

/* In the order of CmJobKind. */
static const char *const kind_names[] = {"refresh", "roll", "build", "adopt", "prune"};

/*
 * The name of the job of this kind for a relation ("roll public.t"), or for a
 * phase ("build phase 1").  palloc'd.
 */
char *
cm_job_name(CmJobKind kind, Oid relid, int phase)
{
	if (kind == CM_JOB_BUILD)
		return psprintf("build phase %d", phase);
	if (!OidIsValid(relid))
		return pstrdup(kind_names[kind]);
	return psprintf("%s %s", kind_names[kind], cm_relation_quoted(relid));
}

/* The first job of a database arms it; see the table armed. */
static void
arm_if_empty(void)
{
	SPI_execute("INSERT INTO concertmaster.armed (datid)"
				" SELECT oid FROM pg_database WHERE datname = current_database()"
				"   AND NOT EXISTS (SELECT FROM concertmaster.job)"
				" ON CONFLICT DO NOTHING", false, 0);
}

/* Insert or update a job row and its state.  Caller is in a catalog scope. */
static int64
upsert_row(const char *name, CmJobKind kind, const char *schema_name,
		   const char *relation_name, int phase, const char *owner,
		   Interval *every, bool run_now)
{
	Oid			types[7] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, INTERVALOID};
	Datum		values[7];
	char		nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};
	Oid			state_types[2] = {INT8OID, BOOLOID};
	Datum		state_values[2];
	bool		isnull;
	int64		job_id;

	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(kind_names[kind]);
	values[2] = schema_name ? CStringGetTextDatum(schema_name) : (Datum) 0;
	nulls[2] = schema_name ? ' ' : 'n';
	values[3] = relation_name ? CStringGetTextDatum(relation_name) : (Datum) 0;
	nulls[3] = relation_name ? ' ' : 'n';
	values[4] = Int32GetDatum(phase);
	nulls[4] = phase > 0 ? ' ' : 'n';
	values[5] = CStringGetTextDatum(owner);
	values[6] = every ? IntervalPGetDatum(every) : (Datum) 0;
	nulls[6] = every ? ' ' : 'n';

	arm_if_empty();
	SPI_execute_with_args("INSERT INTO concertmaster.job"
						  " (name, kind, schema_name, relation_name, phase, owner, every)"
						  " VALUES ($1, $2, $3, $4, $5, $6, $7)"
						  " ON CONFLICT (name) DO UPDATE SET every = EXCLUDED.every, owner = EXCLUDED.owner"
						  " RETURNING job_id",
						  7, types, values, nulls, false, 0);
	job_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));

	state_values[0] = Int64GetDatum(job_id);
	state_values[1] = BoolGetDatum(run_now);
	SPI_execute_with_args("INSERT INTO concertmaster.job_state AS s (job_id, next_run)"
						  " SELECT job_id, CASE WHEN $2 THEN now() ELSE now() + every END"
						  "   FROM concertmaster.job WHERE job_id = $1"
						  " ON CONFLICT (job_id) DO UPDATE"
						  "   SET next_run = CASE WHEN $2 THEN now()"
						  "                       ELSE least(s.next_run, EXCLUDED.next_run) END",
						  2, state_types, state_values, NULL, false, 0);
	return job_id;
}

/*
 * Make or change the job of this kind for a relation; it acts for the
 * relation's owner.  every NULL: only on request.  run_now: due at once.
 * Returns the job's number.
 */
int64
cm_job_upsert(CmJobKind kind, Oid relid, int phase, Interval *every, bool run_now)
{
	CmScope		scope;
	int64		job_id;
	char	   *name = cm_job_name(kind, relid, phase);

	cm_catalog_enter(&scope);
	cm_relation_remember(relid);
	job_id = upsert_row(name, kind,
						get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid),
						phase, GetUserNameFromId(cm_relation_owner(relid), false),
						every, run_now);
	cm_scope_leave(&scope);
	cm_shared_wake_at_commit();
	return job_id;
}

/*
 * Make or change a job that is not about one relation; it acts for the
 * current user.  Returns the job's number.
 */
int64
cm_job_upsert_named(const char *name, CmJobKind kind, const char *schema_name,
					int phase, Interval *every, bool run_now)
{
	CmScope		scope;
	int64		job_id;
	char	   *owner = GetUserNameFromId(GetUserId(), false);

	cm_catalog_enter(&scope);
	job_id = upsert_row(name, kind, schema_name, NULL, phase, owner, every, run_now);
	cm_scope_leave(&scope);
	cm_shared_wake_at_commit();
	return job_id;
}

/* Drop the job of this kind for a relation.  Returns whether there was one. */
bool
cm_job_remove(CmJobKind kind, Oid relid, int phase)
{
	CmScope		scope;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	bool		found;

	values[0] = CStringGetTextDatum(cm_job_name(kind, relid, phase));
	cm_catalog_enter(&scope);
	SPI_execute_with_args("DELETE FROM concertmaster.job WHERE name = $1",
						  1, types, values, NULL, false, 0);
	found = SPI_processed > 0;
	cm_scope_leave(&scope);
	cm_shared_wake_at_commit();
	return found;
}
