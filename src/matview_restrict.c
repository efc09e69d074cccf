/*-------------------------------------------------------------------------
 *
 * matview_restrict.c
 *	  A view's query, or a scan of the view, for one class of groups.
 *
 * Conditions on the grouped expressions are added to WHERE: there they hold
 * for all rows of a group or for none, so the groups that remain are whole.
 * The members of a class come as one more relation of FROM that is joined on
 * the key columns, or one by one as parameters, for a plan that is run for
 * each; a single member comes as constants.  Beside the bucket
 * itself its raw time is compared, with the member's range, which an index
 * can use, and with constants, by which the planner leaves out partitions.
 * What follows from the rest is left out, because the planner would count it
 * again and expect too few rows: the bucket where the range says the same,
 * the members' ranges where all have one.
 *
 * The same class of the view is found by the same conditions on the view's
 * columns.
 *
 * Expressions are copies, as they stand in the query: the raw column too is
 * taken from there, so that it carries what the planner wants to know about
 * outer joins.
 *
 * Pure: query trees are made, nothing is locked or run.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/stratnum.h"
#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "port/pg_bitutils.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "compat.h"
#include "matview_merge.h"

/* While conditions are made for one class. */
typedef struct Restriction
{
	const CmMatviewPlan *plan;
	const CmClass *class;
	Index		members;		/* range table index of the members; 0: not a relation */
	bool		by_member;		/* they are parameters; else, and if no relation, constants */
	Index		view;			/* of the view; 0: it is the view's query */
	List	   *quals;
} Restriction;

/* The key column's expression, or its column in the view. */
static Node *
key_node(const Restriction *restriction, int i)
{
	const CmKeyColumn *key = &restriction->plan->keys[i];

	if (restriction->view == 0)
		return copyObject(key->expr);
	return (Node *) makeVar(restriction->view, key->attno, key->type, key->typmod, key->collation, 0);
}

/* A column of the members. */
static Node *
member_column(const Restriction *restriction, AttrNumber attno, Oid type, int32 typmod, Oid collation)
{
	if (restriction->by_member)
	{
		Param	   *param = makeNode(Param);

		param->paramkind = PARAM_EXTERN;
		param->paramid = attno;
		param->paramtype = type;
		param->paramtypmod = typmod;
		param->paramcollid = collation;
		param->location = -1;
		return (Node *) param;
	}
	return (Node *) makeVar(restriction->members, attno, type, typmod, collation, 0);
}

/* A value as a constant. */
static Node *
constant(Oid type, int32 typmod, Oid collation, Datum value)
{
	int16		length;
	bool		by_value;

	get_typlenbyval(type, &length, &by_value);
	return (Node *) makeConst(type, typmod, collation, length, value, false, by_value);
}

/* What the operator takes, where it takes the type for another one. */
static Node *
relabel(Node *node, Oid wanted)
{
	Oid			type = exprType(node);

	if (type == wanted)
		return node;
	if (get_typtype(wanted) == TYPTYPE_PSEUDO)
	{
		wanted = getBaseType(type);
		if (wanted == type)
			return node;
	}
	return (Node *) makeRelabelType((Expr *) node, wanted, -1, exprCollation(node), COERCE_IMPLICIT_CAST);
}

/* left <op> right */
static Node *
compare(Oid op, Node *left, Node *right, Oid collation)
{
	Oid			left_type;
	Oid			right_type;
	OpExpr	   *clause;

	op_input_types(op, &left_type, &right_type);
	clause = (OpExpr *) make_opclause(op, BOOLOID, false,
									  (Expr *) relabel(left, left_type),
									  (Expr *) relabel(right, right_type),
									  InvalidOid, collation);
	set_opfuncid(clause);
	return (Node *) clause;
}

/* A btree operator of a time type. */
static Node *
compare_times(Oid type, int16 strategy, Node *left, Node *right)
{
	TypeCacheEntry *cache = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY);
	Oid			op = get_opfamily_member(cache->btree_opf, type, type, strategy);

	if (!OidIsValid(op))
		elog(ERROR, "type %u has no operator of strategy %d", type, strategy);
	return compare(op, left, right, InvalidOid);
}

