/*-------------------------------------------------------------------------
 *
 * matview_group.c
 *	  Patterns of a view's key as bytes, and back.
 *
 * What a pattern's columns hold is laid out as a minimal tuple of the view's
 * key, in which the columns that are not known are null; its length word and
 * padding are left out, and in front stands a number made of the key's
 * columns and types, and of the functions of users that compute it.  Values are detoasted first, so that the same value has
 * the same bytes.  Where all of it would be too long, the longest values are
 * left out: their columns leave the mask, and the pattern stands for more
 * groups.
 *
 * Who reads a key whose number is another (it was written by another version
 * of this library, which saw another key in the view's query, or before a
 * function was replaced) gets the pattern that stands for all groups.
 *
 * Locks: none.  Nothing to clean up after an error: all memory is the
 * caller's context's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/tupmacs.h"
#include "common/hashfn.h"
#include "fmgr.h"

#include "compat.h"
#include "matview.h"

/* What is left out of a minimal tuple: its length and padding. */
#define LEFT_OUT	MINIMAL_TUPLE_DATA_OFFSET

/* A number that tells keys of different columns or types apart. */
static uint32
key_number(const CmMatviewPlan *plan)
{
	uint32		number = hash_combine(plan->nkeys, plan->key_version);

	for (int i = 0; i < plan->nkeys; i++)
	{
		number = hash_combine(number, murmurhash32(plan->keys[i].attno));
		number = hash_combine(number, murmurhash32(plan->keys[i].type));
	}
	return number;
}

/* The column in the mask that takes the most bytes; -1 if none takes any. */
static int
longest_column(const CmMatviewPlan *plan, const CmPattern *pattern)
{
	int			longest = -1;
	Size		most = 0;

	for (int i = 0; i < plan->nkeys; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(plan->key_desc, i);
		Size		length;

		if (!(pattern->mask & (1 << i)) || pattern->nulls[i])
			continue;
		length = attribute->attlen > 0 ? attribute->attlen :
			attribute->attlen == -1 ? toast_raw_datum_size(pattern->values[i]) :
			strlen(DatumGetCString(pattern->values[i]));
		if (length > most)
		{
			most = length;
			longest = i;
		}
	}
	return longest;
}

/* Copy what is known to arrays that are null elsewhere, detoasted. */
static void
spread(const CmMatviewPlan *plan, const CmPattern *pattern, Datum *values, bool *nulls)
{
	for (int i = 0; i < plan->nkeys; i++)
	{
		nulls[i] = !(pattern->mask & (1 << i)) || pattern->nulls[i];
		values[i] = nulls[i] ? (Datum) 0 : pattern->values[i];
		if (!nulls[i] && TupleDescAttr(plan->key_desc, i)->attlen == -1)
			values[i] = PointerGetDatum(PG_DETOAST_DATUM(values[i]));
	}
}

/*
 * The bytes of a pattern, palloc'd.  Takes columns out of its mask until they
 * fit; NULL if none is left.
 */
bytea *
cm_pattern_encode(const CmMatviewPlan *plan, CmPattern *pattern)
{
	Datum		values[CM_KEY_MAX];
	bool		nulls[CM_KEY_MAX];
	uint32		number = key_number(plan);
	MinimalTuple tuple;
	Size		length;
	bytea	   *key;
	int			longest;

	/* Before anything that long is detoasted. */
	while ((longest = longest_column(plan, pattern)) >= 0 &&
		   TupleDescAttr(plan->key_desc, longest)->attlen == -1 &&
		   toast_raw_datum_size(pattern->values[longest]) > CM_KEY_BYTES_MAX)
		pattern->mask &= ~(1 << longest);
	for (;;)
	{
		if (pattern->mask == 0)
			return NULL;
		spread(plan, pattern, values, nulls);
		if (heap_compute_data_size(plan->key_desc, values, nulls) <= CM_KEY_BYTES_MAX)
			break;
		pattern->mask &= ~(1 << longest_column(plan, pattern));
	}

	tuple = cm_compat_form_minimal_tuple(plan->key_desc, values, nulls);
	length = tuple->t_len - LEFT_OUT;
	key = palloc(VARHDRSZ + sizeof(number) + length);
	SET_VARSIZE(key, VARHDRSZ + sizeof(number) + length);
	memcpy(VARDATA(key), &number, sizeof(number));
	memcpy(VARDATA(key) + sizeof(number), (char *) tuple + LEFT_OUT, length);
	return key;
}

/*
 * The pattern of what cm_pattern_encode() made.  Its values are palloc'd; they
 * and key have nothing in common.
 */
void
cm_pattern_decode(const CmMatviewPlan *plan, uint32 mask, bytea *key, CmPattern *pattern)
{
	HeapTupleData tuple = {0};
	MinimalTuple image;
	uint32		number;
	Size		length;

	memset(pattern, 0, sizeof(*pattern));
	if (mask == 0 || key == NULL || VARSIZE_ANY_EXHDR(key) < sizeof(number) + SizeofMinimalTupleHeader - LEFT_OUT)
		return;
	memcpy(&number, VARDATA_ANY(key), sizeof(number));
	if (number != key_number(plan) || (mask >> plan->nkeys) != 0)
		return;

	length = VARSIZE_ANY_EXHDR(key) - sizeof(number);
	image = palloc0(LEFT_OUT + length);
	image->t_len = LEFT_OUT + length;
	memcpy((char *) image + LEFT_OUT, VARDATA_ANY(key) + sizeof(number), length);
	tuple.t_len = image->t_len + MINIMAL_TUPLE_OFFSET;
	tuple.t_data = (HeapTupleHeader) ((char *) image - MINIMAL_TUPLE_OFFSET);
	pattern->mask = mask;
	heap_deform_tuple(&tuple, plan->key_desc, pattern->values, pattern->nulls);
}
