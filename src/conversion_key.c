/*-------------------------------------------------------------------------
 *
 * conversion_key.c
 *	  Unique indexes and foreign keys of a table that becomes partitioned.
 *
 * A unique index of a partitioned table must have the partition key, and a
 * foreign key to it needs such an index.  So a unique index without the key
 * is replaced by one that has it appended, built on the old part beforehand:
 * a plain index there does not do, since ATTACH takes only one that is unique
 * like the parent's, and builds what it misses under ACCESS EXCLUSIVE.  The
 * old index of a primary key goes (a table has one primary key); any other
 * stays with the old part, where it still keeps the columns unique.
 *
 * A foreign key to the table names it by oid, so it is dropped in the swap.
 * If it references the key it is made anew in the same transaction, NOT
 * VALID (which checks what is written from then on), and validated after.
 * One of the table to itself is made on each partition first and on the
 * partitioned table when those are valid, which adopts them: 15 and 17 refuse
 * NOT VALID on a partitioned table.  (Tried on 15, 17 and 18.)
 *
 * Locks: none.  Nothing to clean up.
 *
 * What it does not do: look at rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "utils/builtins.h"

#include "conversion_composite.h"

/* Unique indexes whose key columns lack the partition key. */
#define WITHOUT_KEY \
	" i.indrelid = $1 AND i.indisunique AND i.indisvalid AND NOT i.indisexclusion" \
	"   AND NOT $2 = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])"

static const char *const key_queries[] = {
	"SELECT 'unique_index_without_column' AS code, 'to_accept' AS status, quote_ident(x.relname) AS object,"
	"       format('%s (%s) becomes unique together with %I; %s', CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique constraint' ELSE 'unique index' END,"
	"              (SELECT string_agg(pg_get_indexdef(i.indexrelid, n, true), ', ' ORDER BY n) FROM generate_series(1, i.indnkeyatts) n),"
	"              a.attname, CASE WHEN k.contype = 'p' THEN 'the server no longer keeps two rows from having the same'"
	"                              ELSE 'alone it stays unique in the old part, not in later partitions' END) AS detail,"
	"       'an index with the key is built beside it, before the swap' AS remedy, 'pg_class'::regclass AS classid, x.oid AS objid"
	"  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = $2"
	"  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = $1 AND k.contype IN ('p', 'u')"
	" WHERE" WITHOUT_KEY " ORDER BY k.contype = 'p' DESC NULLS LAST, x.relname",

	"SELECT 'primary_key' AS code, 'ok' AS status, quote_ident(x.relname) AS object, format('has %I', a.attname) AS detail,"
	"       'stays as it is' AS remedy, 'pg_class'::regclass AS classid, x.oid AS objid"
	"  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = $2"
	" WHERE i.indrelid = $1 AND i.indisprimary AND $2 = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])",

	/* 15, 17: ATTACH does not adopt one that is not validated, it makes and validates its own, under ACCESS EXCLUSIVE; 18 validates it there */
	"SELECT CASE WHEN NOT k.convalidated THEN 'foreign_key_not_valid'"
	"            WHEN NOT p.allowed THEN 'foreign_key_privilege' ELSE 'foreign_key' END AS code,"
	"       CASE WHEN k.convalidated AND p.allowed THEN 'carried' ELSE 'refused' END AS status, quote_ident(k.conname) AS object,"
	"       format('references %s%s', k.confrelid::regclass,"
	"              CASE WHEN NOT k.convalidated THEN '; it is NOT VALID and would be checked while everybody waits'"
	"                   WHEN NOT p.allowed THEN format(', which role %I has no right to reference', pg_get_userbyid($3)) ELSE '' END) AS detail,"
	"       CASE WHEN NOT k.convalidated THEN format('ALTER TABLE %s VALIDATE CONSTRAINT %I', $1::regclass, k.conname)"
	"            WHEN NOT p.allowed THEN format('GRANT REFERENCES ON %s TO %I', k.confrelid::regclass, pg_get_userbyid($3))"
	"            ELSE 'the partitioned table has it and adopts this one; the swap locks the referenced table, too' END AS remedy,"
	"       'pg_constraint'::regclass AS classid, k.oid AS objid"
	"  FROM pg_constraint k, LATERAL (SELECT has_table_privilege($3, k.confrelid, 'REFERENCES') AS allowed) p"
	" WHERE k.conrelid = $1 AND k.contype = 'f' AND k.confrelid <> $1 ORDER BY k.conname",

	"SELECT 'incoming_foreign_key' AS code,"
	"       CASE WHEN NOT pg_has_role($3, r.relowner, 'USAGE') OR h.can_stay AND NOT k.convalidated THEN 'refused' WHEN h.can_stay THEN 'carried'"
	"            WHEN $4 = 'drop' THEN 'accepted' ELSE 'refused' END AS status,"
	"       format('%s on %s', quote_ident(k.conname), k.conrelid::regclass) AS object,"
	"       CASE WHEN h.has_key THEN format('references (%s), which stays unique', h.columns)"
	"            ELSE format('references (%s), which is not unique without the key', h.columns) END AS detail,"
	"       CASE WHEN NOT pg_has_role($3, r.relowner, 'USAGE') THEN format('have role %I own %s, too, or drop the foreign key', pg_get_userbyid($3), k.conrelid::regclass)"
	"            WHEN h.can_stay AND NOT k.convalidated THEN format('it is NOT VALID: ALTER TABLE %s VALIDATE CONSTRAINT %I, or drop it', k.conrelid::regclass, k.conname)"
	"            WHEN h.can_stay THEN 'made anew in the swap for the partitioned table, as NOT VALID, and validated after it'"
	"            WHEN $4 = 'drop' THEN 'dropped in the swap'"
	"            WHEN h.has_key THEN 'say foreign_keys => ''drop'', and add it to the partitioned table: made NOT VALID it cannot be, as the referencing table is partitioned or the table itself'"
	"            WHEN k.conrelid = $1 OR r.relkind <> 'r' THEN 'say foreign_keys => ''drop'', or partition by a version 7 id, which keeps it'"
	"            ELSE 'say foreign_keys => ''composite'', which gives the referencing table a column with the key, or ''drop'', or partition by a version 7 id, which keeps it' END AS remedy,"
	"       'pg_constraint'::regclass AS classid, k.oid AS objid"
	"  FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = $2,"
	"       LATERAL (SELECT $2 = ANY (k.confkey) AS has_key, $2 = ANY (k.confkey) AND r.relkind = 'r' AND k.conrelid <> $1 AS can_stay, (SELECT string_agg(quote_ident(c.attname), ', ' ORDER BY u.n)"
	"                  FROM unnest(k.confkey) WITH ORDINALITY u(attnum, n) JOIN pg_attribute c ON c.attrelid = $1 AND c.attnum = u.attnum) AS columns) h"
	" WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conparentid = 0 AND (h.has_key OR $4 IS DISTINCT FROM 'composite')"
	"   AND NOT EXISTS (SELECT FROM concertmaster.conversion_key n WHERE n.new_key = k.oid) ORDER BY r.relname, k.conname",
};

