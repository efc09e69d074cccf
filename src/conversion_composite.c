/*-------------------------------------------------------------------------
 *
 * conversion_composite.c
 *	  Foreign keys to a table that becomes partitioned, made to reference the
 *	  partition key, too: which can be, and the SQL that does it.
 *
 * A key c (t_id) -> t (id) needs a unique index on t (id), which a partitioned
 * table cannot have.  With foreign_keys => 'composite' it becomes
 * c (t_id, t_id_at) -> t (id, at), where t_id_at is a column that c is given.
 * Statements that know nothing of it go on working, and enforced is what was:
 *
 *	 - The new key is MATCH FULL, so (5, NULL) violates it as a missing row
 *	   does.  Where several columns reference, MATCH SIMPLE, and may be null,
 *	   MATCH FULL would refuse what is allowed; a CHECK says there that the
 *	   new column is set where all others are.
 *	 - Triggers BEFORE INSERT and UPDATE look the value up by id and fill it
 *	   in, with FOR KEY SHARE, as the server's own check would: the row cannot
 *	   get another value, or go, until we commit.  The look-up is done as the
 *	   table's owner, as that check is.  A statement that sets the column
 *	   itself is taken at its word; the foreign key checks it.
 *	 - A row that comes before the one that it references (in one statement, or
 *	   deferred) is filled by a deferred trigger, which sorts before the
 *	   server's own check of the same row and so spares it.  What is missing
 *	   by then is refused with the server's own words; so is such a row where
 *	   the two tables have different owners, as its UPDATE would run triggers
 *	   of the one with the rights of the other.
 *	 - Where the key of a referenced row changes, ON UPDATE CASCADE changes the
 *	   column.  Where its id changes, what the old key said has to hold:
 *	   the trigger sees that it runs in a cascade (the old pair is gone, the
 *	   new one is set; ON DELETE SET leaves it null), and refuses or sets null.
 *	   The foreign key as it was does that itself until the swap, and its
 *	   actions look alike, so the function is given this part there.
 *	 - A look-up by id alone meets every partition, 0.05 ms for each.  So those
 *	   of the last two periods are looked into first, where the key is a time.
 *	 - Two rows of t with the same id are possible after the conversion.  One of
 *	   the last two periods is taken.  Are both or neither, what is meant cannot
 *	   be known, and is an error, SQLSTATE 21000, unless the statement sets the
 *	   column.
 *
 * The new key is made before rows are filled, beside the old one and on the
 * plain table, whose unique index with the key is there by then.  From that
 * moment no row that was filled can go stale.  The swap makes it anew for the
 * partitioned table, as any key that references the partition key
 * (conversion_swap.c).
 *
 * The function is PL/pgSQL, belongs to the table's owner and depends on nothing
 * of ours: it has to work when the extension is gone.
 *
 * Locks: none.  Nothing to clean up.  conversion_fill.c does what is said here.
 *
 * What it does not do: keys of partitioned tables and of the table to itself
 * (15 and 17 make none NOT VALID on a partitioned table), and what else is
 * refused below, each with its reason.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "nodes/parsenodes.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "conversion_composite.h"

/* Names of columns are cut to this, so that what is made of them stays different. */
#define COLUMN_NAME_BYTES	45

/* An operand, cast as the key's operator wants it; a polymorphic one takes any. */
#define CAST_TO(type, att) \
	"CASE WHEN " type " <> " att ".atttypid AND NOT EXISTS (SELECT FROM pg_type y WHERE y.oid = " type " AND y.typtype = 'p')" \
	" THEN '::' || format_type(" type ", NULL) ELSE '' END"

/* Of the referenced row and one that references it. */
#define EQUAL(who) \
	"string_agg(format('p.%I%s OPERATOR(%I.%s) " who ".%I%s%s', p.attname, " CAST_TO("o.oprleft", "p") ", on_.nspname, o.oprname, f.attname, " \
	CAST_TO("o.oprright", "f") ", CASE WHEN p.attcollation <> 0 THEN ' COLLATE ' || p.attcollation::regcollation ELSE '' END), ' AND ' ORDER BY u.n)"

#define JOINED(what, separator) "string_agg(format('" what "', f.attname), '" separator "' ORDER BY u.n)"

/*
 * Why a key cannot be done; the first that is so is said.  A table that is
 * under way already has a column and a CHECK of ours.
 */
