/*-------------------------------------------------------------------------
 *
 * relation_rename.c
 *	  Keep the names in the dumped tables in step with the relations.
 *
 * cm_relations_reconcile() follows a rename or a change of schema (same oid
 * in relation_map, other name in pg_class: the names are corrected in every
 * table), survives a restore (no oid yet: the name is looked up) and follows
 * a change of owner.  It runs before each job and at each door that changes
 * the tables.
 *
 * Names are corrected in two passes, through names that nothing can have, so
 * that relations which exchange theirs do not meet half way.  Between the
 * two, a row that still bears the new name of a renamed relation must mean
 * one that is gone, since no two relations have one name.  Where both have
 * settings of a kind, the gone one's are deleted; where only the gone one
 * has, its name keeps them, for the relation that took its place.
 *
 * Locks: relation_map in SHARE ROW EXCLUSIVE mode, only when something is to
 * be written, so that two processes do not correct the same names at once;
 * readers of the map do not wait.  It and the rows that are corrected may be
 * held by a transaction of anybody's: a door waits for it as for any row, a
 * worker hardly (cm_relations_try_reconcile).
 *
 * After an error the (sub)transaction's abort undoes everything.
 *
 * What it does not do: it never locks or opens a user's relation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/guc.h"

#include "concertmaster.h"

/* Begins the schema of a relation that is between two names; users cannot use it. */
#define BETWEEN "'pg_renamed_'"

/*
 * What became of the relations that bear another name than in relation_map:
 * the parameters of every statement below that follows them.  Read once, or a
 * rename that is committed meanwhile would be seen by some of them only.
 */
typedef struct Renames
{
	Datum		values[5];
	char		nulls[5];
} Renames;

#define RENAMES \
	"unnest($1, $2, $3, $4, $5) AS r (relid, old_schema, old_name, new_schema, new_name)"

/* Every dumped table that names relations. */
typedef struct NamedIn
{
	const char *table;
	const char *schema_column;
	const char *name_column;
	const char *between;		/* further columns to set in the first pass */
	const char *after;			/* and in the second */
	const char *same_key;		/* does a row g stand where row t shall go? NULL: let it */
} NamedIn;

static const NamedIn named_in[] =
{
	{"job", "schema_name", "relation_name",
		", name = 'renamed ' || t.job_id",
		", name = t.kind || ' ' || format('%I.%I', r.new_schema, r.new_name)",
	"g.name = t.kind || ' ' || format('%I.%I', r.new_schema, r.new_name)"},
	{"partition_set", "schema_name", "table_name", "", "",
	"g.schema_name = r.new_schema AND g.table_name = r.new_name"},
	{"matview", "schema_name", "view_name", "", "",
	"g.schema_name = r.new_schema AND g.view_name = r.new_name"},
	{"matview", "history_schema", "history_name", "", "", NULL},

	/* Its key is the index: the other row can also mean a table that is there. */
	{"index_plan", "schema_name", "table_name", "", "",
		"g.schema_name = r.new_schema AND g.index_name = t.index_name"
		" AND NOT EXISTS (SELECT FROM pg_class k JOIN pg_namespace s ON s.oid = k.relnamespace"
	"   WHERE s.nspname = g.schema_name AND k.relname = g.table_name AND k.oid <> ALL ($1))"},
};

/*
 * Is there anything to write but owners?  Scalar subqueries keep the planner,
 * which knows little of our small tables, from reading all of pg_class; LIMIT,
 * as an old snapshot sees an old name beside the same one made since.
 */
