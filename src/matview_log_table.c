/*-------------------------------------------------------------------------
 *
 * matview_log_table.c
 *	  What a session knows of a table that it writes to: for whom to log what.
 *
 * Made when a session first writes to a tracked table or leaf, kept in the
 * session (matview_log.c) until something that it is made of changes: the
 * table, the tables that it is a partition of, the views, and functions of
 * users that compute keys.  The views are those that matview_source has for
 * the table or for one that it is a partition of; each view's key and what
 * the table tells of it come from cm_matview_plan_for_log(), with the root's
 * columns replaced by the leaf's of the same name.  Equal expressions of
 * several views share a teller.
 *
 * matview_source and matview_track are read as of now and not as of the
 * transaction's snapshot, which can be older than the tracking: whoever starts
 * to track holds a lock that conflicts with this writer's, so what is
 * committed now is all there is.  For the same reason no lock on them is
 * needed beyond that of a reader.
 *
 * A view whose query cannot be read, for whatever error, or whose owner has not
 * the rights of the table's owner any more, is logged as "any group"; it is
 * tried again when something changes.  A view that is gone is
 * logged for no more.
 *
 * Locks: AccessShareLock on matview_source and matview_track, for a moment;
 * none on views.  After an error what was made so far goes with its context,
 * a child of the transaction's until it is complete.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "nodes/nodeFuncs.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "matview_log.h"

/* Columns of matview_source and matview_track. */
#define SOURCE_RELID	1
#define SOURCE_VIEW		2
#define TRACK_VIEW		1
#define TRACK_TIMEZONE	5

/* What is made, while it is made. */
typedef struct Build
{
	CmLogTable *table;
	Relation	relation;
	List	   *roots;			/* the table and those that it is a partition of */
	List	   *depends;
	List	   *columns;		/* attribute numbers, as integers */
	List	   *tellers;		/* of CmTeller */
	List	   *targets;		/* of CmLogTarget */
} Build;

/* A view of matview_source, and which of the roots it is over. */
typedef struct Source
{
	Oid			root;
	Oid			view;
} Source;

/* One of the extension's relations, or InvalidOid if it is not there. */
Oid
cm_log_relation(const char *name)
{
	Oid			schema = get_namespace_oid(CM_SCHEMA, true);

	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

/* The leaf of the log that has a view's rows, or InvalidOid if there is no log. */
Oid
cm_log_leaf(Oid view)
{
	Oid			log_relid = cm_log_relation("matview_log");
	Datum		value = ObjectIdGetDatum(view);
	bool		isnull = false;
	Relation	log;
	PartitionKey key;
	PartitionDesc leaves;
	uint64		hash;
	Oid			leaf;

	if (!OidIsValid(log_relid))
		return InvalidOid;
	log = table_open(log_relid, AccessShareLock);
	key = RelationGetPartitionKey(log);
	leaves = RelationGetPartitionDesc(log, true);
	hash = compute_partition_hash_value(key->partnatts, key->partsupfunc, key->partcollation, &value, &isnull);
	leaf = leaves->oids[leaves->boundinfo->indexes[hash % leaves->boundinfo->nindexes]];
	table_close(log, AccessShareLock);
	return leaf;
}

/* The rows of matview_source for the roots, as of now. */
static List *
read_sources(List *roots)
{
	Oid			source_relid = cm_log_relation("matview_source");
	List	   *sources = NIL;
	Relation	relation;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(source_relid))
		return NIL;
	relation = table_open(source_relid, AccessShareLock);
	scan = systable_beginscan(relation, InvalidOid, false, SnapshotSelf, 0, NULL);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		bool		isnull;
		Oid			root = DatumGetObjectId(heap_getattr(tuple, SOURCE_RELID, RelationGetDescr(relation), &isnull));

		if (list_member_oid(roots, root))
		{
			Source	   *source = palloc(sizeof(Source));

			source->root = root;
			source->view = DatumGetObjectId(heap_getattr(tuple, SOURCE_VIEW, RelationGetDescr(relation), &isnull));
			sources = lappend(sources, source);
		}
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return sources;
}

/*
 * The zone that a view's tables log in, palloc'd, as of now; NULL if it is not
 * tracked.
 */
char *
cm_log_track_zone(Oid view)
{
	Oid			track_relid = cm_log_relation("matview_track");
	char	   *zone = NULL;
	Relation	relation;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(track_relid))
		return NULL;
	relation = table_open(track_relid, AccessShareLock);
	ScanKeyInit(&key, TRACK_VIEW, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(view));
	scan = systable_beginscan(relation, InvalidOid, false, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;

		zone = TextDatumGetCString(heap_getattr(tuple, TRACK_TIMEZONE, RelationGetDescr(relation), &isnull));
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return zone;
}