#define REASONS \
	"(VALUES" \
	" (NOT pg_has_role($3, r.relowner, 'USAGE'), format('role %I does not own %s', pg_get_userbyid($3), k.conrelid::regclass)," \
	"  format('have role %I own it, too', pg_get_userbyid($3)))," \
	" (NOT k.convalidated, 'it is NOT VALID', format('ALTER TABLE %s VALIDATE CONSTRAINT %I', k.conrelid::regclass, k.conname))," \
	" (k.conrelid = $1, 'the table references itself, and the key could not be made NOT VALID on a partitioned table', NULL)," \
	" (r.relkind = 'p' OR r.relispartition, 'the referencing table is partitioned, and the key could not be made NOT VALID there', NULL)," \
	" (r.reloftype <> 0 OR EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = r.oid), 'the referencing table is a typed one, or has children: no column can be added to it alone', NULL)," \
	" (EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'e'), 'the referencing table belongs to an extension', NULL)," \
	" (c.generated, 'a column that references is generated, and not known when a trigger could look up the row', NULL)," \
	" (pg_get_constraintdef(k.oid) ~ ', PERIOD [^,()]+\\)', 'it is about periods', NULL)," \
	" (k.confupdtype = 'd', 'ON UPDATE SET DEFAULT could not be told from a change of the partition key', 'make it ON UPDATE CASCADE, SET NULL or NO ACTION')," \
	" (k.condeferrable AND r.relowner <> $3, 'it is DEFERRABLE and its table has another owner: a row that comes first would be filled with rights that this one may not have'," \
	"  format('have role %I own it, or make the foreign key NOT DEFERRABLE', pg_get_userbyid($3)))," \
	" (NOT c.can_be_full AND k.condeferrable, 'it is MATCH SIMPLE over several columns that can be null, and DEFERRABLE: what is missing could not be refused in time'," \
	"  'make the columns NOT NULL, or the foreign key NOT DEFERRABLE')," \
	" (t.relforcerowsecurity AND t.relrowsecurity OR r.relforcerowsecurity AND r.relrowsecurity, 'row security is forced on the owner of one of the tables, who has to see all rows', 'ALTER TABLE ... NO FORCE ROW LEVEL SECURITY')," \
	" (EXISTS (SELECT FROM pg_constraint v WHERE v.conrelid = r.oid AND v.contype IN ('c', 'n') AND NOT v.convalidated AND n.key IS NULL)," \
	"  'the referencing table has a constraint that is NOT VALID: filling the column could fail', 'validate the constraint, or drop it')," \
	" (EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = r.oid AND w.ev_type = '2'), 'the referencing table has a rule for UPDATE', 'make the rule a trigger')," \
	" (EXISTS (SELECT FROM pg_subscription_rel s WHERE s.srrelid = r.oid), 'a subscription writes to the referencing table, for which no trigger fires', NULL)," \
	" (NOT EXISTS (SELECT FROM pg_language l WHERE l.lanname = 'plpgsql' AND has_language_privilege($3, l.oid, 'USAGE')), format('role %I may not use language plpgsql', pg_get_userbyid($3))," \
	"  format('CREATE EXTENSION plpgsql; GRANT USAGE ON LANGUAGE plpgsql TO %I', pg_get_userbyid($3)))," \
	" (c.needs_index AND NOT has_schema_privilege($3, r.relnamespace, 'CREATE'), format('no index begins with the columns that reference, and role %I must not make one in schema %s', pg_get_userbyid($3), r.relnamespace::regnamespace)," \
	"  format('GRANT CREATE ON SCHEMA %s TO %I', r.relnamespace::regnamespace, pg_get_userbyid($3)))" \
	") v (so, reason, remedy)"

