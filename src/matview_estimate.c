/*-------------------------------------------------------------------------
 *
 * matview_estimate.c
 *	  Tell the planner which share of the rows a class' members select.
 *
 * A member of a class selects the rows of one bucket by two comparisons with
 * columns of the class' relation, of which the planner knows nothing: it takes
 * each for a third.  A day out of thirty looks like a ninth of all rows then,
 * and reading everything looks cheaper than an index.  We know better, because
 * we know the ranges.  So a condition is added that is always true and whose
 * share, as its support function says, is what makes up the difference.
 *
 * The function takes the raw column and the range's start only in order to be
 * a condition between the table and the class' relation.
 *
 * Pure.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "nodes/value.h"
#include "parser/parse_func.h"

#include "matview_merge.h"

PG_FUNCTION_INFO_V1(cm__share);
PG_FUNCTION_INFO_V1(cm__share_support);

/* What the planner takes lo <= t AND t < hi for, if it knows neither. */
#define DEFAULT_SHARE		(1.0 / 9.0)

/* SQL: _share(raw anyelement, lo anyelement, share double precision) */
Datum
cm__share(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(true);
}

/* SQL: _share_support(internal): the selectivity of _share() is its argument. */
Datum
cm__share_support(PG_FUNCTION_ARGS)
{
	SupportRequestSelectivity *request = (SupportRequestSelectivity *) PG_GETARG_POINTER(0);
	Const	   *share;

	if (!IsA(request, SupportRequestSelectivity))
		PG_RETURN_POINTER(NULL);
	share = lthird(request->args);
	if (!IsA(share, Const) || share->constisnull)
		PG_RETURN_POINTER(NULL);
	request->selectivity = DatumGetFloat8(share->constvalue);
	PG_RETURN_POINTER(request);
}

/*
 * The condition that makes the planner expect this share of the rows where a
 * raw column is compared with both ends of a range; NULL if it does already.
 * raw and lo are used up.
 */
Node *
cm_share_clause(Node *raw, Node *lo, double share)
{
	Oid			types[3] = {ANYELEMENTOID, ANYELEMENTOID, FLOAT8OID};
	Oid			function;
	Node	   *factor;

	if (share >= DEFAULT_SHARE)
		return NULL;
	function = LookupFuncName(list_make2(makeString(CM_SCHEMA), makeString("_share")), 3, types, false);
	factor = (Node *) makeConst(FLOAT8OID, -1, InvalidOid, sizeof(float8),
								Float8GetDatum(share / DEFAULT_SHARE), false, FLOAT8PASSBYVAL);
	return (Node *) makeFuncExpr(function, BOOLOID, list_make3(raw, lo, factor),
								 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
}
