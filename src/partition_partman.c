/*-------------------------------------------------------------------------
 *
 * partition_partman.c
 *	  Take over the sets of pg_partman, with their settings.
 *
 * take_over_partman() reads pg_partman's table part_config, says each set's
 * settings in our words, switches automatic_maintenance off there, so that
 * the two do not fight, and calls create_partition_set().  No partition is
 * renamed or bounded anew: what exists is continued (partition_plan.c).
 *
 * part_config is read and written as the caller, with the caller's own
 * privileges; so is everything else, until create_partition_set() asks whether
 * the caller owns the table.  Which columns there are differs by version (4.7
 * and 5 were tried), so they are looked up by name.  Every value in it is
 * somebody's text: it is cast in a subtransaction of the set's own, and bound
 * as a parameter.  A set that fails is undone, reported as skipped with the
 * error's text, and stops no other.
 *
 * A time zone is not among pg_partman's settings: its bounds are where the
 * session that made them put midnight.  Of UTC, the session's and the
 * server's zone, the one is taken in which most bounds are on the period's
 * grid.  Where the key is a reading of a wall clock, all zones fit, and the
 * server's is taken, since it is what now() was turned into.
 *
 * Locks: the advisory lock by which pg_partman's maintenance keeps itself from
 * running twice, so that it is not at work on a set that it has listed before;
 * a row of part_config, for no longer than the deadline; and those of
 * create_partition_set().  All until the caller's transaction ends.
 *
 * What it does not do: sub-partitions, partitioning by list or by triggers,
 * constraints on other columns, templates.  What is lost by that is said.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "partition.h"

PG_FUNCTION_INFO_V1(cm_take_over_partman);

/* The columns of part_config that say something to us, in the order of column_names. */
typedef enum ConfigColumn
{
	PARENT_TABLE,
	PARTITION_TYPE,
	PARTITION_INTERVAL,
	PREMAKE,
	EPOCH,
	TIME_ENCODER,
	RETENTION,
	RETENTION_SCHEMA,
	RETENTION_KEEP_TABLE,
	RETENTION_KEEP_INDEX,
	AUTOMATIC_MAINTENANCE,
	TEMPLATE_TABLE,
	CONSTRAINT_COLS,
	PUBLICATIONS,
	SUBSCRIPTION_REFRESH,
	INHERIT_PRIVILEGES,
	UNDO_IN_PROGRESS,
	ASYNC_IN_PROGRESS,
	IS_DIVIDED					/* not of part_config: there are sub-partitions */
} ConfigColumn;

#define CONFIG_COLUMNS	(IS_DIVIDED + 1)

static const char *const column_names[CONFIG_COLUMNS] = {
	"parent_table", "partition_type", "partition_interval", "premake", "epoch", "time_encoder",
	"retention", "retention_schema", "retention_keep_table", "retention_keep_index",
	"automatic_maintenance", "template_table", "constraint_cols", "publications",
	"subscription_refresh", "inherit_privileges", "undo_in_progress",
	"async_partitioning_in_progress", "is_divided"
};

/* Where pg_partman is. */
typedef struct Partman
{
	char	   *schema;			/* quoted */
	Oid			schema_id;
	Oid			config;			/* part_config */
	Oid			config_sub;		/* part_config_sub */
} Partman;

/* One row of part_config. */
typedef struct Config
{
	char	   *values[CONFIG_COLUMNS]; /* NULL: null, or no such column */
	Oid			relid;			/* InvalidOid: there is no such table */
} Config;

/* Arguments of create_partition_set() but the first, in the order of argument_names. */
typedef enum TermArgument
{
	TERM_PERIOD,
	TERM_WIDTH,
	TERM_AHEAD,
	TERM_TIMEZONE,
	TERM_RETENTION,
	TERM_RETENTION_WIDTH,
	TERM_KEEP,
	TERM_SCHEMA,
	TERM_EPOCH
} TermArgument;

#define TERM_ARGUMENTS	(TERM_EPOCH + 1)