static const char *const composites_query =
"SELECT k.oid, k.conname, k.conrelid::oid::text AS relid, format('%I.%I', s.nspname, r.relname) AS table_name,"
"       n.new_key::text AS new_key, (SELECT m.convalidated FROM pg_constraint m WHERE m.oid = n.new_key) AS validated,"
"       (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = k.conrelid AND a.attnum = n.column_number AND NOT a.attisdropped) AS column_name,"
"       (SELECT format('%I.%I', pronamespace::regnamespace::name, f.proname) FROM pg_proc f WHERE f.oid = n.function) AS function_name,"
"       CASE WHEN a.atttypid = b.typ THEN format_type(a.atttypid, a.atttypmod) ELSE format_type(b.typ, NULL) END AS column_type,"
"       k.confupdtype, CASE k.confdeltype WHEN 'r' THEN ' ON DELETE RESTRICT' WHEN 'c' THEN ' ON DELETE CASCADE'"
"            WHEN 'n' THEN ' ON DELETE SET NULL' WHEN 'd' THEN ' ON DELETE SET DEFAULT' ELSE '' END AS on_delete,"
"       (SELECT string_agg(quote_ident(d.attname), ', ' ORDER BY d.attnum) FROM pg_attribute d"
"         WHERE d.attrelid = k.conrelid AND d.attnum = ANY (k.confdelsetcols)) AS delete_columns,"
"       CASE WHEN k.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED' WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END AS timing,"
"       c.*, coalesce(concertmaster._relation_size(r.oid), 0) AS bytes, greatest(r.reltuples, 0) AS rows, w.reason, w.remedy"
"  FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid JOIN pg_namespace s ON s.oid = r.relnamespace"
"  JOIN pg_class t ON t.oid = $1 JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = $2"
"  LEFT JOIN concertmaster.conversion_key n ON n.key = k.oid,"
"       LATERAL (SELECT CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END AS typ FROM pg_type y WHERE y.oid = a.atttypid) b,"
"       LATERAL (SELECT " JOINED("%I", ", ") " AS columns, string_agg(quote_ident(p.attname), ', ' ORDER BY u.n) AS referenced,"
"                       string_agg(p.attname, ', ' ORDER BY u.n) AS referenced_names, min(f.attname) FILTER (WHERE u.n = 1) AS first_column, " JOINED("%s", ", ") " AS names,"
"                       " JOINED("NEW.%I IS NULL", " OR ") " AS any_null, " JOINED("x.%I IS NOT NULL", " AND ") " AS all_set,"
"                       " JOINED("%I IS NULL", " OR ") " AS column_null,"
"                       " JOINED("OLD.%I", ", ") " AS old_row, " JOINED("NEW.%I", ", ") " AS new_row, " JOINED("x.%I", ", ") " AS x_row, " JOINED("NEW.%I := NULL;", " ") " AS set_null,"
"                       " EQUAL("NEW") " AS equal_new, " EQUAL("OLD") " AS equal_old, " EQUAL("x") " AS equal_x,"
"                       string_agg(format('x.%I%s OPERATOR(%I.%s) NEW.%I%s', f.attname, " CAST_TO("q.oprleft", "f") ", qn.nspname, q.oprname, f.attname, " CAST_TO("q.oprright", "f") "), ' AND ' ORDER BY u.n) AS same,"
"                       k.confmatchtype = 'f' OR count(*) = 1 OR bool_and(f.attnotnull) AS can_be_full, bool_or(f.attgenerated <> '') AS generated,"
"                       NOT EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'"
"                                    WHERE i.indrelid = k.conrelid AND i.indisvalid AND i.indpred IS NULL"
"                                      AND (SELECT array_agg(z ORDER BY z) FROM unnest((i.indkey::int2[])[0:array_length(k.conkey, 1) - 1]) z)"
"                                          = (SELECT array_agg(z ORDER BY z) FROM unnest(k.conkey) z)) AS needs_index"
"                  FROM unnest(k.conkey, k.confkey, k.conpfeqop, k.conffeqop) WITH ORDINALITY u (f, p, op, ff, n)"
"                  JOIN pg_attribute f ON f.attrelid = k.conrelid AND f.attnum = u.f JOIN pg_attribute p ON p.attrelid = $1 AND p.attnum = u.p"
"                  JOIN pg_operator o ON o.oid = u.op JOIN pg_namespace on_ ON on_.oid = o.oprnamespace"
"                  JOIN pg_operator q ON q.oid = u.ff JOIN pg_namespace qn ON qn.oid = q.oprnamespace) c"
"  LEFT JOIN LATERAL (SELECT v.reason, v.remedy FROM " REASONS " WHERE v.so LIMIT 1) w ON true"
" WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conparentid = 0 AND NOT $2 = ANY (k.confkey) ORDER BY r.relname, k.conname";

