/*-------------------------------------------------------------------------
 *
 * shared_state.h
 *	  What the job room keeps in shared memory, and the doors to it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_SHARED_STATE_H
#define CM_SHARED_STATE_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* The bound of concertmaster.max_workers, and of everything else started. */
#define CM_MAX_SLOTS		64

/* Databases with jobs that the launcher keeps in view. */
#define CM_MAX_DATABASES	256

/* Sessions that drop, rename, move or copy a database at the same time. */
#define CM_MAX_HOLDS		32

/* Activity while a run goes on; message, detail and hint when it has ended. */
#define CM_SLOT_TEXT		640

/* How many jobs one worker can be told to run: those that fit into the text. */
#define CM_SLOT_JOBS		((int) (CM_SLOT_TEXT / sizeof(int64)))

typedef enum CmSlotState
{
	CM_SLOT_FREE,
	CM_SLOT_STARTING,			/* reserved; its worker has not come yet */
	CM_SLOT_RUNNING,			/* pid works in datid */
	CM_SLOT_DONE				/* worker gone; waiter has not read the outcome */
} CmSlotState;

typedef enum CmRunStatus
{
	CM_RUN_NONE,				/* no outcome: died, or found nothing to do */
	CM_RUN_SUCCEEDED,
	CM_RUN_FAILED,
	CM_RUN_DEFERRED
} CmRunStatus;

/* One worker.  Every field is guarded by the struct's lock. */
typedef struct CmSlot
{
	CmSlotState state;
	uint32		generation;		/* counts the slot's uses; set when reserved */
	int			pid;			/* the worker, while running */
	int			waiter;			/* backend that waits for the outcome, or 0 */
	Oid			caller;			/* role of that backend's session */
	bool		background;		/* counts against max_workers */
	bool		looks;			/* shall publish when its database is due next */
	bool		published;		/* has done so */
	bool		stop;			/* asked to make way for work on its database */
	Oid			datid;
	int64		job_id;			/* 0 until one is claimed */
	int			njobs;			/* that the worker was told to run */
	Oid			owner;			/* of that job */
	TimestampTz started_at;		/* reserved, then claimed */
	int64		done;
	int64		total;			/* 0: not known */
	uint32		changes;		/* counts progress reports; written by the worker */
	CmRunStatus status;
	int			sqlerrcode;
	char		text[CM_SLOT_TEXT]; /* while STARTING: the numbers of those jobs */
} CmSlot;

/* How a reservation went. */
typedef enum CmReserve
{
	CM_RESERVED,
	CM_RESERVE_FULL,			/* all slots are taken */
	CM_RESERVE_BUSY,			/* another worker has this job */
	CM_RESERVE_SHARE			/* the waiting role has as many as it may */
} CmReserve;

/* A reservation: which slot, and which use of it. */
typedef struct CmSlotRef
{
	int			index;
	uint32		generation;
} CmSlotRef;

/* Have prepared transactions of a database to do with its jobs? */
typedef enum CmPrepared
{
	CM_PREPARED_UNKNOWN,		/* nobody has looked since the server started */
	CM_PREPARED_NO,
	CM_PREPARED_YES				/* so the end of each is worth a look */
} CmPrepared;

/* A database whose jobs the launcher keeps in view. */
typedef struct CmDatabase
{
	Oid			datid;			/* InvalidOid: entry not in use */
	TimestampTz next_due;		/* when its next job is due; DT_NOEND: none */
	TimestampTz last_start;		/* when a worker was last started here */
	uint32		wakes;			/* counts wakes, so that no late publisher undoes one */
	int			due_count;		/* jobs due at next_due, as far as known */
	int			lookers;		/* workers started here that have not published yet */
	int			misses;			/* workers in a row that ended without publishing */
	CmPrepared	prepared;
} CmDatabase;

extern void cm_shared_attach(void);

extern CmReserve cm_slot_reserve(Oid datid, const int64 *job_ids, int njobs, bool background,
								 bool waited, CmSlotRef *ref);
extern bool cm_slot_attach(CmSlotRef ref, int64 *job_ids, int *njobs);
extern void cm_slot_claimed(int64 job_id, Oid owner);
extern bool cm_slot_must_stop(bool for_waiter);
extern void cm_slot_finish(CmRunStatus status, const ErrorData *edata, const char *message);
extern bool cm_slot_look(CmSlotRef ref, CmSlot *copy);
extern void cm_slot_release(CmSlotRef ref);
extern void cm_slot_cancel(CmSlotRef ref);
extern int	cm_slots_background(void);
extern CmSlot *cm_slots_copy(void);

extern uint32 cm_database_wakes(Oid datid);
extern void cm_database_publish(TimestampTz next_due, int due_count, uint32 wakes, bool run_ended);
extern void cm_database_wake(Oid datid);
extern void cm_database_note_prepared(Oid datid, bool prepared);
extern CmPrepared cm_database_prepared(Oid datid);
extern void cm_database_forget(Oid datid);
extern int	cm_databases_copy(CmDatabase *copy);

extern bool cm_launcher_enter(void);
extern int	cm_launcher_pid(void);

extern bool cm_hold_take(Oid datid);
extern void cm_hold_release(void);
extern bool cm_database_held(Oid datid);
extern int	cm_slots_signal(Oid datid, int signal);

#endif							/* CM_SHARED_STATE_H */
