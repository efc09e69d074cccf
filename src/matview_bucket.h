/*-------------------------------------------------------------------------
 *
 * matview_bucket.h
 *	  Times, the buckets that a view groups them by, and ranges of both.
 *
 *-------------------------------------------------------------------------
 */
#ifndef CM_MATVIEW_BUCKET_H
#define CM_MATVIEW_BUCKET_H

#include "postgres.h"

#include "access/attnum.h"
#include "catalog/pg_type.h"
#include "nodes/pg_list.h"
#include "nodes/primnodes.h"
#include "utils/date.h"
#include "utils/timestamp.h"

/*
 * From a time to its bucket: steps that are applied one after the other, each
 * non-decreasing but for zone steps, where a local time may come twice.
 */
typedef enum CmBucketStepKind
{
	CM_BUCKET_TRUNC,			/* date_trunc(unit, timestamp) */
	CM_BUCKET_TRUNC_ZONE,		/* date_trunc(unit, timestamptz, zone); two-argument form: pinned zone */
	CM_BUCKET_BIN,				/* date_bin(stride, timestamp or timestamptz, origin) */
	CM_BUCKET_TO_LOCAL,			/* timestamptz AT TIME ZONE zone: timestamp */
	CM_BUCKET_FROM_LOCAL,		/* timestamp AT TIME ZONE zone: timestamptz */
	CM_BUCKET_TO_DATE,			/* timestamp::date */
	CM_BUCKET_FROM_DATE			/* date::timestamp */
} CmBucketStepKind;

typedef struct CmBucketStep
{
	CmBucketStepKind kind;
	char	   *unit;			/* TRUNC*, as date_trunc() takes it */
	char	   *zone;			/* *ZONE, *LOCAL: NULL is the pinned zone */
	Interval   *stride;			/* BIN */
	Datum		origin;			/* BIN */
} CmBucketStep;

typedef struct CmBucket
{
	Index		rti;			/* the raw column */
	AttrNumber	attno;
	Oid			raw_type;		/* date, timestamp or timestamptz */
	Oid			type;			/* of the bucket, one of the same */
	List	   *steps;			/* of CmBucketStep, innermost first; NIL: the raw column itself */
} CmBucket;

/* A half-open range of raw times, lo <= t < hi. */
typedef struct CmRawRange
{
	Datum		lo;
	Datum		hi;
	bool		exact;			/* every time in it is in the bucket */
} CmRawRange;

/* A range of raw times in which anything may have changed. */
typedef struct CmDirtyRange
{
	int			key;			/* index of the bucket's column in keys */
	Datum		lo;				/* raw times, lo <= t <= hi */
	Datum		hi;
} CmDirtyRange;

/* A time of one of the three types as a number that is ordered alike. */
static inline int64
cm_time_number(Oid type, Datum time)
{
	return type == DATEOID ? (int64) DatumGetDateADT(time) : (int64) DatumGetTimestamp(time);
}

/* The way back. */
static inline Datum
cm_number_time(Oid type, int64 number)
{
	return type == DATEOID ? DateADTGetDatum((DateADT) number) : TimestampGetDatum(number);
}

/* in matview_bucket.c: times and their buckets; pure */
extern CmBucket *cm_bucket_parse(Node *expr);
extern bool cm_bucket_is_safe(const CmBucket *bucket, Datum raw);
extern Datum cm_bucket_apply(const CmBucket *bucket, const char *zone, Datum raw);
extern bool cm_bucket_preimage(const CmBucket *bucket, const char *zone, Datum value, CmRawRange *range);
extern void cm_bucket_image(const CmBucket *bucket, const char *zone, const CmDirtyRange *range,
							Datum *first, Datum *last);

#endif							/* CM_MATVIEW_BUCKET_H */
