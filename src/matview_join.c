/*-------------------------------------------------------------------------
 *
 * matview_join.c
 *	  Which grouped columns a row of one table tells.
 *
 * When a row t of table R comes or goes, the joined rows that come or go with
 * it are those that hold t and, where R is on the nullable side of an outer
 * join, those in which that join puts nulls in t's place.  An expression over
 * the joined row is told by t if its value in all of them follows from t:
 *
 * - its columns of other tables are replaced by columns of R that a condition
 *   makes equal to them in every joined row that holds t (WHERE, ON of an
 *   inner join, ON of an outer join that R is on the nullable side of), and
 * - no outer join that can null R can null a table of the expression's, so
 *   that the rows with nulls have the values of the rows with t.
 *
 * R's own columns are nulled where R is, so an expression over them is told
 * only if nothing nulls R.
 *
 * Equal by the default btree operator of the type is what GROUP BY calls
 * equal.  Inside of a larger expression that is not enough: 1.0 and 1.00 are
 * equal, their texts are not.  There the type's equality must mean the same
 * bytes, which its operator class says.
 *
 * Pure but for reads of the system catalogs; nothing is locked, nothing to
 * clean up.
 *
 * What it does not do: follow chains of equalities (a = b AND b = c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteManip.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "matview_query.h"

/* Does a type's default btree call equal only what has the same bytes? */
static bool
equal_means_same(const Var *var)
{
	TypeCacheEntry *type = lookup_type_cache(var->vartype, TYPECACHE_BTREE_OPFAMILY);
	Oid			proc;

	if (!OidIsValid(type->btree_opf))
		return false;
	proc = get_opfamily_proc(type->btree_opf, type->btree_opintype, type->btree_opintype,
							 BTEQUALIMAGE_PROC);
	return OidIsValid(proc) &&
		DatumGetBool(OidFunctionCall1Coll(proc, var->varcollid, ObjectIdGetDatum(type->btree_opintype)));
}

/* The column that an operand is, perhaps under another name of its type. */
static Var *
plain_column(Node *operand)
{
	while (IsA(operand, RelabelType))
		operand = (Node *) ((RelabelType *) operand)->arg;
	if (!IsA(operand, Var) || ((Var *) operand)->varlevelsup != 0 ||
		((Var *) operand)->varattno <= 0)
		return NULL;
	return (Var *) operand;
}

/* Remember a condition that says that two columns are equal. */
static void
add_equality(CmViewQuery *view, Node *clause, Index nullable)
{
	OpExpr	   *op = (OpExpr *) clause;
	TypeCacheEntry *type;
	CmEquality *equality;
	Var		   *left;
	Var		   *right;

	if (!IsA(clause, OpExpr) || list_length(op->args) != 2)
		return;
	left = plain_column(linitial(op->args));
	right = plain_column(lsecond(op->args));
	if (left == NULL || right == NULL || left->varno == right->varno ||
		left->vartype != right->vartype || left->varcollid != right->varcollid ||
		(OidIsValid(left->varcollid) && op->inputcollid != left->varcollid))
		return;
	type = lookup_type_cache(left->vartype, TYPECACHE_BTREE_OPFAMILY);
	if (!OidIsValid(type->btree_opf) ||
		op->opno != get_opfamily_member(type->btree_opf, type->btree_opintype,
										type->btree_opintype, BTEqualStrategyNumber))
		return;
	equality = palloc(sizeof(CmEquality));
	equality->left = left;
	equality->right = right;
	equality->nullable = nullable;
	view->equalities = lappend(view->equalities, equality);
}

/* The members of a condition, all of which must hold. */
static List *
members(Node *quals, List *so_far)
{
	ListCell   *lc;

	if (quals == NULL)
		return so_far;
	if (IsA(quals, List) || is_andclause(quals))
	{
		foreach(lc, IsA(quals, List) ? (List *) quals : ((BoolExpr *) quals)->args)
			so_far = members(lfirst(lc), so_far);
		return so_far;
	}
	return lappend(so_far, quals);
}

/* Look at the conditions of one join, or of WHERE. */
static void
read_conditions(CmViewQuery *view, List *conditions, Index nullable)
{
	ListCell   *lc;

	foreach(lc, conditions)
		add_equality(view, lfirst(lc), nullable);
}

static void read_from(CmViewQuery *view, Node *node, Bitmapset *nulled_by);

