/*-------------------------------------------------------------------------
 *
 * conversion_swap.c
 *	  The moment in which the partitioned table takes the table's place.
 *
 * One transaction under the deadline.  First it keeps off who would change the
 * table, by SHARE UPDATE EXCLUSIVE, and looks whether something has come up
 * that is refused.  Then it locks everything that it will need,
 * looks whether the table is still what its copy was made of, reads the texts
 * of what goes by the table's oid, and then, as the table's owner,
 *
 *	 1. drops foreign keys that point at the table, and its triggers
 *	 2. gives its identity columns' sequences away
 *	 3. puts the unique indexes that have the key into the place of those that
 *		have not, and gives the names of all indexes to the partitioned table
 *	 4. renames both tables, and attaches the old part below the bound, which
 *		scans nothing, as a validated CHECK says so, and builds nothing, as
 *		every index is there
 *	 5. makes triggers, foreign keys, functions, policies and rules anew from
 *		their texts, in which the table's name means the new one by now
 *	 6. has views and materialized views read the new one (conversion_rebind.c),
 *		publications name it, and our own catalog mean it
 *
 * Locks, in the order in which others take them: views (who reads one locks it
 * before its tables), tables with foreign keys to this one, the table, the
 * partitioned one, the sequences; then what the table references, in ATTACH.
 * ACCESS EXCLUSIVE, for the length of the transaction.  Whoever takes them in
 * another order meets our short deadlock_timeout: we give way and try again.
 *
 * After an error or a deadline the abort leaves both tables as they were.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "conversion_do.h"

/* Views that read the table, by oid. */
#define VIEWS \
	"SELECT DISTINCT w.ev_class FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid AND w.rulename = '_RETURN'" \
	" WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 ORDER BY 1"

#define OTHERS \
	"SELECT DISTINCT k.conrelid FROM pg_constraint k WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conrelid <> $1 ORDER BY 1"

/* Sequences of identity columns, with the one of the partitioned table. */
#define IDENTITIES \
	"  FROM pg_attribute a JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.refobjsubid = a.attnum" \
	"   AND d.classid = 'pg_class'::regclass AND d.deptype = 'i' JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'" \
	" WHERE a.attrelid = $1 AND a.attidentity <> ''"

#define TRIGGERS \
	"  FROM pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal"

/* Those that log changes for views are made by the views' jobs. */
#define TRIGGERS_MOVED \
	TRIGGERS " AND t.tgfoid <> 'concertmaster.log_changes()'::regprocedure"

/* Foreign keys to the table that reference the key, with those whose place they take. */
#define KEYS_WITH_KEY \
	"  FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid AND r.relkind = 'r' JOIN pg_attribute a ON a.attrelid = $1 AND quote_ident(a.attname) = $3" \
	"  LEFT JOIN concertmaster.conversion_key n ON n.new_key = k.oid LEFT JOIN pg_constraint o ON o.oid = n.key," \
	"       LATERAL (SELECT obj_description(coalesce(o.oid, k.oid), 'pg_constraint') AS description) d" \
	" WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conparentid = 0 AND k.conrelid <> $1 AND a.attnum = ANY (k.confkey)"

/* Done to the table before the names are exchanged. */
static const char *const before_queries[] = {
	"SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname) FROM pg_constraint k"
	" WHERE k.confrelid = $1 AND k.contype = 'f' AND k.conparentid = 0 ORDER BY k.conrelid, k.conname",

	"SELECT format('DROP TRIGGER %I ON %s', t.tgname, $1::regclass)" TRIGGERS " ORDER BY t.tgname",

	"SELECT format('SELECT setval(%L, s.last_value, s.is_called) FROM %s s', pg_get_serial_sequence($2, a.attname), s.oid::regclass)" IDENTITIES,
	"SELECT format('ALTER TABLE %s ALTER COLUMN %I DROP IDENTITY', $1::regclass, a.attname)" IDENTITIES,
	"SELECT format('ALTER SEQUENCE %s RENAME TO %I', pg_get_serial_sequence($2, a.attname), s.relname)" IDENTITIES,

	"SELECT format('ALTER PUBLICATION %I DROP TABLE %s', p.pubname, $1::regclass)"
	"  FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = $1 ORDER BY p.pubname",

	"SELECT format('ALTER STATISTICS %I.%I RENAME TO %I', n.nspname, s.stxname, 'legacy_' || s.oid)"
	"  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = $1",
	"SELECT format('ALTER STATISTICS %I.%I RENAME TO %I', n.nspname, 'concertmaster_' || s.oid, s.stxname)"
	"  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = $1",
};

