/*-------------------------------------------------------------------------
 *
 * partition_alike.c
 *	  What LIKE does not copy: the indexes' names, and which one is the replica
 *	  identity.
 *
 * The table that takes the place of a split default partition is made LIKE it
 * and shall be it to everybody who comes after.  LIKE makes the indexes in the
 * order of the model's, which is how they are found again; where the
 * definitions differ all the same, an index is left alone.
 *
 * Locks: those of the statements, on tables that the caller has for itself.
 *
 * What it does not do: privileges and options (partition_leaf.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/lsyscache.h"

#include "partition_split.h"

/* Pairs of indexes, of the copy ($1) and of the model ($2). */
#define PAIRS \
"WITH numbered AS (SELECT indrelid, indexrelid, indisreplident," \
"                         row_number() OVER (PARTITION BY indrelid ORDER BY indexrelid) AS number," \
"                         regexp_replace(pg_get_indexdef(indexrelid), '^.*? USING ', '') AS definition" \
"                    FROM pg_index WHERE indrelid IN ($1, $2))," \
"     pairs AS (SELECT c.indexrelid AS copy, m.indexrelid AS model, m.indisreplident AS is_identity, m.number" \
"                 FROM numbered c JOIN numbered m USING (number, definition)" \
"                WHERE c.indrelid = $1 AND m.indrelid = $2) "

/* Replica identity like the model's. */
void
cm_partition_alike_identity(Oid copy, Oid model)
{
	Oid			args[2] = {copy, model};

	cm_partition_execute_each(PAIRS
							  "SELECT format('ALTER TABLE %s REPLICA IDENTITY %s', $1::regclass,"
							  "              CASE relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END)"
							  "  FROM pg_class WHERE oid = $2 AND relreplident IN ('f', 'n')"
							  " UNION ALL "
							  "SELECT format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', $1::regclass, i.relname)"
							  "  FROM pairs JOIN pg_class i ON i.oid = copy JOIN pg_class t ON t.oid = $2"
							  " WHERE is_identity AND t.relreplident = 'i'",
							  2, args);
}

/* The copy's indexes take the names of the model's, which step aside. */
void
cm_partition_alike_names(Oid copy, Oid model)
{
	Oid			args[2] = {copy, model};

	cm_partition_execute_each(PAIRS
							  "SELECT sql FROM ("
							  "  SELECT 1 AS step, number, format('ALTER INDEX %s RENAME TO %I', model::regclass,"
							  "                                   'concertmaster_old_' || model) AS sql FROM pairs"
							  "  UNION ALL "
							  "  SELECT 2, number, format('ALTER INDEX %s RENAME TO %I', copy::regclass, i.relname)"
							  "    FROM pairs JOIN pg_class i ON i.oid = model) s ORDER BY step, number",
							  2, args);
}
