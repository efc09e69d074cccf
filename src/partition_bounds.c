/*-------------------------------------------------------------------------
 *
 * partition_bounds.c
 *	  What partitions a table has, and whether we can work on it.
 *
 * Bounds are read from pg_class.relpartbound, children from pg_inherits, the
 * key from pg_partitioned_table: catalog rows only.  No lock is taken on any
 * relation of the user's, so the listing views can be read while DDL waits
 * or runs.  What is read may be outdated by the time it is used; who acts on
 * it locks the parent and looks again (partition_leaf.c).
 *
 * What it does not do: descend below the direct partitions of a table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_partitioned_table.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "partition.h"

PG_FUNCTION_INFO_V1(cm__partitions);
PG_FUNCTION_INFO_V1(cm__partition_summary);

/* Only what a hint can say about a relation that is not partitioned. */
static void
report_not_partitioned(Oid relid)
{
	char		relkind = get_rel_relkind(relid);

	if (relkind == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" is not a partitioned table", get_rel_name(relid)),
			 errdetail_relkind_not_supported(relkind),
			 relkind == RELKIND_RELATION ?
			 errhint("Create it with PARTITION BY RANGE on a column of type date or timestamp.") : 0));
}

/* Refuse keys that have no calendar. */
static void
report_key(Oid parent, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot manage the partitions of table \"%s\"", get_rel_name(parent)),
			 errdetail("%s", detail),
			 errhint("Partition the table BY RANGE on one column of type date, timestamp or timestamptz.")));
}

/* The type of the one column that a table is partitioned by, domains seen through. */
static Oid
read_key_type(Oid parent, Form_pg_partitioned_table form)
{
	AttrNumber	attnum = form->partattrs.values[0];
	Oid			type;
	int32		typmod;
	Oid			collation;

	if (form->partstrat == PARTITION_STRATEGY_LIST)
		report_key(parent, "It is partitioned by list.");
	if (form->partstrat == PARTITION_STRATEGY_HASH)
		report_key(parent, "It is partitioned by hash.");
	if (form->partnatts != 1)
		report_key(parent, "Its partition key has more than one column.");
	if (attnum == 0)
		report_key(parent, "Its partition key is an expression.");

	get_atttypetypmodcoll(parent, attnum, &type, &typmod, &collation);
	type = getBaseType(type);
	if (type != DATEOID && type != TIMESTAMPOID && type != TIMESTAMPTZOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("cannot manage the partitions of table \"%s\"", get_rel_name(parent)),
				 errdetail("Its partition key \"%s\" is of type %s.",
						   get_attname(parent, attnum, false), format_type_be(type)),
				 errhint("Partition the table by a column of type date, timestamp or timestamptz.")));
	return type;
}

/*
 * The type of the partition key: DATEOID, TIMESTAMPOID or TIMESTAMPTZOID.
 * Refuses everything that is not a permanent table partitioned by range of
 * one such column.
 */
Oid
cm_partition_key_type(Oid parent)
{
	HeapTuple	tuple;
	Oid			type;

	if (get_rel_relkind(parent) != RELKIND_PARTITIONED_TABLE)
		report_not_partitioned(parent);
	if (get_rel_persistence(parent) == RELPERSISTENCE_TEMP)
		report_key(parent, "It is temporary, so no worker can see it.");
	tuple = SearchSysCache1(PARTRELID, ObjectIdGetDatum(parent));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for partition key of %u", parent);
	type = read_key_type(parent, (Form_pg_partitioned_table) GETSTRUCT(tuple));
	ReleaseSysCache(tuple);
	return type;
}

/* One end of a range as a point. */
static int64
read_bound(const PartitionRangeDatum *bound)
{
	Const	   *value;

	if (bound->kind == PARTITION_RANGE_DATUM_MINVALUE)
		return DT_NOBEGIN;
	if (bound->kind == PARTITION_RANGE_DATUM_MAXVALUE)
		return DT_NOEND;
	value = castNode(Const, bound->value);
	if (value->consttype == DATEOID)
	{
		DateADT		date = DatumGetDateADT(value->constvalue);

		if (DATE_IS_NOBEGIN(date))
			return DT_NOBEGIN;
		if (DATE_IS_NOEND(date))
			return DT_NOEND;
		return date * USECS_PER_DAY;
	}
	return DatumGetTimestamp(value->constvalue);
}

