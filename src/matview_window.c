/*-------------------------------------------------------------------------
 *
 * matview_window.c
 *	  Conditions of a view's query that move with the time of the refresh.
 *
 * A member of WHERE like submitted_at >= now() - interval '30 days' lets rows
 * come and go that nobody writes.  It is a window if one side is a bucket of
 * a time column (the column itself included), the other, its edge, reads no
 * column, and the operator is one of < <= > >=.  The rows that come or go
 * between two refreshes have their bucket between the edge as it was at the
 * first and as it is at the second, both included, whatever the operator.
 *
 * Where the two sides are of different types the comparison brings them to
 * the wider one (date, timestamp, timestamptz), the last in the pinned zone.
 * So does the window: with steps added to the bucket, or with a cast around
 * the edge.  What remains is comparing values of one type.
 *
 * The rows that come or go must be told by a key column: one that is a bucket
 * of the same column.  Then the groups concerned are those of the raw times
 * in the range.
 *
 * now(), CURRENT_TIMESTAMP and their like are those of the transaction, so in
 * one refresh all have one value, and cm_matview_fix_now() can put another
 * one there, to ask what the query said at that time.
 *
 * Pure; nothing is locked, nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "matview_query.h"

/* Is it the time of the transaction, in one of its spellings? */
bool
cm_window_is_now(Node *node)
{
	if (IsA(node, FuncExpr))
		return ((FuncExpr *) node)->funcid == F_NOW || ((FuncExpr *) node)->funcid == F_TRANSACTION_TIMESTAMP;
	if (!IsA(node, SQLValueFunction))
		return false;
	switch (((SQLValueFunction *) node)->op)
	{
		case SVFOP_CURRENT_DATE:
		case SVFOP_CURRENT_TIMESTAMP:
		case SVFOP_CURRENT_TIMESTAMP_N:
		case SVFOP_LOCALTIMESTAMP:
		case SVFOP_LOCALTIMESTAMP_N:
			return true;
		default:
			return false;
	}
}

/* Does an expression depend on the time of the transaction? */
static bool
has_now_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return cm_window_is_now(node) || expression_tree_walker(node, has_now_walker, context);
}

bool
cm_window_has_now(Node *node)
{
	return has_now_walker(node, NULL);
}

/* A time as a constant. */
static Node *
constant_time(TimestampTz now)
{
	return (Node *) makeConst(TIMESTAMPTZOID, -1, InvalidOid, sizeof(TimestampTz),
							  TimestampTzGetDatum(now), false, FLOAT8PASSBYVAL);
}

