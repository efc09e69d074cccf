/*-------------------------------------------------------------------------
 *
 * conversion_look.c
 *	  Everything that hangs on a table which is to become partitioned.
 *
 * cm_conversion_look() fills one struct: the table and its key, the findings
 * (each with a code, a status and a remedy) and the steps.  The findings are
 * queries on the catalogs, topic by topic: conversion_table.c, _key.c,
 * _around.c; what the rows and pg_stat_statements tell is in _rows.c and
 * _statement.c.  explain_conversion() shows the struct; whoever converts
 * works through it.
 *
 * A query takes $1 the table, $2 the key's number, $3 the table's owner, $4
 * foreign_keys, $5 the table's name as a regular expression, $6 its name when
 * it is a partition; and returns code, status, object, detail, remedy,
 * classid and objid.  What it calls to_accept is accepted when the caller has
 * said its code.
 *
 * Locks: ACCESS SHARE on the table, held to the end of the transaction, so
 * that it stays what it is while it is read.  Everything else is read from
 * the catalogs without locks, as the extension's owner; the rows as the
 * table's owner.  After an error nothing is left but the struct's memory
 * context, which dies with its parent.
 *
 * What it does not do: change anything, or scan the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/index.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "concertmaster.h"
#include "conversion.h"

/* In the order of CmFindingStatus; what the queries say. */
static const char *const status_words[] = {"ok", "carried", "to_accept", "accepted", "refused"};

/* Add a finding; one to be accepted is accepted if its code was said. */
CmFinding *
cm_conversion_find(CmConversion *conversion, CmFindingStatus status,
				   const char *code, char *object, char *detail, char *remedy)
{
	MemoryContext caller = MemoryContextSwitchTo(conversion->context);
	CmFinding  *finding = palloc0(sizeof(CmFinding));
	ListCell   *cell;

	finding->status = status;
	finding->code = pstrdup(code);
	finding->object = object ? pstrdup(object) : conversion->quoted;
	finding->detail = detail ? pstrdup(detail) : NULL;
	finding->remedy = remedy ? pstrdup(remedy) : NULL;
	if (status == CM_FINDING_TO_ACCEPT)
	{
		foreach(cell, conversion->wish->accept)
		{
			if (strcmp(lfirst(cell), code) == 0)
				finding->status = CM_FINDING_ACCEPTED;
		}
	}
	conversion->findings = lappend(conversion->findings, finding);
	MemoryContextSwitchTo(caller);
	return finding;
}

/* Characters that mean something in a regular expression, taken to the letter. */
static char *
as_pattern(const char *name)
{
	StringInfoData pattern;

	initStringInfo(&pattern);
	for (const char *c = name; *c; c++)
	{
		if (strchr("\\^$.[]|()*+?{}", *c) != NULL)
			appendStringInfoChar(&pattern, '\\');
		appendStringInfoChar(&pattern, *c);
	}
	return pattern.data;
}

/*
 * Run a query with the parameters of the opening comment; the answer is read
 * by cm_conversion_value() until the next one.  Returns the number of rows.
 */
