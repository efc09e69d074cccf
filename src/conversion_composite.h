/*-------------------------------------------------------------------------
 *
 * conversion_composite.h
 *	  A foreign key that points at a table which becomes partitioned, and is
 *	  to reference the partition key, too: what it is, and what is made of it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_CONVERSION_COMPOSITE_H
#define CM_CONVERSION_COMPOSITE_H

#include "concertmaster.h"
#include "conversion.h"

/*
 * One such key of one table, which can be done.  Texts are SQL, ready for use:
 * "p" is the referenced row, NEW and OLD those of a trigger of the referencing
 * table.
 */
typedef struct CmComposite
{
	Oid			key;			/* the foreign key as it is: pg_constraint.oid, */
	char	   *name;			/* and its name */
	Oid			relid;			/* whose it is */
	char	   *table;			/* that one, quoted with its schema */
	Oid			new_key;		/* what takes its place; InvalidOid: not made yet */
	bool		validated;		/* it is, so every row has been filled */
	char	   *column;			/* that is added */
	char	   *column_type;
	char	   *function;		/* that fills it, quoted with its schema, without () */
	char	   *columns;		/* that reference, a, b; quoted */
	char	   *referenced;		/* by them, likewise */
	char	   *names;			/* both as plain text, for messages */
	char	   *referenced_names;
	char	   *column_null;	/* a IS NULL OR b IS NULL */
	char	   *any_null;		/* NEW.a IS NULL OR NEW.b IS NULL */
	char	   *all_set;		/* x.a IS NOT NULL AND x.b IS NOT NULL */
	char	   *old_row;		/* OLD.a, OLD.b */
	char	   *new_row;
	char	   *x_row;			/* x.a, x.b */
	char	   *set_null;		/* NEW.a := NULL; NEW.b := NULL; */
	char	   *equal_new;		/* p.id = NEW.a AND ... */
	char	   *equal_old;
	char	   *equal_x;
	char	   *same;			/* x.a = NEW.a AND ..., of two referencing rows */
	bool		full;			/* made MATCH FULL; else with a CHECK */
	char	   *on_delete;		/* " ON DELETE ...", */
	char	   *timing;			/* " DEFERRABLE ...", or "" */
	char		on_update;		/* what becomes of it where the other columns change: confupdtype */
	bool		needs_index;
	int64		bytes;			/* of its table, */
	double		rows;			/* about */
} CmComposite;

/* in conversion_composite.c: inside cm_catalog_enter() alone, then pure */
extern void cm_conversion_look_composites(CmConversion *conversion);
extern char *cm_composite_function(const CmConversion *conversion, const CmComposite *composite, bool swapped);
extern List *cm_composite_statements(const CmConversion *conversion, const CmComposite *composite);
extern char *cm_composite_find(const CmConversion *conversion, const CmComposite *composite, const char *range);
extern char *cm_composite_fill(const CmComposite *composite);
extern char *cm_composite_index(const CmComposite *composite);
extern int64 cm_composite_index_bytes(const CmComposite *composite);
extern char *cm_composite_key(const CmComposite *composite);

#endif							/* CM_CONVERSION_COMPOSITE_H */
