/*-------------------------------------------------------------------------
 *
 * matview_classes.c
 *	  Split what is dirty into classes, each of which is one query.
 *
 * Patterns differ in which key columns they know, which of those are NULL,
 * and for which buckets a range of raw times is known; patterns alike in all
 * three are a class.  Ranges of raw times become ranges of buckets, a class
 * each.  The classes are sorted, those that know least first, and a pattern
 * that an earlier class covers already is dropped.  Groups that two classes
 * share all the same are told by cm_classes_match(): who runs the second
 * class' query leaves its rows that the first one matches to the first.
 *
 * Whether values are the same is asked of the type's own equality (numeric
 * 1.0 and 1.00 are one value), because the join with the class' members asks
 * the same: a member that came twice would double every sum.  A column whose
 * type has no hash function is taken as not known; that makes a class wider,
 * never wrong.
 *
 * The members of a class go into a tuplestore, which is an ephemeral named
 * relation of the query.  A class of one member needs none.
 *
 * Locks nothing and reads no table.  Everything is in the current memory
 * context; tuplestores that spilled to disk are closed with the transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/date.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "matview_merge.h"

/* More classes than that are not worth their planning. */
#define MAX_CLASSES			24

/* More ranges than that are made fewer by taking in what lies between. */
#define MAX_RANGES			24
#define MAX_HULLS			16

/* What an index holds under one hash. */
typedef struct IndexEntry
{
	uint32		hash;
	List	   *members;
} IndexEntry;

/* The type's own functions for a key column; those that it lacks are invalid. */
static TypeCacheEntry *
key_type(const CmMatviewPlan *plan, int key)
{
	return lookup_type_cache(plan->keys[key].type,
							 TYPECACHE_EQ_OPR_FINFO | TYPECACHE_HASH_PROC_FINFO | TYPECACHE_CMP_PROC_FINFO);
}

/* Hash those values that a class knows and that are not NULL. */
static uint32
hash_values(const CmMatviewPlan *plan, const CmClass *class, const Datum *values)
{
	uint32		hash = 0;

	for (int i = 0; i < plan->nkeys; i++)
	{
		if ((class->mask & ~class->nulls & CM_KEY_BIT(i)) == 0)
			continue;
		hash = hash_combine(hash, DatumGetUInt32(FunctionCall1Coll(&key_type(plan, i)->hash_proc_finfo,
																   plan->keys[i].collation,
																   values[i])));
	}
	return hash;
}

/* Are two rows of values the same in what a class knows? */
static bool
same_values(const CmMatviewPlan *plan, const CmClass *class, const Datum *a, const Datum *b)
{
	for (int i = 0; i < plan->nkeys; i++)
	{
		if ((class->mask & ~class->nulls & CM_KEY_BIT(i)) == 0)
			continue;
		if (!DatumGetBool(FunctionCall2Coll(&key_type(plan, i)->eq_opr_finfo,
											plan->keys[i].collation, a[i], b[i])))
			return false;
	}
	return true;
}

/* Does the range of buckets hold this one? */
static bool
range_matches(const CmMatviewPlan *plan, const CmClass *class, const Datum *values, const bool *nulls)
{
	int			key = pg_rightmost_one_pos32(class->mask);
	FmgrInfo   *compare = &key_type(plan, key)->cmp_proc_finfo;

	return !nulls[key] &&
		DatumGetInt32(FunctionCall2Coll(compare, InvalidOid, values[key], class->first)) >= 0 &&
		DatumGetInt32(FunctionCall2Coll(compare, InvalidOid, values[key], class->last)) <= 0;
}

/* Does a class match a row of key values, of which it needs those in its mask? */
static bool
class_matches(const CmMatviewPlan *plan, const CmClass *class, const Datum *values, const bool *nulls)
{
	IndexEntry *entry;
	uint32		hash;
	ListCell   *cell;

	if (class->is_range)
		return range_matches(plan, class, values, nulls);
	for (int i = 0; i < plan->nkeys; i++)
	{
		uint32		bit = CM_KEY_BIT(i);

		if ((class->mask & bit) != 0 && nulls[i] != ((class->nulls & bit) != 0))
			return false;
	}
	hash = hash_values(plan, class, values);
	entry = hash_search(class->index, &hash, HASH_FIND, NULL);
	if (entry == NULL)
		return false;
	foreach(cell, entry->members)
	{
		if (same_values(plan, class, ((CmMember *) lfirst(cell))->pattern->values, values))
			return true;
	}
	return false;
}