/* The raw column of a bucket, as it stands in the key's expression. */
static Node *
raw_column(const Restriction *restriction, int i)
{
	const CmBucket *bucket = restriction->plan->keys[i].bucket;
	List	   *vars = pull_var_clause(restriction->plan->keys[i].expr, 0);
	ListCell   *cell;

	foreach(cell, vars)
	{
		const Var  *var = lfirst(cell);

		if (var->varno == bucket->rti && var->varattno == bucket->attno)
			return copyObject((Node *) var);
	}
	elog(ERROR, "key column %d does not read its raw column", i);
}

/* lo <= raw < hi */
static Node *
raw_between(const Restriction *restriction, int i, Node *lo, Node *hi)
{
	Oid			type = restriction->plan->keys[i].bucket->raw_type;

	return (Node *) make_andclause(list_make2(compare_times(type, BTGreaterEqualStrategyNumber,
															raw_column(restriction, i), lo),
											  compare_times(type, BTLessStrategyNumber,
															raw_column(restriction, i), hi)));
}

/* Compare the raw time of a bucket with the member's range. */
static void
restrict_raw_by_member(Restriction *restriction, int i)
{
	const CmClass *class = restriction->class;
	Oid			type = restriction->plan->keys[i].bucket->raw_type;
	Node	   *lo = member_column(restriction, class->lo_column[i], type, -1, InvalidOid);
	Node	   *hi = member_column(restriction, class->lo_column[i] + 1, type, -1, InvalidOid);
	Node	   *share = restriction->by_member ? NULL :
		cm_share_clause(raw_column(restriction, i), copyObject(lo), class->share[i]);

	restriction->quals = list_concat(restriction->quals,
									 ((BoolExpr *) raw_between(restriction, i, lo, hi))->args);
	if (share != NULL)
		restriction->quals = lappend(restriction->quals, share);
}

/* Conditions on the raw time of a bucket. */
static void
restrict_raw(Restriction *restriction, int i)
{
	const CmClass *class = restriction->class;
	Oid			type = restriction->plan->keys[i].bucket->raw_type;
	List	   *alternatives = NIL;
	ListCell   *cell;

	if (restriction->by_member)
	{
		restrict_raw_by_member(restriction, i);
		return;
	}
	foreach(cell, class->hulls[i])
	{
		const CmRawRange *hull = lfirst(cell);

		alternatives = lappend(alternatives,
							   raw_between(restriction, i, constant(type, -1, InvalidOid, hull->lo),
										   constant(type, -1, InvalidOid, hull->hi)));
	}
	if (list_length(alternatives) == 1)
		restriction->quals = list_concat(restriction->quals, ((BoolExpr *) linitial(alternatives))->args);
	else if (alternatives != NIL)
		restriction->quals = lappend(restriction->quals, make_orclause(alternatives));
	if (restriction->members != 0 && (class->single & CM_KEY_BIT(i)) == 0)
		restrict_raw_by_member(restriction, i);
}

/* expression IS NULL */
static Node *
is_null(Node *node)
{
	NullTest   *test = makeNode(NullTest);

	test->arg = (Expr *) node;
	test->nulltesttype = IS_NULL;
	test->argisrow = false;
	test->location = -1;
	return (Node *) test;
}

/* The value that a key column shall have. */
static Node *
wanted_value(const Restriction *restriction, int i)
{
	const CmKeyColumn *key = &restriction->plan->keys[i];
	const CmClass *class = restriction->class;
	const CmMember *only;

	if (restriction->members != 0 || restriction->by_member)
		return member_column(restriction, class->value_column[i], key->type, key->typmod, key->collation);
	only = linitial(class->members);
	return constant(key->type, key->typmod, key->collation, only->pattern->values[i]);
}