static const char *const argument_names[TERM_ARGUMENTS] = {
	"period => $2::interval", "width => $3::bigint", "ahead => $4::integer", "timezone => $5",
	"retention => $6::interval", "retention_width => $7::bigint", "retention_keep => $8::boolean",
	"retention_schema => $9::name", "epoch => $10"
};

/* A set's settings in our words, and what is said of it. */
typedef struct Terms
{
	char	   *arguments[TERM_ARGUMENTS];	/* as text, or NULL */
	CmPartitionSettings settings;	/* axis and period only */
	StringInfoData lost;		/* what nobody does any more */
} Terms;

/* What became of one set. */
typedef struct Outcome
{
	const char *action;
	char	   *settings;		/* NULL: it is none of ours */
	char	   *detail;			/* or NULL */
} Outcome;

/* Leave a set as it is, for this reason. */
static void
skip(const char *reason)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg_internal("%s", reason)));
}

/* Note what is lost, or different. */
static void
lose(Terms *terms, const char *what)
{
	appendStringInfo(&terms->lost, "%s%s", terms->lost.len ? "; " : "", what);
}

/* A column of the first row that the last query found, as an oid. */
static Oid
oid_column(int number)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, number, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

/* Run a query as who we are. */
static void
run(const char *sql, int nargs, Oid *types, Datum *values, int expected)
{
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, false, 0) != expected)
		elog(ERROR, "SPI_execute_with_args failed: %s", sql);
}

/* Find pg_partman's tables.  With SPI. */
static void
find_partman(Partman *partman, MemoryContext context)
{
	run("SELECT n.oid, max(c.oid) FILTER (WHERE c.relname = 'part_config'),"
		"       max(c.oid) FILTER (WHERE c.relname = 'part_config_sub'), quote_ident(n.nspname)"
		"  FROM pg_extension e"
		"  JOIN pg_namespace n ON n.oid = e.extnamespace"
		"  LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.deptype = 'e'"
		"        AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid"
		"  LEFT JOIN pg_class c ON c.oid = d.objid AND c.relnamespace = n.oid AND c.relkind = 'r'"
		" WHERE e.extname = 'pg_partman' GROUP BY n.oid, n.nspname",
		0, NULL, NULL, SPI_OK_SELECT);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"pg_partman\" is not installed in database \"%s\"",
						get_database_name(MyDatabaseId)),
				 errhint("Call this in the database where pg_partman is; sets that were made by hand are taken over by concertmaster.create_partition_set().")));
	partman->schema_id = oid_column(1);
	partman->config = oid_column(2);
	partman->config_sub = oid_column(3);
	partman->schema = MemoryContextStrdup(context, SPI_getvalue(SPI_tuptable->vals[0],
																SPI_tuptable->tupdesc, 4));
	if (!OidIsValid(partman->config) || !OidIsValid(partman->config_sub))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("this version of extension \"pg_partman\" is not supported"),
				 errdetail("It has no tables part_config and part_config_sub.")));
}

/* May the caller read pg_partman's settings, and switch its maintenance off? */
static bool
is_allowed(const Partman *partman)
{
	Oid			userid = GetUserId();
	AttrNumber	attnum = get_attnum(partman->config, column_names[AUTOMATIC_MAINTENANCE]);

	return cm_compat_namespace_aclcheck(partman->schema_id, userid, ACL_USAGE) == ACLCHECK_OK &&
		pg_class_aclcheck(partman->config, userid, ACL_SELECT) == ACLCHECK_OK &&
		pg_class_aclcheck(partman->config_sub, userid, ACL_SELECT) == ACLCHECK_OK &&
		(pg_class_aclcheck(partman->config, userid, ACL_UPDATE) == ACLCHECK_OK ||
		 (attnum != InvalidAttrNumber &&
		  pg_attribute_aclcheck(partman->config, attnum, userid, ACL_UPDATE) == ACLCHECK_OK));
}

