/*-------------------------------------------------------------------------
 *
 * conversion_rows.c
 *	  What a table's rows say about its conversion, without scanning it, and
 *	  the bound that follows from them.
 *
 * The old part takes everything below the bound, so the bound must lie above
 * all that is written until the swap; while its CHECK is there, a row above
 * it is refused.  For times it is the end of the period in which the work can
 * be expected to be long over: MARGIN_FACTOR times what the steps take, and a
 * day at least.  For numbers it is one whole partition above that of the
 * greatest value.
 *
 * If an index begins with the key, it knows the greatest value and whether
 * there are nulls.  Without one three windows of WINDOW_BLOCKS blocks are
 * read, at the table's beginning, middle and end.  So a row in the way can go
 * unseen here; the step that validates the CHECK sees all.
 *
 * Locks: ACCESS SHARE on the table.  Read as the table's owner, in a security
 * restricted operation.  After an error the transaction's abort restores role
 * and settings.
 *
 * What it does not do: read a table whose owner is subject to its row
 * security; that is said in a finding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "concertmaster.h"
#include "conversion.h"

#define WINDOW_BLOCKS	100
#define MARGIN_FACTOR	4.0

/* No more rows are counted. */
#define COUNT_LIMIT		1000

/* What was seen. */
typedef struct Sample
{
	int64		rows;
	int64		nulls;
	int64		beyond;			/* at or above the bound */
	int64		other_key;		/* uuids of another version than 7, in the key */
	int64		other_id;		/* in the primary key */
	char	   *newest;			/* greatest value; NULL: none, or a uuid */
} Sample;

/* Does row security hide rows from the owner? */
static bool
is_hidden_from_owner(const CmConversion *conversion)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(conversion->relid));
	bool		forced;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", conversion->relid);
	forced = ((Form_pg_class) GETSTRUCT(tuple))->relrowsecurity &&
		((Form_pg_class) GETSTRUCT(tuple))->relforcerowsecurity;
	ReleaseSysCache(tuple);
	return forced && !has_bypassrls_privilege(conversion->owner);
}

