/*-------------------------------------------------------------------------
 *
 * conversion_around.c
 *	  What goes by a table's oid, its row type or its name, and would go on
 *	  meaning the old part: triggers, policies, privileges, publications,
 *	  views, functions.
 *
 * Views have the oid in their stored query replaced (conversion_rebind.c).
 * What else names the table by oid is made anew from its text, which is read
 * before the names are exchanged and run after it.  What names its row type
 * cannot be kept: the partitioned table has a row type of its own.  What names
 * the table in a string finds the new one by itself.
 *
 * Triggers move to the partitioned table before the old part is attached,
 * which would be refused while it has one of the same name.  A row trigger
 * then fires on the partition: it sees that partition's name, and what it
 * does to the key comes after the partition was chosen.
 *
 * Locks: none.  The texts of views are not printed here, since that opens
 * every relation in them.  Nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "conversion.h"

#define HAS_UNIQUE_WITHOUT_KEY \
	"EXISTS (SELECT FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique AND NOT $2 = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))"

/* Depends on a primary key that is replaced: 15, 17, 18 then refuse to drop it, and the text with the new one. */
#define NEEDS_PRIMARY_KEY \
	"EXISTS (SELECT FROM pg_depend pd JOIN pg_constraint pk ON pk.oid = pd.refobjid AND pk.conrelid = $1 AND pk.contype = 'p'" \
	"          JOIN pg_index pi ON pi.indexrelid = pk.conindid AND NOT $2 = ANY ((pi.indkey::int2[])[0:pi.indnkeyatts - 1])" \
	"         WHERE pd.refclassid = 'pg_constraint'::regclass AND pd.classid = d.classid AND pd.objid = d.objid)"

#define ROW_TYPES \
	"(SELECT c.reltype FROM pg_class c WHERE c.oid = $1 UNION ALL" \
	" SELECT t.typarray FROM pg_class c JOIN pg_type t ON t.oid = c.reltype WHERE c.oid = $1 AND t.typarray <> 0)"

