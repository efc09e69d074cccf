/*-------------------------------------------------------------------------
 *
 * index.h
 *	  What the files of the index room say to each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_INDEX_H
#define CM_INDEX_H

#include "postgres.h"

#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "pg_config_manual.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

#include "pace.h"

/* A row of index_plan; strings live as long as the row's memory context. */
typedef struct CmIndexPlan
{
	int			phase;
	char	   *schema_name;
	char	   *table_name;
	char	   *index_name;
	bool		is_unique;
	char	   *definition;		/* what follows ON table */
	Interval   *hot_window;		/* NULL: all partitions */
	Oid			relid;			/* the table, InvalidOid if there is none */
	Oid			owner;			/* its owner */
} CmIndexPlan;

/*
 * All that makes two indexes of one table interchangeable.  Storage
 * parameters and tablespace are no part of it: they change no result.
 */
typedef struct CmIndexShape
{
	Oid			access_method;
	bool		is_unique;
	bool		nulls_not_distinct;
	int			nkeys;			/* key columns, */
	int			natts;			/* and INCLUDEd ones after them */
	AttrNumber	attnums[INDEX_MAX_KEYS];	/* 0: the next expression */
	Oid			opclasses[INDEX_MAX_KEYS];
	Oid			collations[INDEX_MAX_KEYS];
	int16		options[INDEX_MAX_KEYS];	/* INDOPTION_* */
	Datum		opclass_options[INDEX_MAX_KEYS];	/* text[], 0: none */
	List	   *expressions;	/* as the relcache has them: simplified */
	List	   *predicate;		/* likewise, implicitly ANDed */
} CmIndexShape;

/* What an estimate is based on, the best first. */
typedef enum CmIndexBasis
{
	CM_INDEX_BASIS_SIBLING,		/* the same index on another partition */
	CM_INDEX_BASIS_STATISTICS,
	CM_INDEX_BASIS_TYPES
} CmIndexBasis;

/* What building an index takes, on the tables that lack it. */
typedef struct CmIndexEstimate
{
	int			tables;			/* how many these are */
	int64		bytes;
	int64		sort_bytes;		/* of sorting beside memory, at a time */
	double		milliseconds;
	Oid			tablespace;		/* InvalidOid: the database's own */
	CmIndexBasis basis;			/* the worst of all */
} CmIndexEstimate;

/* What there is of a planned index on one table. */
typedef enum CmIndexVerdict
{
	CM_INDEX_GONE,				/* the table itself does not exist any more */
	CM_INDEX_MISSING,			/* nothing: to be built */
	CM_INDEX_VALID,				/* it, or an equivalent one */
	CM_INDEX_LEFTOVER,			/* INVALID, by our name: drop and build anew */
	CM_INDEX_REPAIR,			/* INVALID, but attached: rebuild in place */
	CM_INDEX_UNFINISHED,		/* partitioned, some partitions lack it */
	CM_INDEX_CONFLICT			/* something else has the name */
} CmIndexVerdict;

/* A look at one table: the question, and the answer. */
typedef struct CmIndexLook
{
	const CmIndexPlan *plan;
	Oid			relid;			/* table, partitioned table or partition */
	const char *index_name;		/* name that the index shall have there */
	Oid			parent_index;	/* index to attach it to, or InvalidOid */
	Oid			model;			/* the same on another table, to estimate by; or InvalidOid */

	CmIndexVerdict verdict;
	Oid			index_oid;		/* the index that was found */
	bool		attached;		/* it is attached to parent_index */
	Oid			in_the_way;		/* CONFLICT: what has the name */
	Oid			owner;			/* of the table */
	char		relkind;		/* likewise */
	bool		empty;			/* the table has no page */
	char	   *relation;		/* schema.table, quoted */
	char	   *index;			/* schema.index_name, quoted */
	char	   *found;			/* the index that was found, likewise */
	List	   *debris;			/* what REINDEX of it left, likewise */
	CmIndexEstimate estimate;	/* if it is to be built, and the table is not empty */
	bool		may_build;		/* it was asked whether that may begin */
} CmIndexLook;

/* How far the work on one table, or one row, came. */
typedef enum CmIndexResult
{
	CM_INDEX_DONE,
	CM_INDEX_DEFERRED,				/* a lock was not to be had, or it may not begin now */
	CM_INDEX_NOT_ASKED,				/* it has to be asked first whether it may */
	CM_INDEX_TABLE_GONE					/* the table was dropped meanwhile */
} CmIndexResult;

/* The row being worked on. */
typedef struct CmIndexRow
{
	CmIndexPlan plan;
	int			number;			/* rows done before it, for progress, */
	int			total;			/* of this many */
	bool		built;			/* something was built, not only found */
	Oid			index_oid;		/* the index that is valid now */
	Datum	   *leaves;			/* hot window: indexes of the partitions */
	int			nleaves;
	int			leaf_total;
	TimestampTz cutoff;			/* where the hot window begins */
	int			built_on;		/* partitions on which it was built, */
	int			dropped_from;	/* from which it was dropped, */
	int			kept_on;		/* and outside that keep it */
	char	   *message;		/* what was done, if there is more to say */
	Oid			conflict;		/* what has the name, or InvalidOid */
	int			blocked_by;
	CmPace		pace;			/* why it was put off, if that was no lock */
	int		   *patience_ms;	/* of the run, with what pace.h is about */
	bool		ignore_window;
} CmIndexRow;

/* in index_plan.c: what a row of index_plan means */
extern char *cm_index_statement(const CmIndexPlan *plan, const char *relation,
								const char *index_name, const char *how);
extern IndexStmt *cm_index_parse(const CmIndexPlan *plan, const char *sql);
extern void cm_index_shape_planned(CmIndexShape *shape, const CmIndexPlan *plan,
								   Relation rel);
extern bool cm_index_shape_matches(const CmIndexShape *shape, Relation index);
extern char *cm_index_leaf_name(const char *relation_name, const char *index_name);

/* in index_hot.c: partitions inside the hot window, and those outside */
extern void cm_index_sort_leaves(CmIndexRow *row, List **hot, List **cold);
extern CmIndexResult cm_index_drop_cold(CmIndexRow *row, Oid relid);
extern char *cm_index_hot_message(const CmIndexRow *row);

/* in index_estimate.c: how large will it be, and may its build begin */
extern void cm_index_estimate(const CmIndexPlan *plan, const CmIndexShape *shape, Relation rel,
							  Oid model, CmIndexEstimate *estimate);
extern void cm_index_estimate_missing(const CmIndexPlan *plan, const List *relids, CmIndexEstimate *estimate);
extern Oid	cm_index_model(const List *indexes);
extern bool cm_index_may_build(CmIndexRow *row, const char *relation, const CmIndexEstimate *estimate);

/* in index_recover.c: what is there, and how to get rid of leftovers */
extern bool cm_index_look(CmIndexLook *look);
extern bool cm_index_lock_table(Oid relid);
extern void cm_index_unlock_table(Oid relid);
extern void cm_index_drop_leftover(const CmIndexLook *look);
extern void cm_index_sweep(CmIndexLook *look, bool hurry);
extern bool cm_index_validate_parent(CmIndexLook *look);

/* in index_build.c: build what one row asks for */
extern CmIndexResult cm_index_build(CmIndexRow *row);
extern CmIndexResult cm_index_deferred(CmIndexRow *row, Oid relid, LOCKMODE mode);

#endif							/* CM_INDEX_H */
