/*-------------------------------------------------------------------------
 *
 * index_estimate.c
 *	  How large a planned index will be, and may its build begin now.
 *
 * The size comes from, the best first:
 *
 *	 - the same index on another partition: its bytes per row of that table
 *	 - statistics: rows, average widths, and for a btree how often a value
 *	   repeats, as it stores a repeated value once
 *	 - types alone, where there are no statistics, for expressions, and for
 *	   access methods whose size follows from what is in the values (gin, gist)
 *
 * Against the real size the first was 1 % off, the second within a third, the
 * third can be off by a factor of three or more; views say which it was.  How
 * many rows a partial index has is asked of the planner.  Bloat is no part of
 * it: a new index has none.
 *
 * The time is reckoned from sizes (cm_build_milliseconds()); waits for old
 * transactions are not in it.
 *
 * What is estimated is what is missing: of a partitioned table, the partitions
 * without a valid index of the planned shape.
 *
 * Locks: ACCESS SHARE on the table, the caller's; where many tables are looked
 * at only if it is free.  After an error the transaction's abort cleans up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/index.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_statistic.h"
#include "commands/tablespace.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/plannodes.h"
#include "optimizer/plancat.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "concertmaster.h"
#include "index.h"
#include "pace.h"

PG_FUNCTION_INFO_V1(cm__index_estimate);

/* An index smaller than this tells too little about another one. */
#define MODEL_PAGES			8

/* Of a page of a btree that is filled by a build, without its header and its special space. */
#define BTREE_PAGE_BYTES	((BLCKSZ - 40) * 0.9)

/* Rows that one posting list of a btree can have, about. */
#define MOST_POSTINGS		400.0

/* In the order of CmIndexBasis. */
static const char *const basis_names[] = {"sibling index", "statistics", "types"};

/* What is known of the rows that an index will have. */
typedef struct Rows
{
	double		count;
	double		distinct;		/* values of the key; count: not known */
	double		width;			/* of the key and the included columns */
} Rows;

/* Heap blocks, in bytes, and rows of a table as it is now. */
static void
measure_table(Relation rel, double *heap_bytes, double *rows)
{
	BlockNumber pages;
	double		all_visible;

	estimate_rel_size(rel, NULL, &pages, rows, &all_visible);
	*heap_bytes = (double) pages * BLCKSZ;
}

/* How many rows a partial index has, by the planner. */
static double
count_partial(const CmIndexShape *shape, Relation rel)
{
	List	   *context = deparse_context_for(RelationGetRelationName(rel), RelationGetRelid(rel));
	char	   *qual = deparse_expression((Node *) make_ands_explicit(shape->predicate), context, false, false);
	char	   *sql = psprintf("SELECT FROM ONLY %s WHERE %s", cm_relation_quoted(RelationGetRelid(rel)), qual);
	List	   *queries = pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt, pg_parse_query(sql)), sql, NULL, 0, NULL);
	PlannedStmt *plan = pg_plan_query(linitial_node(Query, queries), sql, 0, NULL);

	return plan->planTree->plan_rows;
}

/* How many values a column has among so many rows; all differ if not known. */
static double
count_distinct(Oid relid, AttrNumber attnum, double rows)
{
	HeapTuple	tuple = SearchSysCache3(STATRELATTINH, ObjectIdGetDatum(relid), Int16GetDatum(attnum), BoolGetDatum(false));
	double		distinct;

	if (!HeapTupleIsValid(tuple))
		return rows;
	distinct = ((Form_pg_statistic) GETSTRUCT(tuple))->stadistinct;
	ReleaseSysCache(tuple);
	return distinct > 0 ? distinct : distinct < 0 ? -distinct * rows : rows;
}

/* One column of the index, or expression of it. */
static void
add_column(Rows *rows, const CmIndexShape *shape, int i, Relation rel, CmIndexBasis *basis)
{
	AttrNumber	attnum = shape->attnums[i];
	Oid			type;
	int32		typmod;
	int32		width = 0;
	int16		length;
	bool		by_value;
	char		align;

	if (attnum > 0)
	{
		Oid			collation;

		get_atttypetypmodcoll(RelationGetRelid(rel), attnum, &type, &typmod, &collation);
		width = get_attavgwidth(RelationGetRelid(rel), attnum);
		if (i < shape->nkeys)
			rows->distinct *= count_distinct(RelationGetRelid(rel), attnum, rows->count);
	}
	else
	{
		Node	   *expression;
		int			number = 0;

		for (int j = 0; j < i; j++)
			number += shape->attnums[j] == 0;
		expression = list_nth(shape->expressions, number);
		type = exprType(expression);
		typmod = exprTypmod(expression);
		rows->distinct = rows->count;
	}
	if (width <= 0)
	{
		width = get_typavgwidth(type, typmod);
		*basis = CM_INDEX_BASIS_TYPES;
	}
	get_typlenbyvalalign(type, &length, &by_value, &align);
	rows->width = att_align_nominal((uint64) rows->width, align) + width;
}