static const char *const around_queries[] = {
	/*
	 * 15, 17, 18: ROW triggers with transition tables are not supported on
	 * partitions; moving row to another partition during a BEFORE FOR EACH ROW
	 * trigger is not supported; no partition found for a row whose key the
	 * trigger would have set; TG_TABLE_NAME is that of the partition.
	 * tgtype: 1 row, 2 before, 4 insert, 16 update.
	 */
	"SELECT w.code, CASE w.code WHEN 'trigger' THEN 'carried' WHEN 'trigger_transition_tables' THEN 'refused' WHEN 'trigger_privilege' THEN 'refused' ELSE 'to_accept' END AS status,"
	"       quote_ident(t.tgname) AS object,"
	"       CASE w.code WHEN 'trigger_transition_tables' THEN 'a row trigger with a transition table is not possible on partitions'"
	"            WHEN 'trigger_sets_key' THEN format('runs before the row is written and %s %I: the partition is chosen before, a key that it fills in is missing then, and one that it moves to another partition is refused', w.how, a.attname)"
	"            WHEN 'trigger_names_table' THEN format('function %s asks for the table''s name or oid, and gets that of the partition', f.oid::regprocedure)"
	"            WHEN 'trigger_privilege' THEN format('calls %s, which role %I, who owns the table, has no right to execute', f.oid::regprocedure, pg_get_userbyid($3))"
	"            ELSE format('calls %s', f.oid::regprocedure) END"
	"       || CASE t.tgenabled WHEN 'D' THEN '; disabled' WHEN 'R' THEN '; on replicas' WHEN 'A' THEN '; always' ELSE '' END AS detail,"
	"       CASE w.code WHEN 'trigger_transition_tables' THEN 'make it a statement trigger, which sees the rows of all partitions'"
	"            WHEN 'trigger_sets_key' THEN 'give the column a default instead, or accept it if the trigger leaves the key alone; it is moved to the partitioned table'"
	"            WHEN 'trigger_names_table' THEN 'pass the name as an argument of the trigger, or accept it; it is moved to the partitioned table'"
	"            WHEN 'trigger_privilege' THEN format('GRANT EXECUTE ON FUNCTION %s TO %I', f.oid::regprocedure, pg_get_userbyid($3))"
	"            ELSE 'moved to the partitioned table' END AS remedy, 'pg_trigger'::regclass AS classid, t.oid AS objid"
	"  FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_language l ON l.oid = f.prolang"
	"  JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = $2,"
	"       LATERAL (SELECT f.pronamespace = 'concertmaster'::regnamespace AND f.proname IN ('set_updated_at', 'keep_created_at') AS ours) o,"
	"       LATERAL (SELECT CASE WHEN t.tgtype & 1 = 1 AND (t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL) THEN 'trigger_transition_tables'"
	"                            WHEN NOT has_function_privilege($3, f.oid, 'EXECUTE') THEN 'trigger_privilege'"
	"                            WHEN t.tgtype & 3 = 3 AND t.tgtype & 20 <> 0 AND CASE WHEN o.ours THEN encode(t.tgargs, 'escape') = a.attname || '\\000'"
	"                                      ELSE l.lanname IN ('c', 'internal') OR position(lower(a.attname) IN lower(f.prosrc)) > 0 END THEN 'trigger_sets_key'"
	"                            WHEN t.tgtype & 1 = 1 AND l.lanname NOT IN ('c', 'internal') AND f.prosrc ~* '\\mTG_(TABLE_NAME|RELNAME|RELID)\\M|\\mTD\\M|\\$_TD\\M' THEN 'trigger_names_table'"
	"                            ELSE 'trigger' END AS code,"
	"                       CASE WHEN l.lanname IN ('c', 'internal') AND NOT o.ours THEN 'could change' ELSE 'names' END AS how) w"
	" WHERE t.tgrelid = $1 AND NOT t.tgisinternal"
	"   AND NOT (f.pronamespace = 'concertmaster'::regnamespace AND t.tgname LIKE 'concertmaster\\_log\\_%') ORDER BY t.tgname",

	"SELECT 'row_security' AS code, 'carried' AS status, NULL AS object,"
	"       CASE WHEN c.relforcerowsecurity THEN 'enabled, also for the owner' ELSE 'enabled' END AS detail,"
	"       'the partitioned table has it; later partitions have it without a policy, so by their own names none but the owner reads them' AS remedy,"
	"       NULL::oid AS classid, NULL::oid AS objid"
	"  FROM pg_class c WHERE c.oid = $1 AND c.relrowsecurity",

	/* By oid: a subquery in a policy of another table goes on reading the old part. */
	"SELECT CASE WHEN p.polrelid = $1 THEN 'policy' ELSE 'policy_elsewhere' END AS code,"
	"       CASE WHEN pg_has_role($3, c.relowner, 'USAGE') THEN 'carried' ELSE 'refused' END AS status,"
	"       CASE WHEN p.polrelid = $1 THEN quote_ident(p.polname) ELSE format('%I on %s', p.polname, p.polrelid::regclass) END AS object,"
	"       CASE WHEN p.polrelid = $1 THEN 'restricts rows' ELSE 'its condition reads the table' END AS detail,"
	"       CASE WHEN NOT pg_has_role($3, c.relowner, 'USAGE') THEN format('it belongs to role %I: give it to role %I, or drop it for the conversion', pg_get_userbyid(c.relowner), pg_get_userbyid($3))"
	"            WHEN p.polrelid = $1 THEN 'the partitioned table has it' ELSE 'made anew in the swap' END AS remedy,"
	"       'pg_policy'::regclass AS classid, p.oid AS objid"
	"  FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid"
	" WHERE p.polrelid = $1 OR p.oid IN (SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass"
	"                                       AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1)"
	" ORDER BY p.polrelid <> $1, p.polname, c.relname",

	"SELECT 'grant' AS code, 'carried' AS status, CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END AS object,"
	"       string_agg(DISTINCT g.privilege_type || coalesce(' (' || quote_ident(g.attname) || ')', '') || CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END, ', ') AS detail,"
	"       'the partitioned table has the same' AS remedy, NULL::oid AS classid, NULL::oid AS objid"
	"  FROM (SELECT x.grantee, x.privilege_type, x.is_grantable, NULL::name AS attname FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = $1"
	"        UNION ALL SELECT x.grantee, x.privilege_type, x.is_grantable, a.attname FROM pg_attribute a, aclexplode(a.attacl) x"
	"         WHERE a.attrelid = $1 AND NOT a.attisdropped) g"
	" WHERE g.grantee <> $3 GROUP BY g.grantee ORDER BY 3",

	/*
	 * Without publish_via_partition_root partitions are published by their own
	 * names, which no subscriber has; 15, 17, 18 refuse row filters and column
	 * lists of a partitioned table then.
	 */
	"SELECT 'publication' AS code, CASE WHEN p.pubviaroot AND (r.oid IS NULL OR pg_has_role($3, p.pubowner, 'USAGE'))"
	"            THEN CASE WHEN r.oid IS NULL THEN 'ok' ELSE 'carried' END ELSE 'refused' END AS status, quote_ident(p.pubname) AS object,"
	"       CASE WHEN p.puballtables THEN 'all tables' WHEN r.oid IS NULL THEN 'all tables of the schema'"
	"            ELSE 'the table' || CASE WHEN r.prqual IS NOT NULL THEN ', with a row filter' ELSE '' END"
	"                             || CASE WHEN r.prattrs IS NOT NULL THEN ', with a column list' ELSE '' END END"
	"       || CASE WHEN p.pubviaroot THEN '' ELSE '; partitions are published by names that no subscriber has' END AS detail,"
	"       CASE WHEN NOT p.pubviaroot THEN format('ALTER PUBLICATION %I SET (publish_via_partition_root = true), before', p.pubname)"
	"            WHEN r.oid IS NULL THEN 'takes in the partitioned table by itself'"
	"            WHEN NOT pg_has_role($3, p.pubowner, 'USAGE') THEN format('it belongs to role %I: give it to role %I, or drop it for the conversion', pg_get_userbyid(p.pubowner), pg_get_userbyid($3))"
	"            ELSE 'names the partitioned table after the swap, with the same filter and columns' END AS remedy,"
	"       'pg_publication'::regclass AS classid, p.oid AS objid"
	"  FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = $1"
	" WHERE r.oid IS NOT NULL OR p.puballtables"
	"    OR EXISTS (SELECT FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid WHERE n.pnpubid = p.oid AND c.oid = $1)"
	" ORDER BY p.pubname",

	/* 15: a worker that runs goes on with the new table; one that starts later knows it not and skips what arrives for it, silently. */
	"SELECT 'subscription' AS code, CASE WHEN s.subenabled THEN 'refused' ELSE 'to_accept' END AS status, quote_ident(s.subname) AS object,"
	"       CASE WHEN s.subenabled THEN 'it writes to the table, and its worker would, once it starts anew, skip silently what it receives for the partitioned one'"
	"            ELSE 'it is disabled; it does not know the partitioned table yet' END AS detail,"
	"       CASE WHEN s.subenabled THEN format('ALTER SUBSCRIPTION %I DISABLE for the conversion', s.subname)"
	"            ELSE format('after the swap: ALTER SUBSCRIPTION %1$I ENABLE and, before anything is written on the publisher, ALTER SUBSCRIPTION %1$I REFRESH PUBLICATION WITH (copy_data = false)', s.subname) END AS remedy,"
	"       'pg_subscription'::regclass AS classid, s.oid AS objid"
	"  FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid WHERE r.srrelid = $1 ORDER BY s.subname",

	"SELECT CASE WHEN n.needs THEN 'view_needs_primary_key' WHEN n.row THEN 'view_row_type' WHEN v.relkind = 'v' THEN 'view'"
	"            WHEN n.managed THEN 'matview_managed' ELSE 'matview_unmanaged' END AS code,"
	"       CASE WHEN n.needs OR n.row THEN 'refused' ELSE 'carried' END AS status, v.oid::regclass::text AS object,"
	"       CASE WHEN n.needs THEN 'it groups by the primary key and shows other columns; that is replaced'"
	"            WHEN n.row THEN 'it has a column of the table''s row type' WHEN n.managed THEN 'it reads the table by oid, and is kept fresh by a job'"
	"            ELSE 'it reads the table by oid' END AS detail,"
	"       CASE WHEN n.needs THEN 'group by every column that it shows' WHEN n.row THEN 'let it show the columns, or to_jsonb() of the row'"
	"            WHEN v.relkind = 'v' THEN 'reads the partitioned table from the swap on; it stays the same view, with its privileges and options'"
	"            ELSE 'reads the partitioned table from the swap on; it stays the same view, with its rows, indexes and settings' END AS remedy,"
	"       'pg_class'::regclass AS classid, v.oid AS objid"
	"  FROM (SELECT DISTINCT d.classid, d.objid FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass"
	"           AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1) d"
	"  JOIN pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN' JOIN pg_class v ON v.oid = w.ev_class JOIN pg_namespace s ON s.oid = v.relnamespace,"
	"       LATERAL (SELECT " NEEDS_PRIMARY_KEY " AS needs,"
	"                       EXISTS (SELECT FROM concertmaster.matview m WHERE m.schema_name = s.nspname AND m.view_name = v.relname) AS managed,"
	"                       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = v.oid AND a.atttypid IN " ROW_TYPES ") AS row) n"
	" ORDER BY v.relkind = 'm', 3",

	"SELECT 'rule_elsewhere' AS code, CASE WHEN pg_has_role($3, v.relowner, 'USAGE') THEN 'carried' ELSE 'refused' END AS status,"
	"       format('%I on %s', w.rulename, v.oid::regclass) AS object, 'it names the table by oid' AS detail,"
	"       CASE WHEN pg_has_role($3, v.relowner, 'USAGE') THEN 'made anew in the swap'"
	"            ELSE format('it belongs to role %I: give it to role %I, or drop it for the conversion', pg_get_userbyid(v.relowner), pg_get_userbyid($3)) END AS remedy,"
	"       'pg_rewrite'::regclass AS classid, w.oid AS objid"
	"  FROM (SELECT DISTINCT d.objid FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass"
	"           AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1) d"
	"  JOIN pg_rewrite w ON w.oid = d.objid AND w.rulename <> '_RETURN' JOIN pg_class v ON v.oid = w.ev_class AND v.oid <> $1 ORDER BY 3",

	"SELECT 'function_sql_body' AS code, CASE WHEN n.conflict OR n.needs OR NOT n.ours THEN 'refused' ELSE 'carried' END AS status,"
	"       f.oid::regprocedure::text AS object,"
	"       CASE WHEN n.needs THEN 'its body groups by the primary key and shows other columns; that is replaced'"
	"            WHEN n.conflict THEN 'its body has ON CONFLICT, whose target would have no unique index'"
	"            ELSE 'its body (BEGIN ATOMIC or RETURN) names the table by oid' END AS detail,"
	"       CASE WHEN n.needs OR n.conflict THEN 'give it a body in a string for the conversion'"
	"            WHEN n.ours THEN 'made anew in the swap by CREATE OR REPLACE FUNCTION'"
	"            ELSE format('it belongs to role %I: give it to role %I, or drop it for the conversion', pg_get_userbyid(f.proowner), pg_get_userbyid($3)) END AS remedy,"
	"       'pg_proc'::regclass AS classid, f.oid AS objid"
	"  FROM (SELECT DISTINCT d.classid, d.objid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass"
	"           AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1) d JOIN pg_proc f ON f.oid = d.objid,"
	"       LATERAL (SELECT " NEEDS_PRIMARY_KEY " AS needs, pg_has_role($3, f.proowner, 'USAGE') AS ours,"
	"                       f.prosqlbody::text ~ 'ONCONFLICTEXPR' AND " HAS_UNIQUE_WITHOUT_KEY " AS conflict) n"
	" ORDER BY 3",

	"SELECT 'function_by_name' AS code, CASE WHEN w.worry = '' THEN 'ok' ELSE 'to_accept' END AS status, f.oid::regprocedure::text AS object,"
	"       'a string in it has the table''s name' || w.worry AS detail,"
	"       CASE WHEN w.worry = '' THEN 'means the partitioned table from the swap on' ELSE 'change it, or accept it' END AS remedy,"
	"       'pg_proc'::regclass AS classid, f.oid AS objid"
	"  FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang,"
	"       LATERAL (SELECT CASE WHEN f.prosrc ~* '\\mon\\s+conflict\\M' AND " HAS_UNIQUE_WITHOUT_KEY " THEN '; it has ON CONFLICT, which needs a unique index with the key' ELSE '' END"
	"                    || CASE WHEN f.prosrc ~* ('\\m(from|update|into|truncate|join|table)\\s+only\\s+([\\w\"]+\\.)?\"?' || $5 || '(\\W|$)') THEN '; it says ONLY, which means no partition' ELSE '' END"
	"                    || CASE WHEN f.prosrc ~* ('\\mcopy\\s+([\\w\"]+\\.)?\"?' || $5 || '(\\W|$)[^;]*\\mto\\M') THEN '; it says COPY ... TO, which a partitioned table refuses' ELSE '' END"
	"                    || CASE WHEN f.prosrc ~* ($5 || '\"?\\s*%\\s*rowtype\\M') THEN '; it has a variable of the row type, which sessions that ran it keep' ELSE '' END AS worry) w"
	" WHERE l.lanname NOT IN ('c', 'internal') AND f.prosqlbody IS NULL AND f.prosrc ~* ('(^|\\W)' || $5 || '(\\W|$)')"
	"   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e')"
	"   AND NOT EXISTS (SELECT FROM concertmaster.conversion_key n WHERE n.function = f.oid)"
	"   AND f.pronamespace <> 'pg_catalog'::regnamespace AND f.pronamespace <> 'information_schema'::regnamespace ORDER BY 3",

	/* 15, 17, 18: function f(t) does not exist, for the row of the new table */
	"SELECT CASE WHEN n.is_function THEN 'function_row_type' ELSE 'row_type' END AS code,"
	"       'refused' AS status,"
	"       CASE WHEN n.is_function THEN d.objid::regprocedure::text ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS object,"
	"       'it has the table''s row type, which is not that of the partitioned table' || CASE WHEN n.used THEN '; other objects depend on it' ELSE '' END AS detail,"
	"       CASE WHEN NOT n.is_function THEN 'give it a composite type of its own, or jsonb'"
	"            WHEN n.used THEN 'drop what depends on it for the conversion'"
	"            ELSE 'drop it for the conversion, and create it anew after' END AS remedy, d.classid, d.objid"
	"  FROM (SELECT DISTINCT d.classid, d.objid, d.objsubid FROM pg_depend d WHERE d.refclassid = 'pg_type'::regclass"
	"           AND d.refobjid IN " ROW_TYPES " AND d.deptype = 'n') d,"
	"       LATERAL (SELECT d.classid = 'pg_proc'::regclass AS is_function,"
	"                       d.classid = 'pg_proc'::regclass AND EXISTS (SELECT FROM pg_depend u WHERE u.refclassid = 'pg_proc'::regclass AND u.refobjid = d.objid) AS used) n"
	" WHERE NOT (d.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_class v WHERE v.oid = d.objid AND v.relkind IN ('v', 'm')))"
	" ORDER BY 3",

	"SELECT 'dependency' AS code, 'refused' AS status, pg_describe_object(d.classid, d.objid, d.objsubid) AS object,"
	"       'it depends on the table, and the conversion does not know how to take it along' AS detail,"
	"       'drop it for the conversion' AS remedy, d.classid, d.objid"
	"  FROM pg_depend d WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype IN ('n', 'a')"
	"   AND d.classid NOT IN ('pg_rewrite'::regclass, 'pg_constraint'::regclass, 'pg_trigger'::regclass, 'pg_policy'::regclass,"
	"                         'pg_publication_rel'::regclass, 'pg_statistic_ext'::regclass, 'pg_proc'::regclass, 'pg_attrdef'::regclass)"
	"   AND NOT (d.classid = 'pg_class'::regclass AND (SELECT c.relkind FROM pg_class c WHERE c.oid = d.objid) IN ('i', 'S', 't'))"
	" ORDER BY 3",

	"SELECT 'event_trigger' AS code, 'ok' AS status, quote_ident(e.evtname) AS object, format('fires at %s of the conversion''s statements', e.evtevent) AS detail,"
	"       'an error in it stops the conversion and leaves the table as it is' AS remedy, 'pg_event_trigger'::regclass AS classid, e.oid AS objid"
	"  FROM pg_event_trigger e WHERE e.evtenabled IN ('O', 'A') AND e.evtevent IN ('ddl_command_start', 'ddl_command_end', 'sql_drop')"
	"   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_event_trigger'::regclass AND d.objid = e.oid AND d.deptype = 'e')"
	" ORDER BY e.evtname",
};

/* Everything around the table. */
void
cm_conversion_look_around(CmConversion *conversion)
{
	for (int i = 0; i < lengthof(around_queries); i++)
		cm_conversion_ask(conversion, around_queries[i]);
}
