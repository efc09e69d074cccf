/*-------------------------------------------------------------------------
 *
 * concertmaster.h
 *	  The map: what the rooms say to each other, under the file that says it.
 *
 * A room is the first word of a file's name.  Calls go one way:
 *
 *	 concertmaster -> job_launcher -> job_worker
 *	   -> { install, index, partition, matview, conversion }
 *	   -> { job_queue, job_call, attempt, lock_watch, saved_plan, relation, statement,
 *		    pace, shared_state, settings, compat }
 *
 * The rooms in the third line never call each other; where one has to ask
 * another, the front door puts a pointer in (CmKeeper).  What only one room
 * needs stays in that room (static, or in <room>.h).
 *
 * Two words used throughout: a job is a row that says what is to be done and
 * when; a run is one execution of it, in one worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CONCERTMASTER_H
#define CONCERTMASTER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

#define CM_SCHEMA			"concertmaster"

/* What a job does.  The order is that of kind_names in job_queue.c. */
typedef enum CmJobKind
{
	CM_JOB_REFRESH,				/* refresh one materialized view */
	CM_JOB_ROLL,				/* roll one partition set forward */
	CM_JOB_BUILD,				/* build one phase of index_plan */
	CM_JOB_ADOPT,				/* finish what install() left pending */
	CM_JOB_PRUNE,				/* keep the history bounded */
	CM_JOB_CONVERT				/* convert one table to a partitioned one */
} CmJobKind;

/* A job row as the rooms see it; palloc'd in the job's memory context. */
typedef struct CmJob
{
	int64		job_id;
	char	   *name;			/* unique, for instance "roll public.t" */
	CmJobKind	kind;
	char	   *schema_name;	/* NULL unless the job is about a relation */
	char	   *relation_name;	/* likewise; for ADOPT the schema alone */
	int			phase;			/* BUILD only, else 0 */
	Oid			owner;			/* role that the run acts for */
	bool		ignore_window;	/* the caller of this run said so; see pace.h */
} CmJob;

/*
 * What a run reports.  A run that fails raises an error; one that had to be
 * put off (a lock was not to be had within the deadline) says deferred and
 * is tried again soon.
 */
typedef struct CmJobOutcome
{
	bool		deferred;
	int			blocked_by;		/* pid that was in the way, 0 if not known */
	TimestampTz not_before;		/* when to try again; 0: soon */
	char	   *message;		/* one line for job_run.message, or NULL */
} CmJobOutcome;

/* One of several jobs that a procedure has run, and how it went. */
typedef struct CmJobCall
{
	int64		job_id;
	char	   *name;			/* of what it is about, for messages */
	char	   *status;			/* as in job_run; NULL: it did not come to run */
	int			sqlerrcode;
	char	   *message;		/* these three palloc'd, or NULL */
	char	   *detail;
	char	   *hint;
} CmJobCall;

/* What cm_catalog_enter() and cm_owner_enter() changed, for the way back. */
typedef struct CmScope
{
	Oid			save_userid;
	int			save_sec_context;
	int			save_nestlevel;
	bool		spi;			/* this scope connected to SPI */
} CmScope;

/*
 * Who keeps something of a partition before it retires.  The partition room
 * asks without knowing whom; the front door has put the answer there.
 */
typedef struct CmKeeper
{
	bool		(*wanted) (Oid parent); /* is there anything to keep? in a transaction */
	void		(*prepare) (Oid parent, Oid partition);	/* what takes long, in none */
	List	   *(*keep) (Oid parent, Oid partition);	/* in that of the detach, before its locks */
	void		(*confirm) (List *kept, const List *relids);	/* under them, on these: has nothing come since? */
} CmKeeper;

/* A lock that a step is going to ask for; see lock_watch.c. */
typedef struct CmLockWish
{
	Oid			relid;			/* InvalidOid: every snapshot as old as ours */
	LOCKMODE	mode;
} CmLockWish;

/* in settings.c: every GUC; see the comment above each variable there */
extern bool cm_enabled;
extern int	cm_max_workers;
extern int	cm_probe_interval;
extern int	cm_ddl_deadline;
extern int	cm_ddl_attempts;
extern int	cm_retry_delay;
extern int	cm_retry_delay_max;
extern int	cm_history_runs;
extern int	cm_history_age;
extern int	cm_matview_log_rows;
extern int	cm_matview_log_transaction_groups;
extern char *cm_build_window;
extern char *cm_delayed_standbys;
extern int	cm_max_replica_lag;
extern int	cm_max_replica_lag_bytes;
extern char *cm_min_free_disk;
extern void cm_settings_define(void);

/* in shared_state.c: the one shared struct, workers' slots, databases' times */
extern void cm_shared_request(void);
extern void cm_shared_wake_at_commit(void);
extern void cm_progress_report(int64 done, int64 total, const char *fmt,...) pg_attribute_printf(3, 4);

