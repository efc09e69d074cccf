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
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_namespace.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "tcop/tcopprot.h"
#include "tcop/pquery.h"
#include "utils/acl.h"

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

/*
 * object_ownercheck() replaced one function per kind of object in 16.  Only
 * relations are asked for.  Delete with 15.
 */
static inline bool
cm_compat_relation_ownercheck(Oid relid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(RelationRelationId, relid, roleid);
#else
	return pg_class_ownercheck(relid, roleid);
#endif
}

/* Likewise for schemas.  Delete with 15. */
static inline bool
cm_compat_namespace_ownercheck(Oid nspoid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(NamespaceRelationId, nspoid, roleid);
#else
	return pg_namespace_ownercheck(nspoid, roleid);
#endif
}

/* Likewise for databases.  Delete with 15. */
static inline bool
cm_compat_database_ownercheck(Oid datid, Oid roleid)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, datid, roleid);
#else
	return pg_database_ownercheck(datid, roleid);
#endif
}

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

#endif							/* CM_COMPAT_H */