/* A subscriber that lacks the column stops. */
static const char *const published_query =
"SELECT DISTINCT 'referencing_table_published' AS code, 'to_accept' AS status, format('%s by %I', k.conrelid::regclass, p.pubname) AS object,"
"       'all its columns are published, the one that it gets, too: a subscriber without it stops' AS detail,"
"       'add the column on each subscriber first, nullable, as step add_column shows it; then accept this' AS remedy, 'pg_publication'::regclass AS classid, p.oid AS objid"
"  FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid, pg_publication p LEFT JOIN pg_publication_rel l ON l.prpubid = p.oid"
" WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conparentid = 0 AND NOT $2 = ANY (k.confkey) AND k.conrelid <> $1"
"   AND (l.prrelid = k.conrelid AND l.prattrs IS NULL OR p.puballtables"
"        OR EXISTS (SELECT FROM pg_publication_namespace n WHERE n.pnpubid = p.oid AND n.pnnspid = r.relnamespace))"
" ORDER BY 3";

/* Is it the name of a column that is there, or that another key has chosen? */
static bool
column_is_taken(const CmConversion *conversion, Oid relid, const char *name)
{
	ListCell   *cell;

	foreach(cell, conversion->composites)
	{
		const CmComposite *other = lfirst(cell);

		if (other->relid == relid && strcmp(other->column, name) == 0)
			return true;
	}
	return get_attnum(relid, name) != InvalidAttrNumber;
}

/* A name for the column. */
static char *
choose_column(const CmConversion *conversion, Oid relid, const char *first)
{
	char	   *name = psprintf("%s_%s", first, conversion->wish->column_name);
	char	   *chosen;

	name[pg_mbcliplen(name, strlen(name), COLUMN_NAME_BYTES)] = '\0';
	chosen = name;
	for (int i = 1; column_is_taken(conversion, relid, chosen); i++)
		chosen = psprintf("%s_%d", name, i);
	return chosen;
}

/* Is it the name of a function that is there, or that another key has chosen? */
static bool
function_is_taken(const CmConversion *conversion, const char *quoted, char *name)
{
	ListCell   *cell;

	foreach(cell, conversion->composites)
	{
		if (strcmp(((CmComposite *) lfirst(cell))->function, quoted) == 0)
			return true;
	}
	return OidIsValid(LookupFuncName(list_make2(makeString(conversion->schema_name), makeString(name)), 0, NULL, true));
}

/* A name for the function, in the table's schema. */
static char *
choose_function(const CmConversion *conversion, Oid relid, const char *column)
{
	char	   *name = psprintf("fill_%s_%s", get_rel_name(relid), column);
	char	   *chosen;
	char	   *quoted;

	name[pg_mbcliplen(name, strlen(name), NAMEDATALEN - 5)] = '\0';
	chosen = name;
	for (int i = 1;; i++)
	{
		quoted = quote_qualified_identifier(conversion->schema_name, chosen);
		if (!function_is_taken(conversion, quoted, chosen))
			return quoted;
		chosen = psprintf("%s_%d", name, i);
	}
}

static Oid
oid_of(const char *text)
{
	return text != NULL ? atooid(text) : InvalidOid;
}