/* Refuse who is not, before anything is done. */
static void
require_privileges(const Partman *partman)
{
	const char *role;

	if (is_allowed(partman))
		return;
	role = quote_identifier(GetUserNameFromId(GetUserId(), false));
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for the tables of extension \"pg_partman\""),
			 errdetail("To take over a set is to read its settings there and to switch its automatic_maintenance off."),
			 errhint("GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT, UPDATE ON %s.part_config TO %s; GRANT SELECT ON %s.part_config_sub TO %s.",
					 partman->schema, role, partman->schema, role, partman->schema, role)));
}

/* Keep pg_partman's maintenance from running until we are through.  With SPI. */
static void
stop_maintenance(void)
{
	bool		isnull;

	run("SELECT pg_try_advisory_xact_lock(hashtext('pg_partman run_maintenance'))",
		0, NULL, NULL, SPI_OK_SELECT);
	if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("the maintenance of pg_partman is running"),
				 errdetail("It is at work on sets that it has listed before."),
				 errhint("Try again when it has ended.")));
}

/* The relation that pg_partman means by a name: schema.table, not quoted. */
static Oid
find_relation(const char *name)
{
	const char *dot = name ? strchr(name, '.') : NULL;
	Oid			schema;

	if (dot == NULL || dot - name >= NAMEDATALEN || strlen(dot + 1) >= NAMEDATALEN)
		return InvalidOid;
	schema = get_namespace_oid(pnstrdup(name, dot - name), true);
	return OidIsValid(schema) ? get_relname_relid(dot + 1, schema) : InvalidOid;
}

/* A row of part_config, from the result of the last query. */
static Config *
read_config(HeapTuple row, TupleDesc desc)
{
	Config	   *config = palloc0(sizeof(Config));

	for (int i = 0; i < CONFIG_COLUMNS; i++)
	{
		int			number = SPI_fnumber(desc, column_names[i]);

		if (number > 0)
			config->values[i] = SPI_getvalue(row, desc, number);
	}
	config->relid = find_relation(config->values[PARENT_TABLE]);
	return config;
}

