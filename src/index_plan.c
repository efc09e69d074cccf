/*-------------------------------------------------------------------------
 *
 * index_plan.c
 *	  What a row of index_plan means: its statement, and the shape of its index.
 *
 * A row holds the text that follows ON table in CREATE INDEX.  The statement
 * is put together from the row's names, quoted, and that text, and accepted
 * only if the grammar finds exactly one CREATE INDEX of that name on that
 * table in it; so the text can add nothing but what an index may have.
 *
 * Two indexes of a table are equivalent if one can serve wherever the other
 * does: same access method, keys, operator classes and their options,
 * collations, order, INCLUDEd columns, predicate and uniqueness.  Expressions
 * and predicates are compared as trees, after the same simplification that
 * the relation cache applies to those of existing indexes, so that spelling
 * does not matter.  This follows ComputeIndexAttrs() and CompareIndexInfo()
 * in the server.
 *
 * Locks: the caller holds at least ACCESS SHARE on the table.  Simplifying an
 * expression can run the users' IMMUTABLE functions, so callers act as the
 * table's owner, with SECURITY_RESTRICTED_OPERATION.
 *
 * What this file does not do: read index_plan, or build anything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/prep.h"
#include "parser/parse_utilcmd.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "concertmaster.h"
#include "index.h"

/*
 * The statement that builds the plan's index.  relation is quoted already;
 * how is "", "CONCURRENTLY" or "ONLY".  palloc'd.
 */
char *
cm_index_statement(const CmIndexPlan *plan, const char *relation,
				   const char *index_name, const char *how)
{
	bool		only = strcmp(how, "ONLY") == 0;

	return psprintf("CREATE %sINDEX %s%s%s ON %s%s %s",
					plan->is_unique ? "UNIQUE " : "",
					only ? "" : how, only || *how == '\0' ? "" : " ",
					quote_identifier(index_name),
					only ? "ONLY " : "", relation, plan->definition);
}

/*
 * Throw an error that came up while a definition was analyzed, with what its
 * reader needs to know: which definition, and how names in it are looked up.
 */
static void
rethrow_for_plan(ErrorData *edata, const CmIndexPlan *plan, const char *sql)
{
	MemoryContext old = MemoryContextSwitchTo(edata->assoc_context);
	const char *names = "Names in a definition are looked up in pg_catalog alone;"
		" write those of functions, types, operators, operator classes and"
		" collations elsewhere as schema.name.";
	char	   *where = psprintf("definition of index \"%s\"", plan->index_name);

	if (edata->cursorpos > 0)
	{
		edata->internalpos = edata->cursorpos;
		edata->internalquery = pstrdup(sql);
		edata->cursorpos = 0;
	}
	switch (edata->sqlerrcode)
	{
		case ERRCODE_UNDEFINED_FUNCTION:
		case ERRCODE_UNDEFINED_OBJECT:
		case ERRCODE_UNDEFINED_SCHEMA:
			edata->hint = edata->hint ? psprintf("%s  %s", edata->hint, names) : pstrdup(names);
			break;
		default:
			break;
	}
	edata->context = edata->context ? psprintf("%s\n%s", edata->context, where) : where;
	MemoryContextSwitchTo(old);
	ReThrowError(edata);
}

/*
 * Parse a statement of cm_index_statement().  An error unless it is one
 * CREATE INDEX of the names that the statement was made with.
 */
static IndexStmt *
parse_statement(const CmIndexPlan *plan, const char *sql)
{
	List	   *parsed = raw_parser(sql, RAW_PARSE_DEFAULT);

	if (list_length(parsed) != 1 || !IsA(linitial_node(RawStmt, parsed)->stmt, IndexStmt))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("definition of index \"%s\" is more than the end of one CREATE INDEX",
						plan->index_name),
				 errdetail("It is appended to: CREATE INDEX name ON table."),
				 errhint("Write for instance: (column) WHERE column IS NOT NULL.")));
	return castNode(IndexStmt, linitial_node(RawStmt, parsed)->stmt);
}

/* parse_statement(), with errors that point into the statement. */
IndexStmt *
cm_index_parse(const CmIndexPlan *plan, const char *sql)
{
	MemoryContext context = CurrentMemoryContext;
	IndexStmt  *volatile stmt = NULL;

	PG_TRY();
	{
		stmt = parse_statement(plan, sql);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		rethrow_for_plan(edata, plan, sql);
	}
	PG_END_TRY();
	return stmt;
}