/* One row of the answer. */
static CmComposite *
read_composite(const CmConversion *conversion, int row)
{
	CmComposite *composite = palloc0(sizeof(CmComposite));
	char	   *validated = cm_conversion_value(row, "validated");

	composite->key = oid_of(cm_conversion_value(row, "oid"));
	composite->name = cm_conversion_value(row, "conname");
	composite->relid = oid_of(cm_conversion_value(row, "relid"));
	composite->table = cm_conversion_value(row, "table_name");
	composite->validated = validated != NULL && validated[0] == 't';
	composite->new_key = oid_of(cm_conversion_value(row, "new_key"));
	composite->column = cm_conversion_value(row, "column_name");
	if (composite->column == NULL)
		composite->column = choose_column(conversion, composite->relid, cm_conversion_value(row, "first_column"));
	composite->column_type = cm_conversion_value(row, "column_type");
	composite->function = cm_conversion_value(row, "function_name");
	if (composite->function == NULL)
		composite->function = choose_function(conversion, composite->relid, composite->column);
	composite->columns = cm_conversion_value(row, "columns");
	composite->referenced = cm_conversion_value(row, "referenced");
	composite->names = cm_conversion_value(row, "names");
	composite->referenced_names = cm_conversion_value(row, "referenced_names");
	composite->column_null = cm_conversion_value(row, "column_null");
	composite->any_null = cm_conversion_value(row, "any_null");
	composite->all_set = cm_conversion_value(row, "all_set");
	composite->old_row = cm_conversion_value(row, "old_row");
	composite->new_row = cm_conversion_value(row, "new_row");
	composite->x_row = cm_conversion_value(row, "x_row");
	composite->set_null = cm_conversion_value(row, "set_null");
	composite->equal_new = cm_conversion_value(row, "equal_new");
	composite->equal_old = cm_conversion_value(row, "equal_old");
	composite->equal_x = cm_conversion_value(row, "equal_x");
	composite->same = cm_conversion_value(row, "same");
	composite->full = cm_conversion_value(row, "can_be_full")[0] == 't';
	composite->on_update = cm_conversion_value(row, "confupdtype")[0];
	composite->on_delete = cm_conversion_value(row, "on_delete");
	/* SET NULL (a): the new column goes with it. */
	if (cm_conversion_value(row, "delete_columns") != NULL)
		composite->on_delete = psprintf("%s (%s, %s)", composite->on_delete, cm_conversion_value(row, "delete_columns"),
										quote_identifier(composite->column));
	composite->timing = cm_conversion_value(row, "timing");
	composite->needs_index = cm_conversion_value(row, "needs_index")[0] == 't';
	composite->bytes = strtoll(cm_conversion_value(row, "bytes"), NULL, 10);
	composite->rows = strtod(cm_conversion_value(row, "rows"), NULL);
	return composite;
}

/* All foreign keys to the table that do not reference the key. */
void
cm_conversion_look_composites(CmConversion *conversion)
{
	int			rows = cm_conversion_select(conversion, composites_query);

	for (int i = 0; i < rows; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(conversion->context);
		char	   *reason = cm_conversion_value(i, "reason");
		char	   *remedy = cm_conversion_value(i, "remedy");
		CmComposite *composite = read_composite(conversion, i);
		CmFinding  *finding;
		char	   *object = psprintf("%s on %s", quote_identifier(composite->name), composite->table);

		if (reason != NULL)
			finding = cm_conversion_find(conversion, CM_FINDING_REFUSED, "incoming_foreign_key", object,
										 psprintf("references (%s), which is not unique without the key; %s", composite->referenced, reason),
										 psprintf("%s%sdrop this foreign key for the conversion", remedy ? remedy : "", remedy ? ", or " : ""));
		else
			finding = cm_conversion_find(conversion, CM_FINDING_ACCEPTED, "incoming_foreign_key", object,
										 psprintf("references (%s), which is not unique without the key; %s gets column %s, and it becomes (%s, %s) -> (%s, %s)",
												  composite->referenced, composite->table, quote_identifier(composite->column),
												  composite->columns, quote_identifier(composite->column),
												  composite->referenced, conversion->key_quoted),
										 "a trigger fills the column where a statement does not, by a look-up in recent partitions, then in all; SELECT * shows it");
		finding->classid = ConstraintRelationId;
		finding->objid = composite->key;
		if (reason == NULL)
			conversion->composites = lappend(conversion->composites, composite);
		MemoryContextSwitchTo(caller);
	}
	if (rows > 0)
		cm_conversion_ask(conversion, published_query);
}

/* RAISE what the server says of a key that is violated. */
static char *
raise_violation(const CmConversion *conversion, const CmComposite *composite, bool missing)
{
	char	   *table = get_rel_name(composite->relid);
	char	   *message = missing ?
		psprintf("insert or update on table \"%s\" violates foreign key constraint \"%s\"", table, composite->name) :
		psprintf("update or delete on table \"%s\" violates foreign key constraint \"%s\" on table \"%s\"", conversion->name, composite->name, table);
	char	   *detail = missing ?
		psprintf("pg_catalog.concat('Key (', %s, ')=(', pg_catalog.concat_ws(', ', %s), %s)", quote_literal_cstr(composite->names),
				 composite->new_row, quote_literal_cstr(psprintf(") is not present in table \"%s\".", conversion->name))) :
		psprintf("pg_catalog.concat('Key (', %s, ')=(', pg_catalog.concat_ws(', ', %s), %s)", quote_literal_cstr(composite->referenced_names),
				 composite->old_row, quote_literal_cstr(psprintf(") is still referenced from table \"%s\".", table)));

	return psprintf("RAISE foreign_key_violation USING MESSAGE = %s,\n"
					"                DETAIL = %s,\n"
					"                SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = %s;",
					quote_literal_cstr(message), detail, quote_literal_cstr(composite->name));
}

