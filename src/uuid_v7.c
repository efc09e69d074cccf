/*-------------------------------------------------------------------------
 *
 * uuid_v7.c
 *	  Time-ordered keys: uuid_v7() and its inverse.
 *
 * A version 7 UUID (RFC 9562) begins with the milliseconds since 1970 in 48
 * bits.  The next 12 bits hold the fraction of the millisecond (method 3 of
 * section 6.2), and 62 random bits follow.  Keys made one after the other so
 * land side by side in an index, instead of all over it.
 *
 * Within a process each key is greater than the one before: the 60 bits of
 * time are remembered, and counted up by one when the clock has not moved on
 * or was set back.  A parallel worker would remember a time of its own, hence
 * PARALLEL RESTRICTED.
 *
 * Locks: none; the remembered time is private to the process.  Nothing to
 * clean up after an error.
 *
 * What it does not do: order the keys of different sessions more finely than
 * their clocks do, or hide when a row was made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "concertmaster.h"

/* Where a UUID says its version and its variant. */
#define VERSION_BYTE	6
#define VARIANT_BYTE	8

/* 4,096 ticks are a millisecond. */
#define TICK_BITS		12

PG_FUNCTION_INFO_V1(cm_uuid_v7);
PG_FUNCTION_INFO_V1(cm_uuid_v7_time);

/* The clock in ticks since 1970; a clock before that counts as 1970. */
static uint64
clock_ticks(void)
{
	struct timespec now;
	uint64		fraction;

	clock_gettime(CLOCK_REALTIME, &now);
	if (now.tv_sec < 0)
		return 0;
	fraction = ((uint64) (now.tv_nsec % 1000000) << TICK_BITS) / 1000000;
	return (((uint64) now.tv_sec * 1000 + now.tv_nsec / 1000000) << TICK_BITS) | fraction;
}

/* The clock, but always later than the last time. */
static uint64
next_tick(void)
{
	static uint64 last_tick = 0;

	last_tick = Max(clock_ticks(), last_tick + 1);
	return last_tick;
}

/* SQL: uuid_v7() */
Datum
cm_uuid_v7(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *uuid = palloc(sizeof(pg_uuid_t));
	uint64		tick = next_tick();
	uint64		milliseconds = tick >> TICK_BITS;

	for (int i = 0; i < 6; i++)
		uuid->data[i] = (unsigned char) (milliseconds >> (8 * (5 - i)));
	uuid->data[6] = (unsigned char) (0x70 | ((tick >> 8) & 0x0F));
	uuid->data[7] = (unsigned char) tick;
	if (!pg_strong_random(&uuid->data[8], UUID_LEN - 8))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	uuid->data[VARIANT_BYTE] = (uuid->data[VARIANT_BYTE] & 0x3F) | 0x80;

	PG_RETURN_UUID_P(uuid);
}

/* SQL: uuid_v7_time(uuid).  Returns the time to the millisecond. */
Datum
cm_uuid_v7_time(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *uuid = PG_GETARG_UUID_P(0);
	int			version = uuid->data[VERSION_BYTE] >> 4;
	uint64		milliseconds = 0;

	if ((uuid->data[VARIANT_BYTE] & 0xC0) != 0x80 || version != 7)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("UUID is not of version 7"),
				 (uuid->data[VARIANT_BYTE] & 0xC0) != 0x80 ?
				 errdetail("Its variant is not that of RFC 9562.") :
				 errdetail("It is of version %d.", version),
				 errhint("Only UUIDs made by uuid_v7() or another version 7 generator carry a time.")));

	for (int i = 0; i < 6; i++)
		milliseconds = (milliseconds << 8) | uuid->data[i];
	PG_RETURN_TIMESTAMPTZ((TimestampTz) (milliseconds * 1000) -
						  (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY);
}