/* Refuse what can change its result: an index would go wrong silently. */
static void
require_immutable(Node *node, const char *what)
{
	if (!contain_mutable_functions((Node *) expression_planner((Expr *) copyObject(node))))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("functions in index %s must be marked IMMUTABLE", what),
			 errhint("To index recent rows only, leave now() out, partition the table by time"
					 " and set hot_window: then only partitions inside the window get the index.")));
}

/* Type and collation of a key: a column, or an expression that is kept. */
static void
fill_key_target(CmIndexShape *shape, int i, IndexElem *elem, Relation rel,
				Oid *type)
{
	Oid			relid = RelationGetRelid(rel);
	Node	   *expr = elem->expr;
	int32		typmod;

	if (elem->name != NULL)
	{
		shape->attnums[i] = get_attnum(relid, elem->name);
		if (shape->attnums[i] == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" does not exist", elem->name)));
		get_atttypetypmodcoll(relid, shape->attnums[i], type, &typmod,
							  &shape->collations[i]);
		return;
	}

	*type = exprType(expr);
	shape->collations[i] = exprCollation(expr);
	while (IsA(expr, CollateExpr))
		expr = (Node *) ((CollateExpr *) expr)->arg;
	if (IsA(expr, Var) && ((Var *) expr)->varattno != InvalidAttrNumber)
	{
		shape->attnums[i] = ((Var *) expr)->varattno;
		return;
	}
	shape->attnums[i] = 0;
	require_immutable(expr, "expression");
	shape->expressions = lappend(shape->expressions, expr);
}

/* One key column of the statement: operator class, collation and order. */
static void
fill_key(CmIndexShape *shape, IndexElem *elem, Relation rel,
		 const char *am_name, IndexAmRoutine *am)
{
	int			i = shape->natts++;
	Oid			type;

	fill_key_target(shape, i, elem, rel, &type);
	if (elem->collation != NIL)
		shape->collations[i] = get_collation_oid(elem->collation, false);
	shape->opclasses[i] = ResolveOpClass(elem->opclass, type, am_name,
										 shape->access_method);
	shape->opclass_options[i] = elem->opclassopts == NIL ? (Datum) 0 :
		transformRelOptions((Datum) 0, elem->opclassopts, NULL, NULL, false, false);

	shape->options[i] = 0;
	if (am->amcanorder)
	{
		bool		desc = elem->ordering == SORTBY_DESC;

		if (desc)
			shape->options[i] |= INDOPTION_DESC;
		if (elem->nulls_ordering == SORTBY_NULLS_FIRST ||
			(desc && elem->nulls_ordering == SORTBY_NULLS_DEFAULT))
			shape->options[i] |= INDOPTION_NULLS_FIRST;
	}
	else if (elem->ordering != SORTBY_DEFAULT || elem->nulls_ordering != SORTBY_NULLS_DEFAULT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("access method \"%s\" does not support ASC/DESC or NULLS options",
						am_name)));
}

/* Refuse what the access method cannot do, in the server's words. */
static void
require_am_features(const IndexStmt *stmt, const IndexAmRoutine *am)
{
	const char *lacks = NULL;

	if (stmt->unique && !am->amcanunique)
		lacks = "unique indexes";
	else if (stmt->indexIncludingParams != NIL && !am->amcaninclude)
		lacks = "included columns";
	else if (list_length(stmt->indexParams) > 1 && !am->amcanmulticol)
		lacks = "multicolumn indexes";
	if (lacks != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("access method \"%s\" does not support %s",
						stmt->accessMethod, lacks)));
	if (list_length(stmt->indexParams) + list_length(stmt->indexIncludingParams) > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("cannot use more than %d columns in an index", INDEX_MAX_KEYS)));
}