static bool
reconcile_needed(void)
{
	cm_query("SELECT 1 FROM concertmaster.relation_map m"
				" WHERE (SELECT (c.relname, (SELECT n.nspname FROM pg_namespace n WHERE n.oid = c.relnamespace))"
				"               = (m.relation_name, m.schema_name)"
				"          FROM pg_class c WHERE c.oid = m.relid) IS NOT TRUE"
				" UNION ALL "
				"SELECT 1 FROM concertmaster.managed_names v"
				" WHERE v.relid IS NULL AND"
				"       (SELECT c.oid FROM pg_class c WHERE c.relname = v.relation_name"
				"           AND c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = v.schema_name LIMIT 1)"
				"         LIMIT 1) IS NOT NULL"
				" LIMIT 1", 0, NULL, NULL, NULL);
	return SPI_processed > 0;
}

/* Find what was renamed, moved or dropped.  Returns false if nothing was. */
static bool
find_renames(Renames *renames)
{
	SPI_execute("SELECT array_agg(m.relid), array_agg(m.schema_name), array_agg(m.relation_name),"
				"       array_agg(n.nspname), array_agg(c.relname)"
				"  FROM concertmaster.relation_map m"
				"  LEFT JOIN pg_class c ON c.oid = m.relid"
				"  LEFT JOIN pg_namespace n ON n.oid = c.relnamespace"
				" WHERE (n.nspname, c.relname) IS DISTINCT FROM (m.schema_name, m.relation_name)",
				false, 0);
	for (int i = 0; i < lengthof(renames->values); i++)
	{
		bool		isnull;

		renames->values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
										   i + 1, &isnull);
		renames->nulls[i] = isnull ? 'n' : ' ';
	}
	return renames->nulls[0] == ' ';
}

/* Run a statement about the renames. */
static void
execute(Renames *renames, const char *sql)
{
	Oid			types[5] = {OIDARRAYOID, NAMEARRAYOID, NAMEARRAYOID, NAMEARRAYOID, NAMEARRAYOID};

	if (SPI_execute_with_args(sql, lengthof(types), types, renames->values, renames->nulls,
							  false, 0) < 0)
		elog(ERROR, "statement failed: %s", sql);
}

/* First pass: take the rows of renamed relations out of the way. */
static void
leave_old_names(Renames *renames, const NamedIn *in)
{
	execute(renames,
			psprintf("UPDATE concertmaster.%s t SET %s = " BETWEEN " || r.relid%s"
					 "  FROM " RENAMES
					 " WHERE t.%s = r.old_schema AND t.%s = r.old_name"
					 "   AND r.new_name IS NOT NULL",
					 in->table, in->schema_column, in->between, in->schema_column, in->name_column));
}

/* Delete what relations that are gone have left at the new names. */
static void
clear_new_names(Renames *renames, const NamedIn *in)
{
	if (in->same_key == NULL)
		return;
	execute(renames,
			psprintf("DELETE FROM concertmaster.%s g USING concertmaster.%s t"
					 "  JOIN " RENAMES " ON t.schema_name = " BETWEEN " || r.relid"
					 " WHERE %s",
					 in->table, in->table, in->same_key));
}

/*
 * An index of the same name can be planned in the schema that a table was
 * moved to, for another table.  There can be only one of them; that of the
 * table that was there first stays.
 */
static void
forget_index_clashes(Renames *renames)
{
	execute(renames,
			"WITH r AS (SELECT * FROM " RENAMES ")"
			" DELETE FROM concertmaster.index_plan t USING r"
			" WHERE t.schema_name = " BETWEEN " || r.relid"
			"   AND EXISTS (SELECT FROM concertmaster.index_plan o"
			"      LEFT JOIN r q ON o.schema_name = " BETWEEN " || q.relid"
			"      WHERE o.index_name = t.index_name"
			"        AND (o.schema_name = r.new_schema"
			"             OR (q.new_schema = r.new_schema AND q.relid < r.relid)))"
			" RETURNING t.index_name, r.new_name, r.new_schema");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		ereport(WARNING,
				(errmsg("planned index \"%s\" of table \"%s\" is planned no more",
						SPI_getvalue(row, desc, 1), SPI_getvalue(row, desc, 2)),
				 errdetail("The table is in schema \"%s\" now, where an index of that name is planned for another table.",
						   SPI_getvalue(row, desc, 3)),
				 errhint("Put it into concertmaster.index_plan again, under another name.")));
	}
}

