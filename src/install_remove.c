/*-------------------------------------------------------------------------
 *
 * install_remove.c
 *	  uninstall(): let go of everything, so that DROP EXTENSION succeeds.
 *
 * What depends on our functions is found through pg_depend, so that tables of
 * the users' own that use uuid_v7() or our triggers are found too.  Column
 * defaults become core functions, triggers are dropped; then sets, managed
 * views, jobs and plans are forgotten through their own doors or by deleting
 * their rows.  A table is altered as its owner: a default that is read anew can
 * call that role's functions.  What the caller does not own, and what cannot
 * be handed back (a view that calls a function of ours, say), is reported as
 * remaining.
 *
 * Locks: AccessExclusiveLock on every table that is altered, and on every
 * partition of one.  They are taken together, in a subtransaction and under
 * the deadline of the settings, after all that can wait for somebody's
 * changes of our own tables.  If they are not to be had, the subtransaction
 * is undone, which releases them, and after a pause all is tried again.  Once
 * they are had the statements are short; should one meet a further lock that
 * is not to be had in a deadline, that undoes the try as well.  They are held
 * until the caller's commit.
 *
 * Between two tries the caller's transaction is open still, and a worker's
 * CREATE INDEX CONCURRENTLY that waits for it never gives its table back, or
 * is a deadlock, which also counts as a try.  Such a worker is not cancelled,
 * because nobody would remove what it leaves: the error names it.
 *
 * After an error the caller's transaction undoes everything.
 *
 * What it does not do: drop a table, row, index, view or partition.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "concertmaster.h"
#include "install.h"

PG_FUNCTION_INFO_V1(cm_uninstall);

/* One thing to do, and the row that tells of it. */
typedef struct Removal
{
	char	   *object;
	const char *action;
	char	   *detail;
	char	   *statement;		/* or NULL */
	Oid			relid;			/* to lock first and run as its owner, or
								 * InvalidOid: run as the caller */
	bool		silent;			/* a leaf: its parent's row tells of it */
} Removal;

/* The functions of this extension. */
#define OUR_FUNCTIONS \
	"(SELECT d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid" \
	"  WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'" \
	"    AND d.classid = 'pg_proc'::regclass AND e.extname = 'concertmaster')"

/* The same for its tables and views. */
#define OUR_RELATIONS \
	"(SELECT d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid" \
	"  WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'" \
	"    AND d.classid = 'pg_class'::regclass AND e.extname = 'concertmaster')"

/*
 * Does the caller look after the extension?  Only such a one may take away
 * what belongs to nobody any more: it can come back, under another name.
 * In the catalog's scope current_user is the extension's owner.
 */
#define IS_KEEPER "pg_has_role($1::name, current_user, 'USAGE')"

