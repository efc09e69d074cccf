/*-------------------------------------------------------------------------
 *
 * matview_check.c
 *	  Can a materialized view be refreshed by its changed groups alone?
 *
 * Each check looks at one thing and adds a line per failure, with a code that
 * does not change from version to version, the clause concerned, and the
 * rewrite that would help.  All are made, so that explain_refresh() shows at
 * once everything that is in the way; a check that finds nothing says so.
 *
 * What is refused is what would be wrong, not only slow: whatever makes a
 * group depend on other rows than its own (LIMIT, window functions, queries
 * within), on more than the rows (functions that are not immutable, other
 * than those of the pinned time zone and of now() in a window), on rows whose
 * changes no trigger sees (matview_source.c), or on their order.
 *
 * Only the system catalogs are read, and nothing is locked; so the answer is
 * true of a moment, and a refresh asks again.
 *
 * What it does not do: find out what functions call in turn.  A function that
 * its owner declared immutable is taken at its word.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/transam.h"
#include "catalog/heap.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "matview_query.h"

/* Add a line. */
static void
add_check(CmViewQuery *view, const char *name, const char *reason_code,
		  const char *detail, const char *hint)
{
	CmMatviewCheck *check = palloc(sizeof(CmMatviewCheck));

	check->name = name;
	check->ok = reason_code == NULL;
	check->reason_code = reason_code;
	check->detail = detail;
	check->hint = hint;
	view->plan->checks = lappend(view->plan->checks, check);
}

/* Add a failure, unless the same was found before. */
void
cm_check_failed(CmViewQuery *view, const char *name, const char *reason_code,
				const char *detail, const char *hint)
{
	ListCell   *lc;

	foreach(lc, view->plan->checks)
	{
		CmMatviewCheck *check = lfirst(lc);

		if (!check->ok && strcmp(check->reason_code, reason_code) == 0 &&
			strcmp(check->name, name) == 0 && strcmp(check->detail, detail) == 0)
			return;
	}
	add_check(view, name, reason_code, detail, hint);
	view->plan->incremental = false;
}

/* What the owner decided. */
static void
check_setting(CmViewQuery *view)
{
	if (!view->settings->managed)
		cm_check_failed(view, "setting", "not_managed",
						"The view is not managed.",
						psprintf("SELECT concertmaster.manage_matview(%s, '15 minutes');",
								 quote_literal_cstr(cm_relation_quoted(view->plan->view))));
	else if (!view->settings->incremental)
		cm_check_failed(view, "setting", "owner_choice",
						"Incremental refresh of the view is turned off.",
						"Turn it on with concertmaster.manage_matview(..., incremental => true).");
}

/* Does the view hold something that changes could be merged into? */
static void
check_contents(CmViewQuery *view)
{
	if (!cm_matview_is_populated(view->plan->view))
		cm_check_failed(view, "contents", "not_populated",
						"The view is not populated.",
						"Its first refresh fills it.");
}

/* Can its rows be told apart? */
static void
check_index(CmViewQuery *view)
{
	char	   *columns = cm_matview_suggest_key(view->plan->view);

	if (!cm_matview_has_usable_index(view->plan->view))
		cm_check_failed(view, "unique index", "no_unique_index",
						"The view has no unique index that is valid, immediate, without WHERE clause and on plain columns.",
						psprintf("CREATE UNIQUE INDEX ON %s (%s);",
								 cm_relation_quoted(view->plan->view),
								 columns != NULL ? columns : "..."));
}

/* Is any table in FROM sampled? */
static bool
has_tablesample(const Query *query)
{
	ListCell   *lc;

	foreach(lc, query->rtable)
	{
		if (((RangeTblEntry *) lfirst(lc))->tablesample != NULL)
			return true;
	}
	return false;
}

