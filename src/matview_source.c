/*-------------------------------------------------------------------------
 *
 * matview_source.c
 *	  Can all changes to the tables of a view be seen by triggers?
 *
 * AFTER ROW triggers see every write to a plain table and to every partition
 * of a partitioned one.  They see nothing of what a foreign table's server
 * does, of rows that a crash takes from an unlogged table, or of writes to
 * what a view or a function reads.  Parents of inheritance would have to have
 * triggers on children that come and go unseen.  The triggers are created by
 * the view's owner, who must therefore have the rights of the owner of each
 * table and partition; and the query is run as the view's owner, to whom row
 * security must not show different rows at different times.
 *
 * Answers are from the system catalogs, without locks on the tables, and true
 * of a moment.  Nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"

#include "compat.h"
#include "matview_query.h"

/* What cannot be watched. */
static void
refuse(CmViewQuery *view, const char *reason_code, char *detail, const char *hint)
{
	cm_check_failed(view, "FROM", reason_code, detail, hint);
}

/* Refuse what is no table. */
static void
check_entry(CmViewQuery *view, const RangeTblEntry *rte)
{
	const char *name = quote_identifier(rte->eref->aliasname);

	switch (rte->rtekind)
	{
		case RTE_SUBQUERY:
			refuse(view, "from_subquery", psprintf("%s in FROM is a subquery.", name),
				   "Join its tables in the view's own query.");
			break;
		case RTE_FUNCTION:
		case RTE_TABLEFUNC:
			refuse(view, "from_function", psprintf("%s in FROM is a function.", name),
				   "Use it in a view over the materialized view, or keep its rows in a table.");
			break;
		case RTE_VALUES:
			refuse(view, "from_values", pstrdup("The query is a VALUES list."),
				   "Keep its rows in a table.");
			break;
		case RTE_CTE:
			/* Told by the check on clauses. */
			break;
		default:
			refuse(view, "from_other", psprintf("%s in FROM is not a table.", name),
				   "Use tables alone.");
	}
}

/* Refuse a leaf whose changes cannot be seen.  Temporary ones cannot be here. */
static void
check_leaf(CmViewQuery *view, Oid relid, Oid root)
{
	char		relkind = get_rel_relkind(relid);

	if (relkind == RELKIND_FOREIGN_TABLE)
		refuse(view, "foreign_table",
			   relid == root ? psprintf("%s is a foreign table.", cm_relation_quoted(relid)) :
			   psprintf("Partition %s of %s is a foreign table.", cm_relation_quoted(relid), cm_relation_quoted(root)),
			   "Keep its rows in a table of this database.");
	else if (relkind != '\0' && get_rel_persistence(relid) != RELPERSISTENCE_PERMANENT)
		refuse(view, "unlogged_table",
			   relid == root ? psprintf("%s is unlogged or temporary.", cm_relation_quoted(relid)) :
			   psprintf("Partition %s of %s is unlogged or temporary.", cm_relation_quoted(relid), cm_relation_quoted(root)),
			   psprintf("ALTER TABLE %s SET LOGGED;", cm_relation_quoted(relid)));
}

/* Refuse what is no table that stands for itself. */
static void
check_kind(CmViewQuery *view, const RangeTblEntry *rte)
{
	char	   *name = cm_relation_quoted(rte->relid);
	char		relkind = get_rel_relkind(rte->relid);

	if (rte->relid < FirstNormalObjectId ||
		get_rel_namespace(rte->relid) == get_namespace_oid(CM_SCHEMA, true))
		refuse(view, "system_table", psprintf("%s is a table of the system or of this extension.", name),
			   "Such a view can only be refreshed in full.");
	else if (relkind == RELKIND_VIEW)
		refuse(view, "view", psprintf("%s is a view.", name), "Use its tables instead.");
	else if (relkind == RELKIND_MATVIEW)
		refuse(view, "materialized_view", psprintf("%s is a materialized view.", name),
			   "Use its tables instead.");
	else if (get_rel_relispartition(rte->relid))
		refuse(view, "partition", psprintf("%s is a partition.", name),
			   "Use the partitioned table, with a condition on its key.");
	else if (relkind == RELKIND_PARTITIONED_TABLE && !rte->inh)
		refuse(view, "only", psprintf("%s is a partitioned table with ONLY.", name),
			   "Leave ONLY out: such a table has no rows of its own.");
	else if (relkind == RELKIND_RELATION && rte->inh &&
			 find_inheritance_children(rte->relid, NoLock) != NIL)
		refuse(view, "inheritance", psprintf("%s has tables that inherit from it.", name),
			   "Use ONLY, or make it a partitioned table.");
}

/* Refuse tables that the view's owner is not the master of. */
static void
check_owner(CmViewQuery *view, Oid relid, Oid owner)
{
	if (get_rel_name(relid) != NULL && !object_ownercheck(RelationRelationId, relid, owner))
		refuse(view, "not_owner",
			   psprintf("%s is owned by %s, whose rights the view's owner %s has not.",
						cm_relation_quoted(relid),
						quote_identifier(GetUserNameFromId(cm_relation_owner(relid), false)),
						quote_identifier(GetUserNameFromId(owner, false))),
			   psprintf("ALTER MATERIALIZED VIEW %s OWNER TO the owner of all its tables.",
						cm_relation_quoted(view->plan->view)));
}

/* Refuse row security that lets the view's owner see some rows only. */
static void
check_row_security(CmViewQuery *view, Oid relid, Oid owner)
{
	if (check_enable_rls(relid, owner, true) == RLS_ENABLED)
		refuse(view, "row_security",
			   psprintf("Row-level security of %s applies to the view's owner %s.",
						cm_relation_quoted(relid), quote_identifier(GetUserNameFromId(owner, false))),
			   "Let a role own the view that row-level security does not apply to.");
}

/* Refuse every table whose changes cannot be seen. */
void
cm_source_check(CmViewQuery *view)
{
	Oid			owner = cm_relation_owner(view->plan->view);
	ListCell   *lc;
	ListCell   *leaf;

	if (view->sources == NIL && view->flat->setOperations == NULL)
		refuse(view, "no_table", pstrdup("The query has no FROM."),
			   "Such a view can only be refreshed in full.");
	foreach(lc, view->sources)
	{
		RangeTblEntry *rte = rt_fetch(lfirst_int(lc), view->flat->rtable);

		if (rte->rtekind != RTE_RELATION)
		{
			check_entry(view, rte);
			continue;
		}
		if (get_rel_name(rte->relid) == NULL)
			continue;
		check_kind(view, rte);
		if (get_rel_relkind(rte->relid) == RELKIND_PARTITIONED_TABLE)
		{
			/* Without those whose DETACH is pending: nobody reads them any more. */
			foreach(leaf, find_all_inheritors(rte->relid, NoLock, NULL))
			{
				check_leaf(view, lfirst_oid(leaf), rte->relid);
				check_owner(view, lfirst_oid(leaf), owner);
			}
		}
		else
		{
			check_leaf(view, rte->relid, rte->relid);
			check_owner(view, rte->relid, owner);
		}
		check_row_security(view, rte->relid, owner);
	}
}