/* Done after, with texts from before. */
static const char *const after_queries[] = {
	"SELECT pg_get_triggerdef(t.oid)" TRIGGERS_MOVED " ORDER BY t.tgname",
	"SELECT format('ALTER TABLE %s %s TRIGGER %I', $1::regclass, CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE ALWAYS' END, t.tgname)"
	TRIGGERS_MOVED " AND t.tgenabled <> 'O'",
	"SELECT format('COMMENT ON TRIGGER %I ON %s IS %L', t.tgname, $1::regclass, obj_description(t.oid, 'pg_trigger'))"
	TRIGGERS_MOVED " AND obj_description(t.oid, 'pg_trigger') IS NOT NULL",

	"SELECT format('ALTER SEQUENCE %s OWNED BY %s.%I', d.objid::regclass, $1::regclass, a.attname)"
	"  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = d.refobjsubid"
	" WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1 AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'",

	/* Default privileges would add to those that are copied. */
	"SELECT format('REVOKE ALL ON SEQUENCE %s FROM %s', s.oid::regclass, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)"
	"  FROM (SELECT s.*, a.attname " IDENTITIES ") s JOIN pg_class c ON c.oid = pg_get_serial_sequence($2, s.attname)::regclass,"
	"       LATERAL aclexplode(c.relacl) x WHERE x.grantee <> c.relowner GROUP BY s.oid, x.grantee",
	"SELECT format('GRANT %s ON SEQUENCE %s TO %s%s', x.privilege_type, s.oid::regclass, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,"
	"              CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)"
	"  FROM (SELECT s.* " IDENTITIES ") s, LATERAL aclexplode(s.relacl) x WHERE x.grantee <> s.relowner",
	"SELECT format('COMMENT ON SEQUENCE %s IS %L', s.oid::regclass, obj_description(s.oid, 'pg_class'))"
	IDENTITIES " AND obj_description(s.oid, 'pg_class') IS NOT NULL",

	/* Of what got its name in the swap. */
	"SELECT format('COMMENT ON INDEX %s IS %L', i.indexrelid::regclass, d.description) FROM pg_index i"
	"  JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = i.indexrelid AND d.objsubid = 0"
	" WHERE i.indrelid = $1 AND i.indisvalid AND i.indisready AND NOT i.indisexclusion",
	"SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', k.conname, $1::regclass, d.description) FROM pg_constraint k"
	"  JOIN pg_description d ON d.classoid = 'pg_constraint'::regclass AND d.objoid = k.oid LEFT JOIN pg_index i ON i.indexrelid = k.conindid"
	" WHERE k.conrelid = $1 AND (k.contype IN ('p', 'u') AND i.indisvalid AND NOT i.indisexclusion OR k.contype = 'f' AND k.confrelid <> $1)",
	"SELECT format('ALTER STATISTICS %I.%I SET STATISTICS %s', n.nspname, s.stxname, s.stxstattarget)"
	"  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE s.stxrelid = $1 AND s.stxstattarget >= 0",
	"SELECT format('COMMENT ON STATISTICS %I.%I IS %L', n.nspname, s.stxname, d.description) FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace"
	"  JOIN pg_description d ON d.classoid = 'pg_statistic_ext'::regclass AND d.objoid = s.oid WHERE s.stxrelid = $1",

	"SELECT pg_get_functiondef(d.objid) FROM (SELECT DISTINCT d.objid FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass"
	"         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1) d",

	"SELECT format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', p.polname, $1::regclass, CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,"
	"         CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,"
	"         (SELECT string_agg(CASE r.role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r.role)) END, ', ') FROM unnest(p.polroles) AS r (role)))"
	"         || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')"
	"         || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')"
	"  FROM pg_policy p WHERE p.polrelid = $1 ORDER BY p.polname",
	"SELECT format('COMMENT ON POLICY %I ON %s IS %L', p.polname, $1::regclass, obj_description(p.oid, 'pg_policy'))"
	"  FROM pg_policy p WHERE p.polrelid = $1 AND obj_description(p.oid, 'pg_policy') IS NOT NULL",
	"SELECT format('ALTER POLICY %I ON %s', p.polname, p.polrelid::regclass)"
	"       || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')"
	"       || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')"
	"  FROM pg_policy p WHERE p.polrelid <> $1 AND p.oid IN (SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_policy'::regclass"
	"         AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1)",

	"SELECT regexp_replace(pg_get_ruledef(w.oid), '^CREATE RULE', 'CREATE OR REPLACE RULE')"
	"  FROM pg_rewrite w WHERE w.rulename <> '_RETURN' AND w.ev_class <> $1 AND w.oid IN (SELECT d.objid FROM pg_depend d"
	"         WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1)",

	"SELECT format('ALTER PUBLICATION %I ADD TABLE %s%s%s', p.pubname, $1::regclass,"
	"         (SELECT format(' (%s)', string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)) FROM pg_attribute a"
	"           WHERE a.attrelid = $1 AND a.attnum = ANY (r.prattrs) HAVING count(*) > 0), ' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')')"
	"  FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = $1 ORDER BY p.pubname",

	/* Those of plain tables that reference the key, under the name of one whose place they take; the others are gone, as was asked. */
	"SELECT format('ALTER TABLE %s ADD CONSTRAINT %I %s%s', k.conrelid::regclass, coalesce(o.conname, k.conname), pg_get_constraintdef(k.oid),"
	"              CASE WHEN k.convalidated THEN ' NOT VALID' ELSE '' END)"
	KEYS_WITH_KEY " ORDER BY k.conrelid, k.conname",
	"SELECT format('COMMENT ON CONSTRAINT %I ON %s IS %L', coalesce(o.conname, k.conname), k.conrelid::regclass, d.description)"
	KEYS_WITH_KEY " AND d.description IS NOT NULL",
};