/* A unique index without the key, as another one has to be declared that has it. */
static const char *const index_query =
"SELECT i.indexrelid, x.relname, k.contype, coalesce(concertmaster._relation_size(i.indexrelid), 0) AS bytes, c.columns,"
"       coalesce(' INCLUDE (' || n.included || ')', '') || CASE WHEN i.indnullsnotdistinct THEN ' NULLS NOT DISTINCT' ELSE '' END"
"       || coalesce(' WITH (' || array_to_string(x.reloptions, ', ') || ')', '') || coalesce(' TABLESPACE ' || quote_ident(s.spcname), '')"
"       || coalesce(' WHERE ' || pg_get_expr(i.indpred, i.indrelid), '') AS suffix,"
"       CASE WHEN i.indnullsnotdistinct THEN ' NULLS NOT DISTINCT' ELSE '' END AS nulls, coalesce(' INCLUDE (' || n.included || ')', '') AS include,"
"       CASE WHEN k.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED' WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END AS timing, i.indisreplident"
"  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace"
"  LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = $1 AND k.contype IN ('p', 'u'),"
"       LATERAL (SELECT string_agg(pg_get_indexdef(i.indexrelid, u.n, false)"
"                       || CASE WHEN i.indcollation[u.n - 1] IN (0, coalesce(a.attcollation, 100)) THEN ''"
"                               ELSE ' COLLATE ' || i.indcollation[u.n - 1]::regcollation::text END"
"                       || CASE WHEN o.opcdefault THEN '' ELSE format(' %I.%I', o.opcnamespace::regnamespace::name, o.opcname) END"
"                       || CASE i.indoption[u.n - 1] WHEN 1 THEN ' DESC NULLS LAST' WHEN 2 THEN ' NULLS FIRST' WHEN 3 THEN ' DESC' ELSE '' END, ', ' ORDER BY u.n) AS columns"
"                  FROM generate_series(1, i.indnkeyatts) u(n) JOIN pg_opclass o ON o.oid = i.indclass[u.n - 1]"
"                  LEFT JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = i.indkey[u.n - 1] AND a.attnum > 0) c,"
"       LATERAL (SELECT string_agg(pg_get_indexdef(i.indexrelid, u.n, false), ', ' ORDER BY u.n) AS included"
"                  FROM generate_series(i.indnkeyatts + 1, i.indnatts) u(n) WHERE i.indkey[u.n - 1] <> $2) n"
" WHERE" WITHOUT_KEY " ORDER BY k.contype = 'p' DESC NULLS LAST, x.relname";