static void
set_off(const char *name)
{
	(void) set_config_option(name, "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* Become the owner, and let an index or a range of blocks be used where there is one. */
static void
enter_rows(CmScope *scope, const CmConversion *conversion)
{
	cm_owner_enter(scope, conversion->owner, true);
	set_off("row_security");
	set_off("enable_seqscan");
	set_off("enable_bitmapscan");
	set_off("enable_sort");
	cm_scope_connect(scope);
}

/* Run a query that yields one row. */
static void
select_row(const char *sql)
{
	if (SPI_execute(sql, true, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "query failed: %s", sql);
}

static int64
number(const char *column)
{
	char	   *value = cm_conversion_value(0, column);

	return value ? strtoll(value, NULL, 10) : 0;
}

/* The rows to look at: those of three windows, or of all of a small table. */
static char *
windows(const CmConversion *conversion, const char *columns)
{
	int64		blocks = conversion->heap_bytes / BLCKSZ;
	int64		starts[] = {0, blocks / 2, blocks - WINDOW_BLOCKS};
	StringInfoData sql;

	if (blocks <= 3 * WINDOW_BLOCKS)
		return psprintf("SELECT %s FROM ONLY %s", columns, conversion->quoted);
	initStringInfo(&sql);
	for (int i = 0; i < lengthof(starts); i++)
		appendStringInfo(&sql, "%sSELECT %s FROM ONLY %s WHERE ctid >= '(" INT64_FORMAT ",0)' AND ctid < '(" INT64_FORMAT ",0)'",
						 i > 0 ? " UNION ALL " : "", columns, conversion->quoted, starts[i], starts[i] + WINDOW_BLOCKS);
	return sql.data;
}

/* Read the windows.  id is a uuid column, or NULL. */
static void
read_sample(CmConversion *conversion, const char *id, Sample *sample)
{
	bool		is_uuid = conversion->key_type == UUIDOID;
	char	   *columns = psprintf("%s AS k, %s AS i", conversion->key_quoted, id ? quote_identifier(id) : "NULL::uuid");
	char	   *newest = is_uuid ? "NULL" : "max(k)";

	select_row(psprintf("SELECT count(*) AS rows, count(*) FILTER (WHERE k IS NULL) AS nulls,"
						" count(*) FILTER (WHERE substr(k::text, 15, 1) <> '7') AS other_key,"
						" count(*) FILTER (WHERE substr(i::text, 15, 1) <> '7') AS other_id, %s::text AS newest FROM (%s) s",
						newest, windows(conversion, columns)));
	sample->rows = number("rows");
	sample->nulls = number("nulls");
	sample->other_key = number("other_key");
	sample->other_id = number("other_id");
	sample->newest = cm_conversion_value(0, "newest");
	if (sample->newest != NULL)
		sample->newest = MemoryContextStrdup(conversion->context, sample->newest);
}

/* What the index that begins with the key knows better. */
static void
read_index(CmConversion *conversion, Sample *sample)
{
	const char *key = conversion->key_quoted;

	select_row(psprintf("SELECT (SELECT r.%s::text FROM ONLY %s AS r WHERE r.%s IS NOT NULL ORDER BY r.%s DESC LIMIT 1) AS newest",
						key, conversion->quoted, key, key));
	sample->newest = cm_conversion_value(0, "newest");
	if (sample->newest != NULL)
		sample->newest = MemoryContextStrdup(conversion->context, sample->newest);
	if (conversion->key_not_null)
		return;
	select_row(psprintf("SELECT count(*) AS nulls FROM (SELECT FROM ONLY %s WHERE %s IS NULL LIMIT %d) s",
						conversion->quoted, key, COUNT_LIMIT));
	sample->nulls = number("nulls");
}

/* Rows at or above the bound. */
static void
count_beyond(CmConversion *conversion, Sample *sample)
{
	char	   *from = OidIsValid(conversion->key_index) ?
		psprintf("SELECT %s AS k FROM ONLY %s", conversion->key_quoted, conversion->quoted) :
		windows(conversion, psprintf("%s AS k", conversion->key_quoted));

	select_row(psprintf("SELECT count(*) AS beyond FROM (SELECT FROM (%s) w WHERE k >= %s LIMIT %d) s",
						from, conversion->bound, COUNT_LIMIT));
	sample->beyond = number("beyond");
}

/* The bound of times: where the second partition of a set would begin that is planned after the margin. */
static void
bound_of_time(CmConversion *conversion)
{
	const CmConversionWish *wish = conversion->wish;
	Oid			types[6] = {TEXTOID, REGTYPEOID, INTERVALOID, TEXTOID, TEXTOID, FLOAT8OID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	CmScope		scope;

	values[0] = CStringGetTextDatum(conversion->name);
	values[1] = ObjectIdGetDatum(conversion->key_type);
	values[2] = IntervalPGetDatum(wish->period);
	values[3] = CStringGetTextDatum(wish->timezone);
	values[4] = (Datum) 0;
	if (wish->epoch != NULL)
		values[4] = CStringGetTextDatum(wish->epoch);
	else
		nulls[4] = 'n';
	values[5] = Float8GetDatum(MARGIN_FACTOR * cm_conversion_total(conversion) / 1000.0);
	cm_catalog_enter(&scope);
	if (SPI_execute_with_args("SELECT substring(p.bounds FROM 'FROM \\((.*)\\) TO \\(') AS bound"
							  "  FROM (SELECT now() + greatest(interval '1 day', make_interval(secs => $6)) AS at) n,"
							  "       concertmaster._partition_plan($1, $2, $3, 1, n.at, $4, n.at, $5) p"
							  " ORDER BY p.range_from OFFSET 1 LIMIT 1",
							  6, types, values, nulls, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "no bound");
	conversion->bound = MemoryContextStrdup(conversion->context, cm_conversion_value(0, "bound"));
	cm_scope_leave(&scope);
}

/* The bound of numbers: one whole partition stays free. */
static void
bound_of_number(CmConversion *conversion, const char *newest)
{
	int64		width = conversion->wish->width;
	int64		limit = conversion->key_type == INT2OID ? PG_INT16_MAX :
		conversion->key_type == INT4OID ? PG_INT32_MAX : PG_INT64_MAX;
	int64		greatest = newest ? strtoll(newest, NULL, 10) : 0;
	int64		bound;

	bound = greatest / width;
	if (greatest < 0 && greatest % width != 0)
		bound--;
	if (bound > limit / width - 2)
	{
		cm_conversion_find(conversion, CM_FINDING_REFUSED, "key_range", conversion->key_quoted,
						   psprintf("the greatest value is " INT64_FORMAT ": no room for two more partitions of " INT64_FORMAT " in type %s",
									greatest, width, format_type_be(conversion->key_type)),
						   "choose a smaller width, or make the column a bigint");
		return;
	}
	conversion->bound = MemoryContextStrdup(conversion->context, psprintf(INT64_FORMAT, (bound + 2) * width));
}

/* A primary key of one uuid column that is not the partition key, or NULL. */
static char *
uuid_primary_key(CmConversion *conversion)
{
	CmScope		scope;
	char	   *name = NULL;

	cm_catalog_enter(&scope);
	if (cm_conversion_select(conversion,
							 "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
							 " WHERE i.indrelid = $1 AND i.indisprimary AND i.indnkeyatts = 1 AND a.attnum <> $2 AND a.atttypid = 'uuid'::regtype") > 0)
		name = MemoryContextStrdup(conversion->context, cm_conversion_value(0, "attname"));
	cm_scope_leave(&scope);
	return name;
}

/* Nulls that ANALYZE saw. */
static bool
statistics_know_nulls(CmConversion *conversion)
{
	CmScope		scope;
	bool		result;

	cm_catalog_enter(&scope);
	result = cm_conversion_select(conversion,
								  "SELECT FROM pg_statistic s WHERE s.starelid = $1 AND s.staattnum = $2 AND s.stanullfrac > 0") > 0;
	cm_scope_leave(&scope);
	return result;
}

/* Where the evidence is from, in words. */
static const char *
evidence(const CmConversion *conversion, bool by_index)
{
	if (by_index && OidIsValid(conversion->key_index))
		return "an index";
	if (conversion->heap_bytes / BLCKSZ > 3 * WINDOW_BLOCKS)
		return "a sample";
	return by_index ? "a look at all rows" : "all rows";
}

/* "7", or "1000 or more". */
static char *
count_text(int64 count)
{
	return psprintf(count >= COUNT_LIMIT ? INT64_FORMAT " or more" : INT64_FORMAT, count);
}

/* Nulls in the key. */
static void
find_nulls(CmConversion *conversion, const Sample *sample)
{
	if (conversion->key_not_null)
		return;
	if (sample->nulls > 0 || (!OidIsValid(conversion->key_index) && statistics_know_nulls(conversion)))
		cm_conversion_find(conversion, CM_FINDING_REFUSED, "nullable_key", conversion->key_quoted,
						   psprintf("rows without it: %s, as %s shows; no partition holds them",
									sample->nulls > 0 ? count_text(sample->nulls) : "some",
									sample->nulls > 0 ? evidence(conversion, true) : "ANALYZE"),
						   psprintf("UPDATE %s SET %s = ... WHERE %s IS NULL, and give the column a default",
									conversion->quoted, conversion->key_quoted, conversion->key_quoted));
	else
		cm_conversion_find(conversion, CM_FINDING_TO_ACCEPT, "nullable_key", conversion->key_quoted,
						   psprintf("it is not NOT NULL; %s shows no row without it, and one is refused from the first step on",
									evidence(conversion, true)),
						   "it is made NOT NULL, by a step that scans without blocking; give it a default if writers leave it out");
}

/* What the other things that were seen mean. */
static void
find_values(CmConversion *conversion, const Sample *sample, const char *id)
{
	const char *key = conversion->key_quoted;

	if (conversion->key_type == UUIDOID && sample->other_key > 0)
		cm_conversion_find(conversion, CM_FINDING_REFUSED, "not_version_7", conversion->key_quoted,
						   psprintf(INT64_FORMAT " of " INT64_FORMAT " uuids, in %s, are not of version 7: they are in no order of time",
									sample->other_key, sample->rows - sample->nulls, evidence(conversion, false)),
						   "choose a column with a time");
	if (sample->beyond > 0)
		cm_conversion_find(conversion, CM_FINDING_REFUSED, "key_in_future", conversion->key_quoted,
						   psprintf("rows at %s or above: %s, as %s shows", conversion->bound,
									count_text(sample->beyond), evidence(conversion, true)),
						   psprintf("SELECT * FROM %s WHERE %s >= %s: correct these rows, and what writes them",
									conversion->quoted, key, conversion->bound));
	if (id != NULL && sample->rows > 0 && sample->other_id == 0)
		cm_conversion_find(conversion, CM_FINDING_OK, "partition_by_id", (char *) quote_identifier(id),
						   psprintf("all " INT64_FORMAT " uuids, in %s, are of version 7, in order of time", sample->rows,
									evidence(conversion, false)),
						   psprintf("explain_conversion(%s, %s, ...) keeps the primary key, every foreign key and look-ups by id as they are; a condition on %s alone then finds no partition to leave out",
									quote_literal_cstr(conversion->quoted), quote_literal_cstr(id), key));
}

/* Find the bound, and say it. */
static void
find_bound(CmConversion *conversion, const char *newest)
{
	if (conversion->wish->width > 0)
		bound_of_number(conversion, newest);
	else
		bound_of_time(conversion);
	if (conversion->bound != NULL)
		cm_conversion_find(conversion, CM_FINDING_OK, "bound", conversion->key_quoted,
						   psprintf("the old part holds %s < %s%s", conversion->key_quoted, conversion->bound,
									newest ? psprintf("; the greatest value is %s, as %s shows", newest, evidence(conversion, true)) : ""),
						   "a row at the bound or above is refused until the swap, which has to be done before; then it goes into a later partition");
}

/* What the rows say.  A key that cannot be one has been refused already. */
void
cm_conversion_look_rows(CmConversion *conversion)
{
	Sample		sample = {0};
	ListCell   *cell;
	char	   *id;
	CmScope		scope;

	foreach(cell, conversion->findings)
	{
		const char *code = ((CmFinding *) lfirst(cell))->code;

		if (strcmp(code, "column_type") == 0 || strcmp(code, "generated_key") == 0)
			return;
	}
	if (is_hidden_from_owner(conversion))
	{
		cm_conversion_find(conversion, CM_FINDING_TO_ACCEPT, "rows_not_read", NULL,
						   "its policies hold for its owner, too, so values that are in the way were not looked for",
						   "ALTER TABLE ... NO FORCE ROW LEVEL SECURITY for the moment, or accept it: the step that validates sees them");
		if (conversion->wish->width == 0)
			find_bound(conversion, NULL);
		return;
	}
	id = uuid_primary_key(conversion);
	enter_rows(&scope, conversion);
	read_sample(conversion, id, &sample);
	if (OidIsValid(conversion->key_index))
		read_index(conversion, &sample);
	cm_scope_leave(&scope);
	find_bound(conversion, sample.newest);
	if (conversion->bound != NULL)
	{
		enter_rows(&scope, conversion);
		count_beyond(conversion, &sample);
		cm_scope_leave(&scope);
	}
	find_nulls(conversion, &sample);
	find_values(conversion, &sample, id);
}
