/*-------------------------------------------------------------------------
 *
 * matview_explain.c
 *	  explain_refresh(): why a view is refreshed as it is, for its owner.
 *
 * One row per check of matview_check.c, one more if the job could not make the
 * tables log though all checks are ok, and then one per table: which groups
 * a change to one of its rows makes a refresh compute anew.
 *
 * Locks: none but on system catalogs, and on our own catalog for the owner's
 * settings.  Nothing to clean up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "lib/stringinfo.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "matview.h"

PG_FUNCTION_INFO_V1(cm_explain_refresh);

/* A text that can be missing. */
static void
set_text(Datum *value, bool *isnull, const char *text)
{
	*isnull = text == NULL;
	*value = text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

/* Return a row. */
static void
put_check(ReturnSetInfo *rsinfo, const CmMatviewCheck *check)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	set_text(&values[0], &nulls[0], check->name);
	values[1] = BoolGetDatum(check->ok);
	set_text(&values[2], &nulls[2], check->reason_code);
	set_text(&values[3], &nulls[3], check->detail);
	set_text(&values[4], &nulls[4], check->hint);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A table by its name, and by its alias where it is there more than once. */
static char *
table_text(const CmMatviewPlan *plan, const CmTracked *tracked)
{
	RangeTblEntry *rte = rt_fetch(tracked->rti, plan->query->rtable);
	int			times = 0;
	ListCell   *lc;

	foreach(lc, plan->tracked)
		times += ((CmTracked *) lfirst(lc))->relid == tracked->relid;
	return times < 2 ? cm_relation_quoted(tracked->relid) :
		psprintf("%s as %s", cm_relation_quoted(tracked->relid), quote_identifier(rte->eref->aliasname));
}

/* Which groups a change to a row of a table marks. */
static void
put_table(ReturnSetInfo *rsinfo, const CmMatviewPlan *plan, const CmTracked *tracked)
{
	CmMatviewCheck check = {.ok = true};
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < plan->nkeys; i++)
	{
		if ((tracked->mask & (1U << i)) != 0)
			appendStringInfo(&columns, "%s%s", columns.len > 0 ? ", " : "",
							 quote_identifier(NameStr(TupleDescAttr(plan->key_desc, i)->attname)));
	}
	check.name = psprintf("changes in %s", table_text(plan, tracked));
	if (tracked->mask != 0)
		check.detail = psprintf("mark the groups with the same %s", columns.data);
	else
	{
		check.detail = "mark all groups";
		check.hint = "Group by a column of the table, or by one that a condition makes equal to a column of it.";
	}
	put_check(rsinfo, &check);
}

/* What the owner can do where tables could not be made to log. */
static const char *
logging_hint(const char *code)
{
	if (strcmp(code, CM_NOT_LOGGING_DEADLINE) == 0)
		return "Each run of the view's job tries again. Give it more time, at a moment when writers can wait that long: ALTER DATABASE ... SET concertmaster.ddl_deadline = '500ms'.";
	if (strcmp(code, CM_NOT_LOGGING_LOCK) == 0)
		return "Each run of the view's job tries again. Transactions that stay open for long are in its way.";
	return "Each run of the view's job tries again. Remove what CREATE TRIGGER met.";
}

/* What kept the job from making the tables log when it tried last. */
static void
put_not_logging(ReturnSetInfo *rsinfo, const CmMatviewSettings *settings)
{
	CmMatviewCheck check = {.name = "logging",.ok = false};

	check.reason_code = settings->not_logging_code;
	check.detail = settings->not_logging;
	check.hint = logging_hint(settings->not_logging_code);
	put_check(rsinfo, &check);
}

/* explain_refresh(view regclass) */
Datum
cm_explain_refresh(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			relid = PG_GETARG_OID(0);
	CmMatviewSettings settings;
	CmMatviewPlan *plan;
	ListCell   *lc;

	cm_matview_require(relid);
	InitMaterializedSRF(fcinfo, 0);
	cm_matview_settings(relid, &settings);
	plan = cm_matview_plan(relid, &settings);
	if (plan == NULL)
		PG_RETURN_NULL();
	foreach(lc, plan->checks)
		put_check(rsinfo, lfirst(lc));
	if (plan->incremental && settings.not_logging != NULL)
		put_not_logging(rsinfo, &settings);
	foreach(lc, plan->tracked)
		put_table(rsinfo, plan, lfirst(lc));
	PG_RETURN_NULL();
}
