/*-------------------------------------------------------------------------
 *
 * install_table.c
 *	  The steps of one bundled table.
 *
 * A table that is not there is created whole, in one step.  One that is keeps
 * its rows, types, defaults and keys; what it lacks becomes pending steps,
 * each one DDL statement that takes its lock for a moment.  They are chosen
 * so that no row is touched: a new column is NULL in the rows that are there
 * (nobody knows when they were made), a FOREIGN KEY is added NOT VALID and
 * then validated, and not at all if rows break it.
 *
 * Locks: none, see install_plan.c.
 *
 * What it does not do: add a primary key, a CHECK or NOT NULL to a table that
 * is there, change a type, or partition.  Those are reported.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "concertmaster.h"
#include "install.h"

/* CREATE TRIGGER of row i of the last answer from _bundled_triggers(). */
static char *
trigger_statement(CmBundledTable *table, int i)
{
	char	   *condition = cm_install_value(i, "condition");

	return psprintf("CREATE TRIGGER %s BEFORE UPDATE ON %s FOR EACH ROW%s%s%s EXECUTE FUNCTION concertmaster.%s()",
					quote_identifier(cm_install_value(i, "trigger_name")), table->quoted,
					condition ? " WHEN (" : "", condition ? condition : "", condition ? ")" : "",
					quote_identifier(cm_install_value(i, "function_name")));
}

/* FOREIGN KEY clause. */
static char *
foreign_key_clause(const char *column, CmBundledTable *referenced)
{
	return psprintf("FOREIGN KEY (%s) REFERENCES %s (id)",
					quote_identifier(column), referenced->quoted);
}

/*
 * Why a foreign key is not for us to add, or NULL.  Whoever adds it compares
 * the rows of both tables, and runs what a type or a policy of either calls:
 * so both must be of one role, and the key of a type that calls nothing.
 */
static char *
foreign_key_objection(CmBundledTable *table, const char *column, CmBundledTable *referenced)
{
	if (!referenced->uuid_key)
		return psprintf("not added: %s has no column id of type uuid", referenced->quoted);
	if (referenced->ownerid != table->ownerid)
		return psprintf("not added: %s belongs to role \"%s\", %s to role \"%s\"; if both trust each other: ALTER TABLE %s ADD %s",
						table->quoted, GetUserNameFromId(table->ownerid, false),
						referenced->quoted, GetUserNameFromId(referenced->ownerid, false),
						table->quoted, foreign_key_clause(column, referenced));
	return NULL;
}

/* Let the job add a foreign key, unless rows break it. */
static void
plan_foreign_key(CmInstallPlan *plan, CmBundledTable *table, const char *name,
				 const char *column, CmBundledTable *referenced)
{
	CmInstallStep *step;
	const char *quoted_name = quote_identifier(name);
	char	   *object = psprintf("constraint %s on %s", quoted_name, table->quoted);
	char	   *objection = foreign_key_objection(table, column, referenced);

	if (objection != NULL)
	{
		cm_install_step(plan, CM_STEP_REMAINS, object, objection);
		return;
	}
	step = cm_install_step(plan, CM_STEP_PENDING, object,
						   psprintf("not added if a %s has no row in %s", column, referenced->quoted));
	step->lock = OidIsValid(table->relid) ?
		psprintf("ShareRowExclusiveLock on %s and %s; to validate, ShareUpdateExclusiveLock and RowShareLock",
				 table->quoted, referenced->quoted) :
		psprintf("ShareRowExclusiveLock on %s; to validate, RowShareLock", referenced->quoted);
	step->relid = table->relid;
	step->mode = ShareRowExclusiveLock;
	step->statements = list_make1(psprintf("ALTER TABLE %s ADD CONSTRAINT %s %s NOT VALID",
										   table->quoted, quoted_name,
										   foreign_key_clause(column, referenced)));
	step->validate = psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", table->quoted, quoted_name);
	step->doubt = psprintf("SELECT FROM %s t WHERE t.%s IS NOT NULL AND NOT EXISTS (SELECT FROM %s r WHERE r.id = t.%s) LIMIT 1",
						   table->quoted, quote_identifier(column),
						   referenced->quoted, quote_identifier(column));
}

