/*-------------------------------------------------------------------------
 *
 * conversion_table.c
 *	  Whether a table can become partitioned: the table itself, its columns,
 *	  constraints and plain indexes.
 *
 * The table becomes a partition of a new one, so the questions are: would
 * ATTACH PARTITION refuse it, does the new table need the same, and do later
 * partitions get it?  Those take after their newest sibling
 * (partition_leaf.c): storage parameters, tablespace, access method, replica
 * identity and privileges are handed on that way.
 *
 * What was tried on 15, 17 and 18 is said beside the query that it decided.
 *
 * Locks: none.  Nothing to clean up.
 *
 * What it does not do: unique indexes and foreign keys (conversion_key.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "conversion.h"

/* Who is building an index, i.  Read as the extension's owner, who sees everybody. */
#define BEING_BUILT \
	"SELECT b.pid, b.phase FROM pg_stat_progress_create_index b" \
	" WHERE b.datname = current_database() AND b.index_relid = i.indexrelid"

/* A table that any of these is about cannot be converted, and nothing else is looked at. */
static const char *const kind_queries[] = {
	"SELECT 'already_partitioned' AS code, 'refused' AS status, NULL AS object,"
	"       CASE WHEN c.relispartition THEN 'it is a partition of ' || (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid LIMIT 1)"
	"            ELSE 'it is partitioned' END AS detail,"
	"       CASE WHEN c.relispartition THEN 'convert nothing: its parent is partitioned'"
	"            ELSE 'give it to concertmaster.create_partition_set(), which keeps it rolling' END AS remedy,"
	"       NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_class c WHERE c.oid = $1 AND (c.relkind = 'p' OR c.relispartition)",

	"SELECT 'temporary' AS code, 'refused' AS status, NULL AS object, 'it ends with its session, which no job sees' AS detail,"
	"       'create it as a partitioned table' AS remedy, NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_class c WHERE c.oid = $1 AND c.relpersistence = 't'",

	/* 15 to 18: cannot attach inherited table, cannot attach inheritance parent */
	"SELECT 'inheritance' AS code, 'refused' AS status, i.other::text AS object,"
	"       CASE WHEN i.is_child THEN 'the table inherits from it' ELSE 'it inherits from the table' END AS detail,"
	"       format('ALTER TABLE %s NO INHERIT %s', CASE WHEN i.is_child THEN $1::regclass ELSE i.other END,"
	"              CASE WHEN i.is_child THEN i.other ELSE $1::regclass END) AS remedy, 'pg_class'::regclass AS classid, i.other::oid AS objid"
	"  FROM (SELECT inhparent::regclass AS other, true AS is_child FROM pg_inherits WHERE inhrelid = $1"
	"        UNION ALL SELECT inhrelid::regclass, false FROM pg_inherits WHERE inhparent = $1) i, pg_class c"
	" WHERE c.oid = $1 AND c.relkind = 'r' AND NOT c.relispartition ORDER BY 3",

	"SELECT 'extension_member' AS code, 'refused' AS status, NULL AS object, format('it belongs to extension %I', e.extname) AS detail,"
	"       format('ALTER EXTENSION %I DROP TABLE %s, if it is yours to take', e.extname, $1::regclass) AS remedy,"
	"       'pg_extension'::regclass AS classid, e.oid AS objid"
	"  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass"
	" WHERE d.classid = 'pg_class'::regclass AND d.objid = $1 AND d.deptype = 'e'",
};

