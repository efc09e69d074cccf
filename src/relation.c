/*-------------------------------------------------------------------------
 *
 * relation.c
 *	  Which relation a name means, who owns it, and as whom we act.
 *
 * The catalog tables that are dumped name relations by schema and name,
 * because an oid means nothing after a restore.  Beside them relation_map,
 * which is not dumped, remembers the oid that each name had.  Both are kept
 * in step by relation_rename.c.
 *
 * Acting: catalog tables are read and written as the extension's owner, work
 * on a user's relation is done as that relation's owner, both with a
 * search_path of pg_catalog alone.  cm_catalog_enter() and cm_owner_enter()
 * switch, cm_scope_leave() goes back; after an error the (sub)transaction's
 * abort restores role and settings, so no cleanup code is needed.
 *
 * Locks: none but those of its statements.
 *
 * What it does not do: it never locks or opens a user's relation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "concertmaster.h"

/* Become userid with the given extra context flags and a pinned path. */
static void
enter_scope(CmScope *scope, Oid userid, int flags)
{
	GetUserIdAndSecContext(&scope->save_userid, &scope->save_sec_context);
	SetUserIdAndSecContext(userid, scope->save_sec_context | flags);
	scope->save_nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
	scope->spi = false;
}

/*
 * The version of the extension in this database, palloc'd, and its oid; NULL
 * if it is not installed.
 */
char *
cm_extension_version(Oid *extension_oid)
{
	Relation	relation = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *version = NULL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("concertmaster"));
	scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(relation), &isnull);

		version = TextDatumGetCString(value);
		*extension_oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
	}
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return version;
}

/* Refuse to touch tables that another version of this library expects. */
static void
require_matching_version(void)
{
	Oid			extension_oid;
	char	   *version = cm_extension_version(&extension_oid);

	if (version == NULL || strcmp(version, CM_VERSION) == 0 || creating_extension)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("extension \"concertmaster\" is of version %s, its library of version %s",
					version, CM_VERSION),
			 errhint("Run ALTER EXTENSION concertmaster UPDATE; restart the server first if its library was replaced while it ran.")));
}

/* An SPI connection, which ends with the scope. */
void
cm_scope_connect(CmScope *scope)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	scope->spi = true;
}

/*
 * Act on the extension's own tables: its owner's role, a pinned path, and an
 * SPI connection.  Refuses if the library does not fit them.  Leave by
 * cm_scope_leave(); results that shall outlive it are copied with SPI_palloc
 * or into a context of the caller's.
 */
void
cm_catalog_enter(CmScope *scope)
{
	require_matching_version();
	enter_scope(scope, cm_extension_owner(), SECURITY_LOCAL_USERID_CHANGE);
	cm_scope_connect(scope);
}

/*
 * Act as a relation's owner.  restricted adds SECURITY_RESTRICTED_OPERATION,
 * right around our own DML and expression evaluation, wrong around REFRESH,
 * CREATE INDEX and DETACH, which add their own.
 */
void
cm_owner_enter(CmScope *scope, Oid userid, bool restricted)
{
	enter_scope(scope, userid,
				SECURITY_LOCAL_USERID_CHANGE |
				(restricted ? SECURITY_RESTRICTED_OPERATION : 0));
}

/* Go back to the role, path and SPI level before the matching enter. */
void
cm_scope_leave(CmScope *scope)
{
	if (scope->spi)
		SPI_finish();
	AtEOXact_GUC(false, scope->save_nestlevel);
	SetUserIdAndSecContext(scope->save_userid, scope->save_sec_context);
}

/* Run a statement as a role, which core restricts itself where that is due. */
void
cm_run_as(Oid userid, const char *sql)
{
	CmScope		scope;

	cm_owner_enter(&scope, userid, false);
	cm_scope_connect(&scope);
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "statement failed: %s", sql);
	cm_scope_leave(&scope);
}

