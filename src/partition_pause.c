/*-------------------------------------------------------------------------
 *
 * partition_pause.c
 *	  When splitting a default partition may begin, and when it pauses.
 *
 * It begins when pace.h says so, with room on the disk for copies of all that
 * the default partition holds; otherwise the pass is put off.  Before each
 * range of pages it asks again, and where the window has closed, or a standby
 * is too far behind, it pauses in place: being put off would cost all the work
 * so far.  Where the disk comes near full it fails, which gives back what the
 * copies take.
 *
 * In a pause the log is replayed every FOLLOW_MS, which is no more than what
 * writers do meanwhile, and keeps the log from growing.
 *
 * The set is not rolled while its worker pauses.  So a pause is given up, with
 * all the work, when half of the time is over for which the set had partitions
 * when the split began, but not within the first hour.
 *
 * Locks: none, and no transaction or snapshot, in a pause.  The trigger is on
 * the default partition and goes on writing the log.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "partition_split.h"

/* In a pause, how often the log is replayed, in ms. */
#define FOLLOW_MS		10000

/* How long a pause can be at least, in ms. */
#define LONG_PAUSE_MS	3600000

/* Until when the set can do without being rolled, while this pauses. */
static TimestampTz
pause_end(const CmPartitionWork *work)
{
	const CmAxis *axis = &work->settings.axis;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz least = TimestampTzPlusMilliseconds(now, LONG_PAUSE_MS);
	int64		until = cm_partition_covered_until(work->existing, work->now);

	if (until == DT_NOEND || !cm_axis_is_time(axis))
		return DT_NOEND;
	return Max(least, now + (cm_axis_instant(axis, until) - now) / 2);
}

/* Bytes of a table with all that belongs to it; 0 if it is gone. */
static int64
total_bytes(Oid relid)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		bytes;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(relid);
	fcinfo->args[0].isnull = false;
	bytes = pg_total_relation_size(fcinfo);
	return fcinfo->isnull ? 0 : DatumGetInt64(bytes);
}

/* What splitting the default partition takes, in words.  In a transaction. */
char *
cm_partition_split_cost(Oid rest)
{
	CmPaceNeed	need = {.tablespace = get_rel_tablespace(rest),.bytes = total_bytes(rest)};

	return psprintf("all of the default partition is copied, about %s%s",
					cm_size_text(need.bytes),
					cm_pace_has_room(&need) ? "" : ", for which there is no room above concertmaster.min_free_disk");
}

/* May it begin, with copies of everything?  False if not, and the pace says why.  In no transaction. */
bool
cm_partition_split_may_begin(const CmSplit *split, const CmPartitionWork *work, CmSplitPause *pause)
{
	CmPaceNeed	need = {0};

	cm_transaction_begin(GetSessionUserId());
	need.what = psprintf("splitting the default partition of %s", cm_relation_quoted(split->parent));
	need.tablespace = get_rel_tablespace(split->rest);
	pause->batch = need;
	need.bytes = total_bytes(split->rest);
	pause->give_up = pause_end(work);
	cm_transaction_commit();
	return cm_pace_may(&need, pause->pace);
}

/*
 * Pause until it may go on, and follow the changes meanwhile.  False if put
 * off, or stale; only if the pause was too long, the pace still has a reason.
 * In no transaction.
 */
bool
cm_partition_split_pause(CmSplit *split, CmSplitPause *pause)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext pausing = AllocSetContextCreate(caller, "concertmaster pause", ALLOCSET_SMALL_SIZES);
	bool		go_on = true;

	MemoryContextSwitchTo(pausing);
	while (go_on && !cm_pace_wait(&pause->batch, FOLLOW_MS, pause->pace))
	{
		if (GetCurrentTimestamp() >= pause->give_up)
		{
			pause->pace->why = MemoryContextStrdup(caller, pause->pace->why);
			go_on = false;
		}
		else if (!cm_partition_split_follow(split))
		{
			pause->pace->reason = CM_PACE_GO;
			go_on = false;
		}
		else
			MemoryContextReset(pausing);
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(pausing);
	return go_on;
}
