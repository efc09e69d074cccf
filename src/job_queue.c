/*-------------------------------------------------------------------------
 *
 * job_queue.c
 *	  The job table: make a job, drop a job, find a job.
 *
 * All statements run in a cm_catalog_enter() scope, in the caller's
 * transaction.  A change of the table tells the launcher at commit.
 *
 * The first job that anybody makes brings the job that prunes the history,
 * and the last one that goes takes it along.
 *
 * A job's owner is dumped by name.  Beside it job_state, which is not dumped,
 * keeps the role's oid, so that a role that is renamed keeps its jobs and
 * nobody gets them by taking the name.  Jobs about a relation follow its
 * owner, the prune job the extension's.
 *
 * Locks: none but those of the statements.  After an error the transaction's
 * abort undoes everything.  What it does not do: run anything (job_run.c), or
 * check who may make a job (the rooms do, each for its kind); but it changes
 * no job of a role that the caller cannot act for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "concertmaster.h"
#include "job.h"

/* In the order of CmJobKind. */
static const char *const kind_names[] = {"refresh", "roll", "build", "adopt", "prune", "convert"};

/* The oid of the extension's owner, in a catalog scope. */
#define OUR_OID		"(SELECT u.oid FROM pg_roles u WHERE u.rolname = current_user)"

/* The oid of the role that job j, with its state s, acts for. */
#define OWNER_OID	"coalesce(CASE WHEN j.relation_name IS NULL THEN s.owner_oid END," \
					" (SELECT r.oid FROM pg_roles r WHERE r.rolname = j.owner))"

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

/* pg_cron calls once a minute; refuse a period that this cannot keep. */
static void
require_drivable(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];

	values[0] = CStringGetTextDatum(name);
	cm_query("SELECT 1 FROM concertmaster.job, concertmaster.armed"
						  " WHERE name = $1 AND every < interval '1 minute' AND driver = 'pg_cron'",
						  1, types, values, NULL);
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("period of job \"%s\" is too short", name),
				 errdetail("Jobs of this database are driven by pg_cron, once a minute at most."),
				 errhint("Use a period of a minute or more, or SELECT concertmaster.use_pg_cron(false).")));
}

/* Where there are jobs there is one that keeps their history bounded. */
static void
ensure_prune_job(void)
{
	SPI_execute("INSERT INTO concertmaster.job (name, kind, owner, every)"
				" VALUES ('prune', 'prune', current_user, interval '1 hour')"
				" ON CONFLICT DO NOTHING", false, 0);
	if (SPI_processed > 0)
		SPI_execute("INSERT INTO concertmaster.job_state (job_id, next_run)"
					" SELECT job_id, now() + every FROM concertmaster.job WHERE name = 'prune'",
					false, 0);
}

/* Does a role have the job of this name that userid cannot act for? */
static bool
is_taken(const char *name, Oid userid)
{
	Oid			types[2] = {TEXTOID, OIDOID};
	Datum		values[2];
	bool		taken;
	CmScope		scope;

	values[0] = CStringGetTextDatum(name);
	values[1] = ObjectIdGetDatum(userid);
	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT FROM concertmaster.job j LEFT JOIN concertmaster.job_state s USING (job_id)"
						  "  JOIN pg_roles o ON o.oid = " OWNER_OID
						  " WHERE j.name = $1 AND NOT pg_has_role($2, o.oid, 'USAGE')",
						  2, types, values, NULL, false, 1);
	taken = SPI_processed > 0;
	cm_scope_leave(&scope);
	return taken;
}

/*
 * The name by which the current user can have a job that is not about one
 * relation: the given one, or, if another role's job has it, one of their
 * own beside it.  palloc'd.
 */
char *
cm_job_own_name(const char *name)
{
	char	   *own = pstrdup(name);

	for (int i = 1; is_taken(own, GetUserId()); i++)
	{
		own = psprintf("%s of %s", name, GetUserNameFromId(GetUserId(), false));
		if (i > 1)
			own = psprintf("%s (%d)", own, i);
	}
	return own;
}

/*
 * Refuse to change a job of a role that the caller cannot act for.  SQLSTATE
 * 42501.
 */
static void
require_free(const char *name, Oid userid)
{
	if (is_taken(name, userid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of job \"%s\"", name),
				 errdetail("A job of this name acts for another role.")));
}

/*
 * Insert or update a job row and its state.  Caller is in a catalog scope and
 * has checked that the name is free.
 */