/* Clauses that make a row of the view depend on more than its group. */
static void
check_clauses(CmViewQuery *view)
{
	const Query *query = view->flat;
	const struct
	{
		bool		found;
		const char *reason_code;
		const char *detail;
		const char *hint;
	}			clauses[] = {
		{query->cteList != NIL, "cte", "The query has a WITH clause.",
		"Write its queries out as joins of tables."},
		{query->setOperations != NULL, "set_operation", "The query has UNION, INTERSECT or EXCEPT.",
		"Make one materialized view of each of its queries, and a view over them."},
		{query->distinctClause != NIL, "distinct",
			query->hasDistinctOn ? "The query has DISTINCT ON." : "The query has DISTINCT.",
			query->hasDistinctOn ? "Use GROUP BY with aggregates such as min() or max()." : "Use GROUP BY with all selected columns."},
		{query->limitCount != NULL || query->limitOffset != NULL, "limit", "The query has LIMIT or OFFSET.",
		"Use it where the view is read."},
		{query->groupingSets != NIL, "grouping_sets", "The query has GROUPING SETS, ROLLUP, CUBE or an empty grouping set.",
		"Make one materialized view of each grouping."},
		{query->hasSubLinks, "subquery", "The query has a subquery in an expression.",
		"Join the table instead."},
		{query->hasWindowFuncs, "window_function", "The query has a window function.",
		"Use it in a view over the materialized view."},
		{query->hasTargetSRFs, "set_returning_function", "The query has a set-returning function in its select list.",
		"Use it in a view over the materialized view."},
		{query->rowMarks != NIL, "row_lock", "The query has FOR UPDATE or another locking clause.",
		"Leave it out."},
		{has_tablesample(query), "tablesample", "The query has TABLESAMPLE.",
		"Leave it out."},
	};

	for (int i = 0; i < lengthof(clauses); i++)
	{
		if (clauses[i].found)
			cm_check_failed(view, "clauses", clauses[i].reason_code, clauses[i].detail, clauses[i].hint);
	}
	if (query->sortClause != NIL)
		add_check(view, "ORDER BY", NULL, "The query has ORDER BY, which an incremental refresh does not follow.",
				  "Use it where the view is read.");
}

/* What the rows are grouped by has to be seen in them. */
static void
check_grouping(CmViewQuery *view)
{
	const Query *query = view->flat;
	ListCell   *lc;

	if (query->groupClause == NIL && query->groupingSets == NIL)
		cm_check_failed(view, "GROUP BY", "no_group_by", "The query has no GROUP BY.",
						query->hasAggs ? "Group by a column, a day for instance." :
						"Group by all selected columns, if its rows are distinct, or by a primary key among them.");
	foreach(lc, query->groupClause)
	{
		SortGroupClause *clause = lfirst(lc);
		TargetEntry *entry = get_sortgroupclause_tle(clause, query->targetList);

		if (get_opcode(clause->eqop) >= FirstNormalObjectId)
			view->plan->functions = list_append_unique_oid(view->plan->functions, get_opcode(clause->eqop));
		if (entry->resjunk)
			cm_check_failed(view, "GROUP BY", "hidden_group",
							psprintf("Expression %d of GROUP BY is not in the select list.",
									 foreach_current_index(lc) + 1),
							"Select it too.");
	}
}

/* Columns that triggers do not see as the query does: those that no row holds. */
static void
check_columns(CmViewQuery *view)
{
	int			flags = PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS | PVC_RECURSE_PLACEHOLDERS;
	List	   *vars = pull_var_clause((Node *) list_make3(view->flat->targetList, view->flat->jointree,
														   view->flat->havingQual), flags);
	ListCell   *lc;

	foreach(lc, vars)
	{
		Var		   *var = lfirst(lc);
		RangeTblEntry *rte = rt_fetch(var->varno, view->flat->rtable);

		if (var->varattno < 0 && rte->rtekind == RTE_RELATION)
			cm_check_failed(view, "columns", "system_column",
							psprintf("The query reads system column %s of %s.",
									 NameStr(SystemAttributeDefinition(var->varattno)->attname),
									 cm_relation_quoted(rte->relid)),
							"Leave it out.");
		else if (var->varattno > 0 && rte->rtekind == RTE_RELATION &&
				 get_attgenerated(rte->relid, var->varattno) == ATTRIBUTE_GENERATED_VIRTUAL)
			cm_check_failed(view, "columns", "virtual_column",
							psprintf("The query reads virtual generated column %s of %s.",
									 quote_identifier(get_attname(rte->relid, var->varattno, false)),
									 cm_relation_quoted(rte->relid)),
							"Write its expression instead, or make it a stored generated column.");
	}
}

