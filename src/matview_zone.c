/*-------------------------------------------------------------------------
 *
 * matview_zone.c
 *	  Which time zones a view depends on, and what their rules are.
 *
 * The rules of a zone change when the server's time zone data is updated, and
 * with them what immutable functions of core return.  A zone is the view's own
 * (matview_function.c), or the query gives it to timezone(), which is what AT
 * TIME ZONE calls, or to date_trunc(), date_add() or date_subtract().  Where
 * what it gives is a constant, that zone counts.  Where it is a column, or an
 * abbreviation, whose zone a setting says, all zones of the server count.
 *
 * A session reads a zone when it first needs it and keeps it, so what it computes
 * is by the rules of those that are numbered by name.  To number all zones takes
 * a tenth of a second or more, and is done once per process.
 *
 * Nothing is locked; nothing to clean up.
 *
 * What it does not do: see zones that functions of users name within.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/value.h"
#include "optimizer/optimizer.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "matview.h"

/* A number that changes when the rules of a time zone do. */
static uint32
rules_number(pg_tz *zone)
{
	uint32		number = 0;
	pg_time_t	time = -(int64) 150 * 366 * SECS_PER_DAY;
	pg_time_t	boundary;
	long		before;
	long		after;
	int			before_isdst;
	int			after_isdst;

	for (int i = 0; i < 1000; i++)
	{
		int			found = pg_next_dst_boundary(&time, &before, &before_isdst, &boundary,
												 &after, &after_isdst, zone);

		number = hash_combine(number, murmurhash32((uint32) before));
		if (found <= 0)
			break;
		number = hash_combine(number, murmurhash32((uint32) after));
		number = hash_combine(number, murmurhash32((uint32) (boundary >> 32) ^ (uint32) boundary));
		time = boundary;
	}
	return number;
}

/* The same for a zone by its name; 0 if there is none. */
uint32
cm_zone_number(const char *name)
{
	pg_tz	   *zone = strlen(name) <= TZ_STRLEN_MAX ? pg_tzset(name) : NULL;

	return zone != NULL ? rules_number(zone) : 0;
}

/* A number that changes when the rules of any time zone of the server do. */
static uint32
all_zones_number(void)
{
	static uint32 number = 0;
	pg_tzenum  *zones;
	pg_tz	   *zone;

	if (number != 0)
		return number;
	zones = pg_tzenumerate_start();
	while ((zone = pg_tzenumerate_next(zones)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		/* Whatever the order of the directory. */
		number += murmurhash32(rules_number(zone) ^ string_hash(pg_get_timezone_name(zone), TZ_STRLEN_MAX + 1));
	}
	pg_tzenumerate_end(zones);
	number |= 1;
	return number;
}

/* A number that changes when the rules of one of the zones do that cm_zone_note() noted. */
uint32
cm_zones_number(const List *names)
{
	uint32		number = 0;
	ListCell   *lc;

	foreach(lc, names)
	{
		const char *name = strVal(lfirst(lc));
		uint32		rules = name[0] != '\0' ? cm_zone_number(name) : 0;

		number = hash_combine(number, rules != 0 ? rules : all_zones_number());
	}
	return number;
}

/* The argument that names a zone; NULL if there is none. */
static Node *
zone_argument(const FuncExpr *call)
{
	const char *name = call->funcid < FirstNormalObjectId ? get_func_name(call->funcid) : NULL;
	Node	   *zone = NULL;

	if (name == NULL)
		return NULL;
	if (strcmp(name, "timezone") == 0 && list_length(call->args) == 2)
		zone = linitial(call->args);
	else if ((strcmp(name, "date_trunc") == 0 || strcmp(name, "date_add") == 0 ||
			  strcmp(name, "date_subtract") == 0) && list_length(call->args) == 3)
		zone = lthird(call->args);
	return zone != NULL && exprType(zone) == TEXTOID ? zone : NULL;
}

/* Note the time zone that an expression names, if it does. */
void
cm_zone_note(CmMatviewPlan *plan, Node *node)
{
	Node	   *zone = IsA(node, FuncExpr) ? zone_argument((FuncExpr *) node) : NULL;
	const char *name = "";

	if (zone == NULL)
		return;
	zone = eval_const_expressions(NULL, zone);
	if (IsA(zone, Const))
	{
		/* With NULL the result is NULL. */
		if (((Const *) zone)->constisnull)
			return;
		name = TextDatumGetCString(((Const *) zone)->constvalue);
	}
	plan->zones = list_append_unique(plan->zones, makeString(pstrdup(name)));
}
