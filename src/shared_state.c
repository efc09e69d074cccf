/*-------------------------------------------------------------------------
 *
 * shared_state.c
 *	  The one shared struct: workers' slots, databases' due times, holds.
 *
 * Preloaded, the library asks for its space at server start; otherwise the
 * first process that needs the struct makes it in the space that the server
 * keeps for latecomers, and everybody else finds it there.
 *
 * A slot goes from reserved (by whoever starts a worker) to running (by the
 * worker) to free, or to done if somebody waits for the outcome, who then
 * frees it.  The launcher learns from the database table when to start what;
 * workers and committing transactions write it.  A hold keeps workers out of
 * a database while a session drops, renames, moves or copies it.
 *
 * Locks: one LWLock guards every field; nobody holds it over anything slow.
 * Cleanup: a worker's slot and the launcher's pid are given back by
 * before_shmem_exit callbacks.  A worker registers its callback before it
 * connects, so that it runs after the job's lock has been released.  A slot
 * whose process is gone all the same is reclaimed by the next reservation.
 *
 * What it does not do: nothing here survives a server start or is needed
 * after one; the job tables are what counts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/backend_status.h"
#include "utils/timestamp.h"

#include "concertmaster.h"
#include "shared_state.h"

/* A worker that has not come this long after its reservation never will. */
#define STARTING_TIMEOUT_MS	60000

/* Pause after a worker that did not publish, doubled with each further one. */
#define MISSED_PAUSE_MS		5000

typedef struct CmHold
{
	Oid			datid;			/* InvalidOid: not in use */
	int			pid;			/* session that holds */
} CmHold;

typedef struct CmShared
{
	LWLock		lock;
	int			launcher_pid;	/* written by the launcher alone */
	CmHold		holds[CM_MAX_HOLDS];
	CmDatabase	databases[CM_MAX_DATABASES];
	CmSlot		slots[CM_MAX_SLOTS];
} CmShared;

static CmShared *shared = NULL;
static shmem_request_hook_type previous_request_hook = NULL;

/* This process's own slot, if it is a worker. */
static CmSlot *my_slot = NULL;

/* Ask for the struct's space; called by the server while it starts. */
static void
request_space(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(CmShared)));
}

/* Preloaded: have space kept for the struct.  Called from _PG_init. */
void
cm_shared_request(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_space;
}

/* Find the struct, or make it.  Every door below calls this first. */
void
cm_shared_attach(void)
{
	bool		found;

	if (shared != NULL)
		return;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("concertmaster", sizeof(CmShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(CmShared));
		LWLockInitialize(&shared->lock, LWLockNewTrancheId());
	}
	LWLockRelease(AddinShmemInitLock);
	LWLockRegisterTranche(shared->lock.tranche, "concertmaster");
}

/* Is there a process with this pid that is attached to shared memory? */
static bool
process_lives(int pid)
{
	return pid != 0 && BackendPidGetProc(pid) != NULL;
}

/* The entry of a database, or NULL.  Caller holds the lock. */
static CmDatabase *
find_database(Oid datid)
{
	for (int i = 0; i < CM_MAX_DATABASES; i++)
		if (shared->databases[i].datid == datid)
			return &shared->databases[i];
	return NULL;
}

/*
 * The entry of a database, made if need be at the cost of one that has
 * nothing due; NULL if all have.  Caller holds the lock exclusively.
 */
static CmDatabase *
make_database(Oid datid)
{
	CmDatabase *entry = find_database(datid);

	for (int i = 0; i < CM_MAX_DATABASES && entry == NULL; i++)
	{
		CmDatabase *other = &shared->databases[i];

		if (!OidIsValid(other->datid) || (other->next_due == DT_NOEND && other->lookers == 0))
		{
			memset(other, 0, sizeof(CmDatabase));
			other->datid = datid;
			other->next_due = DT_NOEND;
			entry = other;
		}
	}
	return entry;
}

/* Wake the launcher, if there is one and it is another process. */
static void
wake_launcher(void)
{
	int			pid = shared->launcher_pid;
	PGPROC	   *proc = pid != 0 && pid != MyProcPid ? BackendPidGetProc(pid) : NULL;

	if (proc != NULL)
		SetLatch(&proc->procLatch);
}

