/*-------------------------------------------------------------------------
 *
 * matview_log_dedupe.c
 *	  Which patterns this transaction has already logged.
 *
 * A stack of the patterns that the top transaction and its open or committed
 * subtransactions have written, in the order in which they came, and a hash
 * table of the same as soon as there are more than a few: most transactions
 * write one.  Marks on the stack say where each nesting level begins: when a
 * subtransaction is rolled back, its rows of the log are gone, and what lies
 * above its mark is taken out again; when it is committed, its mark becomes
 * its parent's, whatever number of patterns that hands up.
 *
 * Everything lives in a context of the session that is emptied when the top
 * transaction ends, however it ends: to make one each time would cost as much
 * as all the rest of this file.  It is forgotten, too, when a refresh in the
 * same transaction has deleted rows of the log.  cm_log_epoch changes whenever something that was
 * known may be known no more, so that callers can keep short cuts beside.
 *
 * Locks: none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "utils/memutils.h"

#include "matview_log.h"

typedef struct Bytes
{
	const char *data;
	int			length;
} Bytes;

typedef struct Known
{
	Bytes		bytes;
	uint32		hash;
	char		status;
} Known;

#define SH_PREFIX known
#define SH_ELEMENT_TYPE Known
#define SH_KEY_TYPE Bytes
#define SH_KEY bytes
#define SH_HASH_KEY(table, key) hash_bytes((const unsigned char *) (key).data, (key).length)
#define SH_EQUAL(table, a, b) ((a).length == (b).length && memcmp((a).data, (b).data, (a).length) == 0)
#define SH_STORE_HASH
#define SH_GET_HASH(table, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* A pattern on the stack. */
typedef struct Logged
{
	Bytes		bytes;
	CmLogView  *state;
	bool		all;
} Logged;

/* Where a nesting level begins on the stack. */
typedef struct Mark
{
	int			level;
	int			first;
} Mark;

/* What the transaction knows. */
typedef struct Transaction
{
	known_hash *table;			/* NULL: few, look through the stack */
	List	   *views;			/* of CmLogView */
	Logged	   *stack;
	int			depth;
	int			room;
	Mark	   *marks;
	int			nmarks;
	int			marks_room;
} Transaction;

/* So many are looked through one by one. */
#define FEW		8

/* What a transaction knows lives here; what fits its first block costs no malloc. */
static MemoryContext context = NULL;
static Transaction *transaction = NULL;

/* Never 0, so that 0 is of no time. */
uint64		cm_log_epoch = 1;

/* Forget everything; the memory goes with the transaction. */
void
cm_log_forget_all(void)
{
	transaction = NULL;
	cm_log_epoch++;
}

/* End of a top transaction; of a parallel worker's nothing is known. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	if (transaction != NULL)
		cm_log_forget_all();
	MemoryContextReset(context);
}

/* Take the topmost pattern away: its row was rolled back. */
static void
pop(void)
{
	Logged	   *logged = &transaction->stack[--transaction->depth];

	if (transaction->table != NULL)
		(void) known_delete(transaction->table, logged->bytes);
	logged->state->count--;
	if (logged->all)
		logged->state->all = false;
}

/* End of a subtransaction, which is still the current one. */
static void
at_subtransaction_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (transaction == NULL || transaction->nmarks == 0 ||
		transaction->marks[transaction->nmarks - 1].level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		while (transaction->nmarks > 0 && transaction->marks[transaction->nmarks - 1].level >= level)
		{
			int			first = transaction->marks[--transaction->nmarks].first;

			while (transaction->depth > first)
				pop();
		}
		cm_log_epoch++;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		Mark	   *mark = &transaction->marks[transaction->nmarks - 1];

		mark->level = level - 1;
		if (transaction->nmarks > 1 && mark[-1].level == level - 1)
			transaction->nmarks--;
	}
}