static int64
upsert_row(const char *name, CmJobKind kind, const char *schema_name,
		   const char *relation_name, int phase, Oid owner,
		   Interval *every, bool run_now)
{
	Oid			types[7] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID, INTERVALOID};
	Datum		values[7];
	char		nulls[7] = {' ', ' ', ' ', ' ', ' ', ' ', ' '};
	Oid			state_types[4] = {INT8OID, BOOLOID, OIDOID, BOOLOID};
	Datum		state_values[4];
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
	values[5] = CStringGetTextDatum(GetUserNameFromId(owner, false));
	values[6] = every ? IntervalPGetDatum(every) : (Datum) 0;
	nulls[6] = every ? ' ' : 'n';

	arm_if_empty();
	cm_query("INSERT INTO concertmaster.job"
						  " (name, kind, schema_name, relation_name, phase, owner, every)"
						  " VALUES ($1, $2, $3, $4, $5, $6, $7)"
						  " ON CONFLICT (name) DO UPDATE SET every = EXCLUDED.every, owner = EXCLUDED.owner"
						  " RETURNING job_id, every::text IS NOT DISTINCT FROM"
						  "   (SELECT o.every::text FROM concertmaster.job o WHERE o.name = $1)",
						  7, types, values, nulls);
	job_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));

	/* The subselect has seen the row as it was before. */
	state_values[3] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull);
	state_values[0] = Int64GetDatum(job_id);
	state_values[1] = BoolGetDatum(run_now);
	state_values[2] = ObjectIdGetDatum(owner);
	cm_query("INSERT INTO concertmaster.job_state AS s (job_id, next_run, owner_oid, requests)"
						  " SELECT job_id, CASE WHEN $2 THEN now() ELSE now() + every END, $3, $2::int"
						  "   FROM concertmaster.job WHERE job_id = $1"
						  " ON CONFLICT (job_id) DO UPDATE"
						  "   SET next_run = CASE WHEN $2 THEN now()"
						  "                       ELSE least(s.next_run, EXCLUDED.next_run) END,"
						  "       scheduled = CASE WHEN $4 THEN coalesce(s.scheduled, s.next_run) END,"
						  "       origin = CASE WHEN $4 THEN s.origin END, owner_oid = EXCLUDED.owner_oid,"
						  "       requests = s.requests + EXCLUDED.requests",
						  4, state_types, state_values, NULL);
	require_drivable(name);
	ensure_prune_job();
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

	/* A job by this name may be about a relation that is called otherwise now. */
	cm_relations_reconcile();
	require_free(name, GetUserId());
	cm_catalog_enter(&scope);
	cm_relation_remember(relid);
	job_id = upsert_row(name, kind,
						cm_relation_schema(relid), cm_relation_name(relid),
						phase, cm_relation_owner(relid), every, run_now);
	cm_scope_leave(&scope);
	cm_shared_wake_at_commit();
	return job_id;
}

/*
 * Make or change a job that is not about one relation; it acts for the
 * current user.  If another role's job has the name, the current user's has
 * the one that cm_job_own_name() chooses.  Returns the job's number.
 */
int64
cm_job_upsert_named(const char *name, CmJobKind kind, const char *schema_name,
					int phase, Interval *every, bool run_now)
{
	CmScope		scope;
	int64		job_id;
	Oid			owner = GetUserId();
	char	   *own_name = cm_job_own_name(name);

	cm_catalog_enter(&scope);
	job_id = upsert_row(own_name, kind, schema_name, NULL, phase, owner, every, run_now);
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
	cm_query("DELETE FROM concertmaster.job WHERE name = $1",
						  1, types, values, NULL);
	found = SPI_processed > 0;
	if (found)
		SPI_execute("DELETE FROM concertmaster.job WHERE kind = 'prune'"
					" AND NOT EXISTS (SELECT FROM concertmaster.job WHERE kind <> 'prune')"
					" AND NOT EXISTS (SELECT FROM pg_trigger"
					"                  WHERE tgfoid = 'concertmaster.log_changes()'::regprocedure)",
					false, 0);
	cm_scope_leave(&scope);
	cm_shared_wake_at_commit();
	return found;
}

/*
 * A table has got or lost partitions: make those build jobs due that have an
 * index with a hot window of it, or of a table that it is a partition of.
 *
 * Waits for nobody and does not fail for others' doings: a job whose state is
 * locked, or can have been changed after the caller's one snapshot was taken,
 * is left to its daily run.
 */
void
cm_hot_indexes_wake(Oid relid)
{
	CmScope		scope;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};

	if (IsolationUsesXactSnapshot())
		return;
	cm_catalog_enter(&scope);
	cm_query("WITH RECURSIVE up AS ("
						  "  SELECT $1 AS oid UNION SELECT h.inhparent FROM up JOIN pg_inherits h ON h.inhrelid = up.oid),"
						  " free AS (SELECT s.job_id FROM concertmaster.job j JOIN concertmaster.job_state s USING (job_id)"
						  "  WHERE j.kind = 'build' AND EXISTS ("
						  "    SELECT FROM concertmaster.index_plan p"
						  "      LEFT JOIN (concertmaster.relation_map m JOIN pg_class k ON k.oid = m.relid)"
						  "        ON (m.schema_name, m.relation_name) = (p.schema_name, p.table_name)"
						  "      LEFT JOIN (pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)"
						  "        ON (n.nspname, c.relname) = (p.schema_name, p.table_name)"
						  "     WHERE p.phase = j.phase AND p.hot_window IS NOT NULL"
						  "       AND coalesce(k.oid, c.oid) IN (SELECT oid FROM up))"
						  "  FOR UPDATE OF s SKIP LOCKED)"
						  " UPDATE concertmaster.job_state s"
						  "    SET next_run = clock_timestamp(), scheduled = coalesce(s.scheduled, s.next_run),"
						  "        requests = s.requests + 1"
						  "   FROM free WHERE s.job_id = free.job_id",
						  1, types, values, NULL);
	if (SPI_processed > 0)
		cm_shared_wake_at_commit();
	cm_scope_leave(&scope);
}