/* A worker is about to be started that will publish.  Caller holds the lock. */
static void
begin_look(Oid datid, TimestampTz now)
{
	CmDatabase *entry = make_database(datid);

	if (entry == NULL)
		return;
	entry->lookers++;
	entry->last_start = now;
}

/*
 * A worker that was to publish has, or never will; missed: it was started and
 * ended without a word, so the next one is not started at once.  Caller holds
 * the lock.
 */
static void
end_look(CmSlot *slot, bool missed)
{
	CmDatabase *entry;

	if (!slot->looks || slot->published)
		return;
	slot->published = true;
	entry = find_database(slot->datid);
	if (entry == NULL)
		return;
	entry->lookers = Max(entry->lookers - 1, 0);
	if (missed)
	{
		entry->misses = Min(entry->misses + 1, 6);
		entry->next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  MISSED_PAUSE_MS << (entry->misses - 1));
	}
}

/*
 * Slots
 */

/*
 * Does the worker of a running slot live?  It is not among the processes that
 * can be seen until it has connected.  Caller holds the lock.
 */
static bool
worker_lives(const CmSlot *slot, TimestampTz now)
{
	return process_lives(slot->pid) ||
		!TimestampDifferenceExceeds(slot->started_at, now, STARTING_TIMEOUT_MS);
}

/* Free, or left behind by a process that is gone.  Caller holds the lock. */
static bool
slot_is_free(const CmSlot *slot, TimestampTz now)
{
	switch (slot->state)
	{
		case CM_SLOT_FREE:
			return true;
		case CM_SLOT_STARTING:
			return TimestampDifferenceExceeds(slot->started_at, now, STARTING_TIMEOUT_MS);
		case CM_SLOT_RUNNING:
			return !worker_lives(slot, now);
		case CM_SLOT_DONE:
			return !process_lives(slot->waiter);
	}
	return false;
}

/*
 * May one more worker be started for this job?  A second one of the same job
 * would only wait for the first, and a role that waits for workers of its own
 * has max_workers at most, so that some are left for others.  Caller holds
 * the lock.
 */
static CmReserve
may_reserve(Oid datid, int64 job_id, bool waited, TimestampTz now)
{
	int			share = 0;

	for (int i = 0; i < CM_MAX_SLOTS && job_id != 0; i++)
	{
		const CmSlot *slot = &shared->slots[i];

		if (slot->state == CM_SLOT_DONE || slot_is_free(slot, now))
			continue;
		if (slot->datid == datid && slot->job_id == job_id)
			return CM_RESERVE_BUSY;
		if (slot->waiter != 0 && slot->caller == GetSessionUserId())
			share++;
	}
	return waited && share >= cm_max_workers ? CM_RESERVE_SHARE : CM_RESERVED;
}

/*
 * Reserve a slot for a worker about to be started: for these jobs, at most
 * CM_SLOT_JOBS, or, if there are none, to look what is due.  waited: the
 * caller will wait for its outcome.
 */
CmReserve
cm_slot_reserve(Oid datid, const int64 *job_ids, int njobs, bool background, bool waited,
				CmSlotRef *ref)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		job_id = njobs > 0 ? job_ids[0] : 0;
	CmReserve	may;
	bool		found = false;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	may = may_reserve(datid, job_id, waited, now);
	for (int i = 0; i < CM_MAX_SLOTS && may == CM_RESERVED && !found; i++)
	{
		CmSlot	   *slot = &shared->slots[i];
		uint32		generation = slot->generation;

		if (!slot_is_free(slot, now))
			continue;
		if (slot->state != CM_SLOT_FREE)
			end_look(slot, true);
		memset(slot, 0, sizeof(CmSlot));
		slot->state = CM_SLOT_STARTING;
		slot->generation = generation + 1;
		slot->waiter = waited ? MyProcPid : 0;
		slot->caller = waited ? GetSessionUserId() : InvalidOid;
		slot->background = background;
		slot->looks = job_id == 0;
		slot->datid = datid;
		slot->job_id = job_id;
		slot->njobs = njobs;
		if (njobs > 0)
			memcpy(slot->text, job_ids, njobs * sizeof(int64));
		slot->started_at = now;
		if (slot->looks)
			begin_look(datid, now);
		ref->index = i;
		ref->generation = slot->generation;
		found = true;
	}
	LWLockRelease(&shared->lock);
	return may == CM_RESERVED && !found ? CM_RESERVE_FULL : may;
}