/* All of part_config, as Config.  With SPI. */
static List *
list_configs(const Partman *partman, MemoryContext context)
{
	List	   *configs = NIL;

	run(psprintf("SELECT p.*, EXISTS (SELECT FROM %s.part_config_sub s WHERE s.sub_parent = p.parent_table) AS is_divided"
				 "  FROM %s.part_config p ORDER BY p.parent_table COLLATE \"C\"",
				 partman->schema, partman->schema),
		0, NULL, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(context);

		configs = lappend(configs, read_config(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
		MemoryContextSwitchTo(spi_context);
	}
	return configs;
}

/* Is this value, a boolean or 'on', there and true? */
static bool
is_on(const Config *config, ConfigColumn column)
{
	const char *value = config->values[column];

	return value != NULL && (strcmp(value, "t") == 0 || strcmp(value, "on") == 0);
}

/* Skip what we have nothing like. */
static void
check_kind(const Config *config)
{
	const char *type = config->values[PARTITION_TYPE];

	if (!OidIsValid(config->relid))
		skip("there is no such table");
	if (type != NULL && (strcmp(type, "partman") == 0 || strcmp(type, "time-custom") == 0))
		skip(psprintf("its partitions hang on triggers (partition_type %s), not on PARTITION BY", type));
	if (is_on(config, IS_DIVIDED))
		skip("its partitions have partitions");
	if (get_rel_relispartition(config->relid))
		skip("it is a partition itself");
	if (is_on(config, UNDO_IN_PROGRESS))
		skip("its partitioning is being undone (undo_in_progress)");
	if (config->values[ASYNC_IN_PROGRESS] != NULL)
		skip("rows are being moved out of its default partition (async_partitioning_in_progress)");
}

/* Skip what makes up uuids in another way than version 7 does. */
static void
check_encoder(const Config *config)
{
	const char *encoder = config->values[TIME_ENCODER];
	const char *dot = encoder ? strrchr(encoder, '.') : NULL;

	if (encoder == NULL || strcmp(dot ? dot + 1 : encoder, "uuid7_time_encoder") != 0)
		skip(psprintf("time_encoder is %s; only uuids of version 7 can be managed",
					  encoder ? encoder : "not set"));
}

/*
 * The indexes of the template that partitions have and the table has not: an
 * error if one is unique, since the next partitions would be without.  With
 * SPI.
 */
static void
check_template(const Config *config, Terms *terms)
{
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2];
	Oid			template = find_relation(config->values[TEMPLATE_TABLE]);
	char	   *unique_ones;
	char	   *others;

	if (!OidIsValid(template))
		return;
	values[0] = ObjectIdGetDatum(template);
	values[1] = ObjectIdGetDatum(config->relid);
	run("SELECT string_agg(name, ', ' ORDER BY name) FILTER (WHERE indisunique),"
		"       string_agg(name, ', ' ORDER BY name) FILTER (WHERE NOT indisunique)"
		"  FROM (SELECT quote_ident(c.relname) AS name, i.indisunique"
		"          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
		"         WHERE i.indrelid = $1 AND i.indisvalid"
		"           AND NOT EXISTS (SELECT FROM pg_index p WHERE p.indrelid = $2 AND p.indisunique >= i.indisunique"
		"                              AND substring(pg_get_indexdef(p.indexrelid) FROM ' USING .*')"
		"                                = substring(pg_get_indexdef(i.indexrelid) FROM ' USING .*'))) x",
		2, types, values, SPI_OK_SELECT);
	unique_ones = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	others = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	if (unique_ones != NULL)
		skip(psprintf("new partitions would be without unique indexes that the template %s gives them: %s; if that is all right, set template_table to null and call again",
					  config->values[TEMPLATE_TABLE], unique_ones));
	if (others != NULL)
		lose(terms, psprintf("new partitions are without indexes of the template %s: %s",
							 config->values[TEMPLATE_TABLE], others));
}

/* What pg_partman did beside making and retiring partitions. */
static void
name_losses(const Config *config, Terms *terms)
{
	char	   *const *values = config->values;

	if (values[CONSTRAINT_COLS] != NULL)
		lose(terms, psprintf("old partitions get no constraints on columns %s any more", values[CONSTRAINT_COLS]));
	if (values[PUBLICATIONS] != NULL)
		lose(terms, psprintf("new partitions are not added to publications %s", values[PUBLICATIONS]));
	if (values[SUBSCRIPTION_REFRESH] != NULL)
		lose(terms, psprintf("subscription %s is not refreshed", values[SUBSCRIPTION_REFRESH]));
	if (is_on(config, INHERIT_PRIVILEGES))
		lose(terms, "new partitions take their privileges from the newest one, not from the table");
	if (values[RETENTION] != NULL && !is_on(config, RETENTION_KEEP_INDEX) &&
		strcmp(terms->arguments[TERM_KEEP], "true") == 0)
		lose(terms, "retired partitions keep their indexes");
	if (!is_on(config, AUTOMATIC_MAINTENANCE))
		lose(terms, "its automatic_maintenance was off: see that nobody calls run_maintenance() for it");
}

/* Width of the partitions, and the age at which they retire. */
static void
translate_widths(const Config *config, Terms *terms)
{
	char	   *width = config->values[PARTITION_INTERVAL];
	char	   *retention = config->values[RETENTION];
	bool		is_time = cm_axis_is_time(&terms->settings.axis);
	bool		is_zero;

	if (width == NULL)
		skip("its partition_interval is null");
	if (is_time)
	{
		Interval   *period = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(width),
																   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));

		terms->settings.period = cm_partition_period(period, terms->settings.axis.key_type);
		terms->arguments[TERM_PERIOD] = DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(period)));
	}
	else
	{
		terms->settings.period = cm_partition_width(pg_strtoint64(width));
		terms->arguments[TERM_WIDTH] = width;
	}
	if (retention == NULL)
		return;
	if (is_time)
	{
		Interval   *age = DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(retention),
																ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));

		is_zero = age->month == 0 && age->day == 0 && age->time == 0;
		terms->arguments[TERM_RETENTION] = DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(age)));
	}
	else
	{
		is_zero = pg_strtoint64(retention) == 0;
		terms->arguments[TERM_RETENTION_WIDTH] = retention;
	}
	if (is_zero)
		skip("its retention is 0, which for us means to keep everything");
}

