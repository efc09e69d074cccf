/*-------------------------------------------------------------------------
 *
 * conversion_create.c
 *	  Make the partitioned table that is to take over, empty and beside the
 *	  table that is converted.
 *
 * It has the same columns under the same numbers: a dropped one is made, of a
 * type of the same width, and dropped.  So rows need no translation when they
 * are routed, and a stored query needs no other change than the oid of its
 * table (conversion_rebind.c).  It has the same defaults, constraints,
 * indexes and privileges, under names of their own where names are unique in
 * the schema; the swap exchanges these.
 *
 * Triggers and policies are not made here: their text can name the table, which
 * has that name only after the swap.  Partitions there are none: rows are not written to it
 * before, and after it the old part holds all that is below the bound.
 *
 * Between this step and the swap anybody may change the table.  So a
 * fingerprint of all that was copied is kept, and the swap goes on only if it
 * is the same then, under its lock; else this step is done anew.
 *
 * One transaction: made whole or not at all.  Statements are run as the
 * table's owner; they are written by queries that run as the extension's.
 *
 * Locks: ACCESS SHARE on the table; at the end SHARE ROW EXCLUSIVE on what it
 * references, for which the deadline of the settings counts.  After an error the abort
 * leaves nothing.  One that is to be replaced is dropped in a transaction before,
 * as that locks what it references against everybody.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "conversion_do.h"

/* The longest time, in milliseconds, for what no reader or writer waits for. */
#define MAKING_MS	5000

/* As cm_conversion_meanwhile() has it. */
#define MEANWHILE(oid) "'concertmaster_' || " oid

#define GRANTEE "CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END"
#define GRANTABLE "CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END"

/* Indexes that are made again: valid, not of an exclusion constraint, not one of ours. */
#define COPIED_INDEX \
	"i.indrelid = $1 AND i.indisvalid AND i.indisready AND NOT i.indisexclusion AND NOT i.indexrelid = ANY ($5)"

/*
 * Each yields statements.  $1: the table; $2: the new one, quoted; $3: the key,
 * quoted; $4: the constraint that holds the bound; $5: indexes that are replaced,
 * and those that replace them.
 */