/* The worker is going: leave the outcome to the waiter, or free the slot. */
static void
detach_slot(int code, Datum arg)
{
	Oid			datid;
	bool		cut_off;

	if (my_slot == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	datid = my_slot->datid;
	cut_off = code != 0 && my_slot->job_id != 0 && my_slot->status == CM_RUN_NONE;
	end_look(my_slot, true);
	my_slot->pid = 0;
	my_slot->state = my_slot->waiter != 0 ? CM_SLOT_DONE : CM_SLOT_FREE;
	LWLockRelease(&shared->lock);
	my_slot = NULL;

	/*
	 * A run that was cut off is closed by the next worker that looks.  The
	 * launcher hears in any case: it can be waiting for a slot, and for a
	 * worker of which it does not hear from the postmaster.
	 */
	if (cut_off)
		cm_database_wake(datid);
	else
		wake_launcher();
}

/*
 * Called by a worker before it connects: take the reserved slot, and the
 * numbers of the jobs to run (room for CM_SLOT_JOBS).  False if
 * the reservation has lapsed or the database is being worked on; the worker
 * then just exits.
 */
bool
cm_slot_attach(CmSlotRef ref, int64 *job_ids, int *njobs)
{
	CmSlot	   *slot;
	bool		taken = false;

	cm_shared_attach();
	slot = &shared->slots[ref.index];
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (slot->state == CM_SLOT_STARTING && slot->generation == ref.generation)
	{
		slot->state = CM_SLOT_RUNNING;
		slot->pid = MyProcPid;
		*njobs = slot->njobs;
		memcpy(job_ids, slot->text, slot->njobs * sizeof(int64));
		memset(slot->text, 0, CM_SLOT_TEXT);
		taken = true;
	}
	LWLockRelease(&shared->lock);
	if (!taken)
		return false;

	my_slot = slot;
	before_shmem_exit(detach_slot, (Datum) 0);

	/* Only now: whoever holds a database signals the pids it sees here. */
	return !cm_database_held(slot->datid);
}

/* The worker has claimed this job, which acts for owner. */
void
cm_slot_claimed(int64 job_id, Oid owner)
{
	if (my_slot == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	my_slot->job_id = job_id;
	my_slot->owner = owner;
	my_slot->started_at = GetCurrentTimestamp();
	LWLockRelease(&shared->lock);
}

/* Was this worker asked to make way, or, if it works for a waiter, is nobody there any more? */
bool
cm_slot_must_stop(bool for_waiter)
{
	bool		stop;

	if (my_slot == NULL)
		return false;
	LWLockAcquire(&shared->lock, LW_SHARED);
	stop = my_slot->stop || (for_waiter && my_slot->waiter == 0);
	LWLockRelease(&shared->lock);
	return stop;
}

/* Append text and its zero byte to the slot's text, cut at a whole character. */
static void
pack_text(const char *text, int limit, int *used)
{
	int			length = text ? strlen(text) : 0;

	limit = Min(limit, CM_SLOT_TEXT - *used) - 1;
	if (length > limit)
		length = pg_mbcliplen(text, length, limit);
	if (length > 0)
		memcpy(my_slot->text + *used, text, length);
	my_slot->text[*used + length] = '\0';
	*used += length + 1;
}

/* Leave the outcome of the run for whoever waits. */
void
cm_slot_finish(CmRunStatus status, const ErrorData *edata, const char *message)
{
	int			used = 0;

	if (my_slot == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	my_slot->status = status;
	my_slot->sqlerrcode = edata ? edata->sqlerrcode : 0;
	pack_text(edata ? edata->message : message, CM_SLOT_TEXT / 2, &used);
	pack_text(edata ? edata->detail : NULL, CM_SLOT_TEXT / 4, &used);
	pack_text(edata ? edata->hint : NULL, CM_SLOT_TEXT / 4, &used);
	LWLockRelease(&shared->lock);
}

/* Copy a slot.  False if it has gone to another use since. */
bool
cm_slot_look(CmSlotRef ref, CmSlot *copy)
{
	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_SHARED);
	memcpy(copy, &shared->slots[ref.index], sizeof(CmSlot));
	LWLockRelease(&shared->lock);
	return copy->generation == ref.generation && copy->state != CM_SLOT_FREE;
}

/* Free a reserved slot, or one that is done; a running worker frees its own. */
static void
free_slot(CmSlotRef ref, bool missed)
{
	CmSlot	   *slot;

	cm_shared_attach();
	slot = &shared->slots[ref.index];
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (slot->generation == ref.generation)
	{
		CmDatabase *entry = slot->looks && !missed ? find_database(slot->datid) : NULL;

		slot->waiter = 0;
		if (slot->state == CM_SLOT_STARTING)
			end_look(slot, missed);
		if (entry != NULL)
			entry->next_due = Min(entry->next_due, GetCurrentTimestamp());
		if (slot->state != CM_SLOT_RUNNING)
			slot->state = CM_SLOT_FREE;
	}
	LWLockRelease(&shared->lock);
	wake_launcher();
}

/* Nobody waits any longer, or the worker was started in vain. */
void
cm_slot_release(CmSlotRef ref)
{
	free_slot(ref, true);
}

/* The worker could not be started; its database stays due. */
void
cm_slot_cancel(CmSlotRef ref)
{
	free_slot(ref, false);
}

/* How many workers count against max_workers now. */
int
cm_slots_background(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int			count = 0;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < CM_MAX_SLOTS; i++)
	{
		CmSlot	   *slot = &shared->slots[i];

		if (slot->background && !slot_is_free(slot, now))
			count++;
	}
	LWLockRelease(&shared->lock);
	return count;
}

/* All slots, palloc'd. */
CmSlot *
cm_slots_copy(void)
{
	CmSlot	   *copy = palloc(sizeof(shared->slots));

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_SHARED);
	memcpy(copy, shared->slots, sizeof(shared->slots));
	LWLockRelease(&shared->lock);
	return copy;
}