/* The role that owns the extension's schema, hence its tables. */
Oid
cm_extension_owner(void)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACENAME, CStringGetDatum(CM_SCHEMA));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"concertmaster\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION concertmaster.")));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* The owner of a relation; an error if it is gone. */
Oid
cm_relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Refuse unless the current user owns the relation (or is a member of the
 * role that does, or a superuser).  SQLSTATE 42501, as core says it.
 */
void
cm_relation_require_owner(Oid relid)
{
	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER,
					   get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}

/*
 * Its name, as it is; an error if it is gone.  A relation that is not locked
 * can be dropped at any moment, and core's functions answer NULL then.
 */
char *
cm_relation_name(Oid relid)
{
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	return name;
}

/* The name of its schema, likewise. */
char *
cm_relation_schema(Oid relid)
{
	char	   *name = get_namespace_name(get_rel_namespace(relid));

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	return name;
}

/* schema.name, each part quoted where needed, palloc'd. */
char *
cm_relation_quoted(Oid relid)
{
	return quote_qualified_identifier(cm_relation_schema(relid), cm_relation_name(relid));
}

/* Refuse on a standby.  what names the refused action, for the message. */
void
cm_require_primary(const char *what)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot execute %s during recovery", what),
				 errdetail("This server is a standby."),
				 errhint("Connect to the primary; the standby takes over the work by itself when it is promoted.")));
}

/*
 * The relation that (schema_name, relation_name) means, or InvalidOid.  The
 * names are those of a catalog table's row, after cm_relations_reconcile().
 */
Oid
cm_relation_resolve(const char *schema_name, const char *relation_name)
{
	Oid			nspoid = get_namespace_oid(schema_name, true);

	return OidIsValid(nspoid) ? get_relname_relid(relation_name, nspoid) : InvalidOid;
}

/*
 * Refuse if the name still means another relation to us, which exists: our
 * settings of that name are that one's.  After cm_relations_reconcile() this
 * is seen only by a transaction whose snapshot is older than a rename.
 */
static void
require_name_free(Oid relid, Datum schema_name, Datum relation_name)
{
	Oid			types[3] = {NAMEOID, NAMEOID, OIDOID};
	Datum		values[3] = {schema_name, relation_name, ObjectIdGetDatum(relid)};
	bool		isnull;

	cm_query("SELECT relid FROM concertmaster.relation_map"
						  " WHERE schema_name = $1 AND relation_name = $2 AND relid <> $3",
						  3, types, values, NULL);
	if (SPI_processed == 0 ||
		!SearchSysCacheExists1(RELOID, SPI_getbinval(SPI_tuptable->vals[0],
													 SPI_tuptable->tupdesc, 1, &isnull)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("name \"%s\" belonged to another relation when this transaction began",
					get_rel_name(relid)),
			 errhint("Try again in a new transaction.")));
}

/*
 * Remember that the relation's present name means this oid.  Caller is in a
 * cm_catalog_enter() scope.
 */
void
cm_relation_remember(Oid relid)
{
	Oid			types[3] = {NAMEOID, NAMEOID, OIDOID};
	NameData	schema_name;
	NameData	relation_name;
	Datum		values[3];

	namestrcpy(&schema_name, cm_relation_schema(relid));
	namestrcpy(&relation_name, cm_relation_name(relid));
	values[0] = NameGetDatum(&schema_name);
	values[1] = NameGetDatum(&relation_name);
	values[2] = ObjectIdGetDatum(relid);
	require_name_free(relid, values[0], values[1]);
	cm_query("INSERT INTO concertmaster.relation_map (schema_name, relation_name, relid)"
						  " VALUES ($1, $2, $3)"
						  " ON CONFLICT (schema_name, relation_name) DO UPDATE SET relid = EXCLUDED.relid"
						  " WHERE relation_map.relid <> EXCLUDED.relid",
						  3, types, values, NULL);
}
