/*-------------------------------------------------------------------------
 *
 * install_plan.c
 *	  What install() has to do in a schema: a list of steps.
 *
 * The functions concertmaster._bundled_* say what belongs to the platform.
 * Here that is compared with the catalogs, table by table (install_table.c),
 * then for the view and for what lies around (install_view.c), the partition
 * sets and the index plan (here).  The outcome is a list of steps, each with
 * the statement and the lock it takes; install_apply.c shows or runs it, and
 * the job "adopt <schema>" makes the list anew and runs what is pending.
 *
 * Locks: none on a user's relation; so none of core's functions is used that
 * opens one to print an expression.  Everything is read from the catalogs in
 * one cm_catalog_enter() scope, through SPI.  An error leaves nothing behind
 * but the plan's memory context, which dies with its parent.
 *
 * What it does not do: change anything, or look at a user's rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "concertmaster.h"
#include "install.h"

/*
 * Run a query with text parameters; the answer is read by cm_install_value()
 * until the next one.  Returns the number of rows.
 */
int
cm_install_ask(CmInstallPlan *plan, const char *sql, int nargs, const char *const *args)
{
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[4];
	char		nulls[4] = {'n', 'n', 'n', 'n'};

	Assert(nargs <= lengthof(types));
	for (int i = 0; i < nargs; i++)
	{
		values[i] = args[i] ? CStringGetTextDatum(args[i]) : (Datum) 0;
		nulls[i] = args[i] ? ' ' : 'n';
	}
	if (SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0) < 0)
		elog(ERROR, "query failed: %s", sql);

	/* SPI leaves its own context current, which dies at SPI_finish(). */
	MemoryContextSwitchTo(plan->context);
	return (int) SPI_processed;
}

/* A column of a row of the last answer as text, NULL if null. */
char *
cm_install_value(int row, const char *column)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;
	int			number = SPI_fnumber(desc, column);

	if (number <= 0)
		elog(ERROR, "no column \"%s\" in an answer", column);
	return SPI_getvalue(SPI_tuptable->vals[row], desc, number);
}

/* Whether a boolean column of a row of the last answer is true. */
bool
cm_install_is_true(int row, const char *column)
{
	char	   *value = cm_install_value(row, column);

	return value != NULL && value[0] == 't';
}

/* Add a step to the plan. */
CmInstallStep *
cm_install_step(CmInstallPlan *plan, CmStepAction action, char *object, char *detail)
{
	CmInstallStep *step = palloc0(sizeof(CmInstallStep));

	step->action = action;
	step->object = object;
	step->detail = detail;
	plan->steps = lappend(plan->steps, step);
	return step;
}

/* The bundled table of this name. */
CmBundledTable *
cm_install_table(CmInstallPlan *plan, const char *name)
{
	ListCell   *cell;

	foreach(cell, plan->tables)
	{
		CmBundledTable *table = lfirst(cell);

		if (strcmp(table->name, name) == 0)
			return table;
	}
	elog(ERROR, "no bundled table \"%s\"", name);
}

/* Fill plan->tables. */
static void
load_tables(CmInstallPlan *plan)
{
	const char *args[] = {plan->schema_name, GetUserNameFromId(plan->userid, false)};
	int			rows;

	rows = cm_install_ask(plan,
						  "SELECT b.table_name, b.partition_column, b.comment, c.oid, c.relkind,"
						  "       pg_get_userbyid(c.relowner) AS owner, c.relowner AS ownerid,"
						  "       pg_has_role($2::name, c.relowner, 'USAGE') AS owned,"
						  "       EXISTS (SELECT FROM pg_attribute k WHERE k.attrelid = c.oid AND k.attname = 'id'"
						  "          AND NOT k.attisdropped AND k.atttypid = 'uuid'::regtype) AS uuid_key,"
						  "       a.attname AS range_column"
						  "  FROM concertmaster._bundled_tables() b"
						  "  LEFT JOIN pg_class c ON c.relname = b.table_name"
						  "   AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)"
						  "  LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid"
						  "   AND p.partstrat = 'r' AND p.partnatts = 1"
						  "  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] AND a.attnum > 0"
						  " ORDER BY b.ordinal",
						  2, args);
	for (int i = 0; i < rows; i++)
	{
		CmBundledTable *table = palloc0(sizeof(CmBundledTable));
		char	   *oid = cm_install_value(i, "oid");

		table->name = cm_install_value(i, "table_name");
		table->quoted = quote_qualified_identifier(plan->schema_name, table->name);
		table->partition_column = cm_install_value(i, "partition_column");
		table->comment = cm_install_value(i, "comment");
		table->ownerid = plan->userid;
		table->uuid_key = true;
		if (oid != NULL)
		{
			table->relid = (Oid) strtoul(oid, NULL, 10);
			table->relkind = cm_install_value(i, "relkind")[0];
			table->owner = cm_install_value(i, "owner");
			table->ownerid = (Oid) strtoul(cm_install_value(i, "ownerid"), NULL, 10);
			table->uuid_key = cm_install_is_true(i, "uuid_key");
			table->owned = cm_install_is_true(i, "owned");
			table->range_column = cm_install_value(i, "range_column");
		}
		plan->tables = lappend(plan->tables, table);
	}
}