static const char *const create_queries[] = {
	"SELECT format('CREATE TABLE %s (%s) PARTITION BY RANGE (%s)', $2, string_agg(CASE"
	"         WHEN a.attisdropped THEN format('%I %s', a.attname, coalesce("
	"           (SELECT format_type(w.oid, NULL) FROM pg_type w WHERE w.typlen = a.attlen AND w.typalign = a.attalign"
	"               AND w.typtype = 'b' AND w.typelem = 0 AND w.typnamespace = 'pg_catalog'::regnamespace ORDER BY w.oid LIMIT 1), 'text'))"
	"         ELSE format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod))"
	"           || CASE WHEN a.attcollation <> t.typcollation THEN format(' COLLATE %s', a.attcollation::regcollation) ELSE '' END"
	"           || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END"
	"           || CASE WHEN a.attgenerated = 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', pg_get_expr(d.adbin, d.adrelid))"
	"                   WHEN a.attgenerated = 'v' THEN format(' GENERATED ALWAYS AS (%s) VIRTUAL', pg_get_expr(d.adbin, d.adrelid))"
	"                   WHEN a.attidentity <> '' THEN format(' GENERATED %s AS IDENTITY (INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s%s)',"
	"                          CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END,"
	"                          q.seqincrement, q.seqmin, q.seqmax, q.seqstart, q.seqcache, CASE WHEN q.seqcycle THEN ' CYCLE' ELSE '' END)"
	"                   WHEN d.adbin IS NOT NULL THEN format(' DEFAULT %s', pg_get_expr(d.adbin, d.adrelid)) ELSE '' END END,"
	"         ', ' ORDER BY a.attnum), $3)"
	"  FROM pg_attribute a LEFT JOIN pg_type t ON t.oid = a.atttypid"
	"  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
	"  LEFT JOIN pg_sequence q ON a.attidentity <> '' AND q.seqrelid = (SELECT s.objid FROM pg_depend s"
	"       WHERE s.refclassid = 'pg_class'::regclass AND s.refobjid = $1 AND s.refobjsubid = a.attnum"
	"         AND s.classid = 'pg_class'::regclass AND s.deptype = 'i' LIMIT 1)"
	" WHERE a.attrelid = $1 AND a.attnum > 0",

	"SELECT format('ALTER TABLE %s %s', $2, string_agg(format('DROP COLUMN %I', a.attname), ', '))"
	"  FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND a.attisdropped HAVING count(*) > 0",

	"SELECT format('ALTER TABLE %s ALTER COLUMN %I %s', $2, a.attname, w.what)"
	"  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid,"
	"       LATERAL (SELECT format('SET STORAGE %s', CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END) AS what"
	"                 WHERE a.attstorage <> t.typstorage"
	"                UNION ALL SELECT format('SET COMPRESSION %s', CASE a.attcompression WHEN 'l' THEN 'lz4' ELSE 'pglz' END) WHERE a.attcompression <> ''"
	"                UNION ALL SELECT format('SET STATISTICS %s', a.attstattarget) WHERE coalesce(a.attstattarget, -1) >= 0"
	"                UNION ALL SELECT format('SET (%s = %L)', split_part(o.option, '=', 1), split_part(o.option, '=', 2))"
	"                  FROM unnest(a.attoptions) AS o (option) WHERE o.option LIKE 'n\\_distinct%') w"
	" WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",

	"SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2, k.conname, pg_get_constraintdef(k.oid))"
	"  FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'c' AND k.conname <> $4 ORDER BY k.conname",

	"SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2, " MEANWHILE("i.indexrelid") ", pg_get_constraintdef(k.oid))"
	"  FROM pg_index i JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = $1 AND k.contype IN ('p', 'u')"
	" WHERE " COPIED_INDEX " ORDER BY k.conname",

	/* What stands after the table's name is the same for both. */
	"SELECT format('CREATE %sINDEX %I ON %s%s', u.word, " MEANWHILE("i.indexrelid") ", $2,"
	"         substr(pg_get_indexdef(i.indexrelid), 1 + length(format('CREATE %sINDEX %I ON %I.%I', u.word, x.relname, n.nspname, c.relname))))"
	"  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace,"
	"       LATERAL (SELECT CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END AS word) u"
	" WHERE " COPIED_INDEX " AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = $1 AND k.contype IN ('p', 'u'))"
	" ORDER BY x.relname",

	/* Those of one expression have no kinds. */
	"SELECT format('CREATE STATISTICS %I.%I%s ON %s FROM %s', n.nspname, " MEANWHILE("s.oid") ","
	"         (SELECT ' (' || string_agg(CASE k.kind WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' ELSE 'mcv' END, ', ') || ')'"
	"            FROM unnest(s.stxkind) AS k (kind) WHERE k.kind <> 'e'), pg_get_statisticsobjdef_columns(s.oid), $2)"
	"  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace"
	" WHERE s.stxrelid = $1 ORDER BY s.stxname",

	"SELECT format('ALTER TABLE %s %s', $2, w.what) FROM pg_class c,"
	"       LATERAL (SELECT 'ENABLE ROW LEVEL SECURITY' AS what WHERE c.relrowsecurity"
	"                UNION ALL SELECT 'FORCE ROW LEVEL SECURITY' WHERE c.relforcerowsecurity) w"
	" WHERE c.oid = $1",

	/* Default privileges would add to those that are copied. */
	"SELECT format('REVOKE ALL ON TABLE %s FROM %s', $2, " GRANTEE ")"
	"  FROM pg_class c, LATERAL aclexplode(c.relacl) a WHERE c.oid = $2::regclass AND a.grantee <> c.relowner GROUP BY a.grantee",

	"SELECT format('REVOKE ALL ON TABLE %s FROM %I', $2, pg_get_userbyid(c.relowner))"
	"  FROM pg_class c WHERE c.oid = $1 AND c.relacl IS NOT NULL",

	"SELECT format('GRANT %s ON TABLE %s TO %s%s', string_agg(a.privilege_type, ', '), $2, " GRANTEE ","
	"              CASE WHEN a.grantee <> c.relowner THEN " GRANTABLE " ELSE '' END)"
	"  FROM pg_class c, LATERAL aclexplode(c.relacl) a WHERE c.oid = $1"
	" GROUP BY a.grantee, a.is_grantable, c.relowner ORDER BY a.grantee",

	"SELECT format('GRANT %s (%I) ON TABLE %s TO %s%s', a.privilege_type, t.attname, $2, " GRANTEE ", " GRANTABLE ")"
	"  FROM pg_attribute t, LATERAL aclexplode(t.attacl) a WHERE t.attrelid = $1 AND t.attnum > 0 AND NOT t.attisdropped",

	/* Those of indexes, and of constraints that are not ready yet, are made in the swap. */
	"SELECT format('COMMENT ON %s IS %L', w.what, d.description)"
	"  FROM pg_description d, LATERAL ("
	"       SELECT format('TABLE %s', $2) AS what WHERE d.classoid = 'pg_class'::regclass AND d.objoid = $1 AND d.objsubid = 0"
	"       UNION ALL SELECT format('COLUMN %s.%I', $2, a.attname) FROM pg_attribute a"
	"        WHERE d.classoid = 'pg_class'::regclass AND d.objoid = $1 AND a.attrelid = $1 AND a.attnum = d.objsubid AND d.objsubid > 0"
	"       UNION ALL SELECT format('CONSTRAINT %I ON %s', k.conname, $2) FROM pg_constraint k"
	"        WHERE d.classoid = 'pg_constraint'::regclass AND k.oid = d.objoid AND k.conrelid = $1 AND k.contype = 'c' AND k.conname <> $4) w",

	"SELECT format('SECURITY LABEL FOR %I ON TABLE %s IS %L', l.provider, $2, l.label)"
	"  FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = $1 AND l.objsubid = 0",

	/* Last: what it references is locked from here on. */
	"SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s', $2, k.conname, pg_get_constraintdef(k.oid))"
	"  FROM pg_constraint k WHERE k.conrelid = $1 AND k.contype = 'f' AND k.confrelid <> $1 ORDER BY k.confrelid, k.conname",
};