/* Once per process. */
void
cm_log_dedupe_init(void)
{
	context = AllocSetContextCreate(TopMemoryContext, "concertmaster logged patterns",
									4096, 4096, ALLOCSET_DEFAULT_MAXSIZE);
	RegisterXactCallback(at_transaction_end, NULL);
	RegisterSubXactCallback(at_subtransaction_end, NULL);
}

/* Begin to know something in this transaction. */
static void
begin(void)
{
	Transaction *begun = MemoryContextAllocZero(context, sizeof(Transaction));

	begun->room = FEW;
	begun->stack = MemoryContextAlloc(context, begun->room * sizeof(Logged));
	begun->marks_room = 4;
	begun->marks = MemoryContextAlloc(context, begun->marks_room * sizeof(Mark));
	transaction = begun;
}

/* What is known of a view; valid as long as cm_log_epoch stays. */
CmLogView *
cm_log_view_state(Oid view)
{
	MemoryContext caller;
	CmLogView  *state;
	ListCell   *lc;

	if (transaction == NULL)
		begin();
	foreach(lc, transaction->views)
	{
		state = lfirst(lc);
		if (state->view == view)
			return state;
	}
	caller = MemoryContextSwitchTo(context);
	state = palloc0(sizeof(CmLogView));
	state->view = view;
	transaction->views = lappend(transaction->views, state);
	MemoryContextSwitchTo(caller);
	return state;
}

/* Has this transaction logged the pattern? */
bool
cm_log_is_known(const char *bytes, int length)
{
	Bytes		key = {.data = bytes,.length = length};

	if (transaction == NULL)
		return false;
	if (transaction->table != NULL)
		return known_lookup(transaction->table, key) != NULL;
	for (int i = 0; i < transaction->depth; i++)
	{
		const Bytes *other = &transaction->stack[i].bytes;

		if (other->length == length && memcmp(other->data, bytes, length) == 0)
			return true;
	}
	return false;
}

/* Put a pattern into the hash table. */
static void
hash(Bytes bytes)
{
	bool		found;
	Known	   *known = known_insert(transaction->table, bytes, &found);

	Assert(!found);
	known->bytes = bytes;
}

/* There are more than a few: make the hash table. */
static void
hash_stack(void)
{
	transaction->table = known_create(context, 4 * FEW, NULL);
	for (int i = 0; i < transaction->depth; i++)
		hash(transaction->stack[i].bytes);
}

/* Make sure that the stack's top belongs to the current nesting level. */
static void
mark_level(void)
{
	int			level = GetCurrentTransactionNestLevel();

	if (transaction->nmarks > 0 && transaction->marks[transaction->nmarks - 1].level == level)
		return;
	if (transaction->nmarks == transaction->marks_room)
	{
		transaction->marks = repalloc(transaction->marks, 2 * transaction->marks_room * sizeof(Mark));
		transaction->marks_room *= 2;
	}
	transaction->marks[transaction->nmarks].level = level;
	transaction->marks[transaction->nmarks].first = transaction->depth;
	transaction->nmarks++;
}

/*
 * The pattern's row has been written.  Called after that, so that an error on
 * the way leaves nothing known that is not there.  all: it stands for any
 * group of the view.
 */
void
cm_log_remember(CmLogView *state, const char *bytes, int length, bool all)
{
	Bytes		key = {.length = length};
	char	   *data;
	Logged	   *logged;

	Assert(transaction != NULL);
	mark_level();
	if (transaction->table == NULL && transaction->depth == FEW)
		hash_stack();
	if (transaction->depth == transaction->room)
	{
		transaction->stack = repalloc(transaction->stack, 2 * transaction->room * sizeof(Logged));
		transaction->room *= 2;
	}
	data = MemoryContextAlloc(context, length);
	memcpy(data, bytes, length);
	key.data = data;
	if (transaction->table != NULL)
		hash(key);
	logged = &transaction->stack[transaction->depth++];
	logged->bytes = key;
	logged->state = state;
	logged->all = all;
	state->count++;
	state->all = state->all || all;
}