/* Each query gives these columns; $1 is the caller's role. */
static const char *const removal_queries[] = {
	/* Column defaults that call us. */
	"SELECT format('%s %s.%I', CASE WHEN r.attgenerated = '' THEN 'default of' ELSE 'generated column' END,"
	"              r.quoted, r.attname) AS object,"
	"       CASE WHEN r.fit THEN 'changed' ELSE 'remains' END AS action,"
	"       CASE WHEN r.fit THEN format('%s in place of %s', r.new, r.old)"
	"            WHEN NOT r.owned THEN format('belongs to role \"%s\", who can call uninstall()', r.owner)"
	"            ELSE format('calls a function of the extension: %s', r.old) END AS detail,"
	"       CASE WHEN r.fit THEN format('ALTER TABLE ONLY %s ALTER COLUMN %I SET DEFAULT %s',"
	"                                   r.quoted, r.attname, r.new) END AS statement,"
	"       r.relid, r.relispartition AND r.fit AS silent"
	"  FROM (SELECT DISTINCT q.*, q.owned AND q.attgenerated = '' AND q.new !~ E'\\\\mconcertmaster\\\\.' AS fit"
	"          FROM (SELECT c.oid AS relid, format('%I.%I', n.nspname, c.relname) AS quoted, t.attname, t.attgenerated,"
	"                       c.relispartition, pg_get_userbyid(c.relowner) AS owner,"
	"                       pg_has_role($1::name, c.relowner, 'USAGE') AS owned,"
	"                       pg_get_expr(a.adbin, a.adrelid) AS old,"
	"                       replace(pg_get_expr(a.adbin, a.adrelid), 'concertmaster.uuid_v7()', 'gen_random_uuid()') AS new"
	"                  FROM pg_depend x JOIN pg_attrdef a ON a.oid = x.objid"
	"                  JOIN pg_class c ON c.oid = a.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
	"                  JOIN pg_attribute t ON t.attrelid = a.adrelid AND t.attnum = a.adnum"
	"                 WHERE x.classid = 'pg_attrdef'::regclass AND x.refclassid = 'pg_proc'::regclass"
	"                   AND x.refobjid IN " OUR_FUNCTIONS
	"                   AND c.oid NOT IN " OUR_RELATIONS ") q) r"
	" ORDER BY r.relispartition, 1",

	/* Triggers that call us; those of leaves go with their parent's. */
	"SELECT format('trigger %I on %I.%I', g.tgname, n.nspname, c.relname) AS object,"
	"       CASE WHEN o.owned THEN 'dropped' ELSE 'remains' END AS action,"
	"       CASE WHEN NOT o.owned THEN format('belongs to role \"%s\", who can call uninstall()',"
	"                                         pg_get_userbyid(c.relowner)) END AS detail,"
	"       CASE WHEN o.owned THEN format('DROP TRIGGER %I ON %I.%I', g.tgname, n.nspname, c.relname) END AS statement,"
	"       c.oid AS relid, false AS silent"
	"  FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
	"  CROSS JOIN LATERAL (SELECT pg_has_role($1::name, c.relowner, 'USAGE')) o (owned)"
	" WHERE NOT g.tgisinternal AND g.tgparentid = 0 AND g.tgfoid IN " OUR_FUNCTIONS
	"   AND c.oid NOT IN " OUR_RELATIONS
	" ORDER BY 1",

	/* Whatever else depends on us and is not ours. */
	"SELECT DISTINCT pg_describe_object(w.classid, w.objid, w.objsubid) AS object, 'remains' AS action,"
	"       format('depends on %s: change or drop it', pg_describe_object(x.refclassid, x.refobjid, 0)) AS detail,"
	"       NULL AS statement, 0::oid AS relid, false AS silent"
	"  FROM pg_depend x"
	"  LEFT JOIN pg_rewrite v ON x.classid = 'pg_rewrite'::regclass AND v.oid = x.objid"
	"  CROSS JOIN LATERAL (SELECT CASE WHEN v.oid IS NULL THEN x.classid ELSE 'pg_class'::regclass END AS classid,"
	"                             CASE WHEN v.oid IS NULL THEN x.objid ELSE v.ev_class END AS objid,"
	"                             CASE WHEN v.oid IS NULL THEN x.objsubid ELSE 0 END AS objsubid) w"
	" WHERE x.deptype = 'n' AND x.classid NOT IN ('pg_attrdef'::regclass, 'pg_trigger'::regclass)"
	"   AND ((x.refclassid = 'pg_proc'::regclass AND x.refobjid IN " OUR_FUNCTIONS ")"
	"        OR (x.refclassid = 'pg_class'::regclass AND x.classid = 'pg_rewrite'::regclass"
	"            AND x.refobjid IN " OUR_RELATIONS ")"
	"        OR (x.refclassid = 'pg_namespace'::regclass AND x.refobjid = 'concertmaster'::regnamespace))"
	"   AND NOT EXISTS (SELECT FROM pg_depend m WHERE m.classid = w.classid AND m.objid = w.objid"
	"                      AND m.refclassid = 'pg_extension'::regclass AND m.deptype = 'e')"
	" ORDER BY 1",

	/* Partition sets; a relation that is gone is forgotten below. */
	"SELECT format('partition set %I.%I', s.schema_name, s.table_name) AS object,"
	"       CASE WHEN o.owned THEN 'removed' ELSE 'remains' END AS action,"
	"       CASE WHEN o.owned THEN 'its partitions stay; make further ones by hand before the last one ends'"
	"            ELSE format('belongs to role \"%s\"', pg_get_userbyid(c.relowner)) END AS detail,"
	"       CASE WHEN o.owned THEN format('SELECT concertmaster.forget_partition_set(%s::regclass)', c.oid) END AS statement,"
	"       0::oid AS relid, false AS silent"
	"  FROM concertmaster.partition_set s JOIN pg_namespace n ON n.nspname = s.schema_name"
	"  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.table_name"
	"  CROSS JOIN LATERAL (SELECT pg_has_role($1::name, c.relowner, 'USAGE')) o (owned)"
	" ORDER BY 1",

	/* Managed views. */
	"SELECT format('managed view %I.%I', s.schema_name, s.view_name) AS object,"
	"       CASE WHEN o.owned THEN 'removed' ELSE 'remains' END AS action,"
	"       CASE WHEN o.owned THEN 'the view stays; refresh it by hand'"
	"            ELSE format('belongs to role \"%s\"', pg_get_userbyid(c.relowner)) END AS detail,"
	"       CASE WHEN o.owned THEN format('SELECT concertmaster.unmanage_matview(%s::regclass)', c.oid) END AS statement,"
	"       0::oid AS relid, false AS silent"
	"  FROM concertmaster.matview s JOIN pg_namespace n ON n.nspname = s.schema_name"
	"  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.view_name"
	"  CROSS JOIN LATERAL (SELECT pg_has_role($1::name, c.relowner, 'USAGE')) o (owned)"
	" ORDER BY 1",
};

