/*-------------------------------------------------------------------------
 *
 * matview_function.c
 *	  What the functions in a view's query depend on.
 *
 * Immutable functions depend on their arguments alone.  Of the stable ones
 * those are taken whose only other input is the session's time zone, because
 * a refresh pins that; some that depend on output functions only
 * (matview_output.c); and now() with its like, where it is in the edge of a
 * window (matview_window.c).  All others would let a group change without
 * any row changing.
 *
 * Operators, casts and aggregates are looked at through their functions.
 * Kinds of expressions that are not known here are refused: a newer server's
 * may depend on anything.
 *
 * Functions that are not core's are collected, for the stamp that tells when
 * one of them is replaced; so are those behind aggregates and behind the
 * comparisons of GREATEST and LEAST.
 *
 * Only the system catalogs are read; nothing is locked, nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "lib/stringinfo.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "matview_query.h"

/* Functions of core that depend on the time zone and on nothing else. */
static const Oid zone_functions[] = {
	F_DATE_TRUNC_TEXT_TIMESTAMPTZ, F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT,
	F_DATE_PART_TEXT_TIMESTAMPTZ, F_EXTRACT_TEXT_TIMESTAMPTZ,
	F_TIMESTAMPTZ_TIMESTAMP, F_TIMESTAMPTZ_DATE,
	F_TIMESTAMP_TIMESTAMPTZ, F_DATE_TIMESTAMPTZ, F_TIME_TIMESTAMPTZ,
	F_TIMESTAMPTZ_PL_INTERVAL, F_TIMESTAMPTZ_MI_INTERVAL, F_INTERVAL_PL_TIMESTAMPTZ,
	F_DATE_LT_TIMESTAMPTZ, F_DATE_LE_TIMESTAMPTZ, F_DATE_EQ_TIMESTAMPTZ,
	F_DATE_GT_TIMESTAMPTZ, F_DATE_GE_TIMESTAMPTZ, F_DATE_NE_TIMESTAMPTZ,
	F_TIMESTAMPTZ_LT_DATE, F_TIMESTAMPTZ_LE_DATE, F_TIMESTAMPTZ_EQ_DATE,
	F_TIMESTAMPTZ_GT_DATE, F_TIMESTAMPTZ_GE_DATE, F_TIMESTAMPTZ_NE_DATE,
	F_TIMESTAMP_LT_TIMESTAMPTZ, F_TIMESTAMP_LE_TIMESTAMPTZ, F_TIMESTAMP_EQ_TIMESTAMPTZ,
	F_TIMESTAMP_GT_TIMESTAMPTZ, F_TIMESTAMP_GE_TIMESTAMPTZ, F_TIMESTAMP_NE_TIMESTAMPTZ,
	F_TIMESTAMPTZ_LT_TIMESTAMP, F_TIMESTAMPTZ_LE_TIMESTAMP, F_TIMESTAMPTZ_EQ_TIMESTAMP,
	F_TIMESTAMPTZ_GT_TIMESTAMP, F_TIMESTAMPTZ_GE_TIMESTAMP, F_TIMESTAMPTZ_NE_TIMESTAMP
};

/* What SQLValueFunction is called in SQL, in the order of its enum. */
static const char *const value_names[] = {
	"CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIME", "CURRENT_TIMESTAMP", "CURRENT_TIMESTAMP",
	"LOCALTIME", "LOCALTIME", "LOCALTIMESTAMP", "LOCALTIMESTAMP",
	"CURRENT_ROLE", "CURRENT_USER", "USER", "SESSION_USER", "CURRENT_CATALOG", "CURRENT_SCHEMA"
};

/* The expressions of a clause while they are looked at. */
typedef struct Walk
{
	CmViewQuery *view;
	const char *where;			/* the clause */
	bool		in_edge;		/* now() is allowed */
	Node	   *node;			/* whose functions are looked at */
} Walk;

static bool
is_zone_function(Oid function, void *context)
{
	for (int i = 0; i < lengthof(zone_functions); i++)
	{
		if (zone_functions[i] == function)
			return true;
	}
	return false;
}

static bool
uses_zone_walker(Node *node, void *context)
{
	bool		uses_zone = false;

	if (node == NULL)
		return false;
	if (IsA(node, SQLValueFunction) || check_functions_in_node(node, is_zone_function, NULL))
		return true;
	if (cm_output_is_fixed(node, &uses_zone) && uses_zone)
		return true;
	return expression_tree_walker(node, uses_zone_walker, context);
}

/* Does an expression depend on the time zone that it is evaluated in? */
bool
cm_function_uses_zone(Node *node)
{
	return uses_zone_walker(node, NULL);
}

/* A function with the types of its arguments; with its schema unless it is core's. */
char *
cm_function_text(Oid function)
{
	StringInfoData text;
	Oid		   *types;
	int			count;

	initStringInfo(&text);
	(void) get_func_signature(function, &types, &count);
	if (function < FirstNormalObjectId)
		appendStringInfoString(&text, get_func_name(function));
	else
		appendStringInfoString(&text, quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
																 get_func_name(function)));
	appendStringInfoChar(&text, '(');
	for (int i = 0; i < count; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", format_type_be(types[i]));
	appendStringInfoChar(&text, ')');
	return text.data;
}

/* What to use instead of a function that is refused. */
static const char *
hint_for(Oid function)
{
	switch (function)
	{
		case F_STATEMENT_TIMESTAMP:
		case F_CLOCK_TIMESTAMP:
			return "Use now(), in a condition on a time column in WHERE.";
		case F_TO_CHAR_TIMESTAMP_TEXT:
		case F_TO_CHAR_TIMESTAMPTZ_TEXT:
			return "Use date_trunc(), and to_char() where the view is read.";
		case F_CONCAT:
		case F_CONCAT_WS:
		case F_TEXTANYCAT:
		case F_ANYTEXTCAT:
			return "Use || on texts.";
		default:
			return "Use a function that is immutable, or use it where the view is read.";
	}
}