/* Go through the expressions by the clause that they are in. */
static void
check_functions(CmViewQuery *view)
{
	ListCell   *lc;

	foreach(lc, view->flat->targetList)
	{
		TargetEntry *entry = lfirst(lc);
		bool		grouped = get_sortgroupref_clause_noerr(entry->ressortgroupref,
															view->flat->groupClause) != NULL;

		cm_function_check(view, (Node *) entry->expr, grouped ? "GROUP BY" : "the select list", false);
	}
	foreach(lc, view->wheres)
		cm_function_check(view, lfirst(lc), "WHERE", list_member_ptr(view->edges, lfirst(lc)));
	cm_function_check(view, (Node *) view->flat->jointree->fromlist, "a join condition", false);
	cm_function_check(view, view->flat->havingQual, "HAVING", false);
}

/* Does anything tell which groups have changed? */
static void
check_key(CmViewQuery *view)
{
	const CmMatviewPlan *plan = view->plan;
	ListCell   *lc;

	if (plan->nkeys == 0)
		cm_check_failed(view, "key", "no_key",
						"No row of any table tells which groups it is in.",
						"Group by a column of a table in FROM, or by a bucket that date_trunc() makes of it.");
	foreach(lc, plan->windows)
	{
		const CmWindow *window = lfirst(lc);
		Oid			relid = rt_fetch(window->bucket->rti, view->flat->rtable)->relid;

		if (window->key < 0)
			cm_check_failed(view, "key", "window_not_grouped",
							psprintf("A condition moves with now(), and the view is not grouped by column %s of %s, which it is on.",
									 quote_identifier(get_attname(relid, window->bucket->attno, false)),
									 cm_relation_quoted(relid)),
							"Group by the column, its day for instance; or use the condition where the view is read.");
	}
}

/* FULL JOIN leaves no side whose rows always tell something. */
static void
check_joins(CmViewQuery *view)
{
	if (view->full_join)
		cm_check_failed(view, "joins", "full_join", "The query has a FULL JOIN.",
						"Use LEFT JOIN or RIGHT JOIN, where one side has all rows that matter.");
}

/* A check, and what it says if nothing is in the way. */
typedef struct Check
{
	const char *name;
	const char *detail;
	void		(*look) (CmViewQuery *view);
} Check;

static const Check checks[] = {
	{"setting", "Incremental refresh of the view is turned on.", check_setting},
	{"contents", "The view is populated.", check_contents},
	{"unique index", "The view has one.", check_index},
	{"clauses", "The query has none that makes a row depend on other groups.", check_clauses},
	{"GROUP BY", "All grouped expressions are in the select list.", check_grouping},
	{"FROM", "Only tables whose changes triggers can see.", cm_source_check},
	{"joins", "No FULL JOIN.", check_joins},
	{"columns", "Only those that rows hold.", check_columns},
	{"functions", "All depend on their arguments alone, on the view's time zone or on now() in a window.", check_functions},
	{"aggregates", "All give one result in whatever order rows come, or need not.", NULL},
	{"key", "Rows of the tables tell which groups they are in.", check_key},
};

/* Has a check of this name failed? */
static bool
has_failed(const CmViewQuery *view, const char *name)
{
	ListCell   *lc;

	foreach(lc, view->plan->checks)
	{
		CmMatviewCheck *check = lfirst(lc);

		if (!check->ok && strcmp(check->name, name) == 0)
			return true;
	}
	return false;
}

/* Make all checks.  Those on aggregates come with those on functions. */
void
cm_check_all(CmViewQuery *view)
{
	for (int i = 0; i < lengthof(checks); i++)
	{
		if (checks[i].look != NULL)
			checks[i].look(view);
		if (!has_failed(view, checks[i].name))
			add_check(view, checks[i].name, NULL, checks[i].detail, NULL);
	}
}
