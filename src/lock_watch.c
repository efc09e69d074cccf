/*-------------------------------------------------------------------------
 *
 * lock_watch.c
 *	  Who holds what a step will need, and are they going to keep it?
 *
 * A statement that waits for a lock makes everybody queue behind it who comes
 * after.  The deadline (statement.c) bounds that to one try; but where the
 * lock is held by a transaction that stays for minutes, every try is in vain
 * and stalls the others once more.  So before each try the step's locks are
 * looked at, twice, half a deadline apart: a transaction that is in the way
 * both times is there to stay, and the try is not made.  Holders that came
 * and went between the looks are the ordinary traffic, in whose gaps a try
 * finds its place.  Nor does an autovacuum stay that the server cancels when
 * somebody waits for it, which is what a try does.
 *
 * A wish is a lock that a step will ask for; the relation InvalidOid stands
 * for every snapshot that is as old as our own, for which DETACH ... FINALIZE
 * waits.
 *
 * Locks: the lock manager's own, shared, for the moment of a look.  What was
 * seen may be outdated when it is used: the deadline is there for that.
 *
 * What it does not do: wait for a lock, or see who waits for one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "concertmaster.h"

/* What a look found. */
typedef struct Holders
{
	VirtualTransactionId *vxids;
	int			count;
	int			room;
} Holders;

/* One more wish of a step. */
List *
cm_lock_wish(List *wishes, Oid relid, LOCKMODE mode)
{
	CmLockWish *wish = palloc(sizeof(CmLockWish));

	wish->relid = relid;
	wish->mode = mode;
	return lappend(wishes, wish);
}

static void
add_holders(Holders *holders, const VirtualTransactionId *vxids, int count)
{
	if (holders->count + count > holders->room)
	{
		holders->room = (holders->count + count) * 2;
		holders->vxids = holders->vxids == NULL ?
			palloc(holders->room * sizeof(VirtualTransactionId)) :
			repalloc(holders->vxids, holders->room * sizeof(VirtualTransactionId));
	}
	memcpy(holders->vxids + holders->count, vxids, count * sizeof(VirtualTransactionId));
	holders->count += count;
}

/* The snapshots in this database, as a FINALIZE that began now would wait for them. */
static void
add_snapshots(Holders *holders)
{
	bool		own = !IsTransactionState();
	VirtualTransactionId *vxids;
	int			count;

	if (own)
		cm_transaction_begin(GetSessionUserId());
	vxids = GetCurrentVirtualXIDs(GetActiveSnapshot()->xmin, true, false,
								  PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, &count);
	add_holders(holders, vxids, count);
	if (own)
		cm_transaction_commit();
}

/* Those whose snapshots may not see what was committed before this is called. */
struct CmSnapshots
{
	TransactionId limit;		/* snapshots with a later xmin see it */
	Holders		holders;
};

/* Everybody who has a snapshot now; for cm_snapshots_holder(). */
CmSnapshots *
cm_snapshots_note(void)
{
	CmSnapshots *snapshots = palloc0(sizeof(CmSnapshots));

	cm_transaction_begin(GetSessionUserId());
	snapshots->limit = GetActiveSnapshot()->xmin;
	cm_transaction_commit();
	add_snapshots(&snapshots->holders);
	return snapshots;
}

/* Everybody who is in the way of one of the wishes. */
static Holders
look(const List *wishes)
{
	Holders		holders = {0};
	ListCell   *lc;

	foreach(lc, wishes)
	{
		const CmLockWish *wish = lfirst(lc);
		LOCKTAG		tag;
		VirtualTransactionId *vxids;
		int			count;

		if (!OidIsValid(wish->relid))
		{
			add_snapshots(&holders);
			continue;
		}
		SET_LOCKTAG_RELATION(tag, MyDatabaseId, wish->relid);
		vxids = GetLockConflicts(&tag, wish->mode, &count);
		add_holders(&holders, vxids, count);
	}
	return holders;
}