/* Refuse a function or what calls it; a cast may be refused for itself. */
static void
refuse(Walk *walk, Oid function)
{
	bool		is_volatile = OidIsValid(function) && func_volatile(function) == PROVOLATILE_VOLATILE;
	char	   *what;

	if (IsA(walk->node, CoerceViaIO))
		what = psprintf("The cast from %s to %s",
						format_type_be(exprType((Node *) ((CoerceViaIO *) walk->node)->arg)),
						format_type_be(exprType(walk->node)));
	else if (IsA(walk->node, Aggref))
		what = psprintf("Aggregate %s", cm_function_text(((Aggref *) walk->node)->aggfnoid));
	else
		what = psprintf("Function %s", cm_function_text(function));
	cm_check_failed(walk->view, "functions", is_volatile ? "volatile_function" : "stable_function",
					psprintf("%s in %s is %s.", what, walk->where,
							 is_volatile ? "volatile" : "stable: its result depends on settings or other data"),
					hint_for(function));
}

/* Look at one function.  Never ends the walk. */
static bool
check_function(Oid function, void *context)
{
	Walk	   *walk = context;
	CmMatviewPlan *plan = walk->view->plan;

	if (!OidIsValid(function))
		return false;
	if (function >= FirstNormalObjectId)
		plan->functions = list_append_unique_oid(plan->functions, function);
	if (is_zone_function(function, NULL))
		plan->zone_matters = true;
	else if (func_volatile(function) != PROVOLATILE_IMMUTABLE &&
			 !cm_output_is_fixed(walk->node, &plan->zone_matters))
		refuse(walk, function);
	return false;
}

/* now() and its like, and other things that SQL spells without parentheses. */
static void
check_value(Walk *walk)
{
	bool		is_now = cm_window_is_now(walk->node);
	const char *name = IsA(walk->node, FuncExpr) ? cm_function_text(((FuncExpr *) walk->node)->funcid) :
		value_names[((SQLValueFunction *) walk->node)->op];

	if (is_now && walk->in_edge)
	{
		if (IsA(walk->node, SQLValueFunction))
			walk->view->plan->zone_matters = true;
	}
	else if (is_now)
		cm_check_failed(walk->view, "functions", "now_outside_window",
						psprintf("%s in %s is not in a condition of the form column >= expression with now() that WHERE demands of every row.",
								 name, walk->where),
						"Compare a time column, or the bucket made of it, with <, <=, > or >=; the other side reads no column.");
	else
		cm_check_failed(walk->view, "functions", "stable_function",
						psprintf("%s in %s is not the same in every session.", name, walk->where),
						"Use it where the view is read.");
}

/* Look at an aggregate and what it is made of. */
static void
check_aggregate(Walk *walk)
{
	Aggref	   *call = (Aggref *) walk->node;
	ListCell   *lc;

	if (call->aggfnoid >= FirstNormalObjectId)
	{
		foreach(lc, cm_aggregate_functions(call->aggfnoid))
			check_function(lfirst_oid(lc), walk);
	}
	if (!walk->view->settings->allow_inexact && !cm_aggregate_is_exact(call))
		cm_check_failed(walk->view, "aggregates", "aggregate_order",
						psprintf("The result of aggregate %s in %s depends on the order of rows.",
								 cm_function_text(call->aggfnoid), walk->where),
						cm_aggregate_hint(call));
}

/* Is it a kind of expression that computes from its parts alone? */
static bool
is_known_kind(Node *node)
{
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Const:
		case T_Aggref:
		case T_FuncExpr:
		case T_NamedArgExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_SubscriptingRef:
		case T_FieldSelect:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_ConvertRowtypeExpr:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_RowExpr:
		case T_RowCompareExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_CoerceToDomain:
		case T_SQLValueFunction:
		case T_List:
		case T_TargetEntry:
		case T_SortGroupClause:
		case T_JoinExpr:
		case T_FromExpr:
		case T_RangeTblRef:
			/* The next three are told by the check on clauses. */
		case T_GroupingFunc:
		case T_WindowFunc:
		case T_SubLink:
			return true;
		default:
			return false;
	}
}

static bool
check_walker(Node *node, void *context)
{
	Walk	   *walk = context;

	if (node == NULL || IsA(node, SubLink) || IsA(node, WindowFunc))
		return false;
	walk->node = node;
	if (!is_known_kind(node))
		cm_check_failed(walk->view, "functions", "unknown_expression",
						psprintf("An expression in %s is of a kind that can depend on settings.", walk->where),
						"Use functions and operators, or compute it where the view is read.");
	else if (cm_window_is_now(node) || IsA(node, SQLValueFunction))
		check_value(walk);
	else
	{
		if (IsA(node, CoerceViaIO) && cm_output_depends(exprType((Node *) ((CoerceViaIO *) node)->arg)))
			refuse(walk, InvalidOid);
		if (IsA(node, MinMaxExpr))
			check_function(lookup_type_cache(exprType(node), TYPECACHE_CMP_PROC)->cmp_proc, walk);
		if (IsA(node, Aggref))
			check_aggregate(walk);
		(void) check_functions_in_node(node, check_function, walk);
		cm_zone_note(walk->view->plan, node);
	}
	return expression_tree_walker(node, check_walker, context);
}

/* Look at all that expressions of a clause depend on.  in_edge: now() can be in them. */
void
cm_function_check(CmViewQuery *view, Node *node, const char *where, bool in_edge)
{
	Walk		walk = {.view = view, .where = where, .in_edge = in_edge};

	(void) check_walker(node, &walk);
}