/* What the catalog says about one child, or NULL if it is gone by now. */
static CmPartition *
read_partition(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	CmPartition *partition = NULL;
	Datum		datum;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	datum = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relpartbound, &isnull);
	if (!isnull)
	{
		PartitionBoundSpec *spec = stringToNode(TextDatumGetCString(datum));

		partition = palloc0(sizeof(CmPartition));
		partition->relid = relid;
		partition->is_default = spec->is_default;
		if (!spec->is_default)
		{
			partition->from = read_bound(linitial_node(PartitionRangeDatum, spec->lowerdatums));
			partition->to = read_bound(linitial_node(PartitionRangeDatum, spec->upperdatums));
		}
	}
	ReleaseSysCache(tuple);
	return partition;
}

/*
 * The direct partitions of a table that passed cm_partition_key_type(), as
 * CmPartition, in no order.  One whose detaching is pending counts: its range
 * is not free before that is finished.
 */
List *
cm_partition_existing(Oid parent)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	List	   *result = NIL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(parent));
	scan = systable_beginscan(inherits, InheritsParentIndexId, true, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		CmPartition *partition = read_partition(((Form_pg_inherits) GETSTRUCT(tuple))->inhrelid);

		if (partition != NULL)
			result = lappend(result, partition);
	}
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return result;
}

/* The first partition that holds any of from..to, or NULL. */
CmPartition *
cm_partition_overlapping(const List *existing, int64 from, int64 to)
{
	ListCell   *cell;

	foreach(cell, existing)
	{
		CmPartition *partition = lfirst(cell);

		if (!partition->is_default && partition->from < to && partition->to > from)
			return partition;
	}
	return NULL;
}

/*
 * The partitions of a table for the listing views: none when it is gone or
 * not ours to read, where the doors would raise an error.
 */
static bool
readable_set(Oid parent, Oid *key_type)
{
	HeapTuple	tuple = SearchSysCache1(PARTRELID, ObjectIdGetDatum(parent));
	Form_pg_partitioned_table form;
	int32		typmod;
	Oid			collation;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_partitioned_table) GETSTRUCT(tuple);
	*key_type = InvalidOid;
	if (form->partstrat == PARTITION_STRATEGY_RANGE && form->partnatts == 1 &&
		form->partattrs.values[0] != 0)
	{
		get_atttypetypmodcoll(parent, form->partattrs.values[0], key_type, &typmod, &collation);
		*key_type = getBaseType(*key_type);
	}
	ReleaseSysCache(tuple);
	return *key_type == DATEOID || *key_type == TIMESTAMPOID || *key_type == TIMESTAMPTZOID;
}

/* _partitions(parent oid, timezone text): leaf, range_from, range_to, is_default */
Datum
cm__partitions(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_GETARG_OID(0);
	pg_tz	   *zone = cm_partition_zone(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			key_type;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	if (!readable_set(parent, &key_type))
		return (Datum) 0;
	foreach(cell, cm_partition_existing(parent))
	{
		CmPartition *partition = lfirst(cell);
		bool		unbounded = partition->is_default;
		Datum		values[4];
		bool		nulls[4] = {false, unbounded, unbounded, false};

		values[0] = ObjectIdGetDatum(partition->relid);
		values[1] = TimestampTzGetDatum(cm_partition_instant(partition->from, key_type, zone));
		values[2] = TimestampTzGetDatum(cm_partition_instant(partition->to, key_type, zone));
		values[3] = BoolGetDatum(partition->is_default);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * _partition_summary(parent oid, timezone text): partitions, first_bound,
 * last_bound, covered_until
 */
Datum
cm__partition_summary(PG_FUNCTION_ARGS)
{
	Oid			parent = PG_GETARG_OID(0);
	pg_tz	   *zone = cm_partition_zone(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	TupleDesc	desc;
	Oid			key_type;
	List	   *existing;
	int64		first = DT_NOEND;
	int64		last = DT_NOBEGIN;
	int64		now;
	Datum		values[4];
	bool		nulls[4] = {false, true, true, true};
	ListCell   *cell;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!readable_set(parent, &key_type))
		PG_RETURN_NULL();

	existing = cm_partition_existing(parent);
	now = cm_partition_point(GetCurrentTransactionStartTimestamp(), key_type, zone);
	foreach(cell, existing)
	{
		CmPartition *partition = lfirst(cell);

		if (partition->is_default)
			continue;
		first = Min(first, partition->from);
		last = Max(last, partition->to);
		nulls[1] = nulls[2] = nulls[3] = false;
	}
	values[0] = Int32GetDatum(list_length(existing));
	values[1] = TimestampTzGetDatum(cm_partition_instant(first, key_type, zone));
	values[2] = TimestampTzGetDatum(cm_partition_instant(last, key_type, zone));
	values[3] = TimestampTzGetDatum(cm_partition_instant(cm_partition_covered_until(existing, now),
														 key_type, zone));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
