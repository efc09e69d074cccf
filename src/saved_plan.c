/*-------------------------------------------------------------------------
 *
 * saved_plan.c
 *	  Queries of ours that run again and again, planned once per session.
 *
 * A pass over a partition set runs some forty small queries of the catalog;
 * parsing and planning them took half of its time.  cm_query() is
 * SPI_execute_with_args() for texts that are literals of this library: it
 * keeps each one's plan, found again by the literal's address.  The plan
 * cache looks after the rest: a plan is made anew when what it refers to has
 * changed.
 *
 * It is one plan for all parameters, from the first time on.  Left to itself
 * the plan cache would make five special ones before, and workers hardly come
 * further than that; and what is asked for here are single rows by their
 * keys, for which all parameters are alike.
 *
 * The table of plans is the session's and is never emptied; it has as many
 * entries as there are literals that were used.
 *
 * Locks: those of the queries.  After an error while a plan is made the entry
 * stays empty, and is filled the next time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "utils/hsearch.h"

#include "concertmaster.h"

typedef struct SavedPlan
{
	const char *sql;			/* the key: an address, not a text */
	SPIPlanPtr	plan;			/* NULL: not made yet */
} SavedPlan;

static HTAB *saved_plans = NULL;

/* The entry of a literal. */
static SavedPlan *
find_entry(const char *sql)
{
	SavedPlan  *entry;
	bool		found;

	if (saved_plans == NULL)
	{
		HASHCTL		control = {.keysize = sizeof(const char *),.entrysize = sizeof(SavedPlan)};

		saved_plans = hash_create("concertmaster saved plans", 64, &control, HASH_ELEM | HASH_BLOBS);
	}
	entry = hash_search(saved_plans, &sql, HASH_ENTER, &found);
	if (!found)
		entry->plan = NULL;
	return entry;
}

/*
 * Run a query whose text is a literal; otherwise as SPI_execute_with_args()
 * that sees what was committed, with all rows.  Connected to SPI.
 */
int
cm_query(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	SavedPlan  *entry = find_entry(sql);

	if (entry->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, types, CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s: %s", SPI_result_code_string(SPI_result), sql);
		SPI_keepplan(plan);
		entry->plan = plan;
	}
	return SPI_execute_plan(entry->plan, values, nulls, false, 0);
}
