/*-------------------------------------------------------------------------
 *
 * pace_lag.c
 *	  How far behind the standbys are that stream from here.
 *
 * Asked is what pg_stat_replication shows: who is connected now and replays.
 * Logical subscribers count as well; who only receives (pg_receivewal, a base
 * backup) does not replay, and does not count, nor do those whose
 * application_name is in concertmaster.delayed_standbys.
 *
 * Bytes are those between the end of the flushed WAL and what is replayed.
 *
 * For the time, replay_lag alone will not do: an idle standby has none, and
 * one whose replay stands still goes on showing the last that it had.  So it
 * is taken: note the end of the WAL, and wait until all have replayed that, as
 * long as the limit at most.  Most often they have, or have a moment later.
 *
 * Locks: none; each look is a short transaction of its own, and nothing is
 * held between two.
 *
 * What it does not see: standbys of standbys, and those that are not
 * connected; pace_disk.c has to do with the WAL that is kept for these.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "concertmaster.h"
#include "pace_parts.h"

/* Between two looks at who has replayed so far, in ms. */
#define LOOK_AGAIN_MS		50

/* Check hook of concertmaster.delayed_standbys. */
bool
cm_check_delayed_standbys(char **newval, void **extra, GucSource source)
{
	List	   *names;

	if (SplitGUCList(pstrdup(*newval), ',', &names))
		return true;
	GUC_check_errdetail("The list of names cannot be read.");
	GUC_check_errhint("Names are separated by commas; one with other characters than letters, digits and _ stands in double quotes.");
	return false;
}

/* Is this application_name in the setting? */
static bool
is_delayed(const char *name)
{
	List	   *names;
	ListCell   *lc;

	if (!SplitGUCList(pstrdup(cm_delayed_standbys), ',', &names))
		return false;
	foreach(lc, names)
	{
		if (pg_strcasecmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

/* One row of the query below. */
static CmStandby *
make_standby(HeapTuple row, TupleDesc desc)
{
	CmStandby  *standby = palloc0(sizeof(CmStandby));
	Datum		lag;
	bool		isnull;

	standby->name = SPI_getvalue(row, desc, 1);
	standby->pid = DatumGetInt32(SPI_getbinval(row, desc, 2, &isnull));
	standby->bytes = DatumGetInt64(SPI_getbinval(row, desc, 3, &isnull));
	lag = SPI_getbinval(row, desc, 4, &isnull);
	standby->milliseconds = isnull ? -1 : DatumGetInt64(lag);
	standby->counts = !is_delayed(standby->name);
	return standby;
}

/* All that replay, and what they lack up to a point of the WAL.  In a transaction. */
List *
cm_standbys_look(XLogRecPtr upto)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {LSNOID};
	Datum		values[1] = {LSNGetDatum(upto)};
	List	   *standbys = NIL;
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT application_name, pid, greatest(pg_wal_lsn_diff($1, replay_lsn), 0)::bigint,"
						  "       (extract(epoch FROM replay_lag) * 1000)::bigint"
						  "  FROM pg_stat_replication WHERE replay_lsn IS NOT NULL"
						  " ORDER BY application_name, pid",
						  1, types, values, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext spi_context = MemoryContextSwitchTo(caller);

		standbys = lappend(standbys, make_standby(SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
		MemoryContextSwitchTo(spi_context);
	}
	cm_scope_leave(&scope);
	return standbys;
}

/* Likewise, in a transaction of its own. */
static List *
look_apart(XLogRecPtr upto)
{
	List	   *standbys;

	cm_transaction_begin(GetSessionUserId());
	standbys = cm_standbys_look(upto);
	cm_transaction_commit();
	return standbys;
}

/*
 * What is too much of a standby's lag, a phrase, or NULL.  waited_ms: how long
 * ago the WAL ended where it is compared with.
 */
char *
cm_standby_excess(const CmStandby *standby, int64 waited_ms)
{
	int64		lag_ms = Max(standby->milliseconds, waited_ms);

	if (!standby->counts || standby->bytes <= 0)
		return NULL;
	if (cm_max_replica_lag_bytes > 0 && standby->bytes > cm_max_replica_lag_bytes * INT64CONST(1024))
		return psprintf("standby \"%s\" is %s behind, and %s are allowed", standby->name,
						cm_size_text(standby->bytes), cm_size_text(cm_max_replica_lag_bytes * INT64CONST(1024)));
	if (cm_max_replica_lag > 0 && lag_ms >= cm_max_replica_lag)
		return psprintf("standby \"%s\" is " INT64_FORMAT " ms behind or more, and %d ms are allowed",
						standby->name, lag_ms, cm_max_replica_lag);
	return NULL;
}

/*
 * Who is too far behind, a phrase, or NULL.  Takes as long as the limit at
 * most.  In no transaction.
 */
char *
cm_standbys_behind(void)
{
	TimestampTz begin = GetCurrentTimestamp();
	XLogRecPtr	upto;

	if (cm_max_replica_lag <= 0 && cm_max_replica_lag_bytes <= 0)
		return NULL;
	upto = GetFlushRecPtr(NULL);
	for (;;)
	{
		bool		behind = false;
		int64		waited_ms = TimestampDifferenceMilliseconds(begin, GetCurrentTimestamp());
		ListCell   *lc;

		foreach(lc, look_apart(upto))
		{
			const CmStandby *standby = lfirst(lc);
			char	   *excess = cm_standby_excess(standby, waited_ms);

			if (excess != NULL)
				return excess;
			behind = behind || (standby->counts && standby->bytes > 0);
		}
		if (!behind || cm_max_replica_lag <= 0)
			return NULL;
		cm_pause(LOOK_AGAIN_MS);
	}
}