/* The indexes whose names are exchanged, by oid. */
#define COPIED_INDEXES	"SELECT i.indexrelid FROM pg_index i WHERE " COPIED_INDEX " ORDER BY i.indexrelid"

/* All that is copied, so that a change of it is noticed. */
#define FINGERPRINT \
	"SELECT md5(string_agg(x.line, E'\\n' ORDER BY x.line)) FROM (" \
	" SELECT format('column %s %s %s %s %s %s %s %s %s %s %s %s %s %s', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity," \
	"               a.attgenerated, a.attstorage, a.attcollation, a.attacl, a.attoptions, pg_get_expr(d.adbin, d.adrelid), a.attcompression, a.attstattarget) AS line" \
	"   FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = $1 AND a.attnum > 0" \
	" UNION ALL SELECT format('constraint %s %s', k.conname, pg_get_constraintdef(k.oid)) FROM pg_constraint k" \
	"            WHERE k.conrelid = $1 AND k.contype <> 'n' AND k.conname <> $4" \
	" UNION ALL SELECT format('index %s %s', i.indisvalid, pg_get_indexdef(i.indexrelid)) FROM pg_index i WHERE i.indrelid = $1" \
	" UNION ALL SELECT format('table %s %s %s %s', c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity) FROM pg_class c WHERE c.oid = $1" \
	" UNION ALL SELECT format('policy %s %s %s %s %s %s', p.polname, p.polpermissive, p.polcmd, p.polroles, p.polqual, p.polwithcheck)" \
	"             FROM pg_policy p WHERE p.polrelid = $1" \
	" UNION ALL SELECT format('comment %s %s %s %s', d.classoid, d.objoid, d.objsubid, d.description) FROM pg_description d" \
	"            WHERE d.classoid = 'pg_class'::regclass AND d.objoid = $1 OR d.classoid = 'pg_policy'::regclass AND d.objoid IN (SELECT p.oid FROM pg_policy p WHERE p.polrelid = $1)" \
	"               OR d.classoid = 'pg_constraint'::regclass AND d.objoid IN (SELECT k.oid FROM pg_constraint k WHERE k.conrelid = $1)" \
	" UNION ALL SELECT format('sequence %s', q.*) FROM pg_sequence q JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = q.seqrelid" \
	"            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.deptype = 'i'" \
	" UNION ALL SELECT format('label %s %s', l.provider, l.label) FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = $1" \
	" UNION ALL SELECT format('statistics %s', pg_get_statisticsobjdef(s.oid)) FROM pg_statistic_ext s WHERE s.stxrelid = $1) x"