/* in statement.c: one statement, one short transaction, a deadline */
extern void cm_session_pin(void);
extern void cm_transaction_begin(Oid userid);
extern void cm_transaction_commit(void);
extern void cm_transaction_abort(void);
extern bool cm_statement_run(const char *sql, Oid userid, int deadline_ms);
extern bool cm_error_means_later(const ErrorData *edata, bool deadline_was_hit);
extern void cm_deadline_arm(int deadline_ms);
extern bool cm_deadline_disarm(void);
extern bool cm_deadline_was_too_short(void);
extern void cm_require_nonatomic(FunctionCallInfo fcinfo, const char *what);

/* in lock_watch.c: who holds what a step will need */
extern List *cm_lock_wish(List *wishes, Oid relid, LOCKMODE mode);
extern int	cm_lock_holder(const List *wishes);
extern int	cm_lock_stayer(const List *wishes);
typedef struct CmSnapshots CmSnapshots;
extern CmSnapshots *cm_snapshots_note(void);
extern int	cm_snapshots_holder(CmSnapshots *snapshots, bool ignore_waiting);
extern void cm_pause(int milliseconds);

/* in attempt.c: several statements that stand or fall together, a deadline */
typedef void (*CmStep) (void *arg);
extern bool cm_attempt_commit(CmStep step, void *arg, Oid userid, const List *wishes);
extern bool cm_attempt_once(CmStep step, void *arg, Oid userid, int deadline_ms);
extern bool cm_attempt_here(CmStep step, void *arg, const List *wishes);
extern bool cm_attempt_statement(const char *sql, Oid userid, const List *wishes);
extern ErrorData *cm_subtransaction(CmStep step, void *arg);
extern bool cm_error_ends_all(const ErrorData *edata);
extern void cm_retry_pause(int attempt);
extern void cm_lock_waits_limit(void);

/* in saved_plan.c: queries that are planned once per session */
extern int	cm_query(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls);

/* in relation.c: names, owners, who we act as */
extern void cm_catalog_enter(CmScope *scope);
extern void cm_owner_enter(CmScope *scope, Oid userid, bool restricted);
extern void cm_scope_connect(CmScope *scope);
extern void cm_scope_leave(CmScope *scope);
extern void cm_run_as(Oid userid, const char *sql);
extern Oid	cm_extension_owner(void);
extern char *cm_extension_version(Oid *extension_oid);
extern Oid	cm_relation_owner(Oid relid);
extern void cm_relation_require_owner(Oid relid);
extern char *cm_relation_name(Oid relid);
extern char *cm_relation_schema(Oid relid);
extern char *cm_relation_quoted(Oid relid);
extern Oid	cm_relation_resolve(const char *schema_name, const char *relation_name);
extern void cm_relation_remember(Oid relid);
extern void cm_require_primary(const char *what);

/* in relation_rename.c: follow the names of relations */
extern void cm_relations_reconcile(void);
extern bool cm_relations_try_reconcile(void);

/* in relation_text.c: relations named by a text, maybe gone */
extern Oid	cm_relation_parse(const char *name, char **schema_name, char **relation_name);
extern bool cm_relation_forget_job(const char *kind, const char *schema_name,
								   const char *relation_name);

/* in job_queue.c: the job table: make, drop, claim, finish */
extern int64 cm_job_upsert(CmJobKind kind, Oid relid, int phase,
						   Interval *every, bool run_now);
extern int64 cm_job_upsert_named(const char *name, CmJobKind kind,
								 const char *schema_name, int phase,
								 Interval *every, bool run_now);
extern bool cm_job_remove(CmJobKind kind, Oid relid, int phase);
extern char *cm_job_name(CmJobKind kind, Oid relid, int phase);
extern char *cm_job_own_name(const char *name);
extern void cm_hot_indexes_wake(Oid relid);

/* in job_database.c: make way for work on databases */
extern void cm_database_hook_install(void);

/* in job_call.c: run a job in a worker and wait, from a CALLed procedure */
extern void cm_launcher_register(void);
extern bool cm_job_call(FunctionCallInfo fcinfo, int64 job_id, char **message);
extern bool cm_job_call_anytime(FunctionCallInfo fcinfo, int64 job_id, bool ignore_window, char **message);
extern void cm_jobs_call(FunctionCallInfo fcinfo, List *calls, const char *name);

/* in index_run.c, partition_apply.c, matview_refresh.c, install_apply.c, conversion_run.c */
extern void cm_index_run(const CmJob *job, CmJobOutcome *outcome);
extern void cm_partition_run(const CmJob *job, CmJobOutcome *outcome);
extern void cm_matview_run(const CmJob *job, CmJobOutcome *outcome);
extern void cm_install_run(const CmJob *job, CmJobOutcome *outcome);
extern void cm_conversion_run(const CmJob *job, CmJobOutcome *outcome);

/* in partition_retire.c, and what it is set to, in matview_keep.c */
extern const CmKeeper *cm_partition_keeper;
extern const CmKeeper cm_matview_keeper;

/* in matview_prune.c, matview_log_store.c: keep what is logged for views bounded */
extern void cm_matview_prune(void);
extern bool cm_matview_log_is_long(void);

#endif							/* CONCERTMASTER_H */