/* The statement that makes a table a set. */
static List *
set_statements(CmBundledTable *table)
{
	return list_make1(psprintf("SELECT concertmaster.create_partition_set(%s::pg_catalog.regclass, period => interval '1 month', ahead => 4)",
							   quote_literal_cstr(table->quoted)));
}

/* A table that exists: is it kept rolling?  If not, the job sees to it. */
static void
plan_existing_set(CmInstallPlan *plan, CmBundledTable *table)
{
	const char *args[] = {plan->schema_name, table->name};
	char	   *object = psprintf("partition set %s", table->quoted);
	CmInstallStep *step;

	if (table->relkind != RELKIND_PARTITIONED_TABLE)
		cm_install_step(plan, CM_STEP_REMAINS, object,
						psprintf("%s is not partitioned and works as it is; to partition it in place, while it is in use: SELECT * FROM concertmaster.explain_conversion(%s, %s, '1 month') says what that takes, CALL concertmaster.convert_to_partitioned() with the same arguments does it",
								 table->quoted, quote_literal_cstr(table->quoted), quote_literal_cstr(table->partition_column)));
	else if (cm_install_ask(plan,
							"SELECT FROM concertmaster.partition_set"
							" WHERE schema_name = $1::name AND table_name = $2::name",
							2, args) > 0)
		cm_install_step(plan, CM_STEP_EXISTS, object, NULL);
	else if (table->range_column == NULL || strcmp(table->range_column, table->partition_column) != 0)
		cm_install_step(plan, CM_STEP_REMAINS, object,
						psprintf("not partitioned by range of %s; its partitions are yours to make",
								 table->partition_column));
	else
	{
		step = cm_install_step(plan, CM_STEP_PENDING, object, "by month; partitions that are there are kept");
		step->lock = psprintf("ShareUpdateExclusiveLock on %s", table->quoted);
		step->relid = table->relid;
		step->mode = ShareUpdateExclusiveLock;
		step->unhurried = true;
		step->statements = set_statements(table);
	}
}

/* The sets of new tables at once, of others by the job. */
static void
plan_partition_sets(CmInstallPlan *plan)
{
	ListCell   *cell;

	foreach(cell, plan->tables)
	{
		CmBundledTable *table = lfirst(cell);
		CmInstallStep *step;

		if (table->partition_column == NULL)
			continue;
		if (OidIsValid(table->relid))
		{
			if (table->owned)
				plan_existing_set(plan, table);
			continue;
		}
		step = cm_install_step(plan, CM_STEP_CREATE, psprintf("partition set %s", table->quoted),
							   psprintf("by month of %s, 4 months ahead; a job makes further ones in time",
										table->partition_column));
		step->statements = set_statements(table);
	}
}