/* Look at a join.  nulled_by are the joins above that can null all of it. */
static void
read_join(CmViewQuery *view, JoinExpr *join, Bitmapset *nulled_by)
{
	Bitmapset  *inside = bms_add_member(bms_copy(nulled_by), join->rtindex);
	bool		nulls_left = join->jointype == JOIN_RIGHT || join->jointype == JOIN_FULL;
	bool		nulls_right = join->jointype == JOIN_LEFT || join->jointype == JOIN_FULL;

	read_from(view, join->larg, nulls_left ? inside : nulled_by);
	read_from(view, join->rarg, nulls_right ? inside : nulled_by);
	if (join->jointype == JOIN_INNER)
		read_conditions(view, members(join->quals, NIL), 0);
	else if (nulls_left != nulls_right)
		read_conditions(view, members(join->quals, NIL), join->rtindex);
	else
		view->full_join = true;
}

/* Look at a part of FROM. */
static void
read_from(CmViewQuery *view, Node *node, Bitmapset *nulled_by)
{
	ListCell   *lc;

	if (IsA(node, RangeTblRef))
	{
		Index		rti = ((RangeTblRef *) node)->rtindex;

		view->sources = lappend_int(view->sources, rti);
		view->nulled_by[rti] = nulled_by;
	}
	else if (IsA(node, JoinExpr))
		read_join(view, (JoinExpr *) node, nulled_by);
	else
	{
		foreach(lc, ((FromExpr *) node)->fromlist)
			read_from(view, lfirst(lc), nulled_by);
	}
}

/* Find what FROM joins, what can be null in it, and which columns are equal. */
void
cm_join_read(CmViewQuery *view)
{
	FromExpr   *from = view->flat->jointree;

	view->nulled_by = palloc0((list_length(view->flat->rtable) + 1) * sizeof(Bitmapset *));
	read_from(view, (Node *) from, NULL);
	view->wheres = members(from->quals, NIL);
	read_conditions(view, view->wheres, 0);
}

/* The column of table rti that is equal to this one wherever it matters. */
static Var *
equal_column(const CmViewQuery *view, const Var *var, Index rti, bool same)
{
	ListCell   *lc;

	foreach(lc, view->equalities)
	{
		CmEquality *equality = lfirst(lc);
		Var		   *other;

		if (equality->left->varno == var->varno && equality->left->varattno == var->varattno)
			other = equality->right;
		else if (equality->right->varno == var->varno && equality->right->varattno == var->varattno)
			other = equality->left;
		else
			continue;
		if (other->varno != rti ||
			(equality->nullable != 0 && !bms_is_member(equality->nullable, view->nulled_by[rti])))
			continue;
		/* A shorter char(n) has fewer blanks. */
		if (same && (other->vartypmod != var->vartypmod || !equal_means_same(var)))
			continue;
		return other;
	}
	return NULL;
}

/* What replacing columns needs to know. */
typedef struct TellContext
{
	const CmViewQuery *view;
	Index		rti;
	bool		same;			/* equal is not enough */
	bool		known;
} TellContext;

/* Replace what is not a column of the table. */
static Node *
tell_mutator(Node *node, void *context)
{
	TellContext *tell = context;
	Var		   *var = (Var *) node;

	if (node == NULL || !tell->known)
		return node;
	if (!IsA(node, Var))
		return expression_tree_mutator(node, tell_mutator, context);
	tell->known = var->varlevelsup == 0 && var->varattno > 0 &&
		!bms_overlap(tell->view->nulled_by[var->varno], tell->view->nulled_by[tell->rti]);
	if (tell->known && var->varno != tell->rti)
	{
		var = equal_column(tell->view, var, tell->rti, tell->same);
		tell->known = var != NULL;
	}
	return copyObject((Node *) var);
}

/*
 * The expression as an expression over table rti alone, if a row of that
 * table tells its value; else NULL.
 */
Node *
cm_join_tell(const CmViewQuery *view, Node *expr, Index rti)
{
	TellContext tell = {.view = view, .rti = rti, .same = !IsA(expr, Var), .known = true};
	Node	   *told = tell_mutator(expr, &tell);
	Bitmapset  *joins = NULL;

	if (!tell.known)
		return NULL;
	for (int i = 1; i <= list_length(view->flat->rtable); i++)
		joins = bms_add_member(joins, i);
	return cm_compat_remove_nulling_relids(told, joins, NULL);
}
