/*-------------------------------------------------------------------------
 *
 * conversion_step.c
 *	  The steps of a conversion, each with its lock, its time and its disk.
 *
 * Times are estimates from the sizes of files and the number of rows that the
 * last ANALYZE or VACUUM left in pg_class, at the rates of pace.c.  What waits
 * for old transactions is not in it.  A step that others wait for lasts the
 * deadline at most: then it gives way and is tried again.
 *
 * The swap asks for locks in the order in which writers do: the table, then
 * what it references, then what references it.
 *
 * Pure but for the names of relations: no locks, nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "concertmaster.h"
#include "conversion_composite.h"
#include "pace.h"

/* To write a row anew; assumed, and low. */
#define FILL_MS_PER_ROW		0.01

/* Bytes of an index entry beside those of its columns' own index: a timestamp, at most a uuid. */
#define KEY_BYTES			16.0

/* A name qualified by the table's schema. */
static char *
in_schema(const CmConversion *conversion, const char *name)
{
	return quote_qualified_identifier(conversion->schema_name, name);
}

/* Bytes of a unique index with the key. */
int64
cm_conversion_index_bytes(const CmConversion *conversion, const CmConversionIndex *index)
{
	return index->bytes + (int64) (conversion->rows * KEY_BYTES);
}

/* What all steps before the swap take together; asked before they are planned. */
double
cm_conversion_total(const CmConversion *conversion)
{
	double		total = cm_scan_milliseconds(conversion->heap_bytes) + list_length(conversion->unique_indexes) * cm_build_milliseconds(conversion->heap_bytes, conversion->rows);
	ListCell   *cell;

	foreach(cell, conversion->references)
	{
		CmConversionReference *reference = lfirst(cell);

		total += cm_scan_milliseconds(reference->bytes);
	}
	return total;
}

/* Add a step. */
static CmConversionStep *
add_step(CmConversion *conversion, CmConversionStepKind kind, char *object, char *detail, char *statement)
{
	CmConversionStep *step = palloc0(sizeof(CmConversionStep));

	step->kind = kind;
	step->object = object;
	step->detail = detail;
	step->statement = statement;
	conversion->steps = lappend(conversion->steps, step);
	return step;
}

/* A step that others wait for, hence under the deadline. */
static void
set_blocking(CmConversionStep *step, char *lock)
{
	step->lock = lock;
	step->blocks = true;
	step->milliseconds = cm_ddl_deadline;
}

/* A step that nobody waits for. */
static void
set_quiet(CmConversionStep *step, char *lock, double milliseconds, double disk_bytes)
{
	step->lock = lock;
	step->milliseconds = milliseconds;
	step->disk_bytes = (int64) disk_bytes;
}