/* The shape of the index that an analyzed statement would make. */
static void
fill_shape(CmIndexShape *shape, IndexStmt *stmt, Relation rel)
{
	IndexAmRoutine *am;
	ListCell   *lc;

	memset(shape, 0, sizeof(CmIndexShape));
	shape->access_method = get_index_am_oid(stmt->accessMethod, false);
	shape->is_unique = stmt->unique;
	shape->nulls_not_distinct = stmt->nulls_not_distinct;
	shape->nkeys = list_length(stmt->indexParams);
	am = GetIndexAmRoutineByAmId(shape->access_method, false);
	require_am_features(stmt, am);

	foreach(lc, stmt->indexParams)
		fill_key(shape, lfirst_node(IndexElem, lc), rel, stmt->accessMethod, am);
	foreach(lc, stmt->indexIncludingParams)
	{
		IndexElem  *elem = lfirst_node(IndexElem, lc);
		AttrNumber	attnum = elem->name ? get_attnum(RelationGetRelid(rel), elem->name) : 0;

		if (elem->name == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("expressions are not supported in included columns")));
		if (attnum == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" does not exist", elem->name)));
		shape->attnums[shape->natts++] = attnum;
	}

	shape->expressions = (List *)
		eval_const_expressions(NULL, (Node *) shape->expressions);
	if (stmt->whereClause != NULL)
	{
		Node	   *qual = stmt->whereClause;

		require_immutable(qual, "predicate");
		qual = eval_const_expressions(NULL, qual);
		qual = (Node *) canonicalize_qual((Expr *) qual, false);
		shape->predicate = make_ands_implicit((Expr *) qual);
	}
}

/*
 * The shape that the plan's index would have on this table: the plan's own,
 * or one of its partitions.  Allocated in the current memory context.
 */
void
cm_index_shape_planned(CmIndexShape *shape, const CmIndexPlan *plan, Relation rel)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *sql = cm_index_statement(plan, cm_relation_quoted(RelationGetRelid(rel)),
										 plan->index_name, "");

	PG_TRY();
	{
		IndexStmt  *stmt = parse_statement(plan, sql);

		stmt = transformIndexStmt(RelationGetRelid(rel), stmt, sql);
		fill_shape(shape, stmt, rel);
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		rethrow_for_plan(edata, plan, sql);
	}
	PG_END_TRY();
}

/* Are the options given to an operator class the same? */
static bool
same_options(Datum a, Datum b)
{
	if (a == (Datum) 0 || b == (Datum) 0)
		return a == b;
	return datumIsEqual(a, b, false, -1);
}

/* Does an existing index of the same table have this shape? */
bool
cm_index_shape_matches(const CmIndexShape *shape, Relation index)
{
	Form_pg_index form = index->rd_index;
	oidvector  *opclasses;
	bool		isnull;

	if (index->rd_rel->relam != shape->access_method ||
		form->indisunique != shape->is_unique ||
		form->indnullsnotdistinct != shape->nulls_not_distinct ||
		form->indisexclusion || !form->indimmediate ||
		form->indnkeyatts != shape->nkeys ||
		form->indnatts != shape->natts)
		return false;

	opclasses = (oidvector *)
		DatumGetPointer(SysCacheGetAttr(INDEXRELID, index->rd_indextuple,
										Anum_pg_index_indclass, &isnull));
	for (int i = 0; i < shape->natts; i++)
	{
		if (form->indkey.values[i] != shape->attnums[i])
			return false;
		if (i >= shape->nkeys)
			continue;
		if (opclasses->values[i] != shape->opclasses[i] ||
			index->rd_indcollation[i] != shape->collations[i] ||
			index->rd_indoption[i] != shape->options[i] ||
			!same_options(get_attoptions(RelationGetRelid(index), i + 1),
						  shape->opclass_options[i]))
			return false;
	}
	return equal(RelationGetIndexExpressions(index), shape->expressions) &&
		equal(RelationGetIndexPredicate(index), shape->predicate);
}

/*
 * The name of a planned index on one partition: partition_index, cut to fit
 * with a hash of the whole where it is too long.  The same for ever, so that
 * a leftover is recognized.  palloc'd.
 */
char *
cm_index_leaf_name(const char *relation_name, const char *index_name)
{
	char	   *full = psprintf("%s_%s", relation_name, index_name);
	int			len = strlen(full);
	uint32		hash;

	if (len < NAMEDATALEN)
		return full;
	hash = hash_bytes((unsigned char *) full, len);
	len = pg_mbcliplen(full, len, NAMEDATALEN - 1 - 9);
	return psprintf("%.*s_%08x", len, full, hash);
}
