/*-------------------------------------------------------------------------
 *
 * conversion_call.c
 *	  The doors by which a table is converted, or is not.
 *
 * convert_to_partitioned() looks, refuses what explain_conversion() says is
 * refused or to be accepted, writes down what is asked for, and has the
 * table's job "convert schema.table" run by a worker, whose progress it shows
 * while it waits.  A run that ends early is gone on with by the next: the
 * job's own, if it was put off or failed; if it was cancelled, another call's.
 *
 * cancel_conversion() has the same job take back what was done, as long as
 * the tables are not exchanged.
 *
 * Locks: ACCESS SHARE on the table while it is looked at.  After an error the
 * transaction's abort cleans up; the worker is told to end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "conversion_do.h"

PG_FUNCTION_INFO_V1(cm_convert_to_partitioned);
PG_FUNCTION_INFO_V1(cm_cancel_conversion);

/* As create_partition_set() has it. */
#define MOST_AHEAD	10000

/* After the arguments of explain_conversion(). */
enum
{
	ARG_AHEAD = 8,
	ARG_RETENTION
};

/* Run the job, and say how it went. */
static void
run_job(FunctionCallInfo fcinfo, int64 job_id, const char *table)
{
	char	   *message;

	if (cm_job_call(fcinfo, job_id, &message))
		ereport(NOTICE,
				(errmsg("%s: %s", table, message != NULL ? message : "done")));
	else
		ereport(WARNING,
				(errmsg("the conversion of %s was put off", table),
				 message != NULL ? errdetail("%s.", message) : 0,
				 errhint("The job tries again in the background; view concertmaster.conversions shows how far it is.")));
}

/*
 * Refuse what create_partition_set() would refuse, which is called when the
 * tables have been exchanged.
 */
static void
check_set(FunctionCallInfo fcinfo, const CmConversionWish *wish)
{
	const Interval *age = PG_ARGISNULL(ARG_RETENTION) ? NULL : PG_GETARG_INTERVAL_P(ARG_RETENTION);

	if (PG_ARGISNULL(ARG_AHEAD) || PG_GETARG_INT32(ARG_AHEAD) < 1 || PG_GETARG_INT32(ARG_AHEAD) > MOST_AHEAD)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"ahead\" must be between 1 and %d", MOST_AHEAD)));
	if (age == NULL)
		return;
	if (wish->width > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"retention\" is for keys that are times"),
				 errhint("Leave it out, and call alter_partition_set() with \"retention_width\" when the table is converted.")));
	if (age->month < 0 || age->day < 0 || age->time < 0 || age->month > 12000 || age->day > 366000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"retention\" must be positive and at most 1000 years")));
}

/* CALL convert_to_partitioned(table_name, column_name, period, ...) */
Datum
cm_convert_to_partitioned(PG_FUNCTION_ARGS)
{
	CmConversionWish wish = {0};
	CmConversionState *state;
	Oid			relid;
	int64		job_id;
	char	   *table;

	cm_require_nonatomic(fcinfo, "convert_to_partitioned()");
	cm_require_primary("convert_to_partitioned()");
	relid = cm_conversion_arguments(fcinfo, &wish);
	check_set(fcinfo, &wish);
	table = pstrdup(cm_relation_quoted(relid));
	state = cm_conversion_state(relid);
	if (state != NULL && OidIsValid(state->parent) && state->phase != CM_CONVERSION_PREPARING &&
		state->phase != CM_CONVERSION_STOPPED && get_rel_relkind(state->parent) != RELKIND_PARTITIONED_TABLE)
	{
		/* Of a table that is gone, whose number this one has got. */
		cm_conversion_state_forget(state->relid);
		state = NULL;
	}
	if (state == NULL || state->phase == CM_CONVERSION_PREPARING || state->phase == CM_CONVERSION_STOPPED)
	{
		if (state != NULL && strcmp(state->wish->column_name, wish.column_name) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table %s is being converted by column \"%s\"", table, state->wish->column_name),
					 errhint("CALL concertmaster.cancel_conversion(%s) first.", quote_literal_cstr(table))));
		cm_conversion_require(cm_conversion_look(relid, &wish, true));
		cm_conversion_state_begin(relid, &wish, PG_GETARG_INT32(ARG_AHEAD),
								  PG_ARGISNULL(ARG_RETENTION) ? NULL : PG_GETARG_INTERVAL_P(ARG_RETENTION));
	}
	job_id = cm_job_upsert(CM_JOB_CONVERT, relid, 0, NULL, false);
	run_job(fcinfo, job_id, table);
	PG_RETURN_VOID();
}

/* Stop a run that is going on; the caller may act for its role. */
static void
stop_run(Oid relid)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(cm_job_name(CM_JOB_CONVERT, relid, 0))};
	CmScope		scope;

	cm_catalog_enter(&scope);
	SPI_execute_with_args("SELECT pg_cancel_backend(r.pid) FROM concertmaster.job_run r JOIN concertmaster.job j USING (job_id)"
						  "  JOIN pg_stat_activity a ON a.pid = r.pid AND a.backend_start <= r.start_time"
						  " WHERE j.name = $1 AND r.status = 'running'",
						  1, types, values, NULL, false, 0);
	cm_scope_leave(&scope);
}

/* CALL cancel_conversion(table_name) */
Datum
cm_cancel_conversion(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	CmConversionState *state;
	int64		job_id;
	char	   *table;

	cm_require_nonatomic(fcinfo, "cancel_conversion()");
	cm_require_primary("cancel_conversion()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("table must not be null")));
	cm_relation_require_owner(relid);
	table = pstrdup(cm_relation_quoted(relid));
	state = cm_conversion_state(relid);
	if (state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table %s is not being converted", table),
				 errhint("View concertmaster.conversions lists those that are.")));
	if (state->phase == CM_CONVERSION_SWAPPED || state->phase == CM_CONVERSION_DONE ||
		!cm_conversion_state_cancel(state->relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s is partitioned already", table),
				 errdetail("A conversion can be cancelled until the tables are exchanged.")));
	stop_run(relid);
	job_id = cm_job_upsert(CM_JOB_CONVERT, relid, 0, NULL, false);
	run_job(fcinfo, job_id, table);
	PG_RETURN_VOID();
}