/* An index of the table whose name the partitioned one gets. */
typedef struct SharedName
{
	Oid			oid;
	char	   *name;
	bool		is_constraint;
} SharedName;

static void
lock_all(const List *relids)
{
	ListCell   *cell;

	foreach(cell, relids)
		LockRelationOid(lfirst_oid(cell), AccessExclusiveLock);
}

/* A name for an index of the old part, like another. */
static char *
legacy_name(const CmConversion *conversion, const char *name)
{
	return ChooseRelationName(name, NULL, "legacy", get_rel_namespace(conversion->relid), true);
}

/* The indexes of the table that are the same in both. */
static List *
shared_names(const CmConversion *conversion)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *names = NIL;
	ListCell   *cell;

	foreach(cell, cm_conversion_copied_indexes(conversion))
	{
		SharedName *name = MemoryContextAlloc(caller, sizeof(SharedName));

		name->oid = lfirst_oid(cell);
		name->name = get_rel_name(name->oid);
		name->is_constraint = OidIsValid(get_index_constraint(name->oid));
		names = lappend(names, name);
	}
	return names;
}

/* Rename an index of a table, or the constraint that it belongs to. */
static void
rename_index(const CmConversion *conversion, const char *table, bool is_constraint,
			 const char *from, const char *to)
{
	char	   *sql = is_constraint ?
		psprintf("ALTER TABLE %s RENAME CONSTRAINT %s TO %s", table, quote_identifier(from), quote_identifier(to)) :
		psprintf("ALTER INDEX %s RENAME TO %s", cm_conversion_quoted(conversion, from), quote_identifier(to));

	cm_run_as(conversion->owner, sql);
}

/* Give the partitioned table the names that the table's indexes have. */
static void
exchange_names(const CmConversion *conversion, const char *parent)
{
	ListCell   *cell;

	foreach(cell, shared_names(conversion))
	{
		SharedName *name = lfirst(cell);

		rename_index(conversion, conversion->quoted, name->is_constraint,
					 name->name, legacy_name(conversion, name->name));
		rename_index(conversion, parent, name->is_constraint,
					 cm_conversion_meanwhile(name->oid), name->name);
	}
}

/* Have unique indexes with the key take the place of one without. */
static void
replace_index(const CmConversion *conversion, const CmConversionIndex *index, const char *parent)
{
	const char *old = quote_identifier(index->name);
	const char *replacement = quote_identifier(index->replacement);
	char	   *legacy = legacy_name(conversion, index->name);

	if (index->constraint == 'p')
		cm_run_as(conversion->owner,
				  psprintf("ALTER TABLE %s DROP CONSTRAINT %s, ADD CONSTRAINT %s PRIMARY KEY USING INDEX %s%s",
						   conversion->quoted, old, quote_identifier(legacy), replacement, index->timing));
	else
		rename_index(conversion, conversion->quoted, index->constraint != '\0', index->name, legacy);
	if (index->constraint == 'u')
		cm_run_as(conversion->owner,
				  psprintf("ALTER TABLE %s ADD CONSTRAINT %s UNIQUE USING INDEX %s%s", conversion->quoted,
						   replacement, replacement, index->timing));
	if (index->is_identity)
		cm_run_as(conversion->owner,
				  psprintf("ALTER TABLE %s REPLICA IDENTITY USING INDEX %s", conversion->quoted,
						   index->constraint == 'p' ? quote_identifier(legacy) : replacement));
	rename_index(conversion, parent, index->constraint != '\0', cm_conversion_meanwhile(index->relid), index->name);
}

/* Is everything there that the steps before have made? */
static bool
is_ready(const CmConversionSwap *swap)
{
	const CmConversion *conversion = swap->conversion;

	return get_rel_name(conversion->relid) != NULL && get_rel_name(swap->parent) != NULL &&
		strcmp(get_rel_name(conversion->relid), conversion->name) == 0 &&
		strcmp(get_rel_name(swap->parent), conversion->new_name) == 0 &&
		get_rel_namespace(swap->parent) == get_rel_namespace(conversion->relid) &&
		strcmp(cm_conversion_fingerprint(conversion), swap->fingerprint) == 0;
}

