/*-------------------------------------------------------------------------
 *
 * conversion_state.c
 *	  What our catalog says about a conversion that was begun.
 *
 * A row of concertmaster.conversion is what was asked for, and how far it
 * came: preparing (the table is what it was, beside it stand a constraint,
 * indexes, an empty partitioned table), swapped (the partitioned table has
 * its place), converted (nothing is left to do), cancelled (what stands beside
 * it is to be removed), or stopped (preparing, until somebody calls again).
 * Found by the oid of either table.
 *
 * How far exactly, between two states, the server's own catalog says: whether
 * the constraint is there and validated, which index is valid.  So a run that
 * died at any point is resumed by the next.
 *
 * Locks: those of the statements.  After an error the transaction undoes all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "conversion_do.h"

static const char *const state_names[] = {"preparing", "swapped", "converted", "cancelled", "stopped"};

/* A column of the row that SPI has found as text in the current context, or NULL. */
static char *
field(int column, MemoryContext context)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);

	return value ? MemoryContextStrdup(context, value) : NULL;
}

/* The codes that were accepted, as a list. */
static List *
read_accept(Datum array)
{
	Datum	   *elements;
	int			count;
	List	   *codes = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &count);
	for (int i = 0; i < count; i++)
		codes = lappend(codes, TextDatumGetCString(elements[i]));
	return codes;
}

/* The wish in the row that SPI has found. */
static CmConversionWish *
read_wish(MemoryContext context)
{
	MemoryContext spi = MemoryContextSwitchTo(context);
	CmConversionWish *wish = palloc0(sizeof(CmConversionWish));
	HeapTuple	tuple = SPI_tuptable->vals[0];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		datum;

	wish->column_name = field(4, context);
	datum = SPI_getbinval(tuple, desc, 5, &isnull);
	if (!isnull)
	{
		wish->period = palloc(sizeof(Interval));
		*wish->period = *DatumGetIntervalP(datum);
	}
	datum = SPI_getbinval(tuple, desc, 6, &isnull);
	wish->width = isnull ? 0 : DatumGetInt64(datum);
	wish->epoch = field(7, context);
	wish->timezone = field(8, context);
	wish->foreign_keys = field(9, context);
	wish->accept = read_accept(SPI_getbinval(tuple, desc, 10, &isnull));
	MemoryContextSwitchTo(spi);
	return wish;
}

/* The conversion of, or to, a relation; NULL if none was begun. */
CmConversionState *
cm_conversion_state(Oid relid)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};
	CmConversionState *state = NULL;
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT relid, parent, state, column_name, period, width, epoch, timezone, foreign_keys, accept,"
						  "       bound, fingerprint, check_name"
						  "  FROM concertmaster.conversion WHERE relid = $1 OR parent = $1",
						  1, types, values, NULL, false, 1);
	if (SPI_processed > 0)
	{
		char	   *word = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3);
		char	   *parent = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);

		state = MemoryContextAllocZero(caller, sizeof(CmConversionState));
		state->relid = atooid(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
		state->parent = parent ? atooid(parent) : InvalidOid;
		for (int i = 0; i < lengthof(state_names); i++)
		{
			if (strcmp(word, state_names[i]) == 0)
				state->phase = i;
		}
		state->wish = read_wish(caller);
		state->bound = field(11, caller);
		state->fingerprint = field(12, caller);
		state->check_name = field(13, caller);
	}
	cm_scope_leave(&scope);
	return state;
}

/* A text parameter that can be NULL. */
static void
set_text(Datum *value, char *null, const char *text)
{
	*value = text ? CStringGetTextDatum(text) : (Datum) 0;
	*null = text ? ' ' : 'n';
}

