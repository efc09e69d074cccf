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
			 errhint("Create it with PARTITION BY RANGE on one column of type date, timestamp, timestamptz, integer or uuid (version 7).") : 0));
}

/* Refuse keys that cannot be counted along. */
static void
report_key(Oid parent, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot manage the partitions of table \"%s\"", get_rel_name(parent)),
			 errdetail("%s", detail),
			 errhint("Partition the table BY RANGE on one column of type date, timestamp, timestamptz, integer or uuid (version 7).")));
}

/* Can partitions of this type of key be managed? */
static bool
is_key_type(Oid type)
{
	switch (type)
	{
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case UUIDOID:
			return true;
		default:
			return false;
	}
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
	if (!is_key_type(type))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("cannot manage the partitions of table \"%s\"", get_rel_name(parent)),
				 errdetail("Its partition key \"%s\" is of type %s.",
						   get_attname(parent, attnum, false), format_type_be(type)),
				 errhint("Partition the table by a column of type date, timestamp, timestamptz, integer or uuid (version 7).")));
	return type;
}

/*
 * The type of the partition key, one of those of is_key_type().  Refuses
 * everything that is not a permanent table partitioned by range of one such
 * column.
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

/* One end of a range as a point, and as a literal where that says more. */
static int64
read_bound(const CmAxis *axis, const PartitionRangeDatum *bound, char **literal)
{
	Const	   *value;

	if (bound->kind == PARTITION_RANGE_DATUM_MINVALUE)
		return DT_NOBEGIN;
	if (bound->kind == PARTITION_RANGE_DATUM_MAXVALUE)
		return DT_NOEND;
	value = castNode(Const, bound->value);
	*literal = cm_axis_exact_literal(axis, value->constvalue);
	return cm_axis_value_point(axis, value->constvalue);
}

/* What the catalog says about one child, or NULL if it is gone by now. */
static CmPartition *
read_partition(Oid relid, const CmAxis *axis)
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
			partition->from = read_bound(axis, linitial_node(PartitionRangeDatum, spec->lowerdatums),
										 &partition->from_literal);
			partition->to = read_bound(axis, linitial_node(PartitionRangeDatum, spec->upperdatums),
									   &partition->to_literal);
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
cm_partition_existing(Oid parent, const CmAxis *axis)
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
		Form_pg_inherits form = (Form_pg_inherits) GETSTRUCT(tuple);
		CmPartition *partition = read_partition(form->inhrelid, axis);

		if (partition == NULL)
			continue;
		partition->is_pending = form->inhdetachpending;
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

/* The exact literal of a partition's bound at a point, or NULL. */
static const char *
literal_at(const CmPartition *partition, int64 point)
{
	if (partition->is_default)
		return NULL;
	return partition->from == point ? partition->from_literal :
		partition->to == point ? partition->to_literal : NULL;
}

/*
 * The literal of a bound to make, quoted for FOR VALUES: that of the bound
 * that exists at this point, if one does, so that neighbours meet.
 */
const char *
cm_partition_bound_sql(const List *existing, const CmAxis *axis, int64 point)
{
	ListCell   *cell;

	if (point == DT_NOBEGIN)
		return "MINVALUE";
	if (point == DT_NOEND)
		return "MAXVALUE";
	foreach(cell, existing)
	{
		const char *literal = literal_at(lfirst(cell), point);

		if (literal != NULL)
			return quote_literal_cstr(literal);
	}
	return quote_literal_cstr(cm_axis_literal(axis, point));
}

/*
 * The axis of a table for the listing views.  False when it is gone or not of
 * a kind that we manage, where the doors would raise an error.
 */
static bool
readable_axis(Oid parent, pg_tz *zone, const char *epoch, CmAxis *axis)
{
	HeapTuple	tuple = SearchSysCache1(PARTRELID, ObjectIdGetDatum(parent));
	Form_pg_partitioned_table form;
	Oid			type = InvalidOid;
	int32		typmod;
	Oid			collation;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_partitioned_table) GETSTRUCT(tuple);
	if (form->partstrat == PARTITION_STRATEGY_RANGE && form->partnatts == 1 &&
		form->partattrs.values[0] != 0)
	{
		get_atttypetypmodcoll(parent, form->partattrs.values[0], &type, &typmod, &collation);
		type = getBaseType(type);
	}
	ReleaseSysCache(tuple);
	if (!is_key_type(type))
		return false;
	if (type != INT2OID && type != INT4OID && type != INT8OID)
		epoch = NULL;
	*axis = cm_axis(type, epoch, zone);
	return true;
}

/* Arguments of the two functions below: parent oid, timezone text, epoch text */
static bool
axis_of_arguments(FunctionCallInfo fcinfo, Oid *parent, CmAxis *axis)
{
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return false;
	*parent = PG_GETARG_OID(0);
	return readable_axis(*parent, cm_axis_zone(text_to_cstring(PG_GETARG_TEXT_PP(1))),
						 PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2)), axis);
}

/*
 * _partitions(parent, timezone, epoch): leaf, range_from, range_to, is_default,
 * is_pending
 */
Datum
cm__partitions(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			parent;
	CmAxis		axis;
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	if (!axis_of_arguments(fcinfo, &parent, &axis))
		return (Datum) 0;
	foreach(cell, cm_partition_existing(parent, &axis))
	{
		CmPartition *partition = lfirst(cell);
		bool		no_time = partition->is_default || !cm_axis_is_time(&axis);
		Datum		values[5] = {0};
		bool		nulls[5] = {false, no_time, no_time, false, false};

		values[0] = ObjectIdGetDatum(partition->relid);
		if (!no_time)
		{
			values[1] = TimestampTzGetDatum(cm_axis_instant(&axis, partition->from));
			values[2] = TimestampTzGetDatum(cm_axis_instant(&axis, partition->to));
		}
		values[3] = BoolGetDatum(partition->is_default);
		values[4] = BoolGetDatum(partition->is_pending);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * _partition_summary(parent, timezone, epoch): partitions, first_bound,
 * last_bound, covered_until, last_value
 */
Datum
cm__partition_summary(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Oid			parent;
	CmAxis		axis;
	List	   *existing;
	int64		first = DT_NOEND;
	int64		last = DT_NOBEGIN;
	int64		now;
	bool		any = false;
	Datum		values[5] = {0};
	bool		nulls[5] = {false, true, true, true, true};
	ListCell   *cell;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!axis_of_arguments(fcinfo, &parent, &axis))
		PG_RETURN_NULL();

	existing = cm_partition_existing(parent, &axis);
	foreach(cell, existing)
	{
		CmPartition *partition = lfirst(cell);

		if (partition->is_default)
			continue;
		first = Min(first, partition->from);
		last = Max(last, partition->to);
		any = true;
	}
	values[0] = Int32GetDatum(list_length(existing));
	if (any && cm_axis_is_time(&axis))
	{
		now = cm_axis_point(&axis, GetCurrentTransactionStartTimestamp());
		values[1] = TimestampTzGetDatum(cm_axis_instant(&axis, first));
		values[2] = TimestampTzGetDatum(cm_axis_instant(&axis, last));
		values[3] = TimestampTzGetDatum(cm_axis_instant(&axis, cm_partition_covered_until(existing, now)));
		nulls[1] = nulls[2] = nulls[3] = false;
	}
	else if (any)
	{
		values[4] = Int64GetDatum(last);
		nulls[4] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}