/*
 * A CHECK is left to the user: an application that is there can know a status
 * that no row has today, and must not fail when it writes it.
 */
static void
plan_check(CmInstallPlan *plan, CmBundledTable *table, const char *name, const char *expression)
{
	CmInstallStep *step;
	const char *quoted_name = quote_identifier(name);

	step = cm_install_step(plan, CM_STEP_REMAINS,
						   psprintf("constraint %s on %s", quoted_name, table->quoted),
						   psprintf("not added, as your application can know other values; if it does not: ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s) NOT VALID, then VALIDATE it",
									table->quoted, quoted_name, expression));
	step->lock = psprintf("AccessExclusiveLock on %s; to validate, ShareUpdateExclusiveLock", table->quoted);
	step->statements = list_make1(psprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s) NOT VALID",
										   table->quoted, quoted_name, expression));
	step->validate = psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", table->quoted, quoted_name);
}

/* The columns of a new table, as in CREATE TABLE. */
static void
append_columns(CmInstallPlan *plan, CmBundledTable *table, StringInfo sql, List **comments)
{
	const char *args[] = {table->name};
	int			rows;

	rows = cm_install_ask(plan,
						  "SELECT * FROM concertmaster._bundled_columns()"
						  " WHERE table_name = $1::name ORDER BY ordinal",
						  1, args);
	for (int i = 0; i < rows; i++)
	{
		const char *column = quote_identifier(cm_install_value(i, "column_name"));
		char	   *default_value = cm_install_value(i, "default_value");

		appendStringInfo(sql, "%s\n    %s %s", i > 0 ? "," : "", column,
						 cm_install_value(i, "type_name"));
		if (cm_install_is_true(i, "not_null"))
			appendStringInfoString(sql, " NOT NULL");
		if (default_value != NULL)
			appendStringInfo(sql, " DEFAULT %s", default_value);
		*comments = lappend(*comments,
							psprintf("COMMENT ON COLUMN %s.%s IS %s", table->quoted, column,
									 quote_literal_cstr(cm_install_value(i, "comment"))));
	}
}

/*
 * The constraints of a new table, as in CREATE TABLE.  A foreign key to a
 * table that exists would hold that table's writers up until the caller's
 * commit, so it is left to the job.
 */
static void
append_constraints(CmInstallPlan *plan, CmBundledTable *table, StringInfo sql)
{
	const char *args[] = {table->name};
	int			rows;

	rows = cm_install_ask(plan,
						  "SELECT * FROM concertmaster._bundled_constraints()"
						  " WHERE table_name = $1::name ORDER BY ordinal",
						  1, args);
	for (int i = 0; i < rows; i++)
	{
		char	   *name = cm_install_value(i, "constraint_name");
		char	   *expression = cm_install_value(i, "expression");
		char	   *clause;

		switch (cm_install_value(i, "kind")[0])
		{
			case 'p':
				clause = psprintf("PRIMARY KEY (%s)", expression);
				break;
			case 'c':
				clause = psprintf("CHECK (%s)", expression);
				break;
			default:
				{
					CmBundledTable *referenced = cm_install_table(plan, cm_install_value(i, "referenced"));
					char	   *column = cm_install_value(i, "column_name");

					if (OidIsValid(referenced->relid))
					{
						if (referenced->owned)
							plan_foreign_key(plan, table, name, column, referenced);
						continue;
					}
					clause = foreign_key_clause(column, referenced);
				}
		}
		appendStringInfo(sql, ",\n    CONSTRAINT %s %s", quote_identifier(name), clause);
	}
}