/* Is a row of the view in one of the first so many classes? */
bool
cm_classes_match(const CmClasses *classes, int count, TupleTableSlot *slot)
{
	const CmMatviewPlan *plan;
	Datum		values[CM_KEY_MAX];
	bool		nulls[CM_KEY_MAX];

	if (count == 0)
		return false;
	plan = classes->plan;
	slot_getallattrs(slot);
	for (int i = 0; i < plan->nkeys; i++)
	{
		values[i] = slot->tts_values[plan->keys[i].attno - 1];
		nulls[i] = slot->tts_isnull[plan->keys[i].attno - 1];
	}
	for (int i = 0; i < count; i++)
	{
		if (class_matches(plan, list_nth(classes->list, i), values, nulls))
			return true;
	}
	return false;
}

/* The columns that equality can be asked of. */
static uint32
comparable_keys(const CmMatviewPlan *plan)
{
	uint32		mask = 0;

	for (int i = 0; i < plan->nkeys; i++)
	{
		TypeCacheEntry *type = key_type(plan, i);

		if (OidIsValid(type->eq_opr_finfo.fn_oid) && OidIsValid(type->hash_proc_finfo.fn_oid))
			mask |= CM_KEY_BIT(i);
	}
	return mask;
}

/* The class of a pattern's kind, made if there is none yet. */
static CmClass *
find_class(CmClasses *classes, uint32 mask, uint32 nulls, uint32 raws)
{
	CmClass    *class;
	ListCell   *cell;

	foreach(cell, classes->list)
	{
		class = lfirst(cell);
		if (!class->is_range && class->mask == mask && class->nulls == nulls && class->raws == raws)
			return class;
	}
	class = palloc0(sizeof(CmClass));
	class->mask = mask;
	class->nulls = nulls;
	class->raws = raws;
	classes->list = lappend(classes->list, class);
	return class;
}

/*
 * The raw times of a bucket, if they are known.  Whether they are exact is
 * tried at the ends: a value that is no bucket's has a range all the same.
 */
static bool
find_raws(const CmBucket *bucket, const char *zone, Datum value, CmRawRange *range)
{
	Oid			raw = bucket->raw_type;

	if (!cm_bucket_preimage(bucket, zone, value, range))
		return false;
	range->exact = range->exact &&
		cm_time_number(bucket->type, cm_bucket_apply(bucket, zone, range->lo)) == cm_time_number(bucket->type, value) &&
		cm_time_number(bucket->type, cm_bucket_apply(bucket, zone,
												  cm_number_time(raw, cm_time_number(raw, range->hi) - 1))) ==
		cm_time_number(bucket->type, value);
	return true;
}

/* Put a pattern into its class. */
static void
add_pattern(CmClasses *classes, const char *zone, CmPattern *pattern, uint32 mask)
{
	CmMatviewPlan *plan = classes->plan;
	CmMember   *member = palloc(sizeof(CmMember));
	CmRawRange	ranges[CM_KEY_MAX];
	uint32		nulls = 0;
	uint32		raws = 0;
	int			nraws = 0;
	CmClass    *class;

	for (int i = 0; i < plan->nkeys; i++)
	{
		uint32		bit = CM_KEY_BIT(i);

		if ((mask & bit) == 0)
			continue;
		if (pattern->nulls[i])
			nulls |= bit;
		else if (plan->keys[i].bucket != NULL &&
				 find_raws(plan->keys[i].bucket, zone, pattern->values[i], &ranges[nraws]))
		{
			raws |= bit;
			nraws++;
		}
	}
	member->pattern = pattern;
	member->raws = palloc(sizeof(CmRawRange) * Max(nraws, 1));
	memcpy(member->raws, ranges, sizeof(CmRawRange) * nraws);
	class = find_class(classes, mask, nulls, raws);
	class->members = lappend(class->members, member);
}

/* Ranges by their start; of one raw type each, as integers. */
typedef struct Span
{
	int64		lo;
	int64		hi;
} Span;