/* How well the bounds fit a zone: on the period's grid, or at least on a midnight. */
static int
score_zone(const CmPartitionSettings *settings, const List *existing)
{
	int			score = 0;
	ListCell   *lc;

	foreach(lc, existing)
	{
		const CmPartition *partition = lfirst(lc);
		int64		bounds[2] = {partition->from, partition->to};

		for (int i = 0; i < 2 && !partition->is_default; i++)
		{
			if (bounds[i] == DT_NOBEGIN || bounds[i] == DT_NOEND)
				continue;
			if (cm_partition_on_grid(settings, bounds[i]))
				score += 2;
			else if (cm_axis_label(&settings->axis, bounds[i]) % USECS_PER_DAY == 0)
				score += 1;
		}
	}
	return score;
}

/* The zone that the bounds were made in; sets it in the axis. */
static void
find_zone(Terms *terms, const List *existing)
{
	CmAxis	   *axis = &terms->settings.axis;
	const char *server = GetConfigOptionResetString("TimeZone");
	const char *names[3] = {"UTC", pg_get_timezone_name(session_timezone), server ? server : "UTC"};
	int			first = 0;
	int			best = -1;

	if (axis->kind == CM_AXIS_DATE || axis->kind == CM_AXIS_TIMESTAMP)
		first = 2;
	for (int i = first; i < lengthof(names); i++)
	{
		int			score;

		axis->zone = cm_axis_zone(names[i]);
		score = score_zone(&terms->settings, existing);
		if (score > best)
		{
			best = score;
			terms->arguments[TERM_TIMEZONE] = pstrdup(names[i]);
		}
	}
	axis->zone = cm_axis_zone(terms->arguments[TERM_TIMEZONE]);
}

/* Say if the next partition ends before a whole period. */
static void
note_narrow_one(Terms *terms, const List *existing)
{
	int64		end = DT_NOBEGIN;
	ListCell   *lc;

	foreach(lc, existing)
	{
		const CmPartition *partition = lfirst(lc);

		if (!partition->is_default)
			end = Max(end, partition->to);
	}
	if (end != DT_NOBEGIN && end != DT_NOEND && !cm_partition_on_grid(&terms->settings, end))
		lose(terms, psprintf("the partition from %s on is narrower than the others, those after it begin elsewhere than before",
							 cm_axis_literal(&terms->settings.axis, end)));
}

/* A set's settings in our words.  An error if there are none for them.  With SPI. */
static void
find_terms(const Config *config, Terms *terms)
{
	char	   *const *values = config->values;
	char	   *epoch = values[EPOCH];
	List	   *existing;
	Oid			key_type;

	memset(terms, 0, sizeof(*terms));
	initStringInfo(&terms->lost);
	check_kind(config);
	key_type = cm_partition_key_type(config->relid);
	if (epoch != NULL && strcmp(epoch, "none") == 0)
		epoch = NULL;
	if (key_type == UUIDOID)
		check_encoder(config);
	terms->settings.axis = cm_axis(key_type, epoch, cm_axis_zone("UTC"));
	terms->arguments[TERM_EPOCH] = epoch;
	translate_widths(config, terms);

	/* Where retired ones go overrides whether they are dropped. */
	terms->arguments[TERM_AHEAD] = values[PREMAKE];
	terms->arguments[TERM_SCHEMA] = values[RETENTION_SCHEMA];
	terms->arguments[TERM_KEEP] = values[RETENTION] == NULL || values[RETENTION_SCHEMA] != NULL ||
		is_on(config, RETENTION_KEEP_TABLE) ? "true" : "false";

	existing = cm_partition_existing(config->relid, &terms->settings.axis);
	if (cm_axis_is_time(&terms->settings.axis))
		find_zone(terms, existing);
	else
		terms->arguments[TERM_TIMEZONE] = "UTC";
	note_narrow_one(terms, existing);
	check_template(config, terms);
	name_losses(config, terms);
}