/* Bytes of a btree. */
static double
btree_bytes(const CmIndexShape *shape, const Rows *rows)
{
	double		tuple = MAXALIGN(sizeof(IndexTupleData) + (uint64) rows->width) + sizeof(ItemIdData);
	double		repeats = rows->count / Max(rows->distinct, 1);

	if (!shape->is_unique && shape->natts == shape->nkeys && repeats >= 2)
		tuple = tuple / Min(repeats, MOST_POSTINGS) + sizeof(ItemPointerData);
	return rows->count * tuple * BLCKSZ / BTREE_PAGE_BYTES;
}

/* Bytes of an index, from what is known of its rows. */
static double
bytes_by_rows(const CmIndexShape *shape, const Rows *rows, double heap_bytes, CmIndexBasis *basis)
{
	if (shape->access_method == BTREE_AM_OID)
		return btree_bytes(shape, rows);
	if (shape->access_method == HASH_AM_OID)
		return rows->count * 20 / 0.75 * 1.3;
	if (shape->access_method == BRIN_AM_OID)
		return 6 * BLCKSZ + heap_bytes / 128 / BLCKSZ * (16 + 2 * rows->width);
	*basis = CM_INDEX_BASIS_TYPES;
	if (shape->access_method == GIN_AM_OID)
		return rows->count * rows->width * 0.6;
	return rows->count * (MAXALIGN(sizeof(IndexTupleData) + (uint64) rows->width) + sizeof(ItemIdData)) / 0.65;
}

/* Rows and pages that pg_class has of a relation; false if that is not known. */
static bool
noted_size(Oid relid, double *rows, double *pages)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		return false;
	*rows = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
	*pages = ((Form_pg_class) GETSTRUCT(tuple))->relpages;
	ReleaseSysCache(tuple);
	return *rows > 0 && *pages > 0;
}

/* Bytes of an index, from the same one on another table; negative: that tells nothing. */
static double
bytes_by_model(Oid model, double rows)
{
	Oid			table = OidIsValid(model) ? IndexGetRelation(model, true) : InvalidOid;
	double		table_rows;
	double		table_pages;
	double		index_rows;
	double		index_pages;

	if (!OidIsValid(table) || !noted_size(table, &table_rows, &table_pages) ||
		!noted_size(model, &index_rows, &index_pages) || index_pages < MODEL_PAGES)
		return -1;
	return index_pages * BLCKSZ * rows / table_rows;
}

/* The largest of these indexes that is valid, or InvalidOid. */
Oid
cm_index_model(const List *indexes)
{
	Oid			result = InvalidOid;
	double		most = 0;
	ListCell   *lc;

	foreach(lc, indexes)
	{
		double		rows;
		double		pages;

		if (get_rel_relkind(lfirst_oid(lc)) != RELKIND_INDEX || !get_index_isvalid(lfirst_oid(lc)) ||
			!noted_size(lfirst_oid(lc), &rows, &pages) || pages <= most)
			continue;
		most = pages;
		result = lfirst_oid(lc);
	}
	return result;
}

/* Where the plan's index will be, on a table of that persistence. */
static Oid
planned_tablespace(const CmIndexPlan *plan, Relation rel)
{
	char	   *relation = cm_relation_quoted(RelationGetRelid(rel));
	IndexStmt  *stmt = cm_index_parse(plan, cm_index_statement(plan, relation, plan->index_name, ""));

	return stmt->tableSpace != NULL ? get_tablespace_oid(stmt->tableSpace, true) :
		GetDefaultTablespace(rel->rd_rel->relpersistence, false);
}

/*
 * Add what an index of that shape takes on one table, which the caller has
 * opened, as its owner.  model: the same index on another table, or InvalidOid.
 */
