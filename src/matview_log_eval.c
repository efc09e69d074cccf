/*-------------------------------------------------------------------------
 *
 * matview_log_eval.c
 *	  What a written row tells of a key column.
 *
 * Runs for every row that anybody writes to a tracked table, so it does as
 * little as it can.  A column is read from the slot.  A bucket of a column is
 * computed once and then found among the ranges of times that are known to
 * make that bucket: a time costs a comparison or a binary search, not a walk
 * through the calendar.
 *
 * What is computed must never fail the user's statement.  Buckets of times
 * within the years that matview_bucket.c reckons with cannot, nor can a few
 * kinds of expressions that are listed here; all others run in a
 * subtransaction, and an error means that the row does not tell.  Where
 * functions of users are called, they are called as the view's owner, in a
 * restricted operation with a pinned search_path, as the refresh would.
 *
 * An expression that depends on settings has no place in a log that others
 * read: it tells nothing (buckets are computed in the view's own time zone).
 *
 * Locks: none but what functions of users take.  After an error the caller's
 * (sub)transaction restores role and settings; a teller's value is then of an
 * earlier row and is not used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/date.h"
#include "utils/timestamp.h"

#include "matview_log.h"

/* Ranges that a teller keeps; when they are used up it begins anew. */
#define MAX_SPANS	512

/* Times lo <= t < hi that are all in one bucket. */
typedef struct Span
{
	int64		lo;
	int64		hi;
	Datum		value;
} Span;

/* Ordered, without overlaps. */
struct CmSpans
{
	int			count;
	int			room;
	int			last;			/* that was hit */
	Span	   *spans;
};

/* Casts that lose nothing and cannot fail. */
static bool
is_safe_cast(Oid funcid)
{
	return funcid == F_INT4_INT2 || funcid == F_INT8_INT4 || funcid == F_INT8_INT2 ||
		funcid == F_NUMERIC_INT2 || funcid == F_NUMERIC_INT4 || funcid == F_NUMERIC_INT8;
}

/* Is there something in it that can raise an error? */
static bool
can_fail(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_FuncExpr:
			if (!is_safe_cast(((FuncExpr *) node)->funcid))
				return true;
			break;
		case T_Var:
		case T_Const:
		case T_RelabelType:
		case T_NullTest:
		case T_BooleanTest:
		case T_BoolExpr:
		case T_CoalesceExpr:
		case T_List:
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, can_fail, context);
}

/* A type whose functions are all core's own. */
static bool
is_core_type(Oid type)
{
	return type < FirstNormalObjectId && type != RECORDOID && type != RECORDARRAYOID;
}

static bool
is_user_function(Oid funcid, void *context)
{
	return funcid >= FirstNormalObjectId;
}

/* Does it call, or can it, what is not core's? */
static bool
calls_users(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, List))
		return expression_tree_walker(node, calls_users, context);
	if (IsA(node, CoerceToDomain) || IsA(node, RowExpr) || IsA(node, SubLink) || IsA(node, Query) ||
		!is_core_type(exprType(node)) || check_functions_in_node(node, is_user_function, context))
		return true;
	return expression_tree_walker(node, calls_users, context);
}

/* Does a type look the same as text whatever the settings are? */
static bool
is_plain_text_type(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case UUIDOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
			return true;
		default:
			return false;
	}
}

/* Casts by way of text, which call what is immutable by name only. */
static bool
depends_on_output(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, ArrayCoerceExpr))
		return true;
	if (IsA(node, CoerceViaIO) &&
		(!is_plain_text_type(exprType((Node *) ((CoerceViaIO *) node)->arg)) ||
		 !is_plain_text_type(exprType(node))))
		return true;
	return expression_tree_walker(node, depends_on_output, context);
}

/* How an expression is to be computed. */
static CmTellerKind
classify(CmTeller *teller, bool is_bucket)
{
	Node	   *expr = teller->expr;

	if (IsA(expr, Var))
		return CM_TELLER_COLUMN;
	if (is_bucket && (teller->bucket = cm_bucket_parse(expr)) != NULL)
		return CM_TELLER_BUCKET;
	if (!can_fail(expr, NULL))
		return CM_TELLER_SAFE;
	return calls_users(expr, NULL) ? CM_TELLER_OWNER : CM_TELLER_CORE;
}

/*
 * A teller for an expression over range table entry 1, in the current context,
 * which must last as long as the teller.  is_bucket: the key's column is one.
 * NULL if it could tell others than it tells the refresh.  Can raise errors,
 * and may call functions: the caller guards it and is the view's owner.
 */
CmTeller *
cm_teller_make(Node *expr, bool is_bucket, const char *zone, Oid owner)
{
	CmTeller   *teller = palloc0(sizeof(CmTeller));

	teller->expr = expr;
	teller->owner = owner;
	teller->zone = pstrdup(zone);
	get_typlenbyval(exprType(expr), &teller->typlen, &teller->typbyval);
	teller->kind = classify(teller, is_bucket);
	switch (teller->kind)
	{
		case CM_TELLER_COLUMN:
			teller->attno = ((Var *) expr)->varattno;
			break;
		case CM_TELLER_BUCKET:
			teller->attno = teller->bucket->attno;
			teller->spans = palloc0(sizeof(CmSpans));
			teller->spans->room = 8;
			teller->spans->spans = palloc(teller->spans->room * sizeof(Span));
			break;
		default:
			if (contain_mutable_functions(expr) || depends_on_output(expr, NULL))
				return NULL;
			teller->state = ExecInitExpr(expression_planner((Expr *) copyObject(expr)), NULL);
			teller->context = CreateStandaloneExprContext();
	}
	return teller;
}