/* The written table's number for a column of the root; 0 if it has none. */
static AttrNumber
map_column(const Build *build, Oid root, AttrNumber attno)
{
	char	   *name;

	if (root == build->table->relid || attno <= 0)
		return attno;
	name = get_attname(root, attno, true);
	return name != NULL ? get_attnum(build->table->relid, name) : InvalidAttrNumber;
}

/* For the walk that makes an expression one over the written table. */
typedef struct Mapping
{
	const Build *build;
	Oid			root;
} Mapping;

static Node *
map_vars(Node *node, void *context)
{
	const Mapping *mapping = context;

	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = copyObject((Var *) node);

		var->varno = 1;
		var->varattno = map_column(mapping->build, mapping->root, var->varattno);
		var->varnosyn = 1;
		var->varattnosyn = var->varattno;
		var->location = -1;
		if (var->varattno == InvalidAttrNumber)
			elog(ERROR, "column of relation %u not found in its partition", mapping->root);
		return (Node *) var;
	}
	return expression_tree_mutator(node, map_vars, context);
}

/* The teller for an expression: one that is there, or a new one. */
static CmTeller *
find_teller(Build *build, Node *expr, bool is_bucket, const char *zone, Oid owner)
{
	CmTeller   *teller;
	ListCell   *lc;

	foreach(lc, build->tellers)
	{
		teller = lfirst(lc);
		if (equal(teller->expr, expr) &&
			(teller->kind == CM_TELLER_COLUMN || strcmp(teller->zone, zone) == 0) &&
			(teller->kind != CM_TELLER_OWNER || teller->owner == owner) &&
			(teller->kind == CM_TELLER_COLUMN || (teller->kind == CM_TELLER_BUCKET) == is_bucket))
			return teller;
	}
	teller = cm_teller_make(expr, is_bucket, zone, owner);
	if (teller != NULL)
	{
		build->tellers = lappend(build->tellers, teller);
		if (teller->kind == CM_TELLER_OWNER)
			build->table->calls_functions = true;
	}
	return teller;
}

/* What of a plan is needed to make bytes of a pattern. */
static CmMatviewPlan *
copy_key(const CmMatviewPlan *plan)
{
	CmMatviewPlan *copy = palloc0(sizeof(CmMatviewPlan));

	copy->view = plan->view;
	copy->nkeys = plan->nkeys;
	copy->key_version = plan->key_version;
	memcpy(copy->keys, plan->keys, sizeof(copy->keys));
	for (int i = 0; i < copy->nkeys; i++)
	{
		copy->keys[i].expr = NULL;
		copy->keys[i].bucket = NULL;
	}
	copy->key_desc = plan->key_desc != NULL ? CreateTupleDescCopy(plan->key_desc) : NULL;
	return copy;
}

/* Index of a column of the written table in the list of those that matter. */
static int
column_index(Build *build, AttrNumber attno)
{
	int			index = 0;
	ListCell   *lc;

	foreach(lc, build->columns)
	{
		if (lfirst_int(lc) == attno)
			return index;
		index++;
	}
	build->columns = lappend_int(build->columns, attno);
	return index;
}

/* Note which columns of the written table a view reads. */
static void
add_columns(Build *build, CmLogTarget *target, const CmTracked *tracked)
{
	TupleDesc	desc = RelationGetDescr(build->relation);
	int			attno = -1;

	target->columns = palloc(sizeof(int) * (desc->natts + bms_num_members(tracked->columns)));
	if (tracked->whole_row)
	{
		for (int i = 0; i < desc->natts; i++)
		{
			if (!TupleDescAttr(desc, i)->attisdropped)
				target->columns[target->ncolumns++] = column_index(build, i + 1);
		}
		return;
	}
	while ((attno = bms_next_member(tracked->columns, attno)) >= 0)
	{
		AttrNumber	mapped = map_column(build, tracked->relid, attno);

		if (mapped == InvalidAttrNumber)
			elog(ERROR, "column %d of relation %u not found in its partition", attno, tracked->relid);
		target->columns[target->ncolumns++] = column_index(build, mapped);
	}
}

/* Add a target for one entry of a view's range table. */
static void
add_target(Build *build, const CmMatviewPlan *plan, const CmTracked *tracked, const char *zone)
{
	CmLogTarget *target = palloc0(sizeof(CmLogTarget));
	Mapping		mapping = {.build = build,.root = tracked->relid};
	Oid			owner = cm_relation_owner(plan->view);

	target->view = plan->view;
	target->log_relid = cm_log_leaf(plan->view);
	target->plan = copy_key(plan);
	add_columns(build, target, tracked);
	for (int i = 0; i < plan->nkeys; i++)
	{
		if (!(tracked->mask & (1 << i)))
			continue;
		/* A mutator leaves the values of constants where they are, the plan is not ours. */
		target->tellers[i] = find_teller(build, copyObject(map_vars(tracked->exprs[i], &mapping)),
										 plan->keys[i].bucket != NULL, zone, owner);
		if (target->tellers[i] != NULL)
			target->mask |= 1 << i;
	}
	build->targets = lappend(build->targets, target);
}