/* The planned indexes of the tables that the user owns, and their jobs. */
static void
plan_indexes(CmInstallPlan *plan)
{
	const char *args[] = {plan->schema_name};
	int			rows;
	bool		wanted[10] = {false};

	rows = cm_install_ask(plan,
						  "SELECT b.phase, b.table_name, b.index_name, p.index_name IS NOT NULL AS planned,"
						  "       nullif(p.table_name, b.table_name) AS other_table,"
						  "       format('CREATE %sINDEX CONCURRENTLY %I ON %I.%I %s',"
						  "              CASE WHEN b.is_unique THEN 'UNIQUE ' ELSE '' END,"
						  "              b.index_name, $1, b.table_name, b.definition) AS statement"
						  "  FROM concertmaster._bundled_indexes($1::name) b"
						  "  LEFT JOIN concertmaster.index_plan p ON p.schema_name = $1::name"
						  "   AND p.index_name = b.index_name"
						  " ORDER BY b.phase, b.table_name, b.index_name",
						  1, args);
	for (int i = 0; i < rows; i++)
	{
		CmBundledTable *table = cm_install_table(plan, cm_install_value(i, "table_name"));
		char	   *name = cm_install_value(i, "index_name");
		bool		planned = cm_install_is_true(i, "planned");
		CmInstallStep *step;

		if (OidIsValid(table->relid) && !table->owned)
			continue;
		step = cm_install_step(plan, planned ? CM_STEP_EXISTS : CM_STEP_PENDING,
							   psprintf("index %s", quote_qualified_identifier(plan->schema_name, name)),
							   NULL);
		if (cm_install_value(i, "other_table") != NULL)
		{
			step->action = CM_STEP_REMAINS;
			step->detail = psprintf("the name is planned for table %s: have its owner call concertmaster.unplan_index(), then install() again",
									quote_qualified_identifier(plan->schema_name, cm_install_value(i, "other_table")));
			continue;
		}
		step->phase = pg_strtoint32(cm_install_value(i, "phase"));
		step->detail = psprintf(planned ? "in index_plan, phase %d" : "built by job \"build phase %d\"",
								step->phase);
		step->work = CM_WORK_INDEX;
		step->index_name = name;
		step->statements = list_make1(cm_install_value(i, "statement"));
		if (OidIsValid(table->relid) && !planned)
			step->lock = psprintf("ShareUpdateExclusiveLock on %s", table->quoted);
		if (!planned && step->phase < lengthof(wanted))
			wanted[step->phase] = true;
	}

	for (int phase = 0; phase < lengthof(wanted); phase++)
	{
		CmInstallStep *step;

		if (!wanted[phase])
			continue;
		step = cm_install_step(plan, CM_STEP_CREATE, psprintf("job build phase %d", phase),
							   psprintf("%s; CALL concertmaster.build_indexes(%d) waits for it",
										plan->columns_pending ? "starts when the missing columns are there" : "starts by itself",
										phase));
		step->work = CM_WORK_BUILD_JOB;
		step->phase = phase;
	}
}

/* The job that does the pending statements, if there are any. */
static void
plan_adopt_job(CmInstallPlan *plan)
{
	ListCell   *cell;
	int			pending = 0;
	CmInstallStep *step;
	const char *job = psprintf("adopt %s", quote_identifier(plan->schema_name));

	foreach(cell, plan->steps)
	{
		CmInstallStep *other = lfirst(cell);

		if (other->action == CM_STEP_PENDING && other->work == CM_WORK_SQL)
			pending++;
	}
	if (pending == 0)
		return;
	step = cm_install_step(plan, CM_STEP_CREATE, psprintf("job %s", job),
						   psprintf("does %d pending steps, each under %d ms; CALL concertmaster.run_job(%s) waits for it",
									pending, cm_ddl_deadline, quote_literal_cstr(job)));
	step->work = CM_WORK_ADOPT_JOB;
}

/*
 * The plan for a schema that exists, for a user.  Lives in a context of its
 * own below the current one.
 */
CmInstallPlan *
cm_install_plan(const char *schema_name, Oid userid)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "concertmaster install plan",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	CmInstallPlan *plan = palloc0(sizeof(CmInstallPlan));
	CmScope		scope;
	ListCell   *cell;

	plan->schema_name = pstrdup(schema_name);
	plan->userid = userid;
	plan->context = context;

	cm_catalog_enter(&scope);
	load_tables(plan);
	foreach(cell, plan->tables)
		cm_install_plan_table(plan, lfirst(cell));
	plan_partition_sets(plan);
	cm_install_plan_view(plan);
	plan_indexes(plan);
	plan_adopt_job(plan);
	cm_install_plan_surroundings(plan);
	cm_scope_leave(&scope);

	MemoryContextSwitchTo(caller);
	return plan;
}