/*
 * Send a signal to every worker in a database, and note that it is to make
 * way.  Returns how many there were.
 */
int
cm_slots_signal(Oid datid, int signal)
{
	TimestampTz now = GetCurrentTimestamp();
	int			count = 0;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CM_MAX_SLOTS; i++)
	{
		CmSlot	   *slot = &shared->slots[i];

		if (slot->state != CM_SLOT_RUNNING || slot->datid != datid || !worker_lives(slot, now))
			continue;
		slot->stop = true;
		kill(slot->pid, signal);
		count++;
	}
	LWLockRelease(&shared->lock);
	return count;
}

/* Say how far this process's work has come; shown by views and to callers. */
void
cm_progress_report(int64 done, int64 total, const char *fmt,...)
{
	char		text[256];
	va_list		args;
	int			length;

	va_start(args, fmt);
	length = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (length >= (int) sizeof(text))
		text[pg_mbcliplen(text, sizeof(text) - 1, sizeof(text) - 1)] = '\0';
	pgstat_report_activity(STATE_RUNNING, text);
	if (my_slot == NULL)
		return;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (my_slot->done != done || my_slot->total != total || strcmp(my_slot->text, text) != 0)
	{
		my_slot->done = done;
		my_slot->total = total;
		strlcpy(my_slot->text, text, sizeof(my_slot->text));
		my_slot->changes++;
	}
	LWLockRelease(&shared->lock);
}

/*
 * Databases
 */

/* How often a database was woken; read it before the snapshot that decides. */
uint32
cm_database_wakes(Oid datid)
{
	CmDatabase *entry;
	uint32		wakes;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_SHARED);
	entry = find_database(datid);
	wakes = entry ? entry->wakes : 0;
	LWLockRelease(&shared->lock);
	return wakes;
}

/*
 * A worker says when its database's next jobs are due, and how many at that
 * time.  If the database was woken since the worker counted the wakes, the
 * worker has not seen what it was woken for, and it is due now.  The end of a
 * run counts as a wake to the others, who have not seen when that job is due.
 */
void
cm_database_publish(TimestampTz next_due, int due_count, uint32 wakes, bool run_ended)
{
	CmDatabase *entry;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	end_look(my_slot, false);
	entry = next_due == DT_NOEND ? find_database(my_slot->datid) : make_database(my_slot->datid);
	if (entry != NULL)
	{
		entry->next_due = entry->wakes == wakes ? next_due : Min(next_due, GetCurrentTimestamp());
		entry->due_count = due_count;
		entry->misses = 0;
		if (run_ended)
			entry->wakes++;
	}
	LWLockRelease(&shared->lock);
	wake_launcher();
}

