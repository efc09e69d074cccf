/*-------------------------------------------------------------------------
 *
 * conversion_rebind.c
 *	  Have views read the partitioned table in the old one's place.
 *
 * A view keeps the relations of its query by oid, so after two tables have
 * changed their names it goes on reading the one that it always read.  Making
 * it anew from its text would do for a plain view; a materialized view would
 * lose its rows, its indexes, and what hangs on it.  So the stored query is
 * read, one oid in it replaced by the other, and stored again as CREATE OR
 * REPLACE VIEW stores one (DefineQueryRewrite, which also writes the
 * dependencies anew).  The view stays what it was in every other respect:
 * contents, statistics, owner, privileges, comments, views upon it.
 *
 * That is right only where the two tables have the same columns under the same
 * numbers, which the caller has seen to.  A use of the row as a whole gets the
 * other's row type; a view that computes with that type otherwise is an error,
 * and one that shows it was refused before.
 *
 * Locks: ACCESS EXCLUSIVE on each view, until the end of the transaction; the
 * caller has a deadline.  After an error the abort undoes all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteDefine.h"
#include "rewrite/rewriteSupport.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "conversion_do.h"

typedef struct Rebinding
{
	Oid			from;
	Oid			to;
	Oid			from_type;		/* their row types */
	Oid			to_type;
	const char *view;			/* for messages */
} Rebinding;

/* The row of the table as a whole has another type; more than its use is not followed. */
static void
rebind_row(Node *node, const Rebinding *rebinding)
{
	Var		   *var = (Var *) node;

	if (IsA(node, Var) && var->varattno == InvalidAttrNumber && var->vartype == rebinding->from_type)
		var->vartype = rebinding->to_type;
	else if ((IsA(node, FuncExpr) || IsA(node, Aggref) || IsA(node, WindowFunc) || IsA(node, CoalesceExpr) ||
			  IsA(node, CaseExpr) || IsA(node, MinMaxExpr) || IsA(node, RelabelType) || IsA(node, ConvertRowtypeExpr) ||
			  IsA(node, Const) || IsA(node, CoerceViaIO)) && exprType(node) == rebinding->from_type)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("view \"%s\" computes with the row type of table \"%s\"", rebinding->view, get_rel_name(rebinding->from)),
				 errdetail("The partitioned table has a row type of its own."),
				 errhint("Drop the view for the conversion, and create it anew after.")));
}

/* Replace the relation in a query and in all below it, in place. */
static bool
rebind_walker(Node *node, Rebinding *rebinding)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *entry = (RangeTblEntry *) node;

		if (entry->rtekind == RTE_RELATION && entry->relid == rebinding->from)
		{
			entry->relid = rebinding->to;
			entry->relkind = RELKIND_PARTITIONED_TABLE;

			/* ONLY the table meant all its rows; there were no others. */
			entry->inh = true;
		}
		return false;
	}
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		cm_compat_rebind_permissions(query, rebinding->from, rebinding->to);
		return query_tree_walker(query, rebind_walker, rebinding, QTW_EXAMINE_RTES_BEFORE);
	}
	rebind_row(node, rebinding);
	return expression_tree_walker(node, rebind_walker, rebinding);
}

/* The query that a view or materialized view was defined by, as stored. */
static Query *
stored_query(Relation view)
{
	for (int i = 0; view->rd_rules != NULL && i < view->rd_rules->numLocks; i++)
	{
		RewriteRule *rule = view->rd_rules->rules[i];

		if (rule->event == CMD_SELECT)
			return copyObject(linitial_node(Query, rule->actions));
	}
	elog(ERROR, "view \"%s\" has no query", RelationGetRelationName(view));
}

/*
 * Have a view read relation "to" wherever it reads "from".  Runs in the open
 * transaction, as a superuser; changes are seen after CommandCounterIncrement().
 */
void
cm_conversion_rebind_view(Oid viewid, Oid from, Oid to)
{
	Relation	view = table_open(viewid, AccessExclusiveLock);
	Rebinding	rebinding = {.from = from,.to = to,.from_type = get_rel_type_id(from),.to_type = get_rel_type_id(to),
	.view = RelationGetRelationName(view)};
	Query	   *query = stored_query(view);

	(void) rebind_walker((Node *) query, &rebinding);
	(void) DefineQueryRewrite(pstrdup(ViewSelectRuleName), viewid, NULL, CMD_SELECT, true, true,
							  list_make1(query));
	table_close(view, NoLock);
	CommandCounterIncrement();
}
