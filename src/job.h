/*-------------------------------------------------------------------------
 *
 * job.h
 *	  What the files of the job room say to each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_JOB_H
#define CM_JOB_H

#include "postgres.h"

#include "postmaster/bgworker.h"

#include "concertmaster.h"
#include "shared_state.h"

/* What a worker is started for. */
typedef enum CmWorkerMode
{
	CM_WORKER_LOOK,				/* claim the oldest due job of the database */
	CM_WORKER_JOB				/* run the named jobs, one after the other */
} CmWorkerMode;

/* The order that a worker gets in bgw_extra; which jobs are meant is in its slot. */
typedef struct CmWorkerOrder
{
	CmSlotRef	slot;
	CmWorkerMode mode;
	bool		only_if_due;	/* JOB: not if somebody ran it meanwhile */
	bool		ignore_window;	/* JOB: its caller said so */
	Oid			datid;
} CmWorkerOrder;

/* The jobs of an order, at most CM_SLOT_JOBS. */
typedef struct CmOrderJobs
{
	int			count;
	int64		ids[CM_SLOT_JOBS];
	bool		ignore_window;
} CmOrderJobs;

/* When a job is to run; what job_clock.c reckons with. */
typedef struct CmSchedule
{
	Interval   *every;			/* NULL: only on request */
	TimestampTz start_at;		/* 0 if not given, see has_start_at */
	bool		has_start_at;
	char	   *timezone;
	TimestampTz anchor;			/* the first time of the grid */
	bool		has_anchor;
} CmSchedule;

/* One run, as its worker knows it. */
typedef struct CmRun
{
	int64		job_id;
	int64		run_id;
	TimestampTz end_time;		/* when its work was over */
	TimestampTz not_before;		/* put off: when it comes again; 0: soon */
} CmRun;

/*
 * A due job whose rows somebody has locked is looked at again after this, if
 * the end of their transaction does not wake the launcher before.
 */
#define CM_ROWS_RETRY_MS	5000

/* in job_clock.c: pure reckoning of times */
extern bool cm_clock_next(const CmSchedule *schedule, TimestampTz now, TimestampTz *next);
extern int64 cm_clock_retry_delay(int failures, int first_s, int longest_s, double random);

/* in job_queue.c */
extern int64 cm_job_find(const char *name);
extern void cm_job_require_owner(int64 job_id);
extern CmJob *cm_job_load(int64 job_id);
extern bool cm_job_in_step(int64 job_id);
extern void cm_job_owners_reconcile(void);

/* in job_run.c: one run: lock, claim, record */
extern bool cm_job_lock(int64 job_id, bool wait);
extern void cm_job_unlock(int64 job_id);
extern bool cm_job_lock_rows(int64 job_id);
extern int64 cm_run_start(int64 job_id);
extern bool cm_run_finish(const CmRun *run, CmRunStatus status, const ErrorData *edata,
						  const char *message, bool run_only);
extern int	cm_runs_close_dead(bool *busy);
extern int64 cm_job_claim_due(int64 only_job_id, Datum *passed_over, int *retry_ms);
extern TimestampTz cm_jobs_next_due(Datum passed_over, int *count);
extern void cm_jobs_find_prepared(void);
extern bool cm_jobs_armed(const char *driver);
extern void cm_jobs_wake_prune(void);
extern void cm_jobs_prune(CmJobOutcome *outcome);

/* in job_call.c: start the launcher or a worker */
extern bool cm_launcher_start(void);
extern CmReserve cm_worker_start(const CmWorkerOrder *order, const CmOrderJobs *jobs, bool background,
								 bool waited, CmSlotRef *slot, BackgroundWorkerHandle **handle);

PGDLLEXPORT extern void cm_worker_main(Datum main_arg);
PGDLLEXPORT extern void cm_launcher_main(Datum main_arg);

#endif							/* CM_JOB_H */
