/*-------------------------------------------------------------------------
 *
 * conversion.h
 *	  What the files of the conversion room say to each other: turning a
 *	  plain table that is in use into a partitioned one, in place.
 *
 * The table becomes the first partition, for all values below a bound that
 * lies ahead, of a new partitioned table that takes over its name; no row is
 * moved.  cm_conversion_look() says what that meets and which steps it takes;
 * whoever converts asks it again before each step, so what was shown is what
 * is done.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_CONVERSION_H
#define CM_CONVERSION_H

#include "postgres.h"

#include "access/attnum.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

/* What a finding means for the conversion. */
typedef enum CmFindingStatus
{
	CM_FINDING_OK,				/* nothing has to be done */
	CM_FINDING_CARRIED,			/* the conversion takes it along */
	CM_FINDING_TO_ACCEPT,		/* changes, and nobody has accepted that yet */
	CM_FINDING_ACCEPTED,		/* changes, and that is accepted */
	CM_FINDING_REFUSED			/* the conversion is not done while it is so */
} CmFindingStatus;

/* One thing that hangs on the table, or one fact about it. */
typedef struct CmFinding
{
	CmFindingStatus status;
	char	   *code;			/* the same from version to version */
	char	   *object;
	char	   *detail;
	char	   *remedy;			/* what is done, or what to do; NULL: nothing */
	Oid			classid;		/* what it is about: its catalog, */
	Oid			objid;			/* and its row there; InvalidOid: the table */
} CmFinding;

/* What a step does. */
typedef enum CmConversionStepKind
{
	CM_CONVERT_ADD_CHECK,		/* the bound, NOT VALID */
	CM_CONVERT_VALIDATE_CHECK,
	CM_CONVERT_SET_NOT_NULL,
	CM_CONVERT_BUILD_INDEX,		/* a unique index that has the key, too; one of a foreign key */
	CM_CONVERT_ADD_COLUMN,		/* to a table with a foreign key to us, with what fills it */
	CM_CONVERT_FILL_COLUMN,
	CM_CONVERT_CREATE,			/* the partitioned table, with empty partitions */
	CM_CONVERT_SWAP,
	CM_CONVERT_VALIDATE_KEY,	/* a foreign key to us */
	CM_CONVERT_DROP_CHECK,
	CM_CONVERT_ANALYZE
} CmConversionStepKind;

/* One step, in a transaction of its own (or in many: BUILD_INDEX). */
typedef struct CmConversionStep
{
	CmConversionStepKind kind;
	char	   *object;
	char	   *detail;
	char	   *statement;		/* NULL: several, as the detail says */
	char	   *lock;
	bool		blocks;			/* others wait for it: under the deadline */
	double		milliseconds;	/* how long it takes, about; see conversion_step.c */
	int64		disk_bytes;		/* that it needs more, about */
} CmConversionStep;

/* A unique index without the key, which another one with the key replaces. */
typedef struct CmConversionIndex
{
	Oid			relid;
	char	   *name;
	char	   *columns;		/* what stands between the parentheses, with the key */
	char	   *suffix;			/* what stands after them: INCLUDE, WHERE ... */
	char	   *replacement;	/* name while it is built */
	char		constraint;		/* contype, or 0 */
	char	   *nulls;			/* of a constraint: " NULLS NOT DISTINCT" before the columns, */
	char	   *include;		/* " INCLUDE ..." after them, */
	char	   *timing;			/* " DEFERRABLE ..." at its end; or "" */
	bool		is_identity;	/* the table's replica identity */
	int64		bytes;
} CmConversionIndex;

/* A foreign key of another table, or of itself, to the table. */
typedef struct CmConversionReference
{
	Oid			relid;			/* whose it is */
	char	   *name;
	bool		has_key;		/* it references the key too: it can be made anew */
	int64		bytes;			/* of the referencing table */
} CmConversionReference;

/* What the caller has said. */
typedef struct CmConversionWish
{
	char	   *column_name;
	Interval   *period;			/* NULL: width counts */
	int64		width;			/* of a partition in numbers; 0: period counts */
	char	   *epoch;			/* what an integer counts, or NULL */
	char	   *timezone;
	char	   *foreign_keys;	/* "drop", "composite" or NULL */
	List	   *accept;			/* codes, of char * */
} CmConversionWish;

/* A table, what hangs on it, and what converting it takes.  Lives in one context. */
typedef struct CmConversion
{
	MemoryContext context;
	const CmConversionWish *wish;
	Oid			relid;
	Oid			owner;
	char	   *schema_name;
	char	   *name;
	char	   *quoted;			/* schema.name */
	char	   *old_name;		/* of the table when it is a partition */
	char	   *new_name;		/* of the partitioned one until the swap */
	char	   *check_name;		/* of the constraint that holds the bound */
	bool		begun;			/* a conversion of it is under way: */
	Oid			parent;			/* its partitioned table, or InvalidOid, */
	bool		has_check;		/* whether the table has its CHECK */
	bool		hopeless;		/* no table to be converted at all: no more was read */

	AttrNumber	key;
	char	   *key_quoted;
	Oid			key_type;		/* domains seen through */
	bool		key_not_null;
	Oid			key_index;		/* whose first column it is, or InvalidOid */

	int64		heap_bytes;
	double		rows;			/* about */
	char	   *bound;			/* literal: all that is there is below; NULL: not known */

	List	   *unique_indexes; /* CmConversionIndex *, those without the key */
	List	   *references;		/* CmConversionReference * */
	List	   *composites;		/* CmComposite *: foreign keys that are to have the key, too */
	List	   *referenced;		/* oids of tables that foreign keys of it reference */
	List	   *findings;		/* CmFinding * */
	List	   *steps;			/* CmConversionStep *, in order */
} CmConversion;

/* in conversion_look.c */
extern CmConversion *cm_conversion_look(Oid relid, const CmConversionWish *wish, bool statements);
extern CmConversion *cm_conversion_look_catalogs(Oid relid, const CmConversionWish *wish);

/* in conversion_look.c, for the files below: inside cm_catalog_enter() alone */
extern CmFinding *cm_conversion_find(CmConversion *conversion, CmFindingStatus status,
									 const char *code, char *object, char *detail, char *remedy);
extern void cm_conversion_ask(CmConversion *conversion, const char *sql);
extern int	cm_conversion_select(CmConversion *conversion, const char *sql);
extern char *cm_conversion_value(int row, const char *column);

/* in conversion_table.c: the table itself, its columns, constraints and indexes */
extern bool cm_conversion_look_kind(CmConversion *conversion);
extern void cm_conversion_look_table(CmConversion *conversion);

/* in conversion_key.c: unique indexes and foreign keys, which want the key */
extern void cm_conversion_look_keys(CmConversion *conversion);

/* in conversion_around.c: what goes by the table's oid, its type or its name */
extern void cm_conversion_look_around(CmConversion *conversion);

/* in conversion_rows.c: what the rows say; outside cm_catalog_enter() */
extern void cm_conversion_look_rows(CmConversion *conversion);

/* in conversion_statement.c: what pg_stat_statements says; likewise, as the caller */
extern void cm_conversion_look_statements(CmConversion *conversion);

/* in conversion_step.c */
extern double cm_conversion_total(const CmConversion *conversion);
extern char *cm_conversion_unique_index(const CmConversion *conversion, const CmConversionIndex *index);
extern void cm_conversion_plan_steps(CmConversion *conversion);
extern int64 cm_conversion_index_bytes(const CmConversion *conversion, const CmConversionIndex *index);

#endif							/* CM_CONVERSION_H */