/* Create a table whole, with its triggers and comments. */
static void
plan_new_table(CmInstallPlan *plan, CmBundledTable *table)
{
	const char *args[] = {table->name};
	CmInstallStep *step;
	StringInfoData sql;
	List	   *comments = NIL;
	List	   *triggers = NIL;
	int			rows;

	step = cm_install_step(plan, CM_STEP_CREATE, psprintf("table %s", table->quoted), NULL);
	if (table->partition_column != NULL)
		step->detail = psprintf("partitioned by %s", table->partition_column);

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (", table->quoted);
	append_columns(plan, table, &sql, &comments);
	append_constraints(plan, table, &sql);
	appendStringInfoString(&sql, "\n)");
	if (table->partition_column != NULL)
		appendStringInfo(&sql, " PARTITION BY RANGE (%s)", quote_identifier(table->partition_column));

	rows = cm_install_ask(plan,
						  "SELECT * FROM concertmaster._bundled_triggers() WHERE table_name = $1::name",
						  1, args);
	for (int i = 0; i < rows; i++)
		triggers = lappend(triggers, trigger_statement(table, i));

	step->statements = list_make1(sql.data);
	step->statements = list_concat(step->statements, triggers);
	step->statements = lappend(step->statements,
							   psprintf("COMMENT ON TABLE %s IS %s", table->quoted,
										quote_literal_cstr(table->comment)));
	step->statements = list_concat(step->statements, comments);
}

/* A pending step that alters the table under AccessExclusiveLock. */
static void
plan_alter(CmInstallPlan *plan, CmBundledTable *table, char *object, char *detail, char *statement)
{
	CmInstallStep *step = cm_install_step(plan, CM_STEP_PENDING, object, detail);

	step->lock = psprintf("AccessExclusiveLock on %s", table->quoted);
	step->relid = table->relid;
	step->mode = AccessExclusiveLock;
	step->statements = list_make1(statement);
}

/* Add a difference to what is told about a table. */
static void
append_note(CmInstallStep *step, char *note)
{
	step->detail = step->detail ? psprintf("%s; %s", step->detail, note) : note;
}

/* Columns and defaults that a table lacks; differences are kept and told. */
static void
plan_columns(CmInstallPlan *plan, CmBundledTable *table, CmInstallStep *whole)
{
	const char *args[] = {table->name, psprintf("%u", table->relid)};
	int			rows;

	rows = cm_install_ask(plan,
						  "SELECT b.column_name, b.type_name, b.default_value,"
						  "       a.attnum IS NULL AS missing,"
						  "       b.not_null AND NOT a.attnotnull AS nullable,"
						  "       format_type(a.atttypid, a.atttypmod) AS actual_type,"
						  "       a.atttypid = b.type_name::regtype AS same,"
						  "       CASE WHEN b.type_name ~ '^timestamp' THEN a.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype)"
						  "            WHEN b.type_name ~ '^(text|character)' THEN a.atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype)"
						  "            WHEN b.type_name = 'integer' THEN a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)"
						  "            ELSE a.atttypid = b.type_name::regtype END AS akin,"
						  "       a.atthasdef OR a.attidentity <> '' AS has_default"
						  "  FROM concertmaster._bundled_columns() b"
						  "  LEFT JOIN pg_attribute a ON a.attrelid = $2::oid"
						  "   AND a.attname = b.column_name AND NOT a.attisdropped"
						  " WHERE b.table_name = $1::name ORDER BY b.ordinal",
						  2, args);
	for (int i = 0; i < rows; i++)
	{
		const char *column = quote_identifier(cm_install_value(i, "column_name"));
		char	   *type = cm_install_value(i, "type_name");
		char	   *actual_type = cm_install_value(i, "actual_type");
		char	   *default_value = cm_install_value(i, "default_value");
		char	   *object = psprintf("column %s.%s", table->quoted, column);

		if (cm_install_is_true(i, "missing"))
		{
			plan->columns_pending = true;
			plan_alter(plan, table, object,
					   default_value == NULL ? psprintf("%s", type) :
					   psprintf("%s DEFAULT %s; NULL in the rows that are there", type, default_value),
					   default_value == NULL ?
					   psprintf("ALTER TABLE %s ADD COLUMN %s %s", table->quoted, column, type) :
					   psprintf("ALTER TABLE %s ADD COLUMN %s %s, ALTER COLUMN %s SET DEFAULT %s",
								table->quoted, column, type, column, default_value));
			continue;
		}
		if (!cm_install_is_true(i, "akin"))
		{
			cm_install_step(plan, CM_STEP_REMAINS, object,
							psprintf("is %s where %s is meant; kept as it is", actual_type, type));
			continue;
		}
		if (!cm_install_is_true(i, "same"))
			append_note(whole, psprintf("%s is %s", column, actual_type));
		if (cm_install_is_true(i, "nullable"))
			append_note(whole, psprintf("%s allows NULL", column));
		if (default_value != NULL && !cm_install_is_true(i, "has_default"))
			plan_alter(plan, table, psprintf("default of %s.%s", table->quoted, column),
					   default_value,
					   psprintf("ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s",
								table->quoted, column, default_value));
	}
}

/* One bundled constraint against what a table has; row i of the answer. */
static void
plan_constraint(CmInstallPlan *plan, CmBundledTable *table, CmInstallStep *whole, int i)
{
	char	   *name = cm_install_value(i, "constraint_name");
	char	   *kind = cm_install_value(i, "kind");
	char	   *expression = cm_install_value(i, "expression");
	char	   *found = cm_install_value(i, "found");
	char	   *column = cm_install_value(i, "column_name");
	char	   *object = psprintf("constraint %s on %s", quote_identifier(name), table->quoted);

	if (kind[0] == 'p')
	{
		if (found == NULL)
			cm_install_step(plan, CM_STEP_REMAINS, object,
							psprintf("no primary key: CREATE UNIQUE INDEX CONCURRENTLY on (%s), then ALTER TABLE ... ADD PRIMARY KEY USING INDEX",
									 expression));
		else if (strcmp(found, psprintf("PRIMARY KEY (%s)", expression)) != 0)
			append_note(whole, found);
		return;
	}
	if (found != NULL)
	{
		CmInstallStep *step;

		if (cm_install_is_true(i, "validated") || !cm_install_is_true(i, "ours"))
			return;
		step = cm_install_step(plan, CM_STEP_PENDING, object, "not validated yet");
		step->relid = table->relid;
		step->lock = psprintf("ShareUpdateExclusiveLock on %s", table->quoted);
		step->validate = psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s",
								  table->quoted, quote_identifier(name));
		return;
	}
	if (!cm_install_is_true(i, "possible"))
		cm_install_step(plan, CM_STEP_REMAINS, object,
						psprintf("%s is of another type; not added", column));
	else if (kind[0] == 'c')
		plan_check(plan, table, name, expression);
	else
	{
		CmBundledTable *referenced = cm_install_table(plan, cm_install_value(i, "referenced"));

		if (table->relkind == RELKIND_PARTITIONED_TABLE)
			cm_install_step(plan, CM_STEP_REMAINS, object,
							psprintf("would scan the whole table under lock: ALTER TABLE %s ADD CONSTRAINT %s %s",
									 table->quoted, quote_identifier(name),
									 foreign_key_clause(column, referenced)));
		else if (!OidIsValid(referenced->relid) || referenced->owned)
			plan_foreign_key(plan, table, name, column, referenced);
	}
}