/*
 * Has nothing come up that would have been refused, or has to be accepted?
 * Between the last look and our lock anybody may have made a rule, or a foreign
 * key to the table, or dropped it.
 */
static bool
nothing_came_up(const CmConversion *conversion)
{
	CmConversion *now;
	ListCell   *cell;

	if (get_rel_name(conversion->relid) == NULL)
		return false;
	now = cm_conversion_look_catalogs(conversion->relid, conversion->wish);

	foreach(cell, now->findings)
	{
		CmFindingStatus status = ((CmFinding *) lfirst(cell))->status;

		if (status == CM_FINDING_REFUSED || status == CM_FINDING_TO_ACCEPT)
			return false;
	}
	return cm_conversion_composites_ready(now);
}

/* What our own catalog says of the table, it says of the partitioned one from now on. */
static void
move_catalog(const CmConversionSwap *swap)
{
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2] = {ObjectIdGetDatum(swap->conversion->relid), ObjectIdGetDatum(swap->parent)};
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("UPDATE concertmaster.relation_map SET relid = $2 WHERE relid = $1",
						  2, types, values, NULL, false, 0);
	SPI_execute_with_args("UPDATE concertmaster.conversion SET state = 'swapped', swapped_at = now(), fingerprint = NULL"
						  " WHERE relid = $1 AND state = 'preparing'",
						  2, types, values, NULL, false, 0);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the conversion of table \"%s\" was cancelled meanwhile", swap->conversion->name)));
	cm_scope_leave(&scope);
}

/* Views read the partitioned table. */
static void
rebind(const CmConversionSwap *swap, const List *views)
{
	ListCell   *cell;
	CmScope		scope;

	cm_catalog_enter(&scope);
	foreach(cell, views)
		cm_conversion_rebind_view(lfirst_oid(cell), swap->conversion->relid, swap->parent);
	cm_scope_leave(&scope);
}

/*
 * The step: exchange the tables.  If the table has changed since its copy was
 * made nothing is done, and swap->stale is set.
 */
void
cm_conversion_swap(void *arg)
{
	CmConversionSwap *swap = arg;
	const CmConversion *conversion = swap->conversion;
	char	   *parent = cm_conversion_quoted(conversion, conversion->new_name);
	char	   *legacy = cm_conversion_quoted(conversion, conversion->old_name);
	List	   *views;
	List	   *others;
	List	   *before = NIL;
	List	   *after = NIL;
	ListCell   *cell;

	/* Keeps off who changes the table, and nobody else, so it needs no deadline. */
	LockRelationOid(conversion->relid, ShareUpdateExclusiveLock);
	(void) cm_deadline_disarm();
	swap->stale = !nothing_came_up(conversion);
	if (swap->stale)
		return;
	cm_deadline_arm(cm_ddl_deadline);

	views = cm_conversion_oids(conversion, VIEWS);
	others = cm_conversion_oids(conversion, OTHERS);
	lock_all(views);
	lock_all(others);
	LockRelationOid(conversion->relid, AccessExclusiveLock);
	LockRelationOid(swap->parent, AccessExclusiveLock);
	lock_all(cm_conversion_oids(conversion, "SELECT s.oid" IDENTITIES));
	swap->stale = !is_ready(swap) || !equal(views, cm_conversion_oids(conversion, VIEWS)) ||
		!equal(others, cm_conversion_oids(conversion, OTHERS));
	if (swap->stale)
		return;

	/* All texts first: each statement changes what the queries would find. */
	for (int i = 0; i < lengthof(before_queries); i++)
		before = list_concat(before, cm_conversion_texts(conversion, before_queries[i]));
	for (int i = 0; i < lengthof(after_queries); i++)
		after = list_concat(after, cm_conversion_texts(conversion, after_queries[i]));

	cm_conversion_run_all(before, conversion->owner);
	exchange_names(conversion, parent);
	foreach(cell, conversion->unique_indexes)
		replace_index(conversion, lfirst(cell), parent);
	cm_run_as(conversion->owner, psprintf("ALTER TABLE %s RENAME TO %s", conversion->quoted, quote_identifier(conversion->old_name)));
	cm_run_as(conversion->owner, psprintf("ALTER TABLE %s RENAME TO %s", parent, quote_identifier(conversion->name)));
	cm_run_as(conversion->owner, psprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (MINVALUE) TO (%s)",
										  conversion->quoted, legacy, conversion->bound));
	rebind(swap, views);
	cm_conversion_run_all(after, conversion->owner);
	cm_conversion_swap_composites(conversion);
	move_catalog(swap);
}