int
cm_conversion_select(CmConversion *conversion, const char *sql)
{
	Oid			types[6] = {OIDOID, INT2OID, OIDOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};

	values[0] = ObjectIdGetDatum(conversion->relid);
	values[1] = Int16GetDatum(conversion->key);
	values[2] = ObjectIdGetDatum(conversion->owner);
	values[3] = (Datum) 0;
	if (conversion->wish->foreign_keys != NULL)
		values[3] = CStringGetTextDatum(conversion->wish->foreign_keys);
	else
		nulls[3] = 'n';
	values[4] = CStringGetTextDatum(as_pattern(conversion->name));
	values[5] = CStringGetTextDatum(conversion->old_name);
	if (SPI_execute_with_args(sql, 6, types, values, nulls, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", sql);
	return (int) SPI_processed;
}

/* A column of a row of the last answer as text, NULL if null. */
char *
cm_conversion_value(int row, const char *column)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;
	int			number = SPI_fnumber(desc, column);

	if (number <= 0)
		elog(ERROR, "no column \"%s\" in an answer", column);
	return SPI_getvalue(SPI_tuptable->vals[row], desc, number);
}

/* A column of type oid, or regclass, whose text would be a name. */
static Oid
oid_value(int row, const char *column)
{
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], desc, SPI_fnumber(desc, column), &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

static CmFindingStatus
status_of(const char *word)
{
	for (int i = 0; i < lengthof(status_words); i++)
	{
		if (strcmp(word, status_words[i]) == 0)
			return i;
	}
	elog(ERROR, "no status \"%s\"", word);
}

/* Add what a query finds. */
void
cm_conversion_ask(CmConversion *conversion, const char *sql)
{
	int			rows = cm_conversion_select(conversion, sql);

	for (int i = 0; i < rows; i++)
	{
		CmFinding  *finding = cm_conversion_find(conversion,
												 status_of(cm_conversion_value(i, "status")),
												 cm_conversion_value(i, "code"),
												 cm_conversion_value(i, "object"),
												 cm_conversion_value(i, "detail"),
												 cm_conversion_value(i, "remedy"));

		finding->classid = oid_value(i, "classid");
		finding->objid = oid_value(i, "objid");
	}
}

/* A name made of another, short enough to be one. */
static char *
shorten(const char *name, const char *suffix)
{
	int			length = pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1 - (int) strlen(suffix));

	return psprintf("%.*s%s", length, name, suffix);
}

/* Leave out what is said of one object. */
static void
forget_findings(CmConversion *conversion, Oid classid, Oid objid)
{
	ListCell   *cell;

	if (!OidIsValid(objid))
		return;
	foreach(cell, conversion->findings)
	{
		CmFinding  *finding = lfirst(cell);

		if (finding->classid == classid && finding->objid == objid)
			conversion->findings = foreach_delete_current(conversion->findings, cell);
	}
}

/* What earlier steps of the conversion made is not in its way, finished or not. */
static void
forget_own(CmConversion *conversion)
{
	ListCell   *cell;

	foreach(cell, conversion->unique_indexes)
	{
		CmConversionIndex *index = lfirst(cell);
		Oid			replacement = get_relname_relid(index->replacement, get_rel_namespace(conversion->relid));

		if (OidIsValid(replacement) && get_rel_relkind(replacement) == RELKIND_INDEX &&
			IndexGetRelation(replacement, true) == conversion->relid)
			forget_findings(conversion, RelationRelationId, replacement);
	}
	if (conversion->has_check)
		forget_findings(conversion, ConstraintRelationId,
						get_relation_constraint_oid(conversion->relid, conversion->check_name, true));
}

/* Refuse a name that is in somebody else's use. */
static void
find_taken(CmConversion *conversion, Oid relid, const char *whose)
{
	cm_conversion_find(conversion, CM_FINDING_REFUSED, "name_taken", cm_relation_quoted(relid),
					   psprintf("it has the name that %s is to bear", whose), "rename it, or drop it");
}

/* Names that the steps give.  What there was before a conversion is not its own. */
static void
look_names(CmConversion *conversion)
{
	Oid			namespace = get_rel_namespace(conversion->relid);
	Oid			other = get_relname_relid(conversion->new_name, namespace);
	ListCell   *cell;

	if (OidIsValid(other) && other != conversion->parent)
		find_taken(conversion, other, "the partitioned table until the swap");
	foreach(cell, conversion->unique_indexes)
	{
		CmConversionIndex *index = lfirst(cell);

		other = get_relname_relid(index->replacement, namespace);
		if (OidIsValid(other) && (!conversion->begun || get_rel_relkind(other) != RELKIND_INDEX ||
								  IndexGetRelation(other, true) != conversion->relid))
			find_taken(conversion, other, psprintf("the index with the key in the place of %s", quote_identifier(index->name)));
	}
	if (!conversion->has_check &&
		OidIsValid(get_relation_constraint_oid(conversion->relid, conversion->check_name, true)))
		cm_conversion_find(conversion, CM_FINDING_REFUSED, "name_taken", psprintf("%s on %s", quote_identifier(conversion->check_name), conversion->quoted),
						   "it has the name that the constraint of the bound is to bear", "rename it, or drop it");
}

