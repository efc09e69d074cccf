/*-------------------------------------------------------------------------
 *
 * partition_split.h
 *	  What the files that split a default partition say to each other and to
 *	  the rest of the room.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_PARTITION_SPLIT_H
#define CM_PARTITION_SPLIT_H

#include "pace.h"
#include "partition.h"

/* The trigger on a default partition that is being split, and the log's own columns. */
#define CM_CAPTURE_TRIGGER	"concertmaster_split"
#define CM_CAPTURE_NUMBER	"concertmaster_number"
#define CM_CAPTURE_GONE		"concertmaster_gone"

/*
 * A default partition that is being split.  Names and lists of columns are
 * quoted.
 */
typedef struct CmSplit
{
	Oid			parent;
	Oid			owner;
	Oid			rest;			/* the default partition */
	List	   *leaves;			/* CmLeaf: the partitions to be */
	CmLeaf		rest_leaf;		/* what takes its place */
	char	   *staging;		/* a partitioned table that they are filled through */
	char	   *log_schema;		/* not quoted */
	char	   *log_name;		/* not quoted */
	char	   *log;
	char	   *columns;		/* all that a row can be given */
	char	   *key;			/* columns that tell every row from the others */
	char	   *key_match;		/* p.key = t.key, by the index's operators */
	bool		own_key;		/* the parent has no such index */
	char	   *signature;		/* of all that must not change meanwhile */
	bool		stale;			/* it did */
	bool		behind;			/* the log was too long to be replayed in the exchange */
	uint32		page;			/* the next of the default partition to copy */
	uint32		pages;			/* how many there are to copy at a time */
	int64		replayed;		/* entries, by the last step */
} CmSplit;

/* Entries that the exchange may find in the log and replay under its locks. */
#define CM_LAST_ENTRIES	500

/* What a split does while it may not go on. */
typedef struct CmSplitPause
{
	CmPaceNeed	batch;			/* what is asked between two page ranges */
	TimestampTz give_up;		/* a pause is over then, with all the work; DT_NOEND: never */
	CmPace	   *pace;			/* why it pauses */
} CmSplitPause;

/* in partition_split.c: the default partition's rows, in partitions of their own */
extern CmLeafResult cm_partition_split(const CmPartitionWork *work, List **leaves, char **put_off, CmPace *pace);
extern bool cm_partition_split_clear(Oid parent, Oid owner, Oid rest);
extern void cm_partition_capture_no_more(void *rest);

/* in partition_obstacle.c: why a default partition cannot be split */
extern char *cm_partition_obstacle(Oid parent, Oid rest);

/* in partition_alike.c: what LIKE does not copy */
extern void cm_partition_alike_identity(Oid copy, Oid model);
extern void cm_partition_alike_names(Oid copy, Oid model);

/* in partition_replay.c: fill the copies and keep them up */
extern bool cm_partition_split_key(CmSplit *split);
extern char *cm_partition_split_signature(const CmSplit *split);
extern bool cm_partition_split_unchanged(CmSplit *split);
extern void cm_partition_split_copy(void *split);
extern void cm_partition_split_catch_up(void *split);
extern void cm_partition_split_replay(CmSplit *split, int limit);
extern bool cm_partition_split_follow(CmSplit *split);

/* in partition_pause.c: when it may begin, and go on */
extern char *cm_partition_split_cost(Oid rest);
extern bool cm_partition_split_may_begin(const CmSplit *split, const CmPartitionWork *work, CmSplitPause *pause);
extern bool cm_partition_split_pause(CmSplit *split, CmSplitPause *pause);

#endif							/* CM_PARTITION_SPLIT_H */