void
cm_index_estimate(const CmIndexPlan *plan, const CmIndexShape *shape, Relation rel, Oid model,
				  CmIndexEstimate *estimate)
{
	CmIndexBasis basis = CM_INDEX_BASIS_STATISTICS;
	double		heap_bytes;
	double		table_rows;
	double		bytes;
	double		milliseconds;

	measure_table(rel, &heap_bytes, &table_rows);
	bytes = bytes_by_model(model, table_rows);
	if (bytes >= 0)
		basis = CM_INDEX_BASIS_SIBLING;
	else
	{
		Rows		rows = {.count = table_rows,.distinct = 1};

		if (shape->predicate != NIL)
			rows.count = Min(rows.count, count_partial(shape, rel));
		for (int i = 0; i < shape->natts; i++)
			add_column(&rows, shape, i, rel, &basis);
		bytes = bytes_by_rows(shape, &rows, heap_bytes, &basis);
	}
	milliseconds = cm_build_milliseconds(heap_bytes, table_rows);
	if (shape->access_method == GIN_AM_OID || shape->access_method == GIST_AM_OID)
		milliseconds *= 3;

	bytes = Max(bytes, 2 * BLCKSZ);
	estimate->tables++;
	estimate->bytes += (int64) bytes;
	estimate->milliseconds += milliseconds;
	if (shape->access_method == BTREE_AM_OID && bytes > maintenance_work_mem * 1024.0)
		estimate->sort_bytes = Max(estimate->sort_bytes, (int64) bytes);
	estimate->tablespace = planned_tablespace(plan, rel);
	estimate->basis = Max(estimate->basis, basis);
}

/* A table or an index, unless somebody has it locked, or it is gone. */
static Relation
open_if_free(Oid relid)
{
	Relation	rel;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return NULL;
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
		UnlockRelationOid(relid, AccessShareLock);
	return rel;
}

/* A valid index of that shape on the table, or InvalidOid. */
static Oid
find_equal(const CmIndexShape *shape, Relation rel)
{
	Oid			result = InvalidOid;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = open_if_free(lfirst_oid(lc));

		if (index == NULL)
			continue;
		if (index->rd_index->indisvalid && cm_index_shape_matches(shape, index))
			result = RelationGetRelid(index);
		relation_close(index, AccessShareLock);
	}
	return result;
}

/* One round over the tables: those that have the index into *have, or those that lack it into *estimate. */
static void
look_at_tables(const CmIndexPlan *plan, const List *relids, List **have, Oid model, CmIndexEstimate *estimate)
{
	ListCell   *lc;

	foreach(lc, relids)
	{
		Relation	rel;
		CmIndexShape shape;
		CmScope		scope;
		Oid			equal;

		CHECK_FOR_INTERRUPTS();
		rel = open_if_free(lfirst_oid(lc));
		if (rel == NULL)
			continue;
		if (rel->rd_rel->relkind == RELKIND_RELATION || rel->rd_rel->relkind == RELKIND_MATVIEW)
		{
			cm_owner_enter(&scope, rel->rd_rel->relowner, true);
			cm_index_shape_planned(&shape, plan, rel);
			equal = find_equal(&shape, rel);
			if (have != NULL && OidIsValid(equal))
				*have = lappend_oid(*have, equal);
			if (estimate != NULL && !OidIsValid(equal))
				cm_index_estimate(plan, &shape, rel, model, estimate);
			cm_scope_leave(&scope);
		}
		relation_close(rel, AccessShareLock);
	}
}

/*
 * What the plan's index takes on those of these tables that lack it; those
 * that somebody has locked are left out.  In a transaction.
 */
void
cm_index_estimate_missing(const CmIndexPlan *plan, const List *relids, CmIndexEstimate *estimate)
{
	List	   *have = NIL;

	memset(estimate, 0, sizeof(CmIndexEstimate));
	look_at_tables(plan, relids, &have, InvalidOid, NULL);
	look_at_tables(plan, relids, NULL, cm_index_model(have), estimate);
}

/*
 * May a build begin that takes this?  Waits for standbys as long as the run has
 * patience left; false if not even then, and the row says why.  relation: what
 * it is built on.  In no transaction, nothing locked.
 */
bool
cm_index_may_build(CmIndexRow *row, const char *relation, const CmIndexEstimate *estimate)
{
	TimestampTz begin = GetCurrentTimestamp();
	CmPaceNeed	need = {
		.what = psprintf("building index \"%s\" on %s", row->plan.index_name, relation),
		.tablespace = estimate->tablespace,
		.bytes = estimate->bytes,
		.sort_bytes = estimate->sort_bytes,
		.milliseconds = estimate->milliseconds,
		.ignore_window = row->ignore_window,
	};
	bool		may = cm_pace_may(&need, &row->pace) ||
		(row->pace.reason == CM_PACE_LAG && *row->patience_ms > 0 &&
		 cm_pace_wait(&need, *row->patience_ms, &row->pace));

	*row->patience_ms = may ? Max(0, *row->patience_ms - TimestampDifferenceMilliseconds(begin, GetCurrentTimestamp())) : 0;
	return may;
}