/* The settings for a reader. */
static char *
describe(const Terms *terms)
{
	char	   *const *arguments = terms->arguments;
	StringInfoData text;

	initStringInfo(&text);
	if (arguments[TERM_WIDTH] != NULL)
		appendStringInfo(&text, "width %s", arguments[TERM_WIDTH]);
	else
		appendStringInfo(&text, "period %s", arguments[TERM_PERIOD]);
	appendStringInfo(&text, ", %s ahead", arguments[TERM_AHEAD]);
	if (arguments[TERM_EPOCH] != NULL)
		appendStringInfo(&text, ", %s since 1970", arguments[TERM_EPOCH]);
	if (arguments[TERM_WIDTH] == NULL)
		appendStringInfo(&text, ", time zone %s", arguments[TERM_TIMEZONE]);
	if (arguments[TERM_RETENTION] == NULL && arguments[TERM_RETENTION_WIDTH] == NULL)
		appendStringInfoString(&text, ", no retention");
	else
		appendStringInfo(&text, ", retention %s: %s%s",
						 arguments[TERM_RETENTION] ? arguments[TERM_RETENTION] : arguments[TERM_RETENTION_WIDTH],
						 strcmp(arguments[TERM_KEEP], "true") == 0 ? "detach" : "drop",
						 arguments[TERM_SCHEMA] ? psprintf(", move to schema %s", quote_identifier(arguments[TERM_SCHEMA])) : "");
	return text.data;
}

/* Have pg_partman leave a set alone.  With SPI. */
static void
switch_off(const Partman *partman, const Config *config)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	int			nestlevel = NewGUCNestLevel();

	values[0] = CStringGetTextDatum(config->values[PARENT_TABLE]);
	cm_lock_waits_limit();
	run(psprintf("UPDATE %s.part_config SET automatic_maintenance = 'off' WHERE parent_table = $1",
				 partman->schema),
		1, types, values, SPI_OK_UPDATE);
	AtEOXact_GUC(false, nestlevel);
	if (SPI_processed != 1)
		skip("its row of part_config could not be updated");
}