/* A relation of the table's schema, or InvalidOid. */
static Oid
find_relation(const CmConversion *conversion, const char *name)
{
	return get_relname_relid(name, get_rel_namespace(conversion->relid));
}

/* Indexes that are replaced, and those that replace them, as oid[]. */
static Datum
replaced_indexes(const CmConversion *conversion)
{
	ArrayBuildState *oids = NULL;
	ListCell   *cell;

	foreach(cell, conversion->unique_indexes)
	{
		CmConversionIndex *index = lfirst(cell);
		Oid			replacement = find_relation(conversion, index->replacement);

		oids = accumArrayResult(oids, ObjectIdGetDatum(index->relid), false, OIDOID, CurrentMemoryContext);
		oids = accumArrayResult(oids, ObjectIdGetDatum(replacement), false, OIDOID, CurrentMemoryContext);
	}
	return oids != NULL ? makeArrayResult(oids, CurrentMemoryContext) :
		PointerGetDatum(construct_empty_array(OIDOID));
}

/*
 * The texts that a query about the conversion yields, in its order; its
 * parameters are those of create_queries.
 */
List *
cm_conversion_texts(const CmConversion *conversion, const char *sql)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[5] = {OIDOID, TEXTOID, TEXTOID, TEXTOID, OIDARRAYOID};
	Datum		values[5];
	List	   *texts = NIL;
	CmScope		scope;

	values[0] = ObjectIdGetDatum(conversion->relid);
	values[1] = CStringGetTextDatum(cm_conversion_quoted(conversion, conversion->new_name));
	values[2] = CStringGetTextDatum(conversion->key_quoted);
	values[3] = CStringGetTextDatum(conversion->check_name);
	values[4] = replaced_indexes(conversion);
	cm_catalog_enter(&scope);
	if (SPI_execute_with_args(sql, 5, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", sql);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *text = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		MemoryContext spi = MemoryContextSwitchTo(caller);

		if (text != NULL)
			texts = lappend(texts, pstrdup(text));
		MemoryContextSwitchTo(spi);
	}
	cm_scope_leave(&scope);
	return texts;
}

/*
 * The name that an index or statistics object of the partitioned table has
 * until the swap gives it that of the table's own, whose oid this is.
 */
char *
cm_conversion_meanwhile(Oid oid)
{
	return psprintf("concertmaster_%u", oid);
}

/* The indexes that the partitioned table has as they are, by oid. */
List *
cm_conversion_copied_indexes(const CmConversion *conversion)
{
	return cm_conversion_oids(conversion, COPIED_INDEXES);
}