/* Rows of our own tables that go, run in the catalog's scope; $1 as above. */
static const char *const forget_queries[] = {
	"WITH gone AS (DELETE FROM concertmaster.index_plan p"
	"   WHERE coalesce((SELECT pg_has_role($1::name, c.relowner, 'USAGE')"
	"      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
	"      WHERE n.nspname = p.schema_name AND c.relname = p.table_name), " IS_KEEPER ")"
	"   RETURNING schema_name)"
	" SELECT format('index plan of schema %I', schema_name) AS object, 'removed' AS action,"
	"        format('%s planned indexes; those that are built stay', count(*)) AS detail"
	"   FROM gone GROUP BY schema_name ORDER BY 1",

	"WITH gone AS (DELETE FROM concertmaster.job j"
	"   WHERE coalesce((SELECT pg_has_role($1::name, r.oid, 'USAGE') FROM pg_roles r"
	"      WHERE r.rolname = j.owner), " IS_KEEPER ")"
	"   RETURNING name)"
	" SELECT format('job %s', name) AS object, 'removed' AS action, NULL AS detail FROM gone ORDER BY 1",

	"WITH gone AS (DELETE FROM concertmaster.installation i"
	"   WHERE coalesce((SELECT bool_and(pg_has_role($1::name, c.relowner, 'USAGE'))"
	"      FROM concertmaster._bundled_tables() b"
	"      JOIN pg_class c ON c.relname = b.table_name JOIN pg_namespace n ON n.oid = c.relnamespace"
	"      WHERE n.nspname = i.schema_name), " IS_KEEPER ")"
	"   RETURNING schema_name)"
	" SELECT format('installation in schema %I', schema_name) AS object, 'removed' AS action,"
	"        'its tables, rows, indexes and views stay' AS detail FROM gone ORDER BY 1",
};

/* Rows without a relation or a job any more; nothing is told of them.  $1 as above. */
static const char *const sweep_statements[] = {
	"DELETE FROM concertmaster.partition_set s WHERE " IS_KEEPER " AND NOT EXISTS"
	" (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
	"   WHERE n.nspname = s.schema_name AND c.relname = s.table_name)",
	"DELETE FROM concertmaster.matview s WHERE " IS_KEEPER " AND NOT EXISTS"
	" (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
	"   WHERE n.nspname = s.schema_name AND c.relname = s.view_name)",
	"DELETE FROM concertmaster.relation_map m WHERE NOT EXISTS"
	" (SELECT FROM concertmaster.managed_names v WHERE v.relid = m.relid)",
	"DELETE FROM concertmaster.job WHERE kind = 'prune'"
	"   AND NOT EXISTS (SELECT FROM concertmaster.job WHERE kind <> 'prune')",
	"DELETE FROM concertmaster.armed WHERE NOT EXISTS (SELECT FROM concertmaster.job)",
};

