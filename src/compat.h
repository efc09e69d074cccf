/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The only place that knows PostgreSQL versions.
 *
 * Every wrapper carries the newest server's signature, so that the rest of
 * the tree reads as if it were written for that server alone, and says when
 * it can go.  PG_VERSION_NUM appears in no other file (the lint target
 * checks).
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_COMPAT_H
#define CM_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_node.h"
#include "rewrite/rewriteManip.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "tcop/tcopprot.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/rel.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "concertmaster needs PostgreSQL 15 to 18"
#endif

/*
 * pg_noreturn, before the whole declaration, replaced pg_attribute_noreturn()
 * after it in 18.  Delete with 17.
 */
#if PG_VERSION_NUM < 180000
#define pg_noreturn __attribute__((noreturn))
#endif

/* rd_newRelfilenodeSubid has another name since 16.  Delete with 15. */
static inline bool
cm_compat_has_new_file(Relation relation)
{
#if PG_VERSION_NUM >= 160000
	return relation->rd_createSubid != InvalidSubTransactionId ||
		relation->rd_newRelfilelocatorSubid != InvalidSubTransactionId;
#else
	return relation->rd_createSubid != InvalidSubTransactionId ||
		relation->rd_newRelfilenodeSubid != InvalidSubTransactionId;
#endif
}

/*
 * object_ownercheck() replaced one function per kind of object in 16.  Those
 * that are asked for: relations, schemas, databases.  Delete with 15.
 */
#if PG_VERSION_NUM < 160000
static inline bool
object_ownercheck(Oid classid, Oid objid, Oid roleid)
{
	return classid == RelationRelationId ? pg_class_ownercheck(objid, roleid) :
		classid == NamespaceRelationId ? pg_namespace_ownercheck(objid, roleid) :
		pg_database_ownercheck(objid, roleid);
}
#endif

/* May roleid create objects in the schema?  Delete with 15. */
static inline AclResult
cm_compat_namespace_aclcheck(Oid nspoid, Oid roleid, AclMode mode)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(NamespaceRelationId, nspoid, roleid, mode);
#else
	return pg_namespace_aclcheck(nspoid, roleid, mode);
#endif
}

/*
 * The backend that runs a virtual transaction; NULL if none does: it has ended,
 * or was prepared, and its number may be another backend's by now.  Delete
 * with 16.
 */
static inline PGPROC *
cm_compat_vxid_proc(VirtualTransactionId vxid)
{
#if PG_VERSION_NUM >= 170000
	PGPROC	   *proc = ProcNumberGetProc(vxid.procNumber);

	return proc != NULL && proc->vxid.lxid == vxid.localTransactionId ? proc : NULL;
#else
	PGPROC	   *proc = BackendIdGetProc(vxid.backendId);

	return proc != NULL && proc->lxid == vxid.localTransactionId ? proc : NULL;
#endif
}

/* Does this process hold that lock?  Delete with 16. */
static inline bool
cm_compat_lock_held(const LOCKTAG *tag, LOCKMODE mode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, mode, false);
#else
	return LockHeldByMe(tag, mode);
#endif
}

/* It got room for a header of the caller's in 18.  Delete with 17. */
static inline MinimalTuple
cm_compat_form_minimal_tuple(TupleDesc desc, const Datum *values, const bool *nulls)
{
#if PG_VERSION_NUM >= 180000
	return heap_form_minimal_tuple(desc, values, nulls, 0);
#else
	return heap_form_minimal_tuple(desc, (Datum *) values, (bool *) nulls);
#endif
}

/*
 * Vars of joins replaced by what they stand for.  It got a PlannerInfo in 16,
 * which can be NULL.  Delete with 15.
 */
static inline Node *
cm_compat_flatten_join_alias_vars(struct PlannerInfo *root, Query *query, Node *node)
{
#if PG_VERSION_NUM >= 160000
	return flatten_join_alias_vars(root, query, node);
#else
	return flatten_join_alias_vars(query, node);
#endif
}

/*
 * Vars of the grouping step, which is a range table entry in 18 and later,
 * replaced by what they stand for.  Delete with 17.
 */
static inline Node *
cm_compat_flatten_group_exprs(struct PlannerInfo *root, Query *query, Node *node)
{
#if PG_VERSION_NUM >= 180000
	if (query->hasGroupRTE)
		return flatten_group_exprs(root, query, node);
#endif
	return node;
}

/* Generated columns that are computed when read came in 18.  Delete with 17. */
#ifndef ATTRIBUTE_GENERATED_VIRTUAL
#define ATTRIBUTE_GENERATED_VIRTUAL 'v'
#endif

/* Vars say since 16 which outer joins can make them null.  Delete with 15. */
static inline Node *
cm_compat_remove_nulling_relids(Node *node, const Bitmapset *removable_relids,
								const Bitmapset *except_relids)
{
#if PG_VERSION_NUM >= 160000
	return remove_nulling_relids(node, removable_relids, except_relids);
#else
	return node;
#endif
}

/* PortalRun() lost run_once in 18.  Delete with 17. */
static inline bool
cm_compat_portal_run(Portal portal, long count, bool isTopLevel,
					 DestReceiver *dest, DestReceiver *altdest,
					 QueryCompletion *qc)
{
#if PG_VERSION_NUM >= 180000
	return PortalRun(portal, count, isTopLevel, dest, altdest, qc);
#else
	return PortalRun(portal, count, isTopLevel, true, dest, altdest, qc);
#endif
}

/* ExecutorRun() lost execute_once in 18.  Delete with 17. */
static inline void
cm_compat_executor_run(QueryDesc *query, ScanDirection direction, uint64 count)
{
#if PG_VERSION_NUM >= 180000
	ExecutorRun(query, direction, count);
#else
	ExecutorRun(query, direction, count, true);
#endif
}

/* ExecInsertIndexTuples() for an insert got onlySummarizing in 16.  Delete with 15. */
static inline List *
cm_compat_insert_index_tuples(ResultRelInfo *target, TupleTableSlot *slot, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL, false);
#else
	return ExecInsertIndexTuples(target, slot, estate, false, false, NULL, NIL);
#endif
}

/* Permissions moved from the range table to nodes of their own in 16.  Delete with 15. */
static inline void
cm_compat_query_permissions(Query *query, ParseState *pstate)
{
#if PG_VERSION_NUM >= 160000
	query->rteperminfos = pstate->p_rteperminfos;
#endif
}

/* The same, to replace a relation in those of a stored query.  Delete with 15. */
static inline void
cm_compat_rebind_permissions(Query *query, Oid from, Oid to)
{
#if PG_VERSION_NUM >= 160000
	ListCell   *cell;

	foreach(cell, query->rteperminfos)
	{
		RTEPermissionInfo *info = lfirst_node(RTEPermissionInfo, cell);

		if (info->relid == from)
			info->relid = to;
	}
#endif
}

#endif							/* CM_COMPAT_H */