/* The span that a time is in, or the first one after it. */
static int
find_span(const CmSpans *spans, int64 time)
{
	int			low = 0;
	int			high = spans->count;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (spans->spans[middle].hi <= time)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Keep a range of times that make a bucket, if it does not overlap others. */
static void
keep_span(CmSpans *spans, const Span *span)
{
	int			at;

	if (spans->count == MAX_SPANS)
		spans->count = 0;
	else if (spans->count == spans->room)
	{
		spans->spans = repalloc(spans->spans, 2 * spans->room * sizeof(Span));
		spans->room *= 2;
	}
	at = find_span(spans, span->lo);
	if (at < spans->count && spans->spans[at].lo < span->hi)
		return;
	memmove(&spans->spans[at + 1], &spans->spans[at], (spans->count - at) * sizeof(Span));
	spans->spans[at] = *span;
	spans->count++;
	spans->last = at;
}

/* The bucket of a time that is safe. */
static Datum
find_bucket(CmTeller *teller, Datum raw)
{
	CmSpans    *spans = teller->spans;
	Oid			type = teller->bucket->raw_type;
	int64		time = cm_time_number(type, raw);
	CmRawRange	range;
	Span		span;
	int			at = spans->last;

	if (at < spans->count && spans->spans[at].lo <= time && time < spans->spans[at].hi)
		return spans->spans[at].value;
	at = find_span(spans, time);
	if (at < spans->count && spans->spans[at].lo <= time)
	{
		spans->last = at;
		return spans->spans[at].value;
	}

	span.value = cm_bucket_apply(teller->bucket, teller->zone, raw);
	if (cm_bucket_preimage(teller->bucket, teller->zone, span.value, &range) && range.exact)
	{
		span.lo = cm_time_number(type, range.lo);
		span.hi = cm_time_number(type, range.hi);
		keep_span(spans, &span);
	}
	return span.value;
}

/* Compute the value: raises what its functions raise. */
static void
compute(CmTeller *teller, TupleTableSlot *slot)
{
	if (teller->kind == CM_TELLER_BUCKET)
	{
		/* Outside of the years in which buckets cannot fail. */
		teller->value = cm_bucket_apply(teller->bucket, teller->zone,
										slot_getattr(slot, teller->attno, &teller->isnull));
		return;
	}
	ResetExprContext(teller->context);
	teller->context->ecxt_scantuple = slot;
	teller->value = ExecEvalExprSwitchContext(teller->state, teller->context, &teller->isnull);
}

/* What compute_step() is about. */
typedef struct Computation
{
	CmTeller   *teller;
	TupleTableSlot *slot;
} Computation;

static void
compute_step(void *arg)
{
	Computation *computation = arg;
	CmTeller   *teller = computation->teller;
	CmScope		scope;

	/* Until the subtransaction ends: what would write is an error. */
	XactReadOnly = true;
	if (teller->kind == CM_TELLER_OWNER)
		cm_owner_enter(&scope, teller->owner, true);
	compute(teller, computation->slot);
	if (teller->kind == CM_TELLER_OWNER)
		cm_scope_leave(&scope);
}

/* Compute the value in a subtransaction; an error means that it is not known. */
static void
compute_guarded(CmTeller *teller, TupleTableSlot *slot)
{
	Computation computation = {.teller = teller,.slot = slot};
	ErrorData  *edata = cm_subtransaction(compute_step, &computation);

	teller->known = edata == NULL;
	if (edata == NULL)
		return;
	if (cm_error_ends_all(edata))
		ReThrowError(edata);
	FreeErrorData(edata);
}

/*
 * Have the teller hold what this row tells: value and isnull if known.  row is
 * another number for each row; asked twice, it is computed once.  The value
 * is valid as long as the slot is, and until the next row.
 */
void
cm_teller_tell(CmTeller *teller, TupleTableSlot *slot, uint64 row)
{
	if (teller->row == row)
		return;
	switch (teller->kind)
	{
		case CM_TELLER_COLUMN:
			teller->value = slot_getattr(slot, teller->attno, &teller->isnull);
			teller->known = true;
			break;
		case CM_TELLER_BUCKET:
			teller->value = slot_getattr(slot, teller->attno, &teller->isnull);
			if (teller->isnull)
				teller->known = true;
			else if (cm_bucket_is_safe(teller->bucket, teller->value))
			{
				teller->value = find_bucket(teller, teller->value);
				teller->known = true;
			}
			else
				compute_guarded(teller, slot);
			break;
		case CM_TELLER_SAFE:
			compute(teller, slot);
			teller->known = true;
			break;
		case CM_TELLER_CORE:
		case CM_TELLER_OWNER:
			compute_guarded(teller, slot);
			break;
	}
	teller->row = row;
}