/* A planned index, for the view. */
typedef struct Question
{
	char	   *schema_name;
	char	   *index_name;
	Oid			caller;
	CmIndexEstimate estimate;
	bool		has_room;
} Question;

/* The stored plan; false if there is none that the caller sees. */
static bool
load_question(const Question *question, CmIndexRow *row)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[3] = {TEXTOID, TEXTOID, OIDOID};
	Datum		values[3] = {CStringGetTextDatum(question->schema_name), CStringGetTextDatum(question->index_name),
	ObjectIdGetDatum(question->caller)};
	bool		found;
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT c.oid, p.is_unique, p.definition, p.hot_window"
						  "  FROM concertmaster.index_plan p"
						  "  JOIN concertmaster.relation_map m ON m.schema_name = p.schema_name AND m.relation_name = p.table_name"
						  "  JOIN pg_class c ON c.oid = m.relid"
						  " WHERE p.schema_name = $1::name AND p.index_name = $2::name"
						  "   AND (pg_has_role($3, c.relowner, 'USAGE') OR pg_has_role($3, 'pg_monitor', 'USAGE'))",
						  3, types, values, NULL, true, 1);
	found = SPI_processed > 0;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext spi_context = MemoryContextSwitchTo(caller);
		bool		isnull;
		Datum		window = SPI_getbinval(tuple, desc, 4, &isnull);

		row->plan.hot_window = isnull ? NULL : DatumGetIntervalP(datumCopy(window, false, sizeof(Interval)));
		row->plan.relid = DatumGetObjectId(SPI_getbinval(tuple, desc, 1, &isnull));
		row->plan.is_unique = DatumGetBool(SPI_getbinval(tuple, desc, 2, &isnull));
		row->plan.definition = SPI_getvalue(tuple, desc, 3);
		row->plan.index_name = question->index_name;
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return found;
}

/* The step of _index_estimate(). */
static void
answer(void *arg)
{
	Question   *question = arg;
	CmIndexRow	row = {0};
	List	   *relids;
	List	   *cold;
	CmPaceNeed	need = {0};
	int			nestlevel = NewGUCNestLevel();

	/* The planner opens all indexes of a table: somebody can have one locked. */
	cm_lock_waits_limit();
	if (!load_question(question, &row))
	{
		AtEOXact_GUC(false, nestlevel);
		return;
	}
	if (row.plan.hot_window != NULL && get_rel_relkind(row.plan.relid) == RELKIND_PARTITIONED_TABLE)
		cm_index_sort_leaves(&row, &relids, &cold);
	else
		relids = find_all_inheritors(row.plan.relid, NoLock, NULL);
	cm_index_estimate_missing(&row.plan, relids, &question->estimate);
	need.tablespace = question->estimate.tablespace;
	need.bytes = question->estimate.bytes;
	need.sort_bytes = question->estimate.sort_bytes;
	question->has_room = cm_pace_has_room(&need);
	AtEOXact_GUC(false, nestlevel);
}

/*
 * _index_estimate(schema_name, index_name): what building a planned index
 * takes.  NULLs if it is not the caller's to see, or its definition does not
 * fit the table any more.
 */
Datum
cm__index_estimate(PG_FUNCTION_ARGS)
{
	Question	question = {.schema_name = NameStr(*PG_GETARG_NAME(0)),.index_name = NameStr(*PG_GETARG_NAME(1)),.caller = GetUserId()};
	Interval   *duration = palloc0(sizeof(Interval));
	TupleDesc	tupdesc;
	Datum		values[4];
	bool		nulls[4] = {true, true, true, true};
	ErrorData  *edata = cm_subtransaction(answer, &question);

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (edata != NULL && cm_error_ends_all(edata))
		ReThrowError(edata);
	if (edata == NULL && question.estimate.tables > 0)
	{
		duration->time = (int64) (question.estimate.milliseconds * 1000);
		values[0] = Int64GetDatum(question.estimate.bytes);
		values[1] = IntervalPGetDatum(duration);
		values[2] = CStringGetTextDatum(basis_names[question.estimate.basis]);
		values[3] = BoolGetDatum(question.has_room);
		memset(nulls, false, sizeof(nulls));
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}