static const char *const table_queries[] = {
	/* 15, 17, 18: cannot attach a typed table as partition */
	"SELECT 'typed_table' AS code, 'refused' AS status, NULL AS object, format('it is of type %s', c.reloftype::regtype) AS detail,"
	"       format('ALTER TABLE %s NOT OF', $1::regclass) AS remedy, 'pg_type'::regclass AS classid, c.reloftype AS objid"
	"  FROM pg_class c WHERE c.oid = $1 AND c.reloftype <> 0",

	/* 15, 17, 18: an unlogged partition of a logged table attaches; 18: partitioned tables cannot be unlogged */
	"SELECT 'unlogged' AS code, 'to_accept' AS status, NULL AS object,"
	"       'it stays unlogged and is empty after a crash; later partitions are logged' AS detail,"
	"       format('ALTER TABLE %s SET LOGGED before, or accept it', $1::regclass) AS remedy, NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_class c WHERE c.oid = $1 AND c.relpersistence = 'u'",

	"SELECT 'schema_create' AS code, 'refused' AS status, quote_ident(n.nspname) AS object,"
	"       format('role %I, which owns the table, must not create tables in schema %I', pg_get_userbyid($3), n.nspname) AS detail,"
	"       format('GRANT CREATE ON SCHEMA %I TO %I', n.nspname, pg_get_userbyid($3)) AS remedy,"
	"       'pg_namespace'::regclass AS classid, n.oid AS objid"
	"  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
	" WHERE c.oid = $1 AND NOT has_schema_privilege($3, n.oid, 'CREATE')",

	"SELECT 'name_taken' AS code, 'refused' AS status, o.oid::regclass::text AS object,"
	"       'it has the name that the old part is to bear' AS detail, 'rename it' AS remedy, 'pg_class'::regclass AS classid, o.oid AS objid"
	"  FROM pg_class c JOIN pg_class o ON o.relnamespace = c.relnamespace AND o.relname = $6 WHERE c.oid = $1",

	/* A rule fires for a statement on the table it is on, which is then another. */
	"SELECT 'rule' AS code, 'refused' AS status, quote_ident(r.rulename) AS object,"
	"       'it would fire for the old part alone' AS detail,"
	"       'make it a trigger, and drop it' AS remedy, 'pg_rewrite'::regclass AS classid, r.oid AS objid"
	"  FROM pg_rewrite r WHERE r.ev_class = $1 ORDER BY r.rulename",

	"SELECT 'access_method' AS code, 'carried' AS status, quote_ident(a.amname) AS object, 'the table is stored by it' AS detail,"
	"       'later partitions are too' AS remedy, 'pg_am'::regclass AS classid, a.oid AS objid"
	"  FROM pg_class c JOIN pg_am a ON a.oid = c.relam WHERE c.oid = $1 AND a.amname <> 'heap'",

	"SELECT 'tablespace' AS code, 'carried' AS status, quote_ident(s.spcname) AS object, 'the table is in it' AS detail,"
	"       'later partitions are too' AS remedy, 'pg_tablespace'::regclass AS classid, s.oid AS objid"
	"  FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.oid = $1",

	/* 15, 17, 18: refused on a partitioned table, so they are on partitions */
	"SELECT 'reloptions' AS code, 'carried' AS status, NULL AS object,"
	"       array_to_string(c.reloptions || (SELECT array_agg('toast.' || o) FROM unnest(t.reloptions) o), ', ') AS detail,"
	"       'the old part keeps them, later partitions get them' AS remedy, NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid"
	" WHERE c.oid = $1 AND (c.reloptions IS NOT NULL OR t.reloptions IS NOT NULL)",

	"SELECT 'clustered_index' AS code, 'ok' AS status, quote_ident(x.relname) AS object, 'CLUSTER without an index uses it' AS detail,"
	"       'stays so for the old part; name the index for other partitions' AS remedy, 'pg_class'::regclass AS classid, x.oid AS objid"
	"  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = $1 AND i.indisclustered",

	"SELECT 'replica_identity' AS code, 'carried' AS status, quote_ident(x.relname) AS object,"
	"       CASE c.relreplident WHEN 'f' THEN 'the whole row' WHEN 'n' THEN 'nothing'"
	"            ELSE 'index ' || quote_ident(x.relname) END AS detail,"
	"       CASE WHEN c.relreplident <> 'i' OR $2 = ANY (i.indkey::int2[]) THEN 'later partitions get the same'"
	"            ELSE 'the index that takes its place, with the key, becomes it' END AS remedy,"
	"       'pg_class'::regclass AS classid, x.oid AS objid"
	"  FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'"
	"  LEFT JOIN pg_class x ON x.oid = i.indexrelid WHERE c.oid = $1 AND c.relreplident <> 'd'",

	/* 15, 17, 18: cannot use generated column in partition key; a virtual one (18) the same */
	"SELECT CASE WHEN a.attnum = $2 THEN 'generated_key' ELSE 'generated_column' END AS code,"
	"       CASE WHEN a.attnum = $2 THEN 'refused' ELSE 'carried' END AS status, quote_ident(a.attname) AS object,"
	"       CASE WHEN a.attnum = $2 THEN 'a generated column cannot be a partition key' ELSE 'its values are computed' END AS detail,"
	"       CASE WHEN a.attnum = $2 THEN 'choose the column that it is computed from, or ALTER COLUMN DROP EXPRESSION'"
	"            ELSE 'the partitioned table has the same expression' END AS remedy, 'pg_class'::regclass AS classid, $1 AS objid"
	"  FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> '' ORDER BY a.attnum",

	/*
	 * 17, 18: table being attached contains an identity column; 15 takes it.
	 * Dropping it drops the sequence, with its privileges and its name.
	 */
	"SELECT CASE WHEN u.used THEN 'identity_used' ELSE 'identity' END AS code, CASE WHEN u.used THEN 'refused' ELSE 'carried' END AS status, quote_ident(a.attname) AS object,"
	"       format('GENERATED %s, sequence %s', CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, d.objid::regclass) || CASE WHEN u.used THEN ', on which something else depends' ELSE '' END AS detail,"
	"       CASE WHEN u.used THEN format('have %s use another sequence',"
	"              (SELECT string_agg(DISTINCT pg_describe_object(o.classid, o.objid, o.objsubid), ', ') FROM pg_depend o"
	"                WHERE o.refclassid = 'pg_class'::regclass AND o.refobjid = d.objid AND o.deptype IN ('n', 'a')))"
	"            ELSE 'the partitioned table gets an identity of the same name, options and privileges that goes on where the sequence is, and the old part loses its own' END AS remedy,"
	"       d.classid, d.objid"
	"  FROM pg_attribute a JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = a.attnum"
	"   AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'"
	"  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S',"
	"       LATERAL (SELECT EXISTS (SELECT FROM pg_depend o WHERE o.refclassid = 'pg_class'::regclass AND o.refobjid = d.objid AND o.deptype IN ('n', 'a')) AS used) u"
	" WHERE a.attrelid = $1 AND a.attidentity <> '' ORDER BY a.attnum",

	"SELECT 'serial' AS code, 'carried' AS status, quote_ident(a.attname) AS object, format('owns sequence %s', d.objid::regclass) AS detail,"
	"       'the partitioned table has the same default and owns the sequence' AS remedy, d.classid, d.objid"
	"  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'"
	"  JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = d.refobjsubid"
	" WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.classid = 'pg_class'::regclass AND d.deptype = 'a' ORDER BY a.attnum",

	"SELECT 'column_options' AS code, 'carried' AS status, NULL AS object,"
	"       string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ': storage, compression, statistics target or n_distinct set by hand' AS detail,"
	"       'the partitioned table and later partitions get the same' AS remedy, NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid"
	" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped"
	"   AND (a.attstorage <> t.typstorage OR a.attcompression <> '' OR coalesce(a.attstattarget, -1) >= 0 OR a.attoptions::text ~ 'n_distinct')"
	" HAVING count(*) > 0",

	/*
	 * 15, 17, 18: a constraint that is NOT VALID on both attaches.  With NO
	 * INHERIT: conflicts with non-inherited constraint on child table.
	 */
	"SELECT CASE WHEN k.connoinherit THEN 'check_no_inherit' ELSE 'check_constraint' END AS code,"
	"       CASE WHEN k.connoinherit THEN 'refused' ELSE 'carried' END AS status, quote_ident(k.conname) AS object,"
	"       CASE WHEN k.connoinherit THEN 'NO INHERIT: a partitioned table cannot have it'"
	"            WHEN NOT k.convalidated THEN 'NOT VALID' ELSE 'holds for every row' END AS detail,"
	"       CASE WHEN k.connoinherit THEN 'add the same condition without NO INHERIT as NOT VALID, validate it, and drop this one'"
	"            WHEN NOT k.convalidated THEN 'the partitioned table has it, and it stays so' ELSE 'the partitioned table has it' END AS remedy,"
	"       'pg_constraint'::regclass AS classid, k.oid AS objid"
	"  FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'c' AND k.conbin::text !~ ':varattno 0 ' ORDER BY k.conname",

	/* 15, 17, 18: the row is of the old part's type, and its text names a table that a copy does not have */
	"SELECT 'whole_row' AS code, 'refused' AS status, quote_ident(w.name) AS object,"
	"       'its condition or expression is about the row as a whole, which is of the table''s row type' AS detail,"
	"       'write it with the columns' AS remedy, w.classid, w.objid"
	"  FROM (SELECT k.conname AS name, k.conbin::text AS node, 'pg_constraint'::regclass AS classid, k.oid AS objid"
	"          FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'c'"
	"        UNION ALL SELECT x.relname, concat(i.indexprs::text, i.indpred::text), 'pg_class'::regclass, x.oid"
	"          FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = $1) w"
	" WHERE w.node ~ ':varattno 0 ' ORDER BY w.name",

	/* 15 and 16: not supported on partitioned tables; a partition may have one of its own on all; 18: keys WITHOUT OVERLAPS, too */
	"SELECT 'exclusion_constraint' AS code, 'to_accept' AS status, quote_ident(k.conname) AS object,"
	"       'it holds in the old part alone; rows of later partitions are not compared with each other or with old ones' AS detail,"
	"       'accept it, or add it to each later partition' AS remedy, 'pg_constraint'::regclass AS classid, k.oid AS objid"
	"  FROM pg_constraint k JOIN pg_index i ON i.indexrelid = k.conindid AND i.indisexclusion WHERE k.conrelid = $1 AND k.contype IN ('x', 'p', 'u') ORDER BY k.conname",

	"SELECT 'index_invalid' AS code, 'to_accept' AS status, quote_ident(x.relname) AS object, 'a build that failed left it' AS detail,"
	"       format('REINDEX INDEX CONCURRENTLY %1$s, or drop it, or accept that the partitioned table does not have it', x.oid::regclass) AS remedy,"
	"       'pg_class'::regclass AS classid, x.oid AS objid"
	"  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = $1 AND NOT (i.indisvalid AND i.indisready)"
	"   AND NOT EXISTS (" BEING_BUILT ") ORDER BY x.relname",

	"SELECT 'index_being_built' AS code, 'refused' AS status, quote_ident(x.relname) AS object,"
	"       format('process %s is building it, phase: %s', b.pid, b.phase) AS detail, 'wait until it is there, or cancel that' AS remedy,"
	"       'pg_class'::regclass AS classid, x.oid AS objid"
	"  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid, LATERAL (" BEING_BUILT ") b"
	" WHERE i.indrelid = $1 AND NOT (i.indisvalid AND i.indisready) ORDER BY x.relname",

	"SELECT 'index' AS code, 'carried' AS status, NULL AS object, string_agg(quote_ident(x.relname), ', ' ORDER BY x.relname) AS detail,"
	"       'the partitioned table gets the same, which adopt them' AS remedy, NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid"
	" WHERE i.indrelid = $1 AND i.indisvalid AND i.indisready AND NOT i.indisexclusion"
	"   AND (NOT i.indisunique OR $2 = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) HAVING count(*) > 0",

	"SELECT 'statistics' AS code, 'carried' AS status, quote_ident(s.stxname) AS object, 'extended statistics of the table' AS detail,"
	"       'the partitioned table gets the same; those of the old part are renamed' AS remedy, 'pg_statistic_ext'::regclass AS classid, s.oid AS objid"
	"  FROM pg_statistic_ext s WHERE s.stxrelid = $1 ORDER BY s.stxname",

	"SELECT 'comment' AS code, 'carried' AS status, NULL AS object, format('comments: %s', count(*)) AS detail,"
	"       'on the table, its columns, indexes, constraints, triggers and policies' AS remedy, NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_description d WHERE (d.classoid, d.objoid) IN ("
	"       SELECT 'pg_class'::regclass::oid, $1 UNION ALL SELECT 'pg_class'::regclass::oid, indexrelid FROM pg_index WHERE indrelid = $1"
	"       UNION ALL SELECT 'pg_constraint'::regclass::oid, oid FROM pg_constraint WHERE conrelid = $1"
	"       UNION ALL SELECT 'pg_trigger'::regclass::oid, oid FROM pg_trigger WHERE tgrelid = $1"
	"       UNION ALL SELECT 'pg_policy'::regclass::oid, oid FROM pg_policy WHERE polrelid = $1) HAVING count(*) > 0",

	"SELECT 'security_label' AS code, 'carried' AS status, NULL AS object,"
	"       format('by %s', string_agg(DISTINCT l.provider, ', ')) AS detail, 'the partitioned table gets the same' AS remedy,"
	"       NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = $1 HAVING count(*) > 0",
};

