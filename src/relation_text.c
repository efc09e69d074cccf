/*-------------------------------------------------------------------------
 *
 * relation_text.c
 *	  Relations that are named by a text: maybe loosely, maybe gone by now.
 *
 * Doors take regclass wherever they can.  A text remains where the strategy's
 * function had one, and where the relation to be forgotten may have been
 * dropped, so that no regclass of it can be had.
 *
 * Locks: none.  Nothing to clean up after an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/varlena.h"

#include "compat.h"
#include "concertmaster.h"

/*
 * The relation that a text names, or InvalidOid: parsed as SQL would, or
 * taken to the letter if that finds nothing, as format('%I') would.  Also the
 * parts of the name; *schema_name is NULL if it has none.
 */
Oid
cm_relation_parse(const char *name, char **schema_name, char **relation_name)
{
	char	   *copy = pstrdup(name);
	List	   *parts;
	Oid			relid = InvalidOid;

	*schema_name = NULL;
	*relation_name = pstrdup(name);
	if (SplitIdentifierString(copy, '.', &parts) && parts != NIL && list_length(parts) <= 3)
	{
		List	   *strings = NIL;
		RangeVar   *range;
		ListCell   *cell;

		foreach(cell, parts)
			strings = lappend(strings, makeString(pstrdup(lfirst(cell))));
		range = makeRangeVarFromNameList(strings);
		*schema_name = range->schemaname;
		*relation_name = range->relname;
		relid = RangeVarGetRelid(range, NoLock, true);
	}
	if (!OidIsValid(relid) && strlen(name) < NAMEDATALEN)
		relid = RelnameGetRelid(name);
	return relid;
}

/*
 * Drop the job of a kind for a relation that is gone.  The caller must be
 * what the job says the relation's owner was.  Returns false if there is no
 * such job that the caller may drop.
 */
bool
cm_relation_forget_job(const char *kind, const char *schema_name, const char *relation_name)
{
	Oid			types[4] = {TEXTOID, TEXTOID, TEXTOID, OIDOID};
	Datum		values[4];
	CmScope		scope;
	bool		found;

	values[0] = CStringGetTextDatum(kind);
	values[1] = CStringGetTextDatum(schema_name);
	values[2] = CStringGetTextDatum(relation_name);
	values[3] = ObjectIdGetDatum(GetUserId());
	cm_catalog_enter(&scope);
	SPI_execute_with_args("DELETE FROM concertmaster.job j"
						  " WHERE j.kind = $1 AND j.schema_name = $2 AND j.relation_name = $3"
						  "   AND ((SELECT u.rolsuper FROM pg_roles u WHERE u.oid = $4)"
						  "        OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = j.owner"
						  "                      AND pg_has_role($4, r.oid, 'USAGE')))",
						  4, types, values, NULL, false, 0);
	found = SPI_processed > 0;
	cm_scope_leave(&scope);
	if (found)
		cm_shared_wake_at_commit();
	return found;
}