/* What steps need of the unique indexes without the key. */
static void
load_indexes(CmConversion *conversion)
{
	int			rows = cm_conversion_select(conversion, index_query);

	for (int i = 0; i < rows; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(conversion->context);
		CmConversionIndex *index = palloc0(sizeof(CmConversionIndex));
		char	   *constraint = cm_conversion_value(i, "contype");

		index->relid = atooid(cm_conversion_value(i, "indexrelid"));
		index->name = cm_conversion_value(i, "relname");
		index->columns = psprintf("%s, %s", cm_conversion_value(i, "columns"), conversion->key_quoted);
		index->suffix = cm_conversion_value(i, "suffix");
		/* Cut short, two names could become the same. */
		index->replacement = strlen(index->name) + strlen("_with_key") < NAMEDATALEN ?
			psprintf("%s_with_key", index->name) : psprintf("concertmaster_%u_with_key", index->relid);
		index->constraint = constraint ? constraint[0] : '\0';
		index->nulls = cm_conversion_value(i, "nulls");
		index->include = cm_conversion_value(i, "include");
		index->timing = cm_conversion_value(i, "timing");
		index->is_identity = cm_conversion_value(i, "indisreplident")[0] == 't';
		index->bytes = strtoll(cm_conversion_value(i, "bytes"), NULL, 10);
		conversion->unique_indexes = lappend(conversion->unique_indexes, index);
		MemoryContextSwitchTo(caller);
	}
}

/* And of the foreign keys to the table. */
static void
load_references(CmConversion *conversion)
{
	int			rows = cm_conversion_select(conversion,
											"SELECT k.conrelid, k.conname, $2 = ANY (k.confkey) AS has_key, coalesce(concertmaster._relation_size(k.conrelid), 0) AS bytes"
											"  FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid"
											" WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conparentid = 0"
											"   AND NOT EXISTS (SELECT FROM concertmaster.conversion_key n WHERE n.new_key = k.oid) ORDER BY r.relname, k.conname");

	for (int i = 0; i < rows; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(conversion->context);
		CmConversionReference *reference = palloc0(sizeof(CmConversionReference));

		reference->relid = atooid(cm_conversion_value(i, "conrelid"));
		reference->name = cm_conversion_value(i, "conname");
		reference->has_key = cm_conversion_value(i, "has_key")[0] == 't';
		reference->bytes = strtoll(cm_conversion_value(i, "bytes"), NULL, 10);
		conversion->references = lappend(conversion->references, reference);
		MemoryContextSwitchTo(caller);
	}
}

/* The tables that it references. */
static void
load_referenced(CmConversion *conversion)
{
	int			rows = cm_conversion_select(conversion,
											"SELECT DISTINCT r.relname, k.confrelid FROM pg_constraint k JOIN pg_class r ON r.oid = k.confrelid"
											" WHERE k.conrelid = $1 AND k.contype = 'f' ORDER BY r.relname, k.confrelid");

	for (int i = 0; i < rows; i++)
	{
		MemoryContext caller = MemoryContextSwitchTo(conversion->context);

		conversion->referenced = lappend_oid(conversion->referenced, atooid(cm_conversion_value(i, "confrelid")));
		MemoryContextSwitchTo(caller);
	}
}

/* Everything unique, and every foreign key. */
void
cm_conversion_look_keys(CmConversion *conversion)
{
	for (int i = 0; i < lengthof(key_queries); i++)
		cm_conversion_ask(conversion, key_queries[i]);
	if (conversion->wish->foreign_keys != NULL && strcmp(conversion->wish->foreign_keys, "composite") == 0)
		cm_conversion_look_composites(conversion);
	load_indexes(conversion);
	load_references(conversion);
	load_referenced(conversion);
}