/* Make a set of it, with these settings.  With SPI. */
static void
make_set(const Config *config, const Terms *terms)
{
	Oid			types[TERM_ARGUMENTS + 1] = {OIDOID};
	Datum		values[TERM_ARGUMENTS + 1] = {ObjectIdGetDatum(config->relid)};
	char		nulls[TERM_ARGUMENTS + 1] = {' '};
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT FROM concertmaster.create_partition_set(parent => $1::regclass");
	for (int i = 0; i < TERM_ARGUMENTS; i++)
	{
		const char *argument = terms->arguments[i];

		appendStringInfo(&sql, ", %s", argument_names[i]);
		types[i + 1] = TEXTOID;
		values[i + 1] = argument ? CStringGetTextDatum(argument) : (Datum) 0;
		nulls[i + 1] = argument ? ' ' : 'n';
	}
	appendStringInfoChar(&sql, ')');
	if (SPI_execute_with_args(sql.data, TERM_ARGUMENTS + 1, types, values, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed: %s", sql.data);
}

/* Take over one set, in the subtransaction that is open.  With SPI. */
static void
take_over(const Partman *partman, const Config *config, Outcome *outcome, MemoryContext context)
{
	CmPartitionSettings settings;
	Terms		terms;

	check_kind(config);
	if (cm_partition_settings(config->relid, &settings))
	{
		if (!is_on(config, AUTOMATIC_MAINTENANCE))
			skip("it is a partition set of concertmaster already");
		switch_off(partman, config);
		outcome->detail = "was a partition set already: its settings stay as they are";
	}
	else
	{
		find_terms(config, &terms);
		switch_off(partman, config);
		make_set(config, &terms);
		outcome->settings = MemoryContextStrdup(context, describe(&terms));
		if (terms.lost.len > 0)
			outcome->detail = MemoryContextStrdup(context, terms.lost.data);
	}
	outcome->action = "taken over";
}

/* Why a set was skipped; an error that concerns every set is thrown on. */
static void
judge_failure(ErrorData *edata, Outcome *outcome)
{
	int			class = ERRCODE_TO_CATEGORY(edata->sqlerrcode);

	if (class == ERRCODE_OPERATOR_INTERVENTION || class == ERRCODE_INSUFFICIENT_RESOURCES ||
		class == ERRCODE_INTERNAL_ERROR || class == ERRCODE_TRANSACTION_ROLLBACK)
		ReThrowError(edata);
	*outcome = (Outcome) {.action = "skipped"};
	outcome->detail = edata->detail == NULL ? edata->message :
		psprintf("%s: %s", edata->message, edata->detail);
}

/* What take_over_step() works on. */
typedef struct Taking
{
	const Partman *partman;
	const Config *config;
	Outcome		outcome;
	MemoryContext context;		/* of the outcome's texts */
} Taking;

static void
take_over_step(void *arg)
{
	Taking	   *taking = arg;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	take_over(taking->partman, taking->config, &taking->outcome, taking->context);
	SPI_finish();
}

/* Take over one set, or find out why not. */
static Outcome
try_one(const Partman *partman, const Config *config)
{
	Taking		taking = {.partman = partman,.config = config,.context = CurrentMemoryContext};
	ErrorData  *edata = cm_subtransaction(take_over_step, &taking);

	if (edata != NULL)
		judge_failure(edata, &taking.outcome);
	return taking.outcome;
}

/* Is it a set to look at: the one asked for, or one that the caller owns? */
static bool
is_asked_for(const Config *config, Oid parent)
{
	if (OidIsValid(parent))
		return config->relid == parent;
	return !OidIsValid(config->relid) || object_ownercheck(RelationRelationId, config->relid, GetUserId());
}

static void
put_outcome(ReturnSetInfo *result, const Config *config, const Outcome *outcome)
{
	Datum		values[4] = {0};
	bool		nulls[4] = {false, false, outcome->settings == NULL, outcome->detail == NULL};

	values[0] = CStringGetTextDatum(OidIsValid(config->relid) ? cm_relation_quoted(config->relid) :
									config->values[PARENT_TABLE]);
	values[1] = CStringGetTextDatum(outcome->action);
	if (outcome->settings != NULL)
		values[2] = CStringGetTextDatum(outcome->settings);
	if (outcome->detail != NULL)
		values[3] = CStringGetTextDatum(outcome->detail);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* pg_partman's sets, once it is sure that the caller may take them over. */
static List *
open_partman(Partman *partman)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *configs;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	find_partman(partman, context);
	require_privileges(partman);
	stop_maintenance();
	configs = list_configs(partman, context);
	SPI_finish();
	return configs;
}

/* take_over_partman(parent) */
Datum
cm_take_over_partman(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	Partman		partman;
	bool		found = false;
	int			nestlevel;
	ListCell   *lc;

	cm_partition_require_writable("take_over_partman()");
	if (OidIsValid(parent))
		cm_relation_require_owner(parent);
	InitMaterializedSRF(fcinfo, 0);
	nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	foreach(lc, open_partman(&partman))
	{
		const Config *config = lfirst(lc);
		Outcome		outcome;

		if (!is_asked_for(config, parent))
			continue;
		outcome = try_one(&partman, config);
		put_outcome((ReturnSetInfo *) fcinfo->resultinfo, config, &outcome);
		found = true;
	}
	AtEOXact_GUC(false, nestlevel);
	if (OidIsValid(parent) && !found)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not a set of pg_partman", get_rel_name(parent)),
				 errhint("Sets that were made by hand are taken over by concertmaster.create_partition_set().")));
	return (Datum) 0;
}