/* Run a query in the catalog's scope with a role's name as $1. */
static int
ask(const char *sql, Oid userid, MemoryContext context)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];

	values[0] = CStringGetTextDatum(GetUserNameFromId(userid, false));
	if (SPI_execute_with_args(sql, 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "query failed: %s", sql);

	/* SPI leaves its own context current, which dies at SPI_finish(). */
	MemoryContextSwitchTo(context);
	return (int) SPI_processed;
}

/* The removals that a query of the above lists, appended to the list. */
static List *
append_removals(List *removals, const char *sql, Oid userid)
{
	MemoryContext context = CurrentMemoryContext;
	CmScope		scope;
	int			rows;

	cm_catalog_enter(&scope);
	rows = ask(sql, userid, context);
	for (int i = 0; i < rows; i++)
	{
		Removal    *removal = palloc0(sizeof(Removal));
		char	   *relid;

		removal->object = cm_install_value(i, "object");
		removal->action = cm_install_value(i, "action");
		removal->detail = cm_install_value(i, "detail");
		if (SPI_fnumber(SPI_tuptable->tupdesc, "statement") > 0)
		{
			removal->statement = cm_install_value(i, "statement");
			removal->silent = cm_install_is_true(i, "silent");
			relid = cm_install_value(i, "relid");
			removal->relid = (Oid) strtoul(relid, NULL, 10);
		}
		removals = lappend(removals, removal);
	}
	cm_scope_leave(&scope);
	MemoryContextSwitchTo(context);
	return removals;
}

/* Does pg_cron drive the jobs, and is it the caller's to take that back? */
static bool
driven_by_pg_cron(Oid userid)
{
	CmScope		scope;
	bool		found;

	if (!has_privs_of_role(userid, cm_extension_owner()))
		return false;
	cm_catalog_enter(&scope);
	SPI_execute("SELECT FROM concertmaster.armed WHERE driver = 'pg_cron'", false, 1);
	found = SPI_processed > 0;
	cm_scope_leave(&scope);
	return found;
}

/*
 * The tables that a removal has to lock.  A trigger of a partitioned table goes
 * from its partitions too.  mode: of the lock that is taken, or NoLock.
 */
static List *
tables_of(const Removal *removal, LOCKMODE mode)
{
	if (!OidIsValid(removal->relid) || removal->statement == NULL)
		return NIL;
	if (mode != NoLock)
		LockRelationOid(removal->relid, mode);
	if (get_rel_relkind(removal->relid) == RELKIND_PARTITIONED_TABLE)
		return find_all_inheritors(removal->relid, mode, NULL);
	return list_make1_oid(removal->relid);
}

/* Take every lock that the removals need, under the deadline. */
static void
lock_tables(const List *removals)
{
	ListCell   *cell;

	cm_deadline_arm(cm_ddl_deadline);
	foreach(cell, removals)
		(void) tables_of(lfirst(cell), AccessExclusiveLock);
	(void) cm_deadline_disarm();
}

/* Run the removals' statements: those on tables, or the others. */
static void
run_removals(const List *removals, bool on_tables, Oid userid)
{
	ListCell   *cell;

	foreach(cell, removals)
	{
		Removal    *removal = lfirst(cell);

		if (removal->statement != NULL && OidIsValid(removal->relid) == on_tables)
			cm_run_as(on_tables ? cm_relation_owner(removal->relid) : userid, removal->statement);
	}
}

/* One uninstall(). */
typedef struct Uninstall
{
	Oid			userid;
	List	   *found;			/* by the last try, as far as it came; with statements */
	List	   *removals;		/* all that is told of */
} Uninstall;

/*
 * A step: find everything, do it, first in our own tables, then in the users'.
 * Nobody waits for us while we look and forget, so that this may take its
 * time; no single lock may, and the users' tables have a deadline of their own.
 */