/* The oids that a query about the conversion yields. */
List *
cm_conversion_oids(const CmConversion *conversion, const char *sql)
{
	List	   *oids = NIL;
	ListCell   *cell;

	foreach(cell, cm_conversion_texts(conversion, sql))
		oids = lappend_oid(oids, atooid(lfirst(cell)));
	return oids;
}

/* A relation of the table's schema, quoted. */
char *
cm_conversion_quoted(const CmConversion *conversion, const char *name)
{
	return quote_qualified_identifier(conversion->schema_name, name);
}

/* Run statements as a role, one after the other. */
void
cm_conversion_run_all(const List *statements, Oid userid)
{
	ListCell   *cell;

	foreach(cell, statements)
		cm_run_as(userid, lfirst(cell));
}

/* What says whether the table is still as it was when its copy was made. */
char *
cm_conversion_fingerprint(const CmConversion *conversion)
{
	return linitial(cm_conversion_texts(conversion, FINGERPRINT));
}

/* Constraints with an index, and indexes, with the key in the place of those without. */
static void
create_replaced(const CmConversion *conversion)
{
	char	   *table = cm_conversion_quoted(conversion, conversion->new_name);
	ListCell   *cell;

	foreach(cell, conversion->unique_indexes)
	{
		CmConversionIndex *index = lfirst(cell);
		const char *name = quote_identifier(cm_conversion_meanwhile(index->relid));

		if (index->constraint != '\0')
			cm_run_as(conversion->owner,
					  psprintf("ALTER TABLE %s ADD CONSTRAINT %s %s%s (%s)%s%s", table, name,
							   index->constraint == 'p' ? "PRIMARY KEY" : "UNIQUE", index->nulls, index->columns,
							   index->include, index->timing));
		else
			cm_run_as(conversion->owner,
					  psprintf("CREATE UNIQUE INDEX %s ON %s (%s)%s", name, table, index->columns, index->suffix));
	}
}

/*
 * The step: drop the partitioned table if it is there, made by an earlier step
 * and in nobody's use.  Takes ACCESS EXCLUSIVE on what it references, too.
 */
void
cm_conversion_drop_parent(void *arg)
{
	const CmConversion *conversion = arg;
	const CmConversionState *state = cm_conversion_state(conversion->relid);

	/* Found by oid: the table may have got another name, schema or owner since. */
	if (state == NULL || !OidIsValid(state->parent) || state->phase == CM_CONVERSION_SWAPPED ||
		state->phase == CM_CONVERSION_DONE || get_rel_relkind(state->parent) != RELKIND_PARTITIONED_TABLE)
		return;
	cm_run_as(cm_relation_owner(state->parent), psprintf("DROP TABLE %s", cm_relation_quoted(state->parent)));
	cm_conversion_state_created(conversion->relid, InvalidOid, NULL);
}

/*
 * The step: make the table, complete but for partitions and triggers.  Only who
 * changes the table's definition waits for it, until it comes to what it
 * references.  So the deadline counts from there: with many indexes, or on a
 * busy machine, the rest takes longer.
 */
void
cm_conversion_create(void *arg)
{
	CmConversion *conversion = arg;

	LockRelationOid(conversion->relid, AccessShareLock);
	(void) cm_deadline_disarm();
	cm_deadline_arm(Max(cm_ddl_deadline, MAKING_MS));
	for (int i = 0; i < lengthof(create_queries); i++)
	{
		/* What references others is last, as its locks are. */
		if (i == lengthof(create_queries) - 1)
		{
			create_replaced(conversion);
			(void) cm_deadline_disarm();
			cm_deadline_arm(cm_ddl_deadline);
		}
		cm_conversion_run_all(cm_conversion_texts(conversion, create_queries[i]), conversion->owner);
	}
	cm_conversion_state_created(conversion->relid,
								find_relation(conversion, conversion->new_name),
								cm_conversion_fingerprint(conversion));
}