/* Constraints that a table lacks. */
static void
plan_constraints(CmInstallPlan *plan, CmBundledTable *table, CmInstallStep *whole)
{
	const char *args[] = {table->name, psprintf("%u", table->relid), plan->schema_name};
	int			rows;

	/* A constraint of another name serves if it is about the same column. */
	rows = cm_install_ask(plan,
						  "SELECT b.constraint_name, b.kind, b.column_name, b.referenced, b.expression,"
						  "       CASE WHEN b.kind = 'p' THEN pg_get_constraintdef(k.oid) ELSE k.conname END AS found,"
						  "       k.convalidated AS validated,"
						  "       k.conname = b.constraint_name AS ours,"
						  "       a.atttypid IS NULL OR a.atttypid = l.type_name::regtype"
						  "         OR (b.kind = 'c' AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)) AS possible"
						  "  FROM concertmaster._bundled_constraints() b"
						  "  LEFT JOIN concertmaster._bundled_columns() l"
						  "    ON l.table_name = b.table_name AND l.column_name = b.column_name"
						  "  LEFT JOIN pg_attribute a ON a.attrelid = $2::oid"
						  "   AND a.attname = b.column_name AND NOT a.attisdropped"
						  "  LEFT JOIN LATERAL (SELECT k.oid, k.conname, k.convalidated FROM pg_constraint k"
						  "     WHERE k.conrelid = $2::oid AND k.contype = b.kind::\"char\""
						  "       AND (b.kind = 'p' OR k.conname = b.constraint_name"
						  "            OR (k.conkey = ARRAY[a.attnum] AND (b.kind = 'c' OR k.confrelid ="
						  "                (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
						  "                  WHERE n.nspname = $3 AND c.relname = b.referenced))))"
						  "     ORDER BY k.conname = b.constraint_name DESC LIMIT 1) k ON true"
						  " WHERE b.table_name = $1::name ORDER BY b.ordinal",
						  3, args);
	for (int i = 0; i < rows; i++)
		plan_constraint(plan, table, whole, i);
}