/* Second pass: give the rows of renamed relations their present names. */
static void
take_new_names(Renames *renames, const NamedIn *in)
{
	execute(renames,
			psprintf("UPDATE concertmaster.%s t SET %s = r.new_schema, %s = r.new_name%s"
					 "  FROM " RENAMES
					 " WHERE t.%s = " BETWEEN " || r.relid",
					 in->table, in->schema_column, in->name_column, in->after, in->schema_column));
}

/* Give every dumped table, and the map, the present names of the relations they mean. */
static void
follow_renames(void)
{
	Renames		renames;

	if (!find_renames(&renames))
		return;
	for (int i = 0; i < lengthof(named_in); i++)
	{
		leave_old_names(&renames, &named_in[i]);
		clear_new_names(&renames, &named_in[i]);
	}
	forget_index_clashes(&renames);
	for (int i = 0; i < lengthof(named_in); i++)
		take_new_names(&renames, &named_in[i]);

	execute(&renames, "DELETE FROM concertmaster.relation_map WHERE relid = ANY ($1)");
	execute(&renames,
			"INSERT INTO concertmaster.relation_map (schema_name, relation_name, relid)"
			" SELECT r.new_schema, r.new_name, r.relid FROM " RENAMES
			" WHERE r.new_name IS NOT NULL"
			" ON CONFLICT DO NOTHING");
}

/*
 * Bring names, oids and owners in step: follow renames and changes of schema
 * and owner, forget the oids of relations that are gone, look up names that
 * have no oid yet.  Caller is in a transaction that may write.
 */
void
cm_relations_reconcile(void)
{
	CmScope		scope;

	cm_catalog_enter(&scope);
	if (reconcile_needed())
	{
		SPI_execute("LOCK TABLE concertmaster.relation_map IN SHARE ROW EXCLUSIVE MODE", false, 0);
		follow_renames();
		SPI_execute("INSERT INTO concertmaster.relation_map (schema_name, relation_name, relid)"
					" SELECT DISTINCT v.schema_name, v.relation_name, c.oid"
					"   FROM concertmaster.managed_names v"
					"   JOIN pg_namespace n ON n.nspname = v.schema_name"
					"   JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = v.relation_name"
					"  WHERE v.relid IS NULL"
					" ON CONFLICT DO NOTHING",
					false, 0);
	}
	cm_query("UPDATE concertmaster.job j SET owner = o.owner"
				"  FROM concertmaster.relation_map m,"
				"       LATERAL (SELECT (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = m.relid) AS owner) o"
				" WHERE m.schema_name = j.schema_name AND m.relation_name = j.relation_name"
				"   AND j.owner <> o.owner",
				0, NULL, NULL, NULL);
	cm_scope_leave(&scope);
}

/* The step of cm_relations_try_reconcile(). */
static void
reconcile_step(void *arg)
{
	int			nestlevel = NewGUCNestLevel();

	cm_lock_waits_limit();
	cm_relations_reconcile();
	AtEOXact_GUC(false, nestlevel);
}

/*
 * The same for a worker, whom no transaction of a user's and no rename that
 * we cannot follow may keep from its work: if a lock is not to be had in a
 * deadline, or on an error, which is logged, false is returned, and the names
 * stay as they are until the next time.
 */
bool
cm_relations_try_reconcile(void)
{
	ErrorData  *edata = cm_subtransaction(reconcile_step, NULL);

	if (edata == NULL)
		return true;
	if (cm_error_means_later(edata, false))
		return false;
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(edata);
	ereport(LOG,
			(errcode(edata->sqlerrcode),
			 errmsg("could not follow the names of relations: %s", edata->message),
			 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
			 edata->context ? errcontext("%s", edata->context) : 0));
	return false;
}
