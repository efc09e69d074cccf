/*-------------------------------------------------------------------------
 *
 * matview_query.c
 *	  What a materialized view's query is made of, and what its changes tell.
 *
 * The stored query is read from pg_rewrite and flattened: columns of joins
 * and, on 18 and later, of the grouping step are replaced by what they stand
 * for.  From that follow the tables whose changes count, the columns of them
 * that are read, and the key: those grouped columns whose value a row of some
 * table tells (matview_join.c).
 *
 * cm_matview_plan() also makes all checks (matview_check.c), and is for those
 * who refresh or explain.  cm_matview_plan_for_log() makes none, since the
 * first write of a session to a tracked table waits for it; it answers the
 * same key and the same masks, because both depend on nothing but the stored
 * query and what the catalogs say of types and operators.
 *
 * Nothing is locked but the system catalogs: the query tree is as it was when
 * the view was made, and no table can lose a column that it reads.  All is
 * palloc'd in the caller's context; nothing to clean up.
 *
 * What it does not do: look at views that others are made of; such a FROM is
 * refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_class.h"
#include "common/hashfn.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "matview_query.h"

/* Replace columns of joins and of the grouping step by what they stand for. */
static Node *
flatten(Query *query, Node *node)
{
	node = cm_compat_flatten_group_exprs(NULL, query, node);
	return cm_compat_flatten_join_alias_vars(NULL, query, node);
}

/* Read a view's query; NULL if it is gone. */
static CmViewQuery *
read_view(Oid relid)
{
	Query	   *query = cm_matview_read_query(relid);
	CmViewQuery *view;
	Query	   *flat;

	if (query == NULL)
		return NULL;
	view = palloc0(sizeof(CmViewQuery));
	view->plan = palloc0(sizeof(CmMatviewPlan));
	view->plan->view = relid;
	view->plan->query = query;
	view->flat = flat = copyObject(query);
	flat->targetList = (List *) flatten(query, (Node *) flat->targetList);
	flat->jointree = (FromExpr *) flatten(query, (Node *) flat->jointree);
	flat->havingQual = flatten(query, flat->havingQual);
	cm_join_read(view);
	return view;
}

/* Note which columns of a table the query reads. */
static void
note_columns(CmTracked *tracked, List *vars)
{
	ListCell   *lc;

	foreach(lc, vars)
	{
		Var		   *var = lfirst(lc);

		if (var->varno != tracked->rti || var->varlevelsup != 0)
			continue;
		if (var->varattno == 0)
			tracked->whole_row = true;
		else if (var->varattno > 0)
			tracked->columns = bms_add_member(tracked->columns, var->varattno);
	}
}

/* All columns that the query reads anywhere. */
static List *
all_vars(const Query *flat)
{
	int			flags = PVC_RECURSE_AGGREGATES | PVC_RECURSE_WINDOWFUNCS | PVC_RECURSE_PLACEHOLDERS;
	List	   *vars = pull_var_clause((Node *) flat->targetList, flags);

	vars = list_concat(vars, pull_var_clause((Node *) flat->jointree, flags));
	return list_concat(vars, pull_var_clause(flat->havingQual, flags));
}

/* Find the tables, and what of them is read. */
static void
find_tracked(CmViewQuery *view)
{
	List	   *vars = all_vars(view->flat);
	ListCell   *lc;

	foreach(lc, view->sources)
	{
		RangeTblEntry *rte = rt_fetch(lfirst_int(lc), view->flat->rtable);
		CmTracked  *tracked;

		if (rte->rtekind != RTE_RELATION ||
			(rte->relkind != RELKIND_RELATION && rte->relkind != RELKIND_PARTITIONED_TABLE))
			continue;
		tracked = palloc0(sizeof(CmTracked));
		tracked->rti = lfirst_int(lc);
		tracked->relid = rte->relid;
		note_columns(tracked, vars);
		view->plan->tracked = lappend(view->plan->tracked, tracked);
	}
}

/*
 * Can an expression be part of the key?  A constant tells nothing.  What
 * depends on the time zone is evaluated in the pinned one where it is a
 * bucket, and nowhere else.
 */
