/*-------------------------------------------------------------------------
 *
 * install.h
 *	  What the files of the install room say to each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_INSTALL_H
#define CM_INSTALL_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/execnodes.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

/* Who does a step. */
typedef enum CmStepAction
{
	CM_STEP_CREATE,				/* install(), at once */
	CM_STEP_EXISTS,				/* nobody: it is there */
	CM_STEP_PENDING,			/* a job */
	CM_STEP_REMAINS,			/* the user, who is told how */
	CM_STEP_CONFLICT			/* nobody can: install() refuses */
} CmStepAction;

/* What kind of work it is. */
typedef enum CmStepWork
{
	CM_WORK_SQL,				/* run the statements, if any */
	CM_WORK_INDEX,				/* put a row into index_plan */
	CM_WORK_BUILD_JOB,			/* make the job that builds a phase */
	CM_WORK_ADOPT_JOB			/* make the job that does the pending steps */
} CmStepWork;

/*
 * One step of a plan.  A pending step about a table that exists is run as
 * its owner, under the deadline; one that reads tables as their common owner,
 * since what it reads can call that role's functions; any other as the user
 * of the plan.
 */
typedef struct CmInstallStep
{
	CmStepAction action;
	CmStepWork	work;
	char	   *object;			/* kind and name */
	char	   *detail;			/* in words, or NULL */
	char	   *lock;			/* what it takes on relations that exist, or NULL */
	Oid			relid;			/* the table that it locks, or none */
	LOCKMODE	mode;			/* how */
	Oid			role;			/* to run as, or InvalidOid: as said above */
	List	   *statements;		/* of char *, run in order */
	char	   *doubt;			/* query: a row means that it must not be done */
	char	   *validate;		/* last statement, which nobody queues behind */
	bool		unhurried;		/* nobody queues behind the others either */
	char	   *index_name;		/* of CM_WORK_INDEX */
	int			phase;			/* of CM_WORK_INDEX and CM_WORK_BUILD_JOB */
} CmInstallStep;

/* A plan, with all that it points at, lives in one memory context. */
typedef struct CmInstallPlan
{
	char	   *schema_name;
	Oid			userid;			/* for whom it is made */
	MemoryContext context;
	List	   *steps;			/* of CmInstallStep * */
	List	   *tables;			/* of CmBundledTable * */
	bool		columns_pending;	/* planned indexes have to wait for columns */
} CmInstallPlan;

/* in install_plan.c */
extern CmInstallPlan *cm_install_plan(const char *schema_name, Oid userid);

/* A bundled table as the schema has it. */
typedef struct CmBundledTable
{
	char	   *name;
	char	   *quoted;			/* schema.name */
	char	   *partition_column;	/* NULL: not partitioned */
	char	   *comment;
	Oid			relid;			/* InvalidOid: not there */
	char		relkind;
	bool		owned;			/* the plan's user has the owner's rights */
	char	   *owner;
	Oid			ownerid;		/* the plan's user if the table is not there */
	bool		uuid_key;		/* its column id is, or will be, a uuid */
	char	   *range_column;	/* by whose ranges it is partitioned, or NULL */
} CmBundledTable;

/* in install_apply.c */
extern void cm_install_emit(ReturnSetInfo *rsinfo, int count, const char *const *texts, int step);

/* in install_table.c: the steps of one table */
extern void cm_install_plan_table(CmInstallPlan *plan, CmBundledTable *table);

/* in install_view.c: the steps of the view, and of what is around the tables */
extern void cm_install_plan_view(CmInstallPlan *plan);
extern void cm_install_plan_surroundings(CmInstallPlan *plan);

/* in install_plan.c, for the above: inside cm_catalog_enter() alone */
extern int	cm_install_ask(CmInstallPlan *plan, const char *sql, int nargs, const char *const *args);
extern char *cm_install_value(int row, const char *column);
extern bool cm_install_is_true(int row, const char *column);
extern CmInstallStep *cm_install_step(CmInstallPlan *plan, CmStepAction action,
									  char *object, char *detail);
extern CmBundledTable *cm_install_table(CmInstallPlan *plan, const char *name);

#endif							/* CM_INSTALL_H */