/* The number of the job with this name; an error if there is none. */
int64
cm_job_find(const char *name)
{
	CmScope		scope;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	bool		isnull;
	int64		job_id = 0;

	values[0] = CStringGetTextDatum(name);
	cm_catalog_enter(&scope);
	cm_query("SELECT job_id FROM concertmaster.job WHERE name = $1",
						  1, types, values, NULL);
	if (SPI_processed > 0)
		job_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	cm_scope_leave(&scope);
	if (job_id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job \"%s\" does not exist", name),
				 errhint("View concertmaster.jobs lists the jobs that you can run.")));
	return job_id;
}

/*
 * The job with this number, palloc'd in the current memory context, or NULL.
 * Its owner is InvalidOid if that role is gone.
 */
CmJob *
cm_job_load(int64 job_id)
{
	MemoryContext context = CurrentMemoryContext;
	CmScope		scope;
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	CmJob	   *job = NULL;

	values[0] = Int64GetDatum(job_id);
	cm_catalog_enter(&scope);
	cm_query("SELECT j.name, j.kind, j.schema_name, j.relation_name, j.phase::text,"
						  "       (SELECT o.rolname FROM pg_roles o WHERE o.oid ="
						  "         CASE WHEN j.kind = 'prune' THEN" OUR_OID " ELSE " OWNER_OID " END)"
						  "  FROM concertmaster.job j LEFT JOIN concertmaster.job_state s USING (job_id)"
						  " WHERE job_id = $1",
						  1, types, values, NULL);
	if (SPI_processed > 0)
	{
		char	   *column[6];
		MemoryContext spi_context = MemoryContextSwitchTo(context);

		for (int i = 0; i < lengthof(column); i++)
			column[i] = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);
		job = palloc0(sizeof(CmJob));
		job->job_id = job_id;
		job->name = column[0];
		while (strcmp(kind_names[job->kind], column[1]) != 0)
			job->kind++;
		job->schema_name = column[2];
		job->relation_name = column[3];
		job->phase = column[4] ? pg_strtoint32(column[4]) : 0;
		job->owner = column[5] ? get_role_oid(column[5], true) : InvalidOid;
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return job;
}

/*
 * Does the relation that a job is about have the name and the owner that the
 * job's row says?  Yes for a job that is not about one.
 */
bool
cm_job_in_step(int64 job_id)
{
	CmScope		scope;
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	bool		in_step;

	values[0] = Int64GetDatum(job_id);
	cm_catalog_enter(&scope);
	cm_query("SELECT FROM concertmaster.job j WHERE job_id = $1 AND (relation_name IS NULL OR EXISTS"
						  "   (SELECT FROM concertmaster.relation_map m JOIN pg_class c ON c.oid = m.relid"
						  "      JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner"
						  "     WHERE (m.schema_name, m.relation_name) = (j.schema_name, j.relation_name)"
						  "       AND (n.nspname, c.relname, r.rolname) = (j.schema_name, j.relation_name, j.owner)))",
						  1, types, values, NULL);
	in_step = SPI_processed > 0;
	cm_scope_leave(&scope);
	return in_step;
}

/*
 * Bring the names of the roles that jobs act for in step with the roles.
 * Jobs about a relation have theirs from cm_relations_reconcile().
 */
void
cm_job_owners_reconcile(void)
{
	CmScope		scope;

	cm_catalog_enter(&scope);
	cm_query("UPDATE concertmaster.job_state s SET owner_oid = r.oid"
				"  FROM concertmaster.job j JOIN pg_roles r ON r.rolname = j.owner"
				" WHERE j.job_id = s.job_id AND j.relation_name IS NULL AND s.owner_oid IS NULL",
				0, NULL, NULL, NULL);
	cm_query("UPDATE concertmaster.job j SET owner = r.rolname"
				"  FROM concertmaster.job_state s, pg_roles r"
				" WHERE s.job_id = j.job_id AND j.relation_name IS NULL AND j.owner <> r.rolname"
				"   AND r.oid = CASE WHEN j.kind = 'prune' THEN " OUR_OID " ELSE s.owner_oid END",
				0, NULL, NULL, NULL);
	cm_scope_leave(&scope);
}

/*
 * Refuse unless the current user may act for the job's owner.  SQLSTATE
 * 42501.
 */
void
cm_job_require_owner(int64 job_id)
{
	CmJob	   *job = cm_job_load(job_id);

	if (job == NULL || superuser() ||
		(OidIsValid(job->owner) && has_privs_of_role(GetUserId(), job->owner)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of job \"%s\"", job->name)));
}