/* Is it a table that could be converted at all?  If not, the findings say why. */
bool
cm_conversion_look_kind(CmConversion *conversion)
{
	for (int i = 0; i < lengthof(kind_queries); i++)
		cm_conversion_ask(conversion, kind_queries[i]);
	return conversion->findings == NIL;
}

/* The key's type, which must be one that partition sets can count in. */
static void
look_key_type(CmConversion *conversion)
{
	switch (conversion->key_type)
	{
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case UUIDOID:
		case INT4OID:
		case INT8OID:
		case INT2OID:
			break;
		default:
			cm_conversion_find(conversion, CM_FINDING_REFUSED, "column_type", conversion->key_quoted,
							   psprintf("it is of type %s", format_type_be(conversion->key_type)),
							   "choose a column of type date, timestamp, timestamptz, integer, bigint or uuid (version 7)");
	}
}

/* Everything about the table itself. */
void
cm_conversion_look_table(CmConversion *conversion)
{
	look_key_type(conversion);
	if (cm_conversion_select(conversion,
							 "SELECT pg_relation_size(c.oid) AS bytes,"
							 "       CASE WHEN c.reltuples > 0 AND c.relpages > 0"
							 "            THEN c.reltuples / c.relpages * (pg_relation_size(c.oid) / current_setting('block_size')::int)"
							 "            ELSE pg_relation_size(c.oid) / 100.0 END AS rows,"
							 "       a.attnotnull AS not_null,"
							 "       (SELECT i.indexrelid FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam"
							 "         WHERE i.indrelid = c.oid AND m.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = $2"
							 "         ORDER BY i.indnkeyatts LIMIT 1) AS key_index"
							 "  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = $2 WHERE c.oid = $1") != 1)
		elog(ERROR, "no row of pg_class for relation %u", conversion->relid);
	conversion->heap_bytes = strtoll(cm_conversion_value(0, "bytes"), NULL, 10);
	conversion->rows = strtod(cm_conversion_value(0, "rows"), NULL);
	conversion->key_not_null = cm_conversion_value(0, "not_null")[0] == 't';
	if (cm_conversion_value(0, "key_index") != NULL)
		conversion->key_index = atooid(cm_conversion_value(0, "key_index"));
	for (int i = 0; i < lengthof(table_queries); i++)
		cm_conversion_ask(conversion, table_queries[i]);
}