/* That all rows are below the bound is proved before, so that attaching scans nothing. */
static void
plan_bound(CmConversion *conversion)
{
	char	   *check = (char *) quote_identifier(conversion->check_name);
	CmConversionStep *step;

	step = add_step(conversion, CM_CONVERT_ADD_CHECK, conversion->quoted, "rows at the bound or above are refused from here on",
					psprintf("ALTER TABLE %s ADD CONSTRAINT %s CHECK (%s IS NOT NULL AND %s < %s) NOT VALID", conversion->quoted, check,
							 conversion->key_quoted, conversion->key_quoted, conversion->bound ? conversion->bound : "..."));
	set_blocking(step, psprintf("AccessExclusiveLock on %s", conversion->quoted));
	step = add_step(conversion, CM_CONVERT_VALIDATE_CHECK, conversion->quoted, "reads the table; fails if a row is in the way",
					psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", conversion->quoted, check));
	set_quiet(step, psprintf("ShareUpdateExclusiveLock on %s", conversion->quoted), cm_scan_milliseconds(conversion->heap_bytes), 0);
	if (conversion->key_not_null)
		return;
	step = add_step(conversion, CM_CONVERT_SET_NOT_NULL, conversion->quoted, "the constraint proves it, so nothing is read",
					psprintf("ALTER TABLE %s ALTER COLUMN %s SET NOT NULL", conversion->quoted, conversion->key_quoted));
	set_blocking(step, psprintf("AccessExclusiveLock on %s", conversion->quoted));
}

/* The statement that builds a unique index with the key. */
char *
cm_conversion_unique_index(const CmConversion *conversion, const CmConversionIndex *index)
{
	return psprintf("CREATE UNIQUE INDEX CONCURRENTLY %s ON %s (%s)%s", quote_identifier(index->replacement),
					conversion->quoted, index->columns, index->suffix);
}

/* Unique indexes with the key. */
static void
plan_indexes(CmConversion *conversion)
{
	ListCell   *cell;

	foreach(cell, conversion->unique_indexes)
	{
		CmConversionIndex *index = lfirst(cell);
		CmConversionStep *step;

		step = add_step(conversion, CM_CONVERT_BUILD_INDEX, in_schema(conversion, index->replacement),
						psprintf("takes the place of %s; waits until older transactions are over", quote_identifier(index->name)),
						cm_conversion_unique_index(conversion, index));
		set_quiet(step, psprintf("ShareUpdateExclusiveLock on %s", conversion->quoted), cm_build_milliseconds(conversion->heap_bytes, conversion->rows),
				  cm_conversion_index_bytes(conversion, index));
	}
}

/* A foreign key that is to have the key, too: the column, its values, an index if there is none, and the proof. */
static void
plan_composite(CmConversion *conversion, const CmComposite *composite)
{
	const char *column = quote_identifier(composite->column);
	CmConversionStep *step;

	step = add_step(conversion, CM_CONVERT_ADD_COLUMN, composite->table,
					psprintf("one transaction: column %s %s, function %s() and triggers that fill it, and foreign key (%s, %s) -> (%s, %s), NOT VALID",
							 column, composite->column_type, composite->function, composite->columns, column, composite->referenced, conversion->key_quoted),
					NULL);
	set_blocking(step, psprintf("AccessExclusiveLock on %s, ShareRowExclusiveLock on %s", composite->table, conversion->quoted));
	step = add_step(conversion, CM_CONVERT_FILL_COLUMN, composite->table,
					"8 blocks at a time; what writes the same rows waits for that; fires no trigger but those ENABLEd ALWAYS or REPLICA", NULL);
	set_quiet(step, psprintf("RowExclusiveLock on %s, RowShareLock on %s, and on their rows", composite->table, conversion->quoted),
			  cm_scan_milliseconds(composite->bytes) + composite->rows * FILL_MS_PER_ROW, composite->bytes);
	if (composite->needs_index)
	{
		step = add_step(conversion, CM_CONVERT_BUILD_INDEX, composite->table, "for cascades; waits until older transactions are over",
						cm_composite_index(composite));
		set_quiet(step, psprintf("ShareUpdateExclusiveLock on %s", composite->table),
				  cm_build_milliseconds(composite->bytes, composite->rows), cm_composite_index_bytes(composite));
	}
	step = add_step(conversion, CM_CONVERT_VALIDATE_KEY, composite->table, "reads the table; proves that every row is filled",
					psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", composite->table, cm_composite_key(composite)));
	set_quiet(step, psprintf("ShareUpdateExclusiveLock on %s, RowShareLock on %s", composite->table, conversion->quoted),
			  cm_scan_milliseconds(composite->bytes), 0);
}

static void
plan_composites(CmConversion *conversion)
{
	ListCell   *cell;

	foreach(cell, conversion->composites)
		plan_composite(conversion, lfirst(cell));
}

/* Tables at the other end of foreign keys, without repetition; outgoing ones or those to us. */
static char *
other_tables(const CmConversion *conversion, bool outgoing)
{
	StringInfoData text;
	List	   *seen = NIL;
	ListCell   *cell;

	initStringInfo(&text);
	foreach(cell, outgoing ? conversion->referenced : conversion->references)
	{
		Oid			relid = outgoing ? lfirst_oid(cell) : ((CmConversionReference *) lfirst(cell))->relid;

		if (relid == conversion->relid || list_member_oid(seen, relid))
			continue;
		seen = lappend_oid(seen, relid);
		appendStringInfo(&text, ", %s", cm_relation_quoted(relid));
	}
	return text.data;
}

/* The partitioned table, and the exchange. */
static void
plan_swap(CmConversion *conversion)
{
	char	   *outgoing = other_tables(conversion, true);
	char	   *incoming = other_tables(conversion, false);
	CmConversionStep *step;

	step = add_step(conversion, CM_CONVERT_CREATE, in_schema(conversion, conversion->new_name),
					"like the table, partitioned, with the same constraints, indexes and foreign keys, and empty partitions from the bound on",
					psprintf("CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING GENERATED INCLUDING COMMENTS) PARTITION BY RANGE (%s)",
							 in_schema(conversion, conversion->new_name), conversion->quoted, conversion->key_quoted));
	set_quiet(step, psprintf("AccessShareLock on %s%s", conversion->quoted,
							 *outgoing ? psprintf(", ShareRowExclusiveLock on %s under the deadline", outgoing + 2) : ""), 0, 0);
	step->blocks = *outgoing != '\0';
	if (step->blocks)
		step->milliseconds = cm_ddl_deadline;

	step = add_step(conversion, CM_CONVERT_SWAP, conversion->quoted,
					psprintf("one transaction: keys exchanged, triggers moved, %s renamed to %s, the partitioned table renamed to %s, the old part attached below the bound, what goes by oid made anew",
							 quote_identifier(conversion->name), quote_identifier(conversion->old_name), quote_identifier(conversion->name)), NULL);
	set_blocking(step, psprintf("AccessExclusiveLock on %s%s%s%s; then on the views that are made anew",
								conversion->quoted, outgoing, incoming, *outgoing || *incoming ? ", in this order" : ""));
}

/* Of a foreign key that the swap makes anew. */
static void
plan_validation(CmConversion *conversion, Oid relid, const char *name, int64 bytes)
{
	char	   *table = cm_relation_quoted(relid);
	CmConversionStep *step;

	step = add_step(conversion, CM_CONVERT_VALIDATE_KEY, table, "it holds for new rows from the swap on",
					psprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", table, quote_identifier(name)));
	set_quiet(step, psprintf("ShareUpdateExclusiveLock on %s, RowShareLock on %s", table, conversion->quoted), cm_scan_milliseconds(bytes), 0);
}

/* What is left after it. */
static void
plan_rest(CmConversion *conversion)
{
	CmConversionStep *step;
	ListCell   *cell;

	foreach(cell, conversion->references)
	{
		CmConversionReference *reference = lfirst(cell);

		if (reference->has_key && reference->relid != conversion->relid)
			plan_validation(conversion, reference->relid, reference->name, reference->bytes);
	}
	foreach(cell, conversion->composites)
	{
		CmComposite *composite = lfirst(cell);

		plan_validation(conversion, composite->relid, composite->name, composite->bytes);
	}
	step = add_step(conversion, CM_CONVERT_DROP_CHECK, in_schema(conversion, conversion->old_name), "the partition's bound says the same",
					psprintf("ALTER TABLE %s DROP CONSTRAINT %s", in_schema(conversion, conversion->old_name), quote_identifier(conversion->check_name)));
	set_blocking(step, psprintf("AccessExclusiveLock on %s", in_schema(conversion, conversion->old_name)));
	step = add_step(conversion, CM_CONVERT_ANALYZE, conversion->quoted, "a partitioned table has statistics of its own, which autovacuum never makes",
					psprintf("ANALYZE %s", conversion->quoted));
	set_quiet(step, psprintf("ShareUpdateExclusiveLock on %s and its partitions", conversion->quoted),
			  cm_scan_milliseconds(Min((double) conversion->heap_bytes, 30000.0 * BLCKSZ)), 0);
}

/* All steps, in order. */
void
cm_conversion_plan_steps(CmConversion *conversion)
{
	MemoryContext caller = MemoryContextSwitchTo(conversion->context);

	plan_indexes(conversion);
	plan_composites(conversion);
	plan_bound(conversion);
	plan_swap(conversion);
	plan_rest(conversion);
	MemoryContextSwitchTo(caller);
}
