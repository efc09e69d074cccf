/*-------------------------------------------------------------------------
 *
 * matview_aggregate.c
 *	  Which aggregates give one result, in whatever order rows come.
 *
 * A group that is computed anew may get its rows in another order than a
 * refresh of the whole view gives them to it.  Sums of floating-point numbers
 * then differ in the last digits, arrays in the order of their elements.  So
 * only aggregates are taken that are known to be exact: those of core in the
 * list below, and every one that brings its rows into an order itself (by
 * ORDER BY or DISTINCT among its arguments, or as an ordered-set aggregate).
 * Where such an ORDER BY leaves ties, the query itself says that either
 * result will do.  The same goes for values that are equal but not alike, of
 * which min() and max() return any.
 *
 * Aggregates of core are told by their name and an oid that initdb assigned:
 * which of them a server has depends on its version, and a new one is refused
 * until it is in the list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "matview_query.h"

/* Exact for all types that they take. */
static const char *const exact[] = {
	"count", "min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor",
	"range_agg", "range_intersect_agg", "regr_count"
};

/* Exact unless they add floating-point numbers. */
static const char *const exact_sums[] = {
	"sum", "avg", "variance", "var_pop", "var_samp", "stddev", "stddev_pop", "stddev_samp"
};

/* Does it add floating-point numbers? */
static bool
is_floating(const Aggref *call)
{
	Oid			type = call->aggargtypes != NIL ? linitial_oid(call->aggargtypes) : InvalidOid;

	return type == FLOAT4OID || type == FLOAT8OID;
}

/* Does a call give the same result in whatever order its rows come? */
bool
cm_aggregate_is_exact(const Aggref *call)
{
	const char *name;

	if (call->aggorder != NIL || call->aggdistinct != NIL || AGGKIND_IS_ORDERED_SET(call->aggkind))
		return true;
	if (call->aggfnoid >= FirstUnpinnedObjectId)
		return false;
	name = get_func_name(call->aggfnoid);
	return cm_is_listed(name, exact, lengthof(exact)) ||
		(cm_is_listed(name, exact_sums, lengthof(exact_sums)) && !is_floating(call));
}

/* What would make it exact. */
const char *
cm_aggregate_hint(const Aggref *call)
{
	if (call->aggfnoid < FirstUnpinnedObjectId && is_floating(call) &&
		cm_is_listed(get_func_name(call->aggfnoid), exact_sums, lengthof(exact_sums)))
		return "Cast its argument to numeric; or allow small differences with concertmaster.manage_matview(..., allow_inexact => true).";
	return "Put an ORDER BY into its parentheses; or allow differences with concertmaster.manage_matview(..., allow_inexact => true).";
}

/* The functions that an aggregate is made of. */
List *
cm_aggregate_functions(Oid aggregate)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggregate));
	List	   *functions = NIL;
	Form_pg_aggregate form;

	if (!HeapTupleIsValid(tuple))
		return NIL;
	form = (Form_pg_aggregate) GETSTRUCT(tuple);
	functions = list_make2_oid(form->aggtransfn, form->aggfinalfn);
	functions = lappend_oid(functions, form->aggcombinefn);
	functions = lappend_oid(functions, form->aggserialfn);
	functions = lappend_oid(functions, form->aggdeserialfn);
	functions = lappend_oid(functions, form->aggmtransfn);
	functions = lappend_oid(functions, form->aggminvtransfn);
	functions = lappend_oid(functions, form->aggmfinalfn);
	ReleaseSysCache(tuple);
	return functions;
}
