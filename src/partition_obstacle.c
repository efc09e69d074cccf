/*-------------------------------------------------------------------------
 *
 * partition_obstacle.c
 *	  Why a default partition cannot be split, in words.
 *
 * Splitting (partition_split.c) puts copies in the place of the default
 * partition.  Where a copy would not be as good, it is refused beforehand,
 * and the reason says what to do:
 *
 *	 - changes of a row could not be followed: it is no plain table, nothing
 *	   tells its rows apart, a unique constraint can be deferred, row security
 *	   hides rows
 *	 - something belongs to the table itself, not to the set: triggers, views,
 *	   publications, foreign keys to it, sequences, policies
 *	 - the exchange would take too long or break something: foreign keys of
 *	   the set, either way
 *	 - the copies would be published
 *
 * Locks: none.  Reads the catalog with the transaction's snapshot, as the
 * extension's owner.
 *
 * What it does not do: keep any of this from changing.  What matters is looked
 * at again, under locks, by the signature (partition_replay.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/lsyscache.h"

#include "partition_split.h"

/* A reason, and the query that finds it: $1 the parent, $2 the default partition, one text or none. */
static const char *const obstacle_queries[] = {
	"SELECT format('default partition %s is not a plain table; move its rows by hand', $2::regclass)"
	"  FROM pg_class WHERE oid = $2 AND relkind <> 'r'",

	"SELECT format('default partition %s belongs to role %I, its table to role %I; give both to the same role',"
	"              $2::regclass, pg_get_userbyid(d.relowner), pg_get_userbyid(p.relowner))"
	"  FROM pg_class d, pg_class p WHERE d.oid = $2 AND p.oid = $1 AND d.relowner <> p.relowner",

	"SELECT format('foreign key %I of table %s references it; drop the foreign key meanwhile, or move the rows by hand',"
	"              conname, conrelid::regclass)"
	"  FROM pg_constraint WHERE contype = 'f' AND confrelid IN ($1, $2) ORDER BY conparentid, conname LIMIT 1",

	"SELECT format('it has a foreign key (%I) to table %s; drop that meanwhile, or move the rows by hand',"
	"              conname, confrelid::regclass)"
	"  FROM pg_constraint WHERE contype = 'f' AND conrelid IN ($1, $2) ORDER BY conparentid, conname LIMIT 1",

	"SELECT format('constraint %I of table %s is deferrable; make it NOT DEFERRABLE meanwhile', conname, conrelid::regclass)"
	"  FROM pg_constraint WHERE conrelid IN ($1, $2) AND condeferrable AND contype IN ('p', 'u', 'x')"
	" ORDER BY conparentid, conname LIMIT 1",

	"SELECT format('default partition %s has row security, which can hide rows; disable it meanwhile', $2::regclass)"
	"  FROM pg_class WHERE oid = $2 AND (relrowsecurity OR relforcerowsecurity)",

	"SELECT format('trigger %I is on default partition %s itself; make it one of table %s instead',"
	"              tgname, $2::regclass, $1::regclass)"
	"  FROM pg_trigger WHERE tgrelid = $2 AND NOT tgisinternal AND tgparentid = 0"
	"   AND tgname <> '" CM_CAPTURE_TRIGGER "' AND tgfoid <> 'concertmaster.log_changes()'::regprocedure"
	" ORDER BY tgname LIMIT 1",

	"SELECT format('%s depends on default partition %s itself; let it depend on table %s instead',"
	"              pg_describe_object(classid, objid, objsubid), $2::regclass, $1::regclass)"
	"  FROM pg_depend d"
	" WHERE (refclassid, refobjid) IN (('pg_class'::regclass, $2),"
	"                                 ('pg_type'::regclass, (SELECT reltype FROM pg_class WHERE oid = $2)))"
	"   AND (classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass, 'pg_policy'::regclass, 'pg_publication_rel'::regclass)"
	"        OR classid = 'pg_class'::regclass"
	"           AND (SELECT relkind FROM pg_class c WHERE c.oid = objid) IN ('S', 'r', 'p', 'c', 'm', 'v', 'f')"
	"           AND objid <> $2)"
	" ORDER BY classid, objid LIMIT 1",

	"SELECT format('publication %I takes in whole schemas, so it would publish the copies; let it name its tables', pubname)"
	"  FROM pg_publication p"
	" WHERE puballtables OR EXISTS (SELECT FROM pg_publication_namespace n, pg_class c"
	"                                WHERE n.pnpubid = p.oid AND c.oid IN ($1, $2) AND n.pnnspid = c.relnamespace)"
	" ORDER BY pubname LIMIT 1",

	"SELECT format('publication %I publishes partitions each by its own name; set publish_via_partition_root', pubname)"
	"  FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid"
	" WHERE NOT p.pubviaroot"
	"   AND (r.prrelid = $1 OR r.prrelid IN (SELECT relid FROM pg_partition_ancestors($1)))"
	" ORDER BY pubname LIMIT 1",
};

/* The first reason that a query finds, or NULL. */
static char *
first_obstacle(Oid parent, Oid rest)
{
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		values[2];

	values[0] = ObjectIdGetDatum(parent);
	values[1] = ObjectIdGetDatum(rest);
	for (int i = 0; i < lengthof(obstacle_queries); i++)
	{
		if (cm_query(obstacle_queries[i], 2, types, values, NULL) != SPI_OK_SELECT)
			elog(ERROR, "query failed");
		if (SPI_processed > 0)
			return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	}
	return NULL;
}

/*
 * Why the default partition cannot be split, in words that say what to do; or
 * NULL if it can.
 */
char *
cm_partition_obstacle(Oid parent, Oid rest)
{
	MemoryContext context = CurrentMemoryContext;
	CmSplit		split = {.parent = parent,.rest = rest};
	CmScope		scope;
	char	   *text;

	cm_catalog_enter(&scope);
	text = first_obstacle(parent, rest);
	if (text == NULL && !cm_partition_split_key(&split))
		text = psprintf("default partition %s has no unique index of columns that are NOT NULL; create one on it",
						cm_relation_quoted(rest));
	if (text != NULL)
		text = MemoryContextStrdup(context, text);
	cm_scope_leave(&scope);
	return text;
}
