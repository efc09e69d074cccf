/*-------------------------------------------------------------------------
 *
 * conversion_statement.c
 *	  Statements that a conversion changes for, as pg_stat_statements has seen
 *	  them.
 *
 * A statement is text here and not parsed: what names the table as a word is
 * taken to be about it, and what has the key as a word to have a condition on
 * it.  So a finding is a hint where to look, with the statement that was run
 * most often as an example; all of them can be accepted.
 *
 * Read as the caller, in a security restricted operation: texts of other
 * roles' statements need pg_read_all_stats, and how many were hidden is said.
 * The view is looked for in the schema of the extension, and must belong to
 * it.  It is read in a subtransaction: if it cannot be (the module is not
 * loaded, or the caller has no right to), a finding says so.
 *
 * Locks: none but ACCESS SHARE on the view.  After an error the
 * (sub)transaction's abort is all the cleanup.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "concertmaster.h"
#include "conversion.h"

#define NAMED	"([\\w\"]+\\.)?\"?' || $5 || '(\\W|$)"

/* %s is the schema; the key's name is compared as text. */
#define SEEN \
	"WITH k AS (SELECT lower(attname) AS key FROM pg_attribute WHERE attrelid = $1 AND attnum = $2)," \
	" seen AS MATERIALIZED (SELECT s.query, s.calls FROM %s.pg_stat_statements s, pg_database b" \
	"                        WHERE s.dbid = b.oid AND b.datname = current_database() AND s.query ~* ('(^|\\W)' || $5 || '(\\W|$)')" \
	"                          AND s.query !~* 'explain_conversion')"

/* What a class of statements, w, comes to. */
#define CLASS(code, remedy, condition) \
	"SELECT '" code "' AS code, 'to_accept' AS status, NULL AS object," \
	"       format('%%s statements, run %%s times; most often: %%s', count(*), sum(s.calls)," \
	"              left(regexp_replace((array_agg(s.query ORDER BY s.calls DESC, s.query))[1], '\\s+', ' ', 'g'), 200)) AS detail," \
	"       " remedy " AS remedy, NULL::oid AS classid, NULL::oid AS objid" \
	"  FROM seen s, k WHERE " condition " HAVING count(*) > 0"

static const char *const statement_queries[] = {
	/* 15, 17, 18: there is no unique or exclusion constraint matching the ON CONFLICT specification */
	SEEN CLASS("on_conflict_target", "'name the key in the target, too: ON CONFLICT (..., ' || quote_ident(min(k.key)) || '); a row that differs in it alone is then no conflict'",
			   "s.query ~* ('\\minsert\\s+into\\s+" NAMED "') AND s.query ~* '\\mon\\s+conflict\\M'"
			   " AND position(k.key IN lower(coalesce(substring(s.query FROM '(?i)on\\s+conflict\\s*\\(([^)]*)\\)'), ''))) = 0"
			   " AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique AND NOT $2 = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))"),

	SEEN CLASS("lookup_by_id", "'they look into every partition: add a condition on ' || quote_ident(min(k.key)) || ', or keep partitions few'",
			   "s.query ~* '^\\s*(with|select|update|delete|merge)\\M' AND s.query ~* '\\m(where|join|using)\\M' AND position(k.key IN lower(s.query)) = 0"),

	/* 15, 17, 18: cannot retrieve a system column in this context */
	SEEN CLASS("system_column", "'a system column of a new row cannot be returned (xmax = 0 tells an insert from an update): return something else'",
			   "s.query ~* ('\\minsert\\s+into\\s+" NAMED "') AND s.query ~* '\\mreturning\\M.*\\m(xmin|xmax|cmin|cmax|ctid)\\M'"),

	/* 15, 17, 18: cannot copy from partitioned table; cannot truncate only; SELECT FROM ONLY finds nothing */
	SEEN CLASS("only_or_copy", "'ONLY means no partition: leave it out; COPY (SELECT ...) TO instead of COPY of the table'",
			   "s.query ~* ('\\m(from|update|into|truncate|join|table)\\s+only\\s+" NAMED "') OR s.query ~* ('\\mcopy\\s+" NAMED "[^;]*\\mto\\M')"),

	"SELECT 'statements' AS code, 'ok' AS status, NULL AS object,"
	"       format('%%s statements of this database were looked at%%s', count(*) FILTER (WHERE s.query <> '<insufficient privilege>'),"
	"              '; ' || nullif(count(*) FILTER (WHERE s.query = '<insufficient privilege>'), 0) || ' of other roles are hidden') AS detail,"
	"       CASE WHEN count(*) FILTER (WHERE s.query = '<insufficient privilege>') > 0 THEN 'ask as a member of pg_read_all_stats' END AS remedy,"
	"       NULL::oid AS classid, NULL::oid AS objid"
	"  FROM %s.pg_stat_statements s, pg_database b WHERE s.dbid = b.oid AND b.datname = current_database()",
};

/* What step_read() needs. */
typedef struct Reading
{
	CmConversion *conversion;
	const char *schema;			/* quoted */
} Reading;

/* Run the queries, in a subtransaction. */
static void
step_read(void *arg)
{
	Reading    *reading = arg;
	CmScope		scope;

	cm_owner_enter(&scope, GetUserId(), true);
	cm_scope_connect(&scope);
	for (int i = 0; i < lengthof(statement_queries); i++)
		cm_conversion_ask(reading->conversion, psprintf(statement_queries[i], reading->schema));
	cm_scope_leave(&scope);
}

/* Where pg_stat_statements is, quoted, or NULL. */
static char *
find_schema(CmConversion *conversion)
{
	CmScope		scope;
	char	   *schema = NULL;

	cm_catalog_enter(&scope);
	if (cm_conversion_select(conversion,
							 "SELECT quote_ident(n.nspname) AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
							 "  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements'"
							 "  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass"
							 "                  AND d.refobjid = e.oid AND d.deptype = 'e'"
							 " WHERE e.extname = 'pg_stat_statements'") > 0)
		schema = MemoryContextStrdup(conversion->context, cm_conversion_value(0, "schema"));
	cm_scope_leave(&scope);
	return schema;
}

/* Statements that the conversion changes for. */
void
cm_conversion_look_statements(CmConversion *conversion)
{
	Reading		reading = {.conversion = conversion,.schema = find_schema(conversion)};
	ErrorData  *failure;
	int			before = list_length(conversion->findings);

	if (reading.schema == NULL)
	{
		cm_conversion_find(conversion, CM_FINDING_OK, "statements", NULL,
						   "pg_stat_statements is not installed in this database, so no statements were looked at",
						   "search your code for ON CONFLICT, look-ups without the key, ONLY and COPY ... TO, or install it and ask again");
		return;
	}
	failure = cm_subtransaction(step_read, &reading);
	if (failure == NULL)
		return;
	if (cm_error_ends_all(failure))
		ReThrowError(failure);
	conversion->findings = list_truncate(conversion->findings, before);
	cm_conversion_find(conversion, CM_FINDING_OK, "statements", NULL,
					   psprintf("pg_stat_statements cannot be read: %s", failure->message),
					   "search your code for ON CONFLICT, look-ups without the key, ONLY and COPY ... TO, or see to it and ask again");
}