/* The pid of a transaction; -1 for one that is prepared, or gone by now. */
static int
pid_of(VirtualTransactionId vxid)
{
	PGPROC	   *proc = cm_compat_vxid_proc(vxid);

	return proc != NULL && proc->pid != 0 ? proc->pid : -1;
}

/* Does the transaction wait for a lock?  Read without one; for what can be wrong. */
static bool
waits_for_lock(VirtualTransactionId vxid)
{
	PGPROC	   *proc = cm_compat_vxid_proc(vxid);

	return proc != NULL && pg_atomic_read_u64(&proc->waitStart) != 0;
}

/*
 * The pid of a process that still has a snapshot that was noted; -1 if it is
 * gone this moment, 0 if nobody has.  As CREATE INDEX CONCURRENTLY waits, but
 * without waiting.
 */
int
cm_snapshots_holder(CmSnapshots *snapshots, bool ignore_waiting)
{
	Holders	   *noted = &snapshots->holders;
	VirtualTransactionId *vxids;
	int			count;
	int			kept = 0;

	vxids = GetCurrentVirtualXIDs(snapshots->limit, true, false, PROC_IS_AUTOVACUUM | PROC_IN_VACUUM, &count);
	for (int i = 0; i < noted->count; i++)
	{
		for (int j = 0; j < count; j++)
		{
			if (VirtualTransactionIdEquals(noted->vxids[i], vxids[j]) &&
				!(ignore_waiting && waits_for_lock(vxids[j])))
			{
				noted->vxids[kept++] = noted->vxids[i];
				break;
			}
		}
	}
	noted->count = kept;
	pfree(vxids);
	return kept > 0 ? pid_of(noted->vxids[0]) : 0;
}

/*
 * Does the server cancel the holder when somebody has waited for it for
 * deadlock_timeout?  Read without a lock, as by the server.
 */
static bool
gives_way(VirtualTransactionId vxid)
{
	PGPROC	   *proc = cm_compat_vxid_proc(vxid);
	uint8		flags = proc != NULL ? proc->statusFlags : 0;

	return (flags & PROC_IS_AUTOVACUUM) && !(flags & PROC_VACUUM_FOR_WRAPAROUND);
}

/* Wait so long, however often the latch is set meanwhile.  Interrupts are heard. */
void
cm_pause(int milliseconds)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);
	long		left;

	while ((left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end)) > 0)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static int
find_holder(const List *wishes)
{
	Holders		holders = look(wishes);
	int			result = holders.count > 0 ? -1 : 0;

	for (int i = 0; i < holders.count && result == -1; i++)
		result = pid_of(holders.vxids[i]);
	return result;
}

static int
find_stayer(const List *wishes)
{
	Holders		first = look(wishes);
	Holders		second;

	if (first.count == 0)
		return 0;
	cm_pause(Max(1, cm_ddl_deadline / 2));
	second = look(wishes);
	for (int i = 0; i < first.count; i++)
	{
		for (int j = 0; j < second.count; j++)
		{
			if (VirtualTransactionIdEquals(first.vxids[i], second.vxids[j]) && !gives_way(second.vxids[j]))
				return pid_of(first.vxids[i]);
		}
	}
	return 0;
}

/* Looks are many, and the lock manager gives an array for each lock. */
static int
find_and_forget(int (*find) (const List *wishes), const List *wishes)
{
	MemoryContext looks = AllocSetContextCreate(CurrentMemoryContext, "concertmaster lock watch",
												ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(looks);
	int			result = find(wishes);

	MemoryContextSwitchTo(caller);
	MemoryContextDelete(looks);
	return result;
}

/*
 * The pid of a process that holds what a step would wait for, now; -1 if it is
 * a prepared transaction, 0 if nobody does.  For reports only: it may be gone
 * when the caller looks.
 */
int
cm_lock_holder(const List *wishes)
{
	return find_and_forget(find_holder, wishes);
}

/*
 * The pid of a process (-1: a prepared transaction) that is there to stay: it
 * is in the way of the wishes now and half a deadline later.  0 if nobody is.
 * Takes that long unless nobody is in the way now.
 */
int
cm_lock_stayer(const List *wishes)
{
	return find_and_forget(find_stayer, wishes);
}