/* Conditions on one key column. */
static void
restrict_key(Restriction *restriction, int i)
{
	const CmKeyColumn *key = &restriction->plan->keys[i];
	const CmClass *class = restriction->class;
	Node	   *node = key_node(restriction, i);

	if (class->is_range)
	{
		restriction->quals = lappend(restriction->quals,
									 compare_times(key->type, BTGreaterEqualStrategyNumber, node,
												   constant(key->type, -1, InvalidOid, class->first)));
		restriction->quals = lappend(restriction->quals,
									 compare_times(key->type, BTLessEqualStrategyNumber, copyObject(node),
												   constant(key->type, -1, InvalidOid, class->last)));
	}
	else if ((class->nulls & CM_KEY_BIT(i)) != 0)
		restriction->quals = lappend(restriction->quals, is_null(node));
	else if (restriction->view != 0 || (class->exact & CM_KEY_BIT(i)) == 0)
		restriction->quals = lappend(restriction->quals,
									 compare(key->eqop, node, wanted_value(restriction, i), key->collation));
	if (restriction->view == 0 && (class->raws & CM_KEY_BIT(i)) != 0)
		restrict_raw(restriction, i);
}

/* All conditions of the class, into the query's WHERE. */
static void
restrict_keys(Restriction *restriction, Query *query)
{
	for (int i = 0; i < restriction->plan->nkeys; i++)
	{
		if ((restriction->class->mask & CM_KEY_BIT(i)) != 0)
			restrict_key(restriction, i);
	}
	query->jointree->quals = make_and_qual(query->jointree->quals,
										   (Node *) make_andclause(restriction->quals));
}

/* Add the members of the class to FROM. */
static void
add_members(Restriction *restriction, const CmClasses *classes, Query *query)
{
	ParseState *pstate;
	RangeTblRef *reference;

	if (restriction->class->name == NULL || restriction->by_member)
		return;
	pstate = make_parsestate(NULL);
	pstate->p_queryEnv = classes->env;
	pstate->p_rtable = query->rtable;
	(void) addRangeTableEntryForENR(pstate, makeRangeVar(NULL, restriction->class->name, -1), true);
	query->rtable = pstate->p_rtable;
	restriction->members = list_length(query->rtable);
	reference = makeNode(RangeTblRef);
	reference->rtindex = restriction->members;
	query->jointree->fromlist = lappend(query->jointree->fromlist, reference);
}

/*
 * The view's query for one class.  by_member: for one of its members, whose
 * values are parameters, numbered like the columns of the class' relation.
 */
Query *
cm_restrict_query(const CmClasses *classes, const CmClass *class, bool by_member)
{
	Restriction restriction = {.plan = classes->plan,.class = class,.by_member = by_member};
	Query	   *query = copyObject(classes->plan->query);

	add_members(&restriction, classes, query);
	restrict_keys(&restriction, query);
	return query;
}

/* Select ctid and all columns of a relation. */
static Query *
select_all(Relation view)
{
	ParseState *pstate = make_parsestate(NULL);
	Query	   *query = makeNode(Query);
	RangeTblRef *reference = makeNode(RangeTblRef);
	TupleDesc	desc = RelationGetDescr(view);

	(void) addRangeTableEntryForRelation(pstate, view, AccessShareLock, NULL, false, true);
	reference->rtindex = 1;
	query->commandType = CMD_SELECT;
	query->canSetTag = true;
	query->rtable = pstate->p_rtable;
	cm_compat_query_permissions(query, pstate);
	query->jointree = makeFromExpr(list_make1(reference), NULL);
	query->targetList = list_make1(makeTargetEntry((Expr *) makeVar(1, SelfItemPointerAttributeNumber, TIDOID, -1, InvalidOid, 0),
												   1, pstrdup("ctid"), false));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		Var		   *var = makeVar(1, i + 1, column->atttypid, column->atttypmod, column->attcollation, 0);

		query->targetList = lappend(query->targetList,
									makeTargetEntry((Expr *) var, i + 2, pstrdup(NameStr(column->attname)), false));
	}
	return query;
}

/* The view's rows of one class: ctid, then its columns. */
Query *
cm_restrict_view(const CmClasses *classes, const CmClass *class, Relation view)
{
	Restriction restriction = {.plan = classes->plan,.class = class,.view = 1};
	Query	   *query = select_all(view);

	add_members(&restriction, classes, query);
	restrict_keys(&restriction, query);
	return query;
}