static void
remove_all(void *arg)
{
	Uninstall  *run = arg;
	List	   *removals = NIL;
	CmScope		scope;
	MemoryContext context = CurrentMemoryContext;

	(void) cm_deadline_disarm();
	cm_lock_waits_limit();
	run->found = NIL;
	cm_relations_reconcile();
	for (int i = 0; i < lengthof(removal_queries); i++)
		removals = append_removals(removals, removal_queries[i], run->userid);
	run->found = list_copy(removals);
	run_removals(run->found, false, run->userid);
	if (driven_by_pg_cron(run->userid))
		cm_run_as(run->userid, "SELECT concertmaster.use_pg_cron(false)");
	for (int i = 0; i < lengthof(forget_queries); i++)
		removals = append_removals(removals, forget_queries[i], run->userid);

	cm_catalog_enter(&scope);
	for (int i = 0; i < lengthof(sweep_statements); i++)
		(void) ask(sweep_statements[i], run->userid, context);
	cm_scope_leave(&scope);

	lock_tables(run->found);
	run_removals(run->found, true, run->userid);
	run->removals = removals;
}

/* Who has one of the tables?  As cm_lock_holder(). */
static int
find_holder(const Uninstall *run)
{
	List	   *wishes = NIL;
	ListCell   *cell;

	foreach(cell, run->found)
	{
		ListCell   *table;

		foreach(table, tables_of(lfirst(cell), NoLock))
			wishes = cm_lock_wish(wishes, lfirst_oid(table), AccessExclusiveLock);
	}
	return cm_lock_holder(wishes);
}

/* The job that this process runs, and what it does; NULL if the caller may see none. */
static char *
describe_work(int pid, Oid userid)
{
	MemoryContext context = CurrentMemoryContext;
	CmScope		scope;
	char	   *work = NULL;

	/* As the caller, who sees there what is the caller's to see. */
	cm_owner_enter(&scope, userid, false);
	cm_scope_connect(&scope);
	if (SPI_execute(psprintf("SELECT format('\"%%s\"', name) || coalesce(': ' || nullif(activity, ''), '') AS work"
							 "  FROM concertmaster.progress_jobs WHERE pid = %d", pid), true, 1) < 0)
		elog(ERROR, "query failed");
	MemoryContextSwitchTo(context);
	if (SPI_processed > 0)
		work = cm_install_value(0, "work");
	cm_scope_leave(&scope);
	MemoryContextSwitchTo(context);
	return work;
}

/* The locks were not to be had: say by whom, and how they will be. */
static void
report_busy(const Uninstall *run)
{
	int			pid = find_holder(run);
	char	   *work = pid > 0 ? describe_work(pid, run->userid) : NULL;

	ereport(ERROR,
			(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
			 errmsg("could not get the locks that uninstall() needs"),
			 work != NULL ? errdetail("Process %d holds one; it runs job %s.", pid, work) :
			 pid > 0 ? errdetail("Process %d holds one.", pid) :
			 errdetail("Others held them at each of %d tries of %d ms.",
					   cm_ddl_attempts, cm_ddl_deadline),
			 work != NULL ? errhint("End this transaction, since an index that is being built waits for those that began before, and call uninstall() again when concertmaster.progress_jobs does not show the job any more.") :
			 errhint("Call it again when no long transaction uses the tables or changes a job, or raise \"concertmaster.ddl_attempts\".")));
}

/* SQL: uninstall() */
Datum
cm_uninstall(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Uninstall	run = {.userid = GetUserId()};
	ListCell   *cell;
	int			remaining = 0;

	cm_require_primary("uninstall()");
	InitMaterializedSRF(fcinfo, 0);

	if (!cm_attempt_here(remove_all, &run, NIL))
		report_busy(&run);
	foreach(cell, run.removals)
	{
		Removal    *removal = lfirst(cell);

		if (strcmp(removal->action, "remains") == 0)
			remaining++;
		if (!removal->silent)
			cm_install_emit(rsinfo, 3, (const char *[]) {removal->object, removal->action, removal->detail}, 0);
	}
	cm_install_emit(rsinfo, 3, (const char *[])
					{
						"extension concertmaster", "remains",
						remaining == 0 ? "nothing depends on it: DROP EXTENSION concertmaster" :
						"DROP EXTENSION refuses until the above that remains is settled"
					}, 0);
	cm_shared_wake_at_commit();
	return (Datum) 0;
}