/* In a cascade from a change of the id: what the key said of that, unless it was CASCADE. */
static char *
in_cascade(const CmConversion *conversion, const CmComposite *composite)
{
	const char *column = quote_identifier(composite->column);

	if (composite->on_update == FKCONSTR_ACTION_CASCADE)
		return "";
	return psprintf("            IF OLD.%s IS NOT NULL AND pg_trigger_depth() > 1 AND NOT EXISTS (\n"
					"                SELECT FROM %s AS p WHERE %s AND p.%s = OLD.%s) THEN\n"
					"                %s\n"
					"            END IF;\n",
					column, conversion->quoted, composite->equal_old, conversion->key_quoted, column,
					composite->on_update == FKCONSTR_ACTION_SETNULL ?
					psprintf("%s NEW.%s := NULL; RETURN NEW;", composite->set_null, column) :
					raise_violation(conversion, composite, false));
}

/* The key of a moment, as an expression: of now, and so many periods ago or ahead. */
static char *
key_of_time(const CmConversion *conversion, int periods)
{
	const Interval *period = conversion->wish->period;
	char	   *moment = psprintf("now() + %d * make_interval(months => %d, days => %d, secs => %g)", periods,
								  period->month, period->day, period->time / 1000000.0);

	switch (conversion->key_type)
	{
		case TIMESTAMPTZOID:
			return moment;
		case TIMESTAMPOID:
			return psprintf("((%s) AT TIME ZONE %s)", moment, quote_literal_cstr(conversion->wish->timezone));
		case DATEOID:
			return psprintf("((%s) AT TIME ZONE %s)::date", moment, quote_literal_cstr(conversion->wish->timezone));
		default:
			return NULL;
	}
}

/* Append one look-up, if those before have found nothing. */
static void
append_query(StringInfo body, const CmConversion *conversion, const CmComposite *composite, const char *when, const char *condition)
{
	appendStringInfo(body,
					 "    IF %s THEN\n"
					 "        concertmaster_keys := ARRAY(SELECT p.%s::%s FROM %s AS p WHERE %s%s LIMIT 2 FOR KEY SHARE OF p);\n"
					 "    END IF;\n",
					 when, conversion->key_quoted, format_type_be(conversion->key_type), conversion->quoted, composite->equal_new, condition);
}

/*
 * Look up the row.  First the pair that a change of the id leaves or makes;
 * then in the partitions around the present, as most references are to rows of
 * late; then in all.
 */
static void
append_look_up(StringInfo body, const CmConversion *conversion, const CmComposite *composite, bool swapped)
{
	const char *column = quote_identifier(composite->column);
	const char *key = conversion->key_quoted;

	append_query(body, conversion, composite, psprintf("NEW.%s IS NOT NULL", column), psprintf(" AND p.%s = NEW.%s", key, column));
	if (swapped && conversion->wish->period != NULL && key_of_time(conversion, 1) != NULL)
		append_query(body, conversion, composite, "cardinality(concertmaster_keys) = 0",
					 psprintf(" AND p.%s >= %s AND p.%s <= %s", key, key_of_time(conversion, -2), key, key_of_time(conversion, 1)));
	append_query(body, conversion, composite, "cardinality(concertmaster_keys) = 0", "");
}

/*
 * The trigger function.  swapped: the new key stands alone, and what it does
 * in place of the old one is told from what that did.
 */