static int
compare_spans(const void *a, const void *b)
{
	int64		left = ((const Span *) a)->lo;
	int64		right = ((const Span *) b)->lo;

	return left < right ? -1 : left > right;
}

/* Sort spans, join those that touch, and then neighbours until they are few. */
static int
join_spans(Span *spans, int count, int most)
{
	int			kept = 0;
	int			run;

	qsort(spans, count, sizeof(Span), compare_spans);
	for (int i = 1; i < count; i++)
	{
		if (spans[i].lo <= spans[kept].hi)
			spans[kept].hi = Max(spans[kept].hi, spans[i].hi);
		else
			spans[++kept] = spans[i];
	}
	count = kept + 1;
	if (count <= most)
		return count;
	run = (count + most - 1) / most;
	kept = 0;
	for (int i = 0; i < count; i += run, kept++)
	{
		spans[kept].lo = spans[i].lo;
		spans[kept].hi = spans[Min(i + run, count) - 1].hi;
	}
	return kept;
}

/* A few ranges that hold the raw times of all members; slot: which of raws. */
static List *
make_hulls(const CmClass *class, int slot, Oid type)
{
	Span	   *spans = palloc_extended(sizeof(Span) * list_length(class->members), MCXT_ALLOC_HUGE);
	List	   *hulls = NIL;
	int			count = 0;
	ListCell   *cell;

	foreach(cell, class->members)
	{
		const CmRawRange *range = &((CmMember *) lfirst(cell))->raws[slot];

		spans[count].lo = cm_time_number(type, range->lo);
		spans[count].hi = cm_time_number(type, range->hi);
		count++;
	}
	count = join_spans(spans, count, MAX_HULLS);
	for (int i = 0; i < count; i++)
	{
		CmRawRange *hull = palloc0(sizeof(CmRawRange));

		hull->lo = cm_number_time(type, spans[i].lo);
		hull->hi = cm_number_time(type, spans[i].hi);
		hulls = lappend(hulls, hull);
	}
	pfree(spans);
	return hulls;
}

/* The raw times that buckets of a range can come from, if they have bounds. */
static void
bound_range(CmClass *class, const CmBucket *bucket, int key, const char *zone)
{
	CmRawRange	first;
	CmRawRange	last;
	CmRawRange *hull;

	if (!cm_bucket_preimage(bucket, zone, class->first, &first) ||
		!cm_bucket_preimage(bucket, zone, class->last, &last))
		return;
	hull = palloc0(sizeof(CmRawRange));
	hull->lo = first.lo;
	hull->hi = last.hi;
	class->raws = class->mask;
	class->hulls[key] = list_make1(hull);
}

/* Make classes of the dirty ranges of one key column. */
static void
add_ranges(CmClasses *classes, const char *zone, const List *ranges, int key)
{
	const CmBucket *bucket = classes->plan->keys[key].bucket;
	Span	   *spans = palloc(sizeof(Span) * Max(list_length(ranges), 1));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, ranges)
	{
		const CmDirtyRange *range = lfirst(cell);
		Datum		first;
		Datum		last;

		if (range->key != key)
			continue;
		cm_bucket_image(bucket, zone, range, &first, &last);
		spans[count].lo = cm_time_number(bucket->type, first);
		spans[count].hi = cm_time_number(bucket->type, last);
		count++;
	}
	if (count > 0)
		count = join_spans(spans, count, MAX_RANGES);
	for (int i = 0; i < count; i++)
	{
		CmClass    *class = palloc0(sizeof(CmClass));

		class->is_range = true;
		class->mask = CM_KEY_BIT(key);
		class->first = cm_number_time(bucket->type, spans[i].lo);
		class->last = cm_number_time(bucket->type, spans[i].hi);
		bound_range(class, bucket, key, zone);
		classes->list = lappend(classes->list, class);
		classes->patterns++;
	}
	pfree(spans);
}

/* Ranges first, then those that know least. */
static int
compare_classes(const ListCell *a, const ListCell *b)
{
	const CmClass *left = lfirst(a);
	const CmClass *right = lfirst(b);
	int			nleft = left->is_range ? 0 : pg_popcount32(left->mask);
	int			nright = right->is_range ? 0 : pg_popcount32(right->mask);

	return nleft - nright;
}

