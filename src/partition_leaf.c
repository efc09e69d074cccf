/*-------------------------------------------------------------------------
 *
 * partition_leaf.c
 *	  Make one partition: a table like the parent, then attached to it.
 *
 * CREATE TABLE ... PARTITION OF would lock the parent exclusively and so wait
 * behind every reader, with everybody else waiting behind it.  Instead a
 * table is created LIKE the parent (SHARE UPDATE EXCLUSIVE on the parent, so
 * that two sessions do not make the same partition), given what its newest
 * sibling has (privileges, storage parameters, tablespace, access method,
 * n_distinct), and attached by a second step, under the same lock: readers and
 * writers go on.
 *
 * The two steps may be two transactions.  Between them the table bears a
 * comment that begins with CM_PARTITION_MARK; one found with that comment,
 * empty and unattached, is what a crash or a deadline left behind, and is
 * dropped and made anew, since the parent may have changed meanwhile.  Any
 * other relation of that name is somebody's and is an error.
 *
 * Every function here works in the transaction that is open, acts as the
 * parent's owner with a pinned search_path, and may be cancelled by a
 * deadline at any point; the (sub)transaction's abort is all the cleanup.
 *
 * Locks of the attach step: SHARE UPDATE EXCLUSIVE on the parent, ACCESS
 * EXCLUSIVE on the new table (nobody else uses it), ACCESS EXCLUSIVE on the
 * default partition if there is one (core scans it), SHARE ROW EXCLUSIVE on
 * tables that foreign keys of the parent reference or that reference it;
 * where rows are moved, those of lock_for_drain() before.  The deadline covers
 * what readers and writers could queue behind: the wait for the parent, and
 * all of the attaching if it locks a default partition or a table at the other
 * end of a foreign key.
 *
 * What it does not do: transactions, deadlines, retries (partition_apply.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "partition.h"

/* Until the scope ends: a row that a policy hides (FORCE ROW LEVEL SECURITY) is an error. */
void
cm_partition_see_all_rows(void)
{
	(void) set_config_option("row_security", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Become the parent's owner, with SPI. */
void
cm_partition_enter(CmScope *scope, Oid owner)
{
	cm_owner_enter(scope, owner, false);
	cm_partition_see_all_rows();
	cm_scope_connect(scope);
}

/*
 * A new leaf goes where its sibling is; without one, where the owner's tables
 * go, as in core.  Undone by cm_scope_leave().
 */
static void
pin_tablespace(const CmLeaf *leaf, Oid model)
{
	if (model != leaf->parent)
		(void) set_config_option("default_tablespace", "", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* Run one statement that returns nothing. */
void
cm_partition_execute(const char *sql)
{
	int			code = SPI_execute(sql, false, 0);

	if (code < 0)
		elog(ERROR, "SPI_execute failed: %s: %s", SPI_result_code_string(code), sql);
}

/* Run a query, a literal, whose rows are statements, then run these in order. */
void
cm_partition_execute_each(const char *query, int nargs, const Oid *args)
{
	Oid			types[3] = {OIDOID, OIDOID, OIDOID};
	Datum		values[3];
	SPITupleTable *table;
	uint64		count;

	for (int i = 0; i < nargs; i++)
		values[i] = ObjectIdGetDatum(args[i]);
	if (cm_query(query, nargs, types, values, NULL) != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", query);
	table = SPI_tuptable;
	count = SPI_processed;
	for (uint64 i = 0; i < count; i++)
		cm_partition_execute(SPI_getvalue(table->vals[i], table->tupdesc, 1));
}

/* The one text that a query, a literal, about a relation yields, or NULL. */
static char *
select_text(const char *query, Oid arg)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1];

	values[0] = ObjectIdGetDatum(arg);
	if (cm_query(query, 1, types, values, NULL) != SPI_OK_SELECT)
		elog(ERROR, "query failed: %s", query);
	if (SPI_processed == 0)
		return NULL;
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* The leaf's table by its name, or InvalidOid. */
static Oid
find_table(const CmLeaf *leaf)
{
	return get_relname_relid(leaf->name, get_rel_namespace(leaf->parent));
}

/* schema.name of the leaf, quoted. */
char *
cm_partition_leaf_quoted(const CmLeaf *leaf)
{
	return quote_qualified_identifier(cm_relation_schema(leaf->parent),
									  leaf->name);
}

/*
 * The relation that the new leaf takes after: the plain table among the
 * parent's partitions, existing, that holds the latest values, else the parent
 * itself.
 */
Oid
cm_partition_leaf_model(const CmLeaf *leaf, const List *existing)
{
	CmPartition *newest = NULL;
	ListCell   *cell;

	if (OidIsValid(leaf->model))
		return leaf->model;
	foreach(cell, existing)
	{
		CmPartition *partition = lfirst(cell);

		if (!partition->is_default &&
			get_rel_relkind(partition->relid) == RELKIND_RELATION &&
			(newest == NULL || partition->from > newest->from))
			newest = partition;
	}
	return newest != NULL ? newest->relid : leaf->parent;
}

/* Is this what an unfinished attempt of ours left behind? */
static bool
is_leftover(Oid relid, const CmLeaf *leaf)
{
	char	   *comment = GetComment(relid, RelationRelationId, 0);

	return comment != NULL &&
		strncmp(comment, CM_PARTITION_MARK, strlen(CM_PARTITION_MARK)) == 0 &&
		get_rel_relkind(relid) == RELKIND_RELATION &&
		!get_rel_relispartition(relid) &&
		cm_relation_owner(relid) == leaf->owner;
}

/* Drop a leftover, unless somebody has put a row into it. */
static bool
drop_if_empty(Oid relid, const char *name)
{
	LockRelationOid(relid, AccessExclusiveLock);
	if (SPI_execute(psprintf("SELECT FROM ONLY %s", name), false, 1) != SPI_OK_SELECT)
		elog(ERROR, "query failed");
	if (SPI_processed > 0)
		return false;
	cm_partition_execute(psprintf("DROP TABLE %s", name));
	return true;
}

/*
 * What is in the way of the leaf's name, in words; NULL if nothing is.  For
 * those who look ahead, with no lock: a leftover with rows is seen later.
 */
char *
cm_partition_leaf_taken(const CmLeaf *leaf)
{
	Oid			relid = find_table(leaf);

	if (!OidIsValid(relid) || is_leftover(relid, leaf))
		return NULL;
	return psprintf("the name is taken: rename the relation %s, or attach it to the table",
					cm_partition_leaf_quoted(leaf));
}

/* Make way for the leaf's name, or say who has it. */
static void
clear_name(const CmLeaf *leaf)
{
	Oid			relid = find_table(leaf);
	char	   *name = cm_partition_leaf_quoted(leaf);

	if (!OidIsValid(relid) ||
		(is_leftover(relid, leaf) && drop_if_empty(relid, name)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_TABLE),
			 errmsg("cannot make partition \"%s\" of table \"%s\": the name is taken",
					leaf->name, get_rel_name(leaf->parent)),
			 errdetail("It would hold values %s.",
					   cm_axis_range_text(&leaf->axis, leaf->from, leaf->to)),
			 errhint("Rename the relation %s, or attach it to the table yourself.", name)));
}

/* The owner needs what core asks for, but core's error would not say who that is. */
static void
require_schema_privilege(const CmLeaf *leaf)
{
	Oid			schema = get_rel_namespace(leaf->parent);
	char	   *owner = GetUserNameFromId(leaf->owner, false);

	if (cm_compat_namespace_aclcheck(schema, leaf->owner, ACL_CREATE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for schema %s", get_namespace_name(schema)),
				 errdetail("Partitions of table \"%s\" are made by its owner, role \"%s\", which has no CREATE privilege there.",
						   get_rel_name(leaf->parent), owner),
				 errhint("GRANT CREATE ON SCHEMA %s TO %s.",
						 quote_identifier(get_namespace_name(schema)), quote_identifier(owner))));
}

/* CREATE TABLE with everything that has to be said when it is created. */
static void
create_table(const CmLeaf *leaf, Oid model)
{
	StringInfoData sql;
	char	   *text;

	require_schema_privilege(leaf);
	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE %sTABLE %s (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)",
					 get_rel_persistence(model) == RELPERSISTENCE_UNLOGGED ? "UNLOGGED " : "",
					 cm_partition_leaf_quoted(leaf),
					 cm_relation_quoted(OidIsValid(leaf->model) ? leaf->model : leaf->parent));

	text = select_text("SELECT quote_ident(a.amname) FROM pg_class c JOIN pg_am a ON a.oid = c.relam"
					   " WHERE c.oid = $1", model);
	if (text != NULL)
		appendStringInfo(&sql, " USING %s", text);

	text = select_text("SELECT string_agg(prefix || quote_ident(split_part(option, '=', 1)) || ' = '"
					   "   || quote_literal(substr(option, strpos(option, '=') + 1)), ', ')"
					   "  FROM (SELECT '' AS prefix, unnest(c.reloptions) AS option"
					   "          FROM pg_class c WHERE c.oid = $1 AND c.relkind = 'r'"
					   "        UNION ALL"
					   "        SELECT 'toast.', unnest(t.reloptions)"
					   "          FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid"
					   "         WHERE c.oid = $1) o", model);
	if (text != NULL)
		appendStringInfo(&sql, " WITH (%s)", text);

	text = select_text("SELECT quote_ident(s.spcname) FROM pg_class c"
					   "  JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.oid = $1", model);
	if (text != NULL)
		appendStringInfo(&sql, " TABLESPACE %s", text);
	cm_partition_execute(sql.data);
}

/*
 * Privileges like the model's, on the table and on columns.  First whatever
 * default privileges gave is taken away.  The model's owner may be another
 * role than ours: what it has as owner is given to our owner.  Where the model
 * has row security, so do we, without a policy: rows are read through the
 * parent, by its policies, and by our own name by the owner alone.
 */
static void
copy_privileges(Oid relid, Oid model)
{
	Oid			args[2] = {relid, model};

	cm_partition_execute_each("SELECT s.sql FROM ("
							  " SELECT 1 AS step, format('REVOKE ALL ON TABLE %s FROM %s', t.oid::regclass,"
							  "          CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) AS sql"
							  "   FROM pg_class t, pg_class m,"
							  "        LATERAL aclexplode(coalesce(t.relacl, acldefault('r', t.relowner))) a"
							  "  WHERE t.oid = $1 AND m.oid = $2 AND t.relacl IS DISTINCT FROM m.relacl"
							  "  GROUP BY t.oid, a.grantee"
							  " UNION ALL"
							  " SELECT 2, format('GRANT %s ON TABLE %s TO %s%s', string_agg(a.privilege_type, ', '), t.oid::regclass,"
							  "          CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,"
							  "          CASE WHEN a.is_grantable AND g.grantee <> t.relowner THEN ' WITH GRANT OPTION' END)"
							  "   FROM pg_class t, pg_class m,"
							  "        LATERAL aclexplode(coalesce(m.relacl, acldefault('r', m.relowner))) a,"
							  "        LATERAL (SELECT CASE a.grantee WHEN m.relowner THEN t.relowner ELSE a.grantee END AS grantee) g"
							  "  WHERE t.oid = $1 AND m.oid = $2 AND t.relacl IS DISTINCT FROM m.relacl"
							  "  GROUP BY t.oid, t.relowner, g.grantee, a.is_grantable"
							  " UNION ALL"
							  " SELECT 3, format('GRANT %s (%I) ON TABLE %s TO %s%s', a.privilege_type, c.attname, t.oid::regclass,"
							  "          CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,"
							  "          CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' END)"
							  "   FROM pg_class t, pg_attribute c, LATERAL aclexplode(c.attacl) a"
							  "  WHERE t.oid = $1 AND c.attrelid = $2 AND c.attnum > 0 AND NOT c.attisdropped"
							  " UNION ALL"
							  " SELECT 4, format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', t.oid::regclass) FROM pg_class t, pg_class m"
							  "  WHERE t.oid = $1 AND m.oid = $2 AND m.relrowsecurity AND NOT t.relrowsecurity"
							  ") s ORDER BY s.step, s.sql",
							  2, args);
}

/*
 * The one column option that says something about the data.  The rest of
 * attoptions is not copied: servers differ in what they accept there.
 */
static void
copy_n_distinct(Oid relid, Oid model)
{
	Oid			args[2] = {relid, model};

	cm_partition_execute_each("SELECT format('ALTER TABLE %s ALTER COLUMN %I SET (n_distinct = %L)',"
							  "              $1::regclass, a.attname, split_part(o.option, '=', 2))"
							  "  FROM pg_attribute a, LATERAL unnest(a.attoptions) AS o (option)"
							  " WHERE a.attrelid = $2 AND a.attnum > 0 AND NOT a.attisdropped"
							  "   AND o.option LIKE 'n_distinct=%'"
							  " ORDER BY a.attnum",
							  2, args);
}

/*
 * Keep others from adding partitions until the transaction ends, so that what
 * we read stays true: *existing.  Returns whether the leaf's range is still
 * free, and says so in leaf->stale.
 */
static bool
lock_parent(CmLeaf *leaf, LOCKMODE mode, List **existing)
{
	LockRelationOid(leaf->parent, mode);
	if (get_rel_name(leaf->parent) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table with OID %u was dropped meanwhile", leaf->parent)));
	*existing = cm_partition_existing(leaf->parent, &leaf->axis);
	leaf->stale = cm_partition_overlapping(*existing, leaf->from, leaf->to) != NULL;
	return !leaf->stale;
}

/*
 * First step: the table, complete but for being a partition.  An error if the
 * name is taken by anything but a leftover of ours.  If the range was taken
 * by another partition since it was planned, nothing is done and leaf->stale
 * set.
 */
void
cm_partition_leaf_create(void *arg)
{
	CmLeaf	   *leaf = arg;
	CmScope		scope;
	List	   *existing;
	Oid			model;
	Oid			relid;

	cm_partition_enter(&scope, leaf->owner);
	if (!lock_parent(leaf, ShareUpdateExclusiveLock, &existing))
	{
		cm_scope_leave(&scope);
		return;
	}
	clear_name(leaf);

	/*
	 * All locks that anybody can hold are ours, and no reader or writer waits
	 * for them: many indexes may take their time.
	 */
	(void) cm_deadline_disarm();
	model = cm_partition_leaf_model(leaf, existing);
	pin_tablespace(leaf, model);
	create_table(leaf, model);
	relid = find_table(leaf);
	cm_partition_execute(psprintf("COMMENT ON TABLE %s IS %s", cm_partition_leaf_quoted(leaf),
					 quote_literal_cstr(psprintf(CM_PARTITION_MARK "%s",
												 cm_relation_quoted(leaf->parent)))));
	copy_privileges(relid, model);
	copy_n_distinct(relid, model);
	cm_scope_leave(&scope);
}

/*
 * Replica identity like the model's.  An index that serves as identity is
 * found again as the leaf's index under the same index of the parent, so
 * this comes after the attaching.
 */
void
cm_partition_leaf_identity(Oid relid, Oid model)
{
	Oid			args[2] = {relid, model};

	cm_partition_execute_each("SELECT format('ALTER TABLE %s REPLICA IDENTITY %s', $1::regclass,"
							  "              CASE m.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END)"
							  "  FROM pg_class m WHERE m.oid = $2 AND m.relreplident IN ('f', 'n')"
							  " UNION ALL "
							  "SELECT format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', $1::regclass, lc.relname)"
							  "  FROM pg_class m"
							  "  JOIN pg_index mi ON mi.indrelid = m.oid AND mi.indisreplident"
							  "  LEFT JOIN pg_inherits mh ON mh.inhrelid = mi.indexrelid AND m.relkind = 'r'"
							  "  JOIN pg_inherits lh ON lh.inhparent = coalesce(mh.inhparent, mi.indexrelid)"
							  "  JOIN pg_index li ON li.indexrelid = lh.inhrelid AND li.indrelid = $1"
							  "  JOIN pg_class lc ON lc.oid = li.indexrelid"
							  " WHERE m.oid = $2 AND m.relreplident = 'i'",
							  2, args);
}

/* FOR VALUES FROM (...) TO (...), as cm_partition_bound_sql() has the ends. */
char *
cm_partition_bounds_sql(const List *existing, const CmAxis *axis, int64 from, int64 to)
{
	return psprintf("FOR VALUES FROM (%s) TO (%s)",
					cm_partition_bound_sql(existing, axis, from),
					cm_partition_bound_sql(existing, axis, to));
}

/*
 * The statement that attaches the leaf to the parent, or to another table like
 * it, quoted.  existing: the parent's partitions, for their exact bounds.
 */
char *
cm_partition_attach_sql(const char *parent, const CmLeaf *leaf, const List *existing)
{
	return psprintf("ALTER TABLE %s ATTACH PARTITION %s %s", parent, cm_partition_leaf_quoted(leaf),
					cm_partition_bounds_sql(existing, &leaf->axis, leaf->from, leaf->to));
}

/* ATTACH, and what can only be said of a partition.  Caller has the locks. */
static void
attach_table(const CmLeaf *leaf, const List *existing)
{
	Oid			model = cm_partition_leaf_model(leaf, existing);

	cm_partition_execute(cm_partition_attach_sql(cm_relation_quoted(leaf->parent), leaf, existing));
	cm_partition_leaf_identity(find_table(leaf), model);
	cm_partition_execute(psprintf("COMMENT ON TABLE %s IS NULL", cm_partition_leaf_quoted(leaf)));
}

/*
 * Second step: attach the table.  If the range was taken by another partition
 * since it was planned, or the table is gone, nothing is done and leaf->stale
 * set.
 */
void
cm_partition_leaf_attach(void *arg)
{
	CmLeaf	   *leaf = arg;
	CmScope		scope;
	List	   *existing;

	/* In one transaction with the first step, that has ended the deadline. */
	cm_deadline_arm(cm_ddl_deadline);
	cm_partition_enter(&scope, leaf->owner);

	/* Whoever forgot the set meanwhile has removed the table. */
	if (lock_parent(leaf, ShareUpdateExclusiveLock, &existing))
		leaf->stale = !OidIsValid(find_table(leaf));
	if (!leaf->stale)
	{
		if (!cm_partition_locks_others(leaf->parent))
			(void) cm_deadline_disarm();
		attach_table(leaf, existing);
	}
	cm_scope_leave(&scope);
}

/*
 * Lock what a move of rows from the default partition must be alone with:
 * writers of the parent, who could be on their way into the default partition
 * and would be refused there after the move; whoever locks rows in it; and
 * both ends of foreign keys, whose checks look for the rows.  Readers go on.
 */
static void
lock_for_drain(const CmLeaf *leaf, Oid rest)
{
	ListCell   *lc;

	LockRelationOid(rest, ExclusiveLock);
	foreach(lc, cm_partition_partners(leaf->parent))
		LockRelationOid(lfirst_oid(lc), ShareRowExclusiveLock);
}

/* Move the rows that belong in the leaf.  Caller has the locks. */
static void
move_rows(CmLeaf *leaf, Oid rest, const List *existing)
{
	char	   *key = cm_partition_key_name(leaf->parent);
	char	   *columns = cm_partition_columns(leaf->parent);
	StringInfoData sql;
	CmScope		scope;

	initStringInfo(&sql);
	appendStringInfo(&sql, "WITH moved AS (DELETE FROM %s WHERE %s IS NOT NULL", cm_relation_quoted(rest), key);
	if (leaf->from != DT_NOBEGIN)
		appendStringInfo(&sql, " AND %s >= %s", key, cm_partition_bound_sql(existing, &leaf->axis, leaf->from));
	if (leaf->to != DT_NOEND)
		appendStringInfo(&sql, " AND %s < %s", key, cm_partition_bound_sql(existing, &leaf->axis, leaf->to));
	appendStringInfo(&sql, " RETURNING %s) INSERT INTO %s (%s) SELECT %s FROM moved",
					 columns, cm_partition_leaf_quoted(leaf), columns, columns);

	cm_owner_enter(&scope, leaf->owner, true);
	cm_partition_see_all_rows();
	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	cm_partition_execute(sql.data);
	leaf->rows = SPI_processed;
	cm_scope_leave(&scope);
}

/*
 * Second step where rows of the default partition belong in the table: move
 * them and attach it, so that a reader finds them in one or the other.  A row
 * that moves is none that was deleted: triggers and foreign keys take no
 * notice, but for triggers ENABLEd ALWAYS.  ATTACH itself checks foreign keys
 * and that no row was left.
 *
 * A snapshot that is older than the move and asks for a range of keys finds
 * the rows in neither; the caller waits for those that are there to stay
 * (partition_locks.c).  One that is taken in the moment between its look and
 * our commit, by a REPEATABLE READ transaction, is not seen.
 */
void
cm_partition_leaf_drain(void *arg)
{
	CmLeaf	   *leaf = arg;
	CmScope		scope;
	List	   *existing;
	Oid			rest;

	cm_partition_enter(&scope, leaf->owner);
	if (lock_parent(leaf, ShareRowExclusiveLock, &existing))
		leaf->stale = !OidIsValid(find_table(leaf));
	rest = get_default_partition_oid(leaf->parent);
	if (!leaf->stale && OidIsValid(rest))
	{
		lock_for_drain(leaf, rest);
		move_rows(leaf, rest, existing);
		attach_table(leaf, existing);
	}
	cm_scope_leave(&scope);
}

/* Take back the first step. */
void
cm_partition_leaf_drop(void *arg)
{
	CmLeaf	   *leaf = arg;
	CmScope		scope;
	Oid			relid;

	cm_partition_enter(&scope, leaf->owner);
	relid = find_table(leaf);
	if (OidIsValid(relid) && is_leftover(relid, leaf))
		(void) drop_if_empty(relid, cm_partition_leaf_quoted(leaf));
	cm_scope_leave(&scope);
}