/* A conversion that is under way has its names from when it was begun. */
static void
look_begun(CmConversion *conversion)
{
	char	   *value;

	if (cm_conversion_select(conversion,
							 "SELECT v.check_name, p.oid::text AS parent, CASE WHEN p.relnamespace = c.relnamespace THEN p.relname END AS parent_name"
							 "  FROM concertmaster.conversion v JOIN pg_class c ON c.oid = v.relid LEFT JOIN pg_class p ON p.oid = v.parent AND p.relkind = 'p'"
							 " WHERE v.relid = $1 AND v.swapped_at IS NULL") == 0)
		return;
	conversion->begun = true;
	value = cm_conversion_value(0, "check_name");
	conversion->has_check = value != NULL;
	if (value != NULL)
		conversion->check_name = MemoryContextStrdup(conversion->context, value);
	value = cm_conversion_value(0, "parent");
	if (value != NULL)
		conversion->parent = atooid(value);
	value = cm_conversion_value(0, "parent_name");
	if (value != NULL)
		conversion->new_name = MemoryContextStrdup(conversion->context, value);
}

/* The table, and its key; an error if it has no such column. */
static void
look_basics(CmConversion *conversion)
{
	Oid			relid = conversion->relid;

	conversion->owner = cm_relation_owner(relid);
	conversion->name = get_rel_name(relid);
	conversion->schema_name = get_namespace_name(get_rel_namespace(relid));
	conversion->quoted = quote_qualified_identifier(conversion->schema_name, conversion->name);
	conversion->old_name = shorten(conversion->name, "_legacy");
	conversion->new_name = shorten(conversion->name, "_partitioned");
	conversion->check_name = shorten(conversion->name, "_bound");
	conversion->key_quoted = (char *) quote_identifier(conversion->wish->column_name);
	conversion->key = get_attnum(relid, conversion->wish->column_name);
	if (conversion->key <= InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						conversion->wish->column_name, conversion->name),
				 errhint("Name the column by whose values the rows are to be divided.")));
	conversion->key_type = getBaseType(get_atttype(relid, conversion->key));
}

/*
 * Look at a table without its rows, and without planning steps.  The result
 * lives in a context of its own below the current one.
 */
CmConversion *
cm_conversion_look_catalogs(Oid relid, const CmConversionWish *wish)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "concertmaster conversion",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	CmConversion *conversion = palloc0(sizeof(CmConversion));
	CmScope		scope;

	conversion->context = context;
	conversion->wish = wish;
	conversion->relid = relid;
	LockRelationOid(relid, AccessShareLock);
	look_basics(conversion);

	cm_catalog_enter(&scope);
	conversion->hopeless = !cm_conversion_look_kind(conversion);
	if (!conversion->hopeless)
	{
		look_begun(conversion);
		cm_conversion_look_table(conversion);
		cm_conversion_look_keys(conversion);
		cm_conversion_look_around(conversion);
		forget_own(conversion);
		look_names(conversion);
	}
	cm_scope_leave(&scope);
	MemoryContextSwitchTo(caller);
	return conversion;
}

/*
 * Look at a table that the caller has been asked whether he may, and plan the
 * steps.  The result lives as above.  statements: look into
 * pg_stat_statements, too, with the current user's rights; a worker must not,
 * as it would show others' statements to the table's owner.
 */
CmConversion *
cm_conversion_look(Oid relid, const CmConversionWish *wish, bool statements)
{
	CmConversion *conversion = cm_conversion_look_catalogs(relid, wish);
	MemoryContext caller = MemoryContextSwitchTo(conversion->context);

	if (!conversion->hopeless)
	{
		cm_conversion_look_rows(conversion);
		if (statements)
			cm_conversion_look_statements(conversion);
		cm_conversion_plan_steps(conversion);
	}
	MemoryContextSwitchTo(caller);
	return conversion;
}
