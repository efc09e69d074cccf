/*-------------------------------------------------------------------------
 *
 * matview_output.c
 *	  Functions that are as good as the texts of what they are given.
 *
 * concat(), text || integer, to_jsonb(), jsonb_agg() and their like are
 * declared stable, because they call the output functions of whatever types
 * they are given, and the texts of some types depend on settings.  Those of
 * the types below do not, nor do the times that JSON is given: these are ISO,
 * and the time zone is the view's.  A floating-point number's text depends on
 * extra_float_digits, that of a bytea on bytea_output, that of a date or a time
 * outside of JSON on DateStyle.
 *
 * Pure; nothing is locked, nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"

#include "matview_query.h"

static const char *const text_functions[] = {
	"concat", "concat_ws", "textanycat", "anytextcat", "array_to_string"
};

static const char *const json_functions[] = {
	"to_json", "to_jsonb", "array_to_json",
	"json_build_array", "json_build_object", "jsonb_build_array", "jsonb_build_object",
	"json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg"
};

/* Is the text of a type's values, or of arrays of it, the same under all settings? */
static bool
is_fixed_type(Oid type, bool json, bool *uses_zone)
{
	Oid			element = get_base_element_type(type);

	switch (OidIsValid(element) ? element : getBaseType(type))
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case UUIDOID:
		case JSONOID:
		case JSONBOID:
		case UNKNOWNOID:
			return true;
		case DATEOID:
		case TIMESTAMPOID:
			return json;
		case TIMESTAMPTZOID:
			*uses_zone |= json;
			return json;
		default:
			return false;
	}
}

/*
 * Does the text of a type's values depend on settings, although its output
 * function is declared immutable?  Those of other core types are stable.
 */
bool
cm_output_depends(Oid type)
{
	switch (getBaseType(type))
	{
		case FLOAT4OID:
		case FLOAT8OID:
		case BYTEAOID:
		case POINTOID:
		case LSEGOID:
		case PATHOID:
		case BOXOID:
		case POLYGONOID:
		case LINEOID:
		case CIRCLEOID:
			return true;
		default:
			return false;
	}
}

/*
 * Is it a call whose result depends on its arguments alone, although the
 * function is declared stable?  *uses_zone is set if it depends on the time
 * zone too.
 */
bool
cm_output_is_fixed(Node *node, bool *uses_zone)
{
	Oid			function;
	List	   *args;
	const char *name;
	bool		json;
	ListCell   *lc;

	if (IsA(node, FuncExpr))
	{
		function = ((FuncExpr *) node)->funcid;
		args = ((FuncExpr *) node)->args;
	}
	else if (IsA(node, OpExpr))
	{
		function = ((OpExpr *) node)->opfuncid;
		args = ((OpExpr *) node)->args;
	}
	else if (IsA(node, Aggref))
	{
		function = ((Aggref *) node)->aggfnoid;
		args = ((Aggref *) node)->args;
	}
	else
		return false;
	if (function >= FirstUnpinnedObjectId || (name = get_func_name(function)) == NULL)
		return false;
	json = cm_is_listed(name, json_functions, lengthof(json_functions));
	if (!json && !cm_is_listed(name, text_functions, lengthof(text_functions)))
		return false;
	foreach(lc, args)
	{
		Node	   *arg = lfirst(lc);

		if (IsA(arg, TargetEntry))
			arg = (Node *) ((TargetEntry *) arg)->expr;
		if (!is_fixed_type(exprType(arg), json, uses_zone))
			return false;
	}
	return true;
}