char *
cm_composite_function(const CmConversion *conversion, const CmComposite *composite, bool swapped)
{
	const char *column = quote_identifier(composite->column);
	char	   *missing = raise_violation(conversion, composite, true);
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfo(&body,
					 "\n-- Fills the column by which a foreign key references the partition key.\n"
					 "#variable_conflict use_variable\n"
					 "DECLARE\n"
					 "    concertmaster_keys %s[] := '{}';\n"
					 "BEGIN\n"
					 "    IF TG_WHEN = 'BEFORE' THEN\n",
					 format_type_be(conversion->key_type));
	if (swapped && *in_cascade(conversion, composite))
		appendStringInfo(&body,
						 "        IF TG_OP = 'UPDATE' AND NEW.%s IS NOT NULL AND record_image_ne(ROW(%s), ROW(%s)) THEN\n%s        END IF;\n",
						 column, composite->old_row, composite->new_row, in_cascade(conversion, composite));
	appendStringInfo(&body,
					 "        IF %s THEN\n"
					 "            NEW.%s := NULL;\n"
					 "            RETURN NEW;\n"
					 "        ELSIF TG_OP = 'UPDATE' AND record_image_ne(ROW(%s), ROW(%s)) THEN\n"
					 "            IF NEW.%s IS NOT NULL AND NEW.%s IS DISTINCT FROM OLD.%s THEN\n"
					 "                RETURN NEW;\n"
					 "            END IF;\n"
					 "        ELSIF NEW.%s IS NOT NULL THEN\n"
					 "            RETURN NEW;\n"
					 "        END IF;\n"
					 "    END IF;\n",
					 composite->any_null, column, composite->old_row, composite->new_row,
					 column, column, column, column);
	append_look_up(&body, conversion, composite, swapped);
	appendStringInfo(&body,
					 "    IF cardinality(concertmaster_keys) > 1 THEN\n"
					 "        RAISE cardinality_violation USING MESSAGE = %s,\n"
					 "            DETAIL = pg_catalog.concat('Key (', %s, ')=(', pg_catalog.concat_ws(', ', %s), ').'),\n"
					 "            HINT = %s, SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, CONSTRAINT = %s;\n"
					 "    END IF;\n",
					 quote_literal_cstr(psprintf("more than one row of table \"%s\" can be meant by foreign key constraint \"%s\"",
												 conversion->name, composite->name)),
					 quote_literal_cstr(composite->names), composite->new_row,
					 quote_literal_cstr(psprintf("Set column \"%s\", too.", composite->column)), quote_literal_cstr(composite->name));
	appendStringInfo(&body,
					 "    IF TG_WHEN = 'BEFORE' THEN\n"
					 "        NEW.%s := concertmaster_keys[1];\n", column);
	if (!composite->full)
		appendStringInfo(&body,
						 "        IF NEW.%s IS NULL THEN\n            %s\n        END IF;\n", column, missing);
	appendStringInfo(&body,
					 "        RETURN NEW;\n"
					 "    ELSIF concertmaster_keys[1] IS NOT NULL AND (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID) = current_user THEN\n"
					 "        UPDATE %s AS x SET %s = concertmaster_keys[1] WHERE %s AND x.%s IS NULL;\n"
					 "    ELSIF TG_NARGS = 0 AND EXISTS (SELECT FROM %s AS x WHERE %s AND x.%s IS NULL) THEN\n"
					 "        %s\n"
					 "    END IF;\n"
					 "    RETURN NULL;\n"
					 "END",
					 composite->table, column, composite->same, column,
					 composite->table, composite->same, column, missing);
	return psprintf("CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %s",
					composite->function, quote_literal_cstr(body.data));
}

/* A trigger that calls it. */
static char *
trigger(const CmComposite *composite, const char *create, const char *name, const char *when, const char *condition, const char *argument)
{
	return psprintf("CREATE %s %s %s ON %s %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION %s(%s)", create,
					quote_identifier(psprintf(name, composite->column)), when, composite->table,
					strstr(create, "CONSTRAINT") && *composite->timing ? "DEFERRABLE INITIALLY DEFERRED" : "",
					condition, composite->function, argument);
}

/*
 * The triggers.  Those BEFORE sort after others, which may set what
 * references; those AFTER before the server's RI_ConstraintTrigger.  Where the
 * key can be deferred one AFTER fills what it can at once, and the deferred
 * one tells what is missing.
 */
static List *
triggers(const CmComposite *composite)
{
	const char *column = quote_identifier(composite->column);
	char	   *uneven = psprintf("(%s) = (NEW.%s IS NOT NULL)", composite->any_null, column);
	char	   *missing = psprintf("NOT (%s) AND NEW.%s IS NULL", composite->any_null, column);
	List	   *statements;

	statements = list_make2(trigger(composite, "TRIGGER", "zz_fill_%s_insert", "BEFORE INSERT", uneven, ""),
							trigger(composite, "TRIGGER", "zz_fill_%s_update", "BEFORE UPDATE",
									psprintf("record_image_ne(ROW(%s, OLD.%s), ROW(%s, NEW.%s)) OR %s",
											 composite->old_row, column, composite->new_row, column, uneven), ""));
	if (!composite->full)
		return statements;
	if (*composite->timing)
		statements = lappend(statements, trigger(composite, "TRIGGER", "Fill_%s_now", "AFTER INSERT OR UPDATE", missing, "'now'"));
	return lappend(statements, trigger(composite, "CONSTRAINT TRIGGER", "Fill_%s", "AFTER INSERT OR UPDATE", missing, ""));
}