/* Add a target of which nothing is known, so that each row means any group. */
static void
add_unknown(Build *build, Oid view, const char *why)
{
	CmLogTarget *target = palloc0(sizeof(CmLogTarget));

	target->view = view;
	target->log_relid = cm_log_leaf(view);
	target->no_plan = why;
	build->targets = lappend(build->targets, target);
}

/* Add the targets of a view for one root.  May raise errors of all kinds. */
static void
add_view(Build *build, const Source *source)
{
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "concertmaster view",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(work);
	CmMatviewPlan *plan = NULL;
	char	   *zone = cm_log_track_zone(source->view);
	ListCell   *lc;
	CmScope		scope;

	if (zone != NULL && get_rel_relkind(source->view) == RELKIND_MATVIEW)
		plan = cm_matview_plan_for_log(source->view);
	MemoryContextSwitchTo(caller);
	if (plan == NULL)
		return;

	/* Whoever lost the rights on a table shall see no more of what is written to it. */
	if (!object_ownercheck(RelationRelationId, source->root, cm_relation_owner(source->view)))
	{
		add_unknown(build, source->view, CM_LOG_NOT_OWNER);
		return;
	}
	cm_owner_enter(&scope, cm_relation_owner(source->view), true);
	foreach(lc, plan->tracked)
	{
		CmTracked  *tracked = lfirst(lc);

		if (tracked->relid == source->root)
			add_target(build, plan, tracked, zone);
	}
	cm_scope_leave(&scope);
	MemoryContextDelete(work);
}

/* What add_step() is about. */
typedef struct Addition
{
	Build	   *build;
	const Source *source;
} Addition;

static void
add_step(void *arg)
{
	Addition   *addition = arg;

	add_view(addition->build, addition->source);
}

/* The same, in a subtransaction; after an error the view's target says "any group". */
static void
add_view_guarded(Build *build, const Source *source)
{
	Addition	addition = {.build = build,.source = source};
	Build		before = *build;
	ErrorData  *edata;

	before.tellers = list_copy(build->tellers);
	before.columns = list_copy(build->columns);
	before.targets = list_copy(build->targets);
	edata = cm_subtransaction(add_step, &addition);
	if (edata == NULL)
		return;
	if (cm_error_ends_all(edata))
		ReThrowError(edata);
	ereport(DEBUG1,
			(errmsg_internal("could not read the query of materialized view %u: %s",
							 source->view, edata->message)));
	*build = before;
	add_unknown(build, source->view, CM_LOG_NO_QUERY);
}

/* Turn the lists into what the trigger works with. */
static void
finish(Build *build)
{
	CmLogTable *table = build->table;
	ListCell   *lc;

	table->ncolumns = list_length(build->columns);
	table->columns = palloc(sizeof(AttrNumber) * (table->ncolumns + 1));
	table->changed = palloc0(sizeof(bool) * (table->ncolumns + 1));
	table->targets = palloc(sizeof(CmLogTarget) * (list_length(build->targets) + 1));
	table->depends = palloc(sizeof(Oid) * (list_length(build->depends) + 1));
	foreach(lc, build->columns)
	{
		table->columns[foreach_current_index(lc)] = lfirst_int(lc);
		table->last_column = Max(table->last_column, lfirst_int(lc));
	}
	foreach(lc, build->targets)
	{
		table->targets[table->ntargets] = *(CmLogTarget *) lfirst(lc);
		table->reads_unknown |= table->targets[table->ntargets++].plan == NULL;
	}
	foreach(lc, build->depends)
		table->depends[table->ndepends++] = lfirst_oid(lc);
}

/*
 * What to log for a table that is being written to, in a context of its own
 * under parent.  Its caller sees to invalidations that come from now on.
 */
CmLogTable *
cm_log_table_build(Relation relation, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(CurTransactionContext, "concertmaster written table",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Build		build = {.relation = relation};
	Oid			log_relid;
	List	   *sources;
	ListCell   *lc;

	build.table = palloc0(sizeof(CmLogTable));
	build.table->context = context;
	build.table->relid = RelationGetRelid(relation);
	build.table->valid = true;
	log_relid = cm_log_relation("matview_log");
	build.roots = list_make1_oid(build.table->relid);
	if (relation->rd_rel->relispartition)
		build.roots = list_concat(build.roots, get_partition_ancestors(build.table->relid));
	build.depends = list_copy(build.roots);
	if (OidIsValid(log_relid))
	{
		build.depends = lappend_oid(build.depends, log_relid);
		sources = read_sources(build.roots);
		foreach(lc, sources)
		{
			const Source *source = lfirst(lc);

			build.depends = lappend_oid(build.depends, source->view);
			add_view_guarded(&build, source);
		}
	}
	finish(&build);
	MemoryContextSwitchTo(caller);
	MemoryContextSetParent(context, parent);
	return build.table;
}