/* What CURRENT_DATE and its like are at a time; in the zone of whoever runs it. */
static Node *
fixed_value(SQLValueFunction *value, TimestampTz now)
{
	Datum		scaled = TimestampTzGetDatum(now);
	Node	   *constant;

	if (value->typmod >= 0)
		scaled = DirectFunctionCall2(timestamptz_scale, scaled, Int32GetDatum(value->typmod));
	constant = constant_time(DatumGetTimestampTz(scaled));
	switch (value->op)
	{
		case SVFOP_CURRENT_DATE:
			return (Node *) makeFuncExpr(F_DATE_TIMESTAMPTZ, DATEOID, list_make1(constant),
										 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
		case SVFOP_LOCALTIMESTAMP:
		case SVFOP_LOCALTIMESTAMP_N:
			return (Node *) makeFuncExpr(F_TIMESTAMP_TIMESTAMPTZ, TIMESTAMPOID, list_make1(constant),
										 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
		default:
			return constant;
	}
}

/* Put another time into the place of now(). */
static Node *
fix_now_mutator(Node *node, void *context)
{
	TimestampTz now = *(TimestampTz *) context;

	if (node == NULL)
		return NULL;
	if (cm_window_is_now(node))
		return IsA(node, FuncExpr) ? constant_time(now) : fixed_value((SQLValueFunction *) node, now);
	if (IsA(node, Query))
		return (Node *) query_tree_mutator((Query *) node, fix_now_mutator, context, 0);
	return expression_tree_mutator(node, fix_now_mutator, context);
}

/*
 * A copy of an expression or a query in which now() and its like are the
 * given time.  Those that depend on the time zone too take that of whoever
 * runs the copy.
 */
Node *
cm_matview_fix_now(Node *node, TimestampTz now)
{
	return fix_now_mutator(node, &now);
}

/* Add a step to the end of a bucket. */
static void
widen_bucket(CmBucket *bucket, CmBucketStepKind kind, Oid type)
{
	CmBucketStep *step = palloc0(sizeof(CmBucketStep));

	step->kind = kind;
	bucket->steps = lappend(bucket->steps, step);
	bucket->type = type;
}

/* Bring an edge to a wider type. */
static Node *
widen_edge(Node *edge, Oid type)
{
	Oid			function = type == TIMESTAMPOID ? F_TIMESTAMP_DATE :
		exprType(edge) == DATEOID ? F_TIMESTAMPTZ_DATE : F_TIMESTAMPTZ_TIMESTAMP;

	return (Node *) makeFuncExpr(function, type, list_make1(edge),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}

/* Where a type stands among date, timestamp, timestamptz; 0: nowhere. */
static int
width(Oid type)
{
	return type == DATEOID ? 1 : type == TIMESTAMPOID ? 2 : type == TIMESTAMPTZOID ? 3 : 0;
}

/* The window that compares a bucket with an edge; NULL if types forbid that. */
static CmWindow *
make_window(Node *side, Node *edge)
{
	CmWindow   *window = palloc0(sizeof(CmWindow));
	CmBucket   *bucket = cm_bucket_parse(side);

	if (bucket == NULL || width(exprType(edge)) == 0)
		return NULL;
	if (width(bucket->type) < width(exprType(edge)))
	{
		if (bucket->type == DATEOID)
			widen_bucket(bucket, CM_BUCKET_FROM_DATE, TIMESTAMPOID);
		if (exprType(edge) == TIMESTAMPTZOID)
			widen_bucket(bucket, CM_BUCKET_FROM_LOCAL, TIMESTAMPTZOID);
	}
	window->bucket = bucket;
	window->edge = exprType(edge) == bucket->type ? (Node *) copyObject(edge) :
		widen_edge(copyObject(edge), bucket->type);
	window->key = -1;
	return window;
}

/* The window that a member of WHERE is, or NULL. */
static CmWindow *
read_window(Node *member)
{
	OpExpr	   *op = (OpExpr *) member;
	TypeCacheEntry *type;
	Node	   *edge;
	Node	   *side;
	int			strategy;

	if (!IsA(member, OpExpr) || list_length(op->args) != 2)
		return NULL;
	side = linitial(op->args);
	edge = lsecond(op->args);
	if (cm_window_has_now(side))
	{
		side = edge;
		edge = linitial(op->args);
	}
	if (cm_window_has_now(side) || !cm_window_has_now(edge) || contain_var_clause(edge) ||
		width(exprType(side)) == 0)
		return NULL;
	/* All three types are of one operator family. */
	type = lookup_type_cache(exprType(side), TYPECACHE_BTREE_OPFAMILY);
	strategy = get_op_opfamily_strategy(op->opno, type->btree_opf);
	if (strategy == InvalidStrategy || strategy == BTEqualStrategyNumber)
		return NULL;
	return make_window(side, edge);
}

/* The key column that is a bucket of this column, or -1. */
static int
key_of(const CmMatviewPlan *plan, const CmBucket *bucket)
{
	for (int i = 0; i < plan->nkeys; i++)
	{
		const CmBucket *key = plan->keys[i].bucket;

		if (key != NULL && key->rti == bucket->rti && key->attno == bucket->attno)
			return i;
	}
	return -1;
}

/* Find the windows, once the key is known. */
void
cm_window_find(CmViewQuery *view)
{
	ListCell   *lc;

	foreach(lc, view->wheres)
	{
		CmWindow   *window = read_window(lfirst(lc));

		if (window == NULL)
			continue;
		window->key = key_of(view->plan, window->bucket);
		view->plan->windows = lappend(view->plan->windows, window);
		view->plan->now_matters = true;
		view->edges = lappend(view->edges, lfirst(lc));
	}
}

/* An end of all times of a type. */
static int64
endless(Oid type, bool upper)
{
	if (type == DATEOID)
		return upper ? PG_INT32_MAX : PG_INT32_MIN;
	return upper ? PG_INT64_MAX : PG_INT64_MIN;
}

/* The first raw time whose bucket can be at or above a value. */
static int64
range_start(const CmBucket *bucket, const char *zone, Datum value)
{
	CmRawRange	raw;
	CmRawRange	before;
	Datum		floor;

	if (!cm_bucket_preimage(bucket, zone, value, &raw))
		return endless(bucket->raw_type, false);

	/* A value inside of a bucket: that bucket is below it, the next is not. */
	floor = cm_bucket_apply(bucket, zone, raw.lo);
	if (cm_time_number(bucket->type, floor) < cm_time_number(bucket->type, value) &&
		raw.exact && cm_bucket_preimage(bucket, zone, floor, &before) && before.exact)
		return cm_time_number(bucket->raw_type, before.hi);
	return cm_time_number(bucket->raw_type, raw.lo);
}

/*
 * The raw times of the rows that a window let in or out when its edge moved
 * from one value to the other, both of bucket->type.  Returns false if there
 * can be none.
 */
bool
cm_matview_window_range(const CmWindow *window, const char *zone,
						Datum edge, Datum other_edge, CmDirtyRange *range)
{
	const CmBucket *bucket = window->bucket;
	bool		up = cm_time_number(bucket->type, edge) <= cm_time_number(bucket->type, other_edge);
	Datum		low = up ? edge : other_edge;
	Datum		high = up ? other_edge : edge;
	CmRawRange	raw;
	int64		lo;
	int64		hi;

	if (cm_time_number(bucket->type, low) == cm_time_number(bucket->type, high))
		return false;
	lo = range_start(bucket, zone, low);
	hi = cm_bucket_preimage(bucket, zone, high, &raw) ?
		cm_time_number(bucket->raw_type, raw.hi) - 1 : endless(bucket->raw_type, true);
	range->key = window->key;
	range->lo = cm_number_time(bucket->raw_type, lo);
	range->hi = cm_number_time(bucket->raw_type, hi);
	return lo <= hi;
}