/* The name that the new key has until the swap. */
char *
cm_composite_key(const CmComposite *composite)
{
	return psprintf("concertmaster_%u", composite->key);
}

/* What makes it: the column, what fills it, and the foreign key, NOT VALID; stand or fall together. */
List *
cm_composite_statements(const CmConversion *conversion, const CmComposite *composite)
{
	const char *column = quote_identifier(composite->column);
	List	   *statements;
	char	   *check = "";

	if (!composite->full)
		check = psprintf(", ADD CONSTRAINT %s CHECK (%s OR %s IS NOT NULL) NOT VALID",
						 quote_identifier(psprintf("%s_set", composite->column)), composite->column_null, column);
	statements = list_make2(psprintf("ALTER TABLE %s ADD COLUMN %s %s", composite->table, column, composite->column_type),
							psprintf("COMMENT ON COLUMN %s.%s IS %s", composite->table, column,
									 quote_literal_cstr(psprintf("%s of the row of %s that (%s) references; a trigger fills it",
																 conversion->key_quoted, conversion->quoted, composite->columns))));
	statements = lappend(statements, cm_composite_function(conversion, composite, false));
	statements = lappend(statements, psprintf("REVOKE ALL ON FUNCTION %s() FROM PUBLIC", composite->function));
	statements = list_concat(statements, triggers(composite));
	return lappend(statements,
				   psprintf("ALTER TABLE %s ADD CONSTRAINT %s FOREIGN KEY (%s, %s) REFERENCES %s (%s, %s)%s ON UPDATE CASCADE%s%s NOT VALID%s",
							composite->table, cm_composite_key(composite), composite->columns, column,
							conversion->quoted, composite->referenced, conversion->key_quoted, composite->full ? " MATCH FULL" : "",
							composite->on_delete, composite->timing, check));
}

/*
 * Find, and lock, the rows of a range of blocks ("x.ctid >= ... AND x.ctid <
 * ...") that are not filled, and what they are to be filled with: two arrays.
 * It waits for nobody: rows that are locked, here or there, are left.
 */
char *
cm_composite_find(const CmConversion *conversion, const CmComposite *composite, const char *range)
{
	return psprintf("WITH x AS MATERIALIZED (SELECT x.ctid AS concertmaster_row, %s FROM ONLY %s AS x"
					"  WHERE %s AND %s AND x.%s IS NULL FOR NO KEY UPDATE OF x SKIP LOCKED),"
					" found AS MATERIALIZED (SELECT x.concertmaster_row, p.%s::%s AS concertmaster_key FROM x JOIN ONLY %s AS p ON %s"
					"  FOR KEY SHARE OF p SKIP LOCKED)"
					" SELECT array_agg(concertmaster_row), array_agg(concertmaster_key) FROM found",
					composite->x_row, composite->table, range, composite->all_set, quote_identifier(composite->column),
					conversion->key_quoted, format_type_be(conversion->key_type), conversion->quoted, composite->equal_x);
}

/* Fill them: $1 and $2 are the arrays. */
char *
cm_composite_fill(const CmComposite *composite)
{
	return psprintf("UPDATE ONLY %s AS x SET %s = f.key FROM unnest($1, $2) AS f (row, key) WHERE x.ctid = f.row",
					composite->table, quote_identifier(composite->column));
}

/* The index for cascades, where none begins with what references. */
char *
cm_composite_index(const CmComposite *composite)
{
	return psprintf("CREATE INDEX CONCURRENTLY ON %s (%s, %s)", composite->table, composite->columns, quote_identifier(composite->column));
}

/* What it takes, about: two values, the id's and the key's, of 8 bytes mostly. */
int64
cm_composite_index_bytes(const CmComposite *composite)
{
	return (int64) (composite->rows * 32);
}