/* Write down what is asked for.  What was done towards an earlier wish stays. */
void
cm_conversion_state_begin(Oid relid, const CmConversionWish *wish, int32 ahead, Interval *retention)
{
	Oid			types[10] = {OIDOID, TEXTOID, INTERVALOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, INT4OID, INTERVALOID};
	Datum		values[10];
	char		nulls[10];
	ArrayBuildState *codes = NULL;
	ListCell   *cell;
	CmScope		scope;

	memset(nulls, ' ', sizeof(nulls));
	foreach(cell, wish->accept)
		codes = accumArrayResult(codes, CStringGetTextDatum(lfirst(cell)), false, TEXTOID, CurrentMemoryContext);
	values[0] = ObjectIdGetDatum(relid);
	values[1] = CStringGetTextDatum(wish->column_name);
	values[2] = wish->period ? IntervalPGetDatum(wish->period) : (Datum) 0;
	nulls[2] = wish->period ? ' ' : 'n';
	values[3] = Int64GetDatum(wish->width);
	nulls[3] = wish->width > 0 ? ' ' : 'n';
	set_text(&values[4], &nulls[4], wish->epoch);
	set_text(&values[5], &nulls[5], wish->timezone);
	set_text(&values[6], &nulls[6], wish->foreign_keys);
	values[7] = codes ? makeArrayResult(codes, CurrentMemoryContext) : PointerGetDatum(construct_empty_array(TEXTOID));
	values[8] = Int32GetDatum(ahead);
	values[9] = retention ? IntervalPGetDatum(retention) : (Datum) 0;
	nulls[9] = retention ? ' ' : 'n';
	cm_catalog_enter(&scope);
	SPI_execute_with_args("INSERT INTO concertmaster.conversion"
						  " (relid, column_name, period, width, epoch, timezone, foreign_keys, accept, ahead, retention)"
						  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
						  " ON CONFLICT (relid) DO UPDATE SET period = EXCLUDED.period, width = EXCLUDED.width, epoch = EXCLUDED.epoch,"
						  "   timezone = EXCLUDED.timezone, foreign_keys = EXCLUDED.foreign_keys, accept = EXCLUDED.accept,"
						  "   ahead = EXCLUDED.ahead, retention = EXCLUDED.retention, state = 'preparing'"
						  " WHERE conversion.state IN ('preparing', 'stopped')",
						  10, types, values, nulls, false, 0);
	cm_scope_leave(&scope);
}

/*
 * Set columns of a conversion's row; assignments is a literal, $2 to $4 are its
 * parameters, and a condition can follow.  False: there is no such row.
 */
static bool
update_state(Oid relid, const char *assignments, Oid oid, const char *text, const char *name)
{
	Oid			types[4] = {OIDOID, OIDOID, TEXTOID, TEXTOID};
	Datum		values[4];
	char		nulls[4];
	bool		found;
	CmScope		scope;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = ObjectIdGetDatum(relid);
	values[1] = ObjectIdGetDatum(oid);
	set_text(&values[2], &nulls[2], text);
	set_text(&values[3], &nulls[3], name);
	cm_catalog_enter(&scope);
	SPI_execute_with_args(psprintf("UPDATE concertmaster.conversion SET %s AND relid = $1", assignments),
						  4, types, values, nulls, false, 0);
	found = SPI_processed > 0;
	cm_scope_leave(&scope);
	return found;
}

/* The bound is in the table's CHECK of that name now; NULL: it has none. */
void
cm_conversion_state_bound(Oid relid, const char *bound, const char *check_name)
{
	(void) update_state(relid, "bound = $3, check_name = $4 WHERE true", InvalidOid, bound, check_name);
}

/* The partitioned table was made, of what the fingerprint says; InvalidOid: it is gone. */
void
cm_conversion_state_created(Oid relid, Oid parent, const char *fingerprint)
{
	(void) update_state(relid, "parent = nullif($2, 0::oid), fingerprint = $3 WHERE true", parent, fingerprint, NULL);
}

/* It has come to another phase. */
void
cm_conversion_state_phase(Oid relid, CmConversionPhase phase)
{
	(void) update_state(relid, "state = $3, ended_at = CASE WHEN $3 = 'converted' THEN now() END WHERE true",
						InvalidOid, state_names[phase], NULL);
}

/* It is to be taken back.  False: meanwhile the tables were exchanged, or it is gone. */
bool
cm_conversion_state_cancel(Oid relid)
{
	return update_state(relid, "state = 'cancelled' WHERE swapped_at IS NULL", InvalidOid, NULL, NULL);
}

/* Whoever waited for it has cancelled the run. */
void
cm_conversion_state_stop(Oid relid)
{
	(void) update_state(relid, "state = 'stopped' WHERE state = 'preparing'", InvalidOid, NULL, NULL);
}

/* Nothing of it is left. */
void
cm_conversion_state_forget(Oid relid)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("DELETE FROM concertmaster.conversion WHERE relid = $1", 1, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
}