/* Triggers that a table lacks. */
static void
plan_triggers(CmInstallPlan *plan, CmBundledTable *table)
{
	const char *args[] = {table->name, psprintf("%u", table->relid)};
	int			rows;

	/*
	 * None on a column that is not a timestamp: it would fail every UPDATE.
	 * And a plain table can do without a fixed created_at.
	 */
	rows = cm_install_ask(plan,
						  "SELECT b.trigger_name, b.function_name, b.condition"
						  "  FROM concertmaster._bundled_triggers() b"
						  "  LEFT JOIN pg_attribute a ON a.attrelid = $2::oid"
						  "   AND a.attname = b.column_name AND NOT a.attisdropped"
						  "  JOIN pg_class c ON c.oid = $2::oid"
						  " WHERE b.table_name = $1::name"
						  "   AND (a.attnum IS NULL OR a.atttypid IN ('timestamp'::regtype, 'timestamptz'::regtype))"
						  "   AND (b.function_name <> 'keep_created_at' OR c.relkind = 'p')"
						  "   AND NOT EXISTS (SELECT FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid"
						  "         JOIN pg_namespace n ON n.oid = p.pronamespace"
						  "        WHERE g.tgrelid = $2::oid AND NOT g.tgisinternal"
						  "          AND (g.tgname = b.trigger_name"
						  "               OR (n.nspname = 'concertmaster' AND p.proname = b.function_name)))",
						  2, args);
	for (int i = 0; i < rows; i++)
	{
		CmInstallStep *step;

		step = cm_install_step(plan, CM_STEP_PENDING,
							   psprintf("trigger %s on %s",
										quote_identifier(cm_install_value(i, "trigger_name")), table->quoted),
							   NULL);
		step->lock = psprintf("ShareRowExclusiveLock on %s", table->quoted);
		step->relid = table->relid;
		step->mode = ShareRowExclusiveLock;
		step->statements = list_make1(trigger_statement(table, i));
	}
}

/* Add the steps of one table to the plan. */
void
cm_install_plan_table(CmInstallPlan *plan, CmBundledTable *table)
{
	char	   *object = psprintf("table %s", table->quoted);
	CmInstallStep *whole;

	if (!OidIsValid(table->relid))
	{
		plan_new_table(plan, table);
		return;
	}
	if (table->relkind != RELKIND_RELATION && table->relkind != RELKIND_PARTITIONED_TABLE)
	{
		cm_install_step(plan, CM_STEP_CONFLICT, object, "the name belongs to another kind of object");
		return;
	}
	if (!table->owned)
	{
		cm_install_step(plan, CM_STEP_REMAINS, object,
						psprintf("belongs to role \"%s\", who can call concertmaster.install(%s)",
								 table->owner, quote_literal_cstr(plan->schema_name)));
		return;
	}
	whole = cm_install_step(plan, CM_STEP_EXISTS, object, NULL);
	plan_columns(plan, table, whole);
	plan_constraints(plan, table, whole);
	plan_triggers(plan, table);
}