static bool
is_key_expression(Node *expr)
{
	return contain_var_clause(expr) && !cm_window_has_now(expr) &&
		!checkExprHasSubLink(expr) && !type_is_rowtype(exprType(expr)) &&
		(!cm_function_uses_zone(expr) || cm_bucket_parse(expr) != NULL);
}

/* Add a function of users to the version of the key; never ends the walk. */
static bool
add_version(Oid funcid, void *context)
{
	uint32	   *version = context;
	HeapTuple	tuple;

	if (funcid < FirstNormalObjectId)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	if (!HeapTupleIsValid(tuple))
		return false;
	*version = hash_combine(*version, murmurhash32(HeapTupleHeaderGetRawXmin(tuple->t_data)));
	ReleaseSysCache(tuple);
	return false;
}

/* What a key is made by.  A transaction that is open can have logged with another. */
static bool
version_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	(void) check_functions_in_node(node, add_version, context);
	return expression_tree_walker(node, version_walker, context);
}

/* Make a grouped column a key column if any table's rows tell it. */
static void
add_key(CmViewQuery *view, TargetEntry *entry, Oid eqop)
{
	CmMatviewPlan *plan = view->plan;
	CmKeyColumn *key = &plan->keys[plan->nkeys];
	Node	   *expr = (Node *) entry->expr;
	bool		told = false;
	ListCell   *lc;

	if (plan->nkeys == CM_KEY_MAX || entry->resjunk || !is_key_expression(expr))
		return;
	foreach(lc, plan->tracked)
	{
		CmTracked  *tracked = lfirst(lc);

		tracked->exprs[plan->nkeys] = cm_join_tell(view, expr, tracked->rti);
		if (tracked->exprs[plan->nkeys] == NULL)
			continue;
		tracked->mask |= 1U << plan->nkeys;
		told = true;
	}
	if (!told)
		return;
	key->attno = entry->resno;
	key->type = exprType(expr);
	key->typmod = exprTypmod(expr);
	key->collation = exprCollation(expr);
	key->eqop = eqop;
	key->expr = expr;
	key->bucket = cm_bucket_parse(expr);
	plan->nkeys++;
}

/* Find the key, and which table tells what of it. */
static void
find_keys(CmViewQuery *view)
{
	CmMatviewPlan *plan = view->plan;
	ListCell   *lc;

	foreach(lc, view->flat->groupClause)
	{
		SortGroupClause *clause = lfirst(lc);

		add_key(view, get_sortgroupclause_tle(clause, view->flat->targetList), clause->eqop);
	}
	for (int i = 0; i < plan->nkeys; i++)
		(void) version_walker(plan->keys[i].expr, &plan->key_version);
	plan->key_desc = CreateTemplateTupleDesc(plan->nkeys);
	for (int i = 0; i < plan->nkeys; i++)
	{
		TargetEntry *entry = list_nth(view->flat->targetList, plan->keys[i].attno - 1);

		TupleDescInitEntry(plan->key_desc, i + 1, entry->resname,
						   plan->keys[i].type, plan->keys[i].typmod, 0);
		TupleDescInitEntryCollation(plan->key_desc, i + 1, plan->keys[i].collation);
	}
}

/* What is known of a view from its query alone; NULL if it is gone. */
static CmViewQuery *
analyze(Oid relid)
{
	CmViewQuery *view = read_view(relid);

	if (view == NULL)
		return NULL;
	find_tracked(view);
	find_keys(view);
	cm_window_find(view);
	return view;
}

/* All that is known of a view's query, checks included; NULL if it is gone. */
CmMatviewPlan *
cm_matview_plan(Oid relid, const CmMatviewSettings *settings)
{
	CmViewQuery *view = analyze(relid);

	if (view == NULL)
		return NULL;
	view->settings = settings;
	view->plan->incremental = true;
	cm_check_all(view);
	return view->plan;
}

/* The same without checks, for those who write; NULL if the view is gone. */
CmMatviewPlan *
cm_matview_plan_for_log(Oid relid)
{
	CmViewQuery *view = analyze(relid);

	return view != NULL ? view->plan : NULL;
}