/* Do earlier classes, of those that ask for no more than this one knows, match a pattern? */
static bool
is_covered(const CmClasses *classes, const CmClass *class, const CmPattern *pattern)
{
	ListCell   *cell;

	foreach(cell, classes->list)
	{
		const CmClass *other = lfirst(cell);

		if (other == class)
			return false;
		if ((other->mask & ~class->mask) == 0 &&
			class_matches(classes->plan, other, pattern->values, pattern->nulls))
			return true;
	}
	return false;
}

/* Leave out members that come twice or that earlier classes cover; index the rest. */
static void
index_class(CmClasses *classes, CmClass *class)
{
	HASHCTL		control = {.keysize = sizeof(uint32),.entrysize = sizeof(IndexEntry),.hcxt = CurrentMemoryContext};
	List	   *kept = NIL;
	ListCell   *cell;

	class->index = hash_create("concertmaster class", list_length(class->members), &control,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	foreach(cell, class->members)
	{
		CmMember   *member = lfirst(cell);
		CmPattern  *pattern = member->pattern;
		IndexEntry *entry;
		uint32		hash;
		bool		found;

		CHECK_FOR_INTERRUPTS();
		if (is_covered(classes, class, pattern) ||
			class_matches(classes->plan, class, pattern->values, pattern->nulls))
			continue;
		hash = hash_values(classes->plan, class, pattern->values);
		entry = hash_search(class->index, &hash, HASH_ENTER, &found);
		if (!found)
			entry->members = NIL;
		entry->members = lappend(entry->members, member);
		kept = lappend(kept, member);
	}
	class->members = kept;
	classes->patterns += list_length(kept);
}

/* The row type of a class' relation; notes which column is what. */
static TupleDesc
class_desc(const CmMatviewPlan *plan, CmClass *class)
{
	TupleDesc	desc = CreateTemplateTupleDesc(pg_popcount32(class->mask & ~class->nulls) +
											   2 * pg_popcount32(class->raws));
	AttrNumber	next = 1;

	for (int i = 0; i < plan->nkeys; i++)
	{
		const CmKeyColumn *key = &plan->keys[i];
		uint32		bit = CM_KEY_BIT(i);

		if ((class->mask & ~class->nulls & bit) != 0)
		{
			class->value_column[i] = next;
			TupleDescInitEntry(desc, next, psprintf("value_%d", i), key->type, key->typmod, 0);
			TupleDescInitEntryCollation(desc, next++, key->collation);
		}
		if ((class->raws & bit) != 0)
		{
			class->lo_column[i] = next;
			TupleDescInitEntry(desc, next++, psprintf("lo_%d", i), key->bucket->raw_type, -1, 0);
			TupleDescInitEntry(desc, next++, psprintf("hi_%d", i), key->bucket->raw_type, -1, 0);
		}
	}
	return desc;
}

/* A member as a row of its class' relation; nothing in it is NULL. */
void
cm_member_values(const CmMatviewPlan *plan, const CmClass *class, const CmMember *member, Datum *values)
{
	int			slot = 0;

	for (int i = 0; i < plan->nkeys; i++)
	{
		uint32		bit = CM_KEY_BIT(i);

		if ((class->mask & ~class->nulls & bit) != 0)
			values[class->value_column[i] - 1] = member->pattern->values[i];
		if ((class->raws & bit) == 0)
			continue;
		values[class->lo_column[i] - 1] = member->raws[slot].lo;
		values[class->lo_column[i]] = member->raws[slot].hi;
		slot++;
	}
}

/* Fill a class' relation. */
static Tuplestorestate *
store_members(const CmMatviewPlan *plan, const CmClass *class)
{
	Tuplestorestate *store = tuplestore_begin_heap(true, false, work_mem);
	Datum	   *values = palloc(sizeof(Datum) * class->desc->natts);
	bool	   *nulls = palloc0(sizeof(bool) * class->desc->natts);
	ListCell   *cell;

	foreach(cell, class->members)
	{
		CHECK_FOR_INTERRUPTS();
		cm_member_values(plan, class, lfirst(cell), values);
		tuplestore_putvalues(store, class->desc, values, nulls);
	}
	return store;
}

/* Give a class its relation, if it has more than one member. */
static void
name_class(CmClasses *classes, CmClass *class, int number)
{
	EphemeralNamedRelation relation;

	if (list_length(class->members) < 2)
		return;
	class->name = psprintf("concertmaster_changes_%d", number);
	class->desc = class_desc(classes->plan, class);
	relation = palloc0(sizeof(EphemeralNamedRelationData));
	relation->md.name = class->name;
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = class->desc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = list_length(class->members);
	relation->reldata = store_members(classes->plan, class);
	register_ENR(classes->env, relation);
}

/* Note what holds for the ranges of all members; slot: which of raws. */
static void
compare_raws(CmClass *class, int slot, uint32 bit)
{
	const CmRawRange *first = &((CmMember *) linitial(class->members))->raws[slot];
	bool		exact = true;
	bool		single = true;
	ListCell   *cell;

	foreach(cell, class->members)
	{
		const CmRawRange *range = &((CmMember *) lfirst(cell))->raws[slot];

		exact &= range->exact;
		single &= range->lo == first->lo && range->hi == first->hi;
	}
	class->exact |= exact ? bit : 0;
	class->single |= single ? bit : 0;
}

/* Which share of the hulls one member's range is, on average. */
static double
share_of_hulls(const CmClass *class, int slot, Oid type, const List *hulls)
{
	double		all = 0;
	double		members = 0;
	ListCell   *cell;

	foreach(cell, hulls)
	{
		const CmRawRange *hull = lfirst(cell);

		all += (double) cm_time_number(type, hull->hi) - cm_time_number(type, hull->lo);
	}
	foreach(cell, class->members)
	{
		const CmRawRange *range = &((CmMember *) lfirst(cell))->raws[slot];

		members += (double) cm_time_number(type, range->hi) - cm_time_number(type, range->lo);
	}
	return all > 0 ? members / list_length(class->members) / all : 1;
}

/* The raw time ranges of a class' buckets, as constants. */
static void
bound_class(const CmMatviewPlan *plan, CmClass *class)
{
	int			slot = 0;

	for (int i = 0; i < plan->nkeys; i++)
	{
		if ((class->raws & CM_KEY_BIT(i)) == 0)
			continue;
		compare_raws(class, slot, CM_KEY_BIT(i));
		class->hulls[i] = make_hulls(class, slot, plan->keys[i].bucket->raw_type);
		class->share[i] = share_of_hulls(class, slot, plan->keys[i].bucket->raw_type, class->hulls[i]);
		slot++;
	}
}

/* Everything that follows from the members of the classes. */
static void
finish_classes(CmClasses *classes)
{
	List	   *kept = NIL;
	ListCell   *cell;

	list_sort(classes->list, compare_classes);
	foreach(cell, classes->list)
	{
		CmClass    *class = lfirst(cell);

		if (!class->is_range)
			index_class(classes, class);
	}
	foreach(cell, classes->list)
	{
		CmClass    *class = lfirst(cell);

		if (!class->is_range && class->members == NIL)
			continue;
		if (!class->is_range)
		{
			bound_class(classes->plan, class);
			name_class(classes, class, list_length(kept));
		}
		kept = lappend(kept, class);
	}
	classes->list = kept;
}

/*
 * What a refresh has to compute, as classes; NULL and why, if that is all of
 * the view.
 */
CmClasses *
cm_classes_make(CmMatviewPlan *plan, const char *zone, const CmDirty *dirty, const char **why_all)
{
	CmClasses  *classes = palloc0(sizeof(CmClasses));
	uint32		comparable = comparable_keys(plan);
	ListCell   *cell;

	*why_all = dirty->stale;
	if (dirty->stale != NULL)
		return NULL;
	classes->plan = plan;
	classes->env = create_queryEnv();
	for (int i = 0; i < plan->nkeys; i++)
		add_ranges(classes, zone, dirty->ranges, i);
	foreach(cell, dirty->patterns)
	{
		CmPattern  *pattern = lfirst(cell);
		uint32		mask = pattern->mask & comparable;

		CHECK_FOR_INTERRUPTS();
		*why_all = "a change may concern any of its rows";
		if (mask == 0)
			return NULL;
		add_pattern(classes, zone, pattern, mask);
		*why_all = "changes are of too many kinds";
		if (list_length(classes->list) > MAX_CLASSES + MAX_RANGES)
			return NULL;
	}
	*why_all = NULL;
	finish_classes(classes);
	return classes;
}