/* A database has, or can have, something to do now. */
void
cm_database_wake(Oid datid)
{
	CmDatabase *entry;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry = make_database(datid);
	if (entry != NULL)
	{
		entry->next_due = GetCurrentTimestamp();
		entry->wakes++;
	}
	LWLockRelease(&shared->lock);
	wake_launcher();
}

/*
 * Is there, or was there since the server started, a prepared transaction in
 * the database that changed when jobs are due?
 */
void
cm_database_note_prepared(Oid datid, bool prepared)
{
	CmDatabase *entry;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry = make_database(datid);
	if (entry != NULL && entry->prepared != CM_PREPARED_YES)
		entry->prepared = prepared ? CM_PREPARED_YES : CM_PREPARED_NO;
	LWLockRelease(&shared->lock);
}

/* What cm_database_note_prepared() was told. */
CmPrepared
cm_database_prepared(Oid datid)
{
	CmDatabase *entry;
	CmPrepared	prepared;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_SHARED);
	entry = find_database(datid);
	prepared = entry ? entry->prepared : CM_PREPARED_NO;
	LWLockRelease(&shared->lock);
	return prepared;
}

/* A database is gone. */
void
cm_database_forget(Oid datid)
{
	CmDatabase *entry;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	entry = find_database(datid);
	if (entry != NULL)
		memset(entry, 0, sizeof(CmDatabase));
	LWLockRelease(&shared->lock);
}

/* Copy the entries in use to an array of CM_MAX_DATABASES; returns how many. */
int
cm_databases_copy(CmDatabase *copy)
{
	int			count = 0;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < CM_MAX_DATABASES; i++)
		if (OidIsValid(shared->databases[i].datid))
			copy[count++] = shared->databases[i];
	LWLockRelease(&shared->lock);
	return count;
}

/*
 * The launcher
 */

/* The launcher is going. */
static void
leave_launcher(int code, Datum arg)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (shared->launcher_pid == MyProcPid)
		shared->launcher_pid = 0;
	LWLockRelease(&shared->lock);
}

/* Become the launcher, once connected.  False if there is another. */
bool
cm_launcher_enter(void)
{
	bool		entered = false;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	if (!process_lives(shared->launcher_pid))
	{
		shared->launcher_pid = MyProcPid;
		for (int i = 0; i < CM_MAX_DATABASES; i++)
			shared->databases[i].lookers = 0;
		entered = true;
	}
	LWLockRelease(&shared->lock);
	if (entered)
		before_shmem_exit(leave_launcher, (Datum) 0);
	return entered;
}

/* The launcher's pid, 0 if there is none. */
int
cm_launcher_pid(void)
{
	int			pid;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_SHARED);
	pid = process_lives(shared->launcher_pid) ? shared->launcher_pid : 0;
	LWLockRelease(&shared->lock);
	return pid;
}

/*
 * Holds
 */

/*
 * Keep workers out of a database until cm_hold_release().  False if there is
 * no room to note it; the caller's command then takes its chances.
 */
bool
cm_hold_take(Oid datid)
{
	bool		taken = false;

	cm_shared_attach();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CM_MAX_HOLDS && !taken; i++)
	{
		CmHold	   *hold = &shared->holds[i];

		if (OidIsValid(hold->datid) && process_lives(hold->pid))
			continue;
		hold->datid = datid;
		hold->pid = MyProcPid;
		taken = true;
	}
	LWLockRelease(&shared->lock);
	return taken;
}

/* Give up this session's holds, and let the launcher look again. */
void
cm_hold_release(void)
{
	bool		released = false;

	if (shared == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CM_MAX_HOLDS; i++)
		if (OidIsValid(shared->holds[i].datid) && shared->holds[i].pid == MyProcPid)
		{
			CmDatabase *entry = find_database(shared->holds[i].datid);

			if (entry != NULL)
				entry->next_due = Min(entry->next_due, GetCurrentTimestamp());
			shared->holds[i].datid = InvalidOid;
			released = true;
		}
	LWLockRelease(&shared->lock);
	if (released)
		wake_launcher();
}

/* Is somebody working on this database? */
bool
cm_database_held(Oid datid)
{
	bool		held = false;

	LWLockAcquire(&shared->lock, LW_SHARED);
	for (int i = 0; i < CM_MAX_HOLDS && !held; i++)
		held = shared->holds[i].datid == datid && process_lives(shared->holds[i].pid);
	LWLockRelease(&shared->lock);
	return held;
}
