/*
 * Catalog tables.  Those marked with pg_extension_config_dump carry what users
 * decided and name relations by schema and name; the others carry what only
 * this database, with these oids, can know, and start empty after a restore.
 * No table is readable by PUBLIC: the listing views show each role its own.
 * index_plan takes rows from everybody, its trigger checks them.
 */

-- Dumped: where install() put the platform.
CREATE TABLE concertmaster.installation (
    schema_name     name PRIMARY KEY,
    installed_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE concertmaster.installation IS 'schemas in which install() made or adopted the platform''s tables';
COMMENT ON COLUMN concertmaster.installation.schema_name IS 'schema of the platform''s tables';
COMMENT ON COLUMN concertmaster.installation.installed_at IS 'when install() was first called for it';

-- Not dumped, so a restored or cloned database is found unarmed: its jobs wait for resume_all().
CREATE TABLE concertmaster.armed (
    datid           oid PRIMARY KEY,
    driver          text NOT NULL DEFAULT 'launcher' CHECK (driver IN ('launcher', 'pg_cron')),
    armed_at        timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE concertmaster.armed IS 'one row with this database''s oid while its jobs may run; absent or another oid means restored or cloned';
COMMENT ON COLUMN concertmaster.armed.datid IS 'oid of the database in which jobs were armed';
COMMENT ON COLUMN concertmaster.armed.driver IS 'what starts due jobs: launcher or pg_cron';
COMMENT ON COLUMN concertmaster.armed.armed_at IS 'when jobs were armed';

-- Not dumped: the oid that each managed name means in this database.
CREATE TABLE concertmaster.relation_map (
    schema_name     name NOT NULL,
    relation_name   name NOT NULL,
    relid           oid NOT NULL UNIQUE,
    PRIMARY KEY (schema_name, relation_name)
);
COMMENT ON TABLE concertmaster.relation_map IS 'oid of each relation that a dumped table names; renames are followed through it';
COMMENT ON COLUMN concertmaster.relation_map.schema_name IS 'schema as last seen';
COMMENT ON COLUMN concertmaster.relation_map.relation_name IS 'name as last seen';
COMMENT ON COLUMN concertmaster.relation_map.relid IS 'oid of the relation';

CREATE SEQUENCE concertmaster.job_id_seq;

-- Dumped: what is to be done, and when.
CREATE TABLE concertmaster.job (
    job_id          bigint PRIMARY KEY DEFAULT nextval('concertmaster.job_id_seq'),
    name            text NOT NULL UNIQUE,
    kind            text NOT NULL CHECK (kind IN ('refresh', 'roll', 'build', 'adopt', 'prune', 'convert')),
    schema_name     name,
    relation_name   name,
    phase           integer,
    owner           name NOT NULL,
    every           interval CHECK (every > interval '0'),
    start_at        timestamptz,
    timezone        text NOT NULL DEFAULT 'UTC',
    paused          boolean NOT NULL DEFAULT false
);
ALTER SEQUENCE concertmaster.job_id_seq OWNED BY concertmaster.job.job_id;
COMMENT ON TABLE concertmaster.job IS 'one row per job: what is to be done and when';
COMMENT ON COLUMN concertmaster.job.job_id IS 'number of the job';
COMMENT ON COLUMN concertmaster.job.name IS 'unique name: kind and object, for instance roll public.form_responses';
COMMENT ON COLUMN concertmaster.job.kind IS 'refresh, roll, build, adopt, prune or convert';
COMMENT ON COLUMN concertmaster.job.schema_name IS 'schema of the relation that the job is about';
COMMENT ON COLUMN concertmaster.job.relation_name IS 'relation that the job is about';
COMMENT ON COLUMN concertmaster.job.phase IS 'phase of index_plan that a build job builds';
COMMENT ON COLUMN concertmaster.job.owner IS 'role that the job acts for; follows the relation''s owner';
COMMENT ON COLUMN concertmaster.job.every IS 'period; NULL: only on request';
COMMENT ON COLUMN concertmaster.job.start_at IS 'runs fall on start_at plus whole periods; NULL: on whole periods after its first run';
COMMENT ON COLUMN concertmaster.job.timezone IS 'time zone in which periods of days and months are counted';
COMMENT ON COLUMN concertmaster.job.paused IS 'true: never started by itself';

-- Not dumped: how each job stands.
CREATE TABLE concertmaster.job_state (
    job_id          bigint PRIMARY KEY REFERENCES concertmaster.job ON DELETE CASCADE,
    next_run        timestamptz,
    scheduled       timestamptz,
    last_run        timestamptz,
    last_success    timestamptz,
    last_duration   double precision,
    last_status     text,
    runs            bigint NOT NULL DEFAULT 0,
    failures        bigint NOT NULL DEFAULT 0,
    failures_in_row integer NOT NULL DEFAULT 0,
    first_failure   timestamptz,
    last_sqlstate   text,
    last_error      text,
    owner_oid       oid,
    origin          timestamptz,
    requests        bigint NOT NULL DEFAULT 0,
    requests_seen   bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE concertmaster.job_state IS 'how each job stands: when it ran, how it went, when it is due';
COMMENT ON COLUMN concertmaster.job_state.job_id IS 'the job';
COMMENT ON COLUMN concertmaster.job_state.next_run IS 'when it is due; NULL: only on request';
COMMENT ON COLUMN concertmaster.job_state.scheduled IS 'time on the job''s grid that next_run stands for; differs after a failure or a request';
COMMENT ON COLUMN concertmaster.job_state.last_run IS 'start of the last run';
COMMENT ON COLUMN concertmaster.job_state.last_success IS 'end of the last run that succeeded';
COMMENT ON COLUMN concertmaster.job_state.last_duration IS 'time that the last finished run took, in milliseconds';
COMMENT ON COLUMN concertmaster.job_state.last_status IS 'status of the last run, as in job_run';
COMMENT ON COLUMN concertmaster.job_state.runs IS 'number of runs started';
COMMENT ON COLUMN concertmaster.job_state.failures IS 'number of runs that failed';
COMMENT ON COLUMN concertmaster.job_state.failures_in_row IS 'failures since the last success';
COMMENT ON COLUMN concertmaster.job_state.first_failure IS 'when the present row of failures began';
COMMENT ON COLUMN concertmaster.job_state.last_sqlstate IS 'SQLSTATE of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.job_state.last_error IS 'text of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.job_state.origin IS 'first time of the job''s grid, from which the others are reckoned where job.start_at is not given; NULL: the next one';
COMMENT ON COLUMN concertmaster.job_state.requests IS 'how often it was asked to run';
COMMENT ON COLUMN concertmaster.job_state.requests_seen IS 'requests when its last run started; if there are more at the end, it runs once more';
COMMENT ON COLUMN concertmaster.job_state.owner_oid IS 'role that the job acts for, so that a new name of it is followed; NULL: the one that has the name';

-- Not dumped: the history, bounded by history_runs and history_age.
CREATE TABLE concertmaster.job_run (
    run_id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id          bigint NOT NULL REFERENCES concertmaster.job ON DELETE CASCADE,
    status          text NOT NULL CHECK (status IN ('running', 'succeeded', 'failed', 'deferred', 'crashed')),
    pid             integer NOT NULL,
    start_time      timestamptz NOT NULL,
    end_time        timestamptz,
    sqlstate        text,
    message         text,
    detail          text,
    hint            text
);
CREATE INDEX job_run_job_id_run_id_idx ON concertmaster.job_run (job_id, run_id);
CREATE INDEX job_run_running_idx ON concertmaster.job_run (job_id) WHERE status = 'running';
COMMENT ON TABLE concertmaster.job_run IS 'bounded history: one row per run of a job';
COMMENT ON COLUMN concertmaster.job_run.run_id IS 'number of the run';
COMMENT ON COLUMN concertmaster.job_run.job_id IS 'the job';
COMMENT ON COLUMN concertmaster.job_run.status IS 'running, succeeded, failed, deferred (put off, nothing changed) or crashed (the worker died)';
COMMENT ON COLUMN concertmaster.job_run.pid IS 'process that ran it';
COMMENT ON COLUMN concertmaster.job_run.start_time IS 'when it started';
COMMENT ON COLUMN concertmaster.job_run.end_time IS 'when it ended; NULL while running';
COMMENT ON COLUMN concertmaster.job_run.sqlstate IS 'SQLSTATE of the failure';
COMMENT ON COLUMN concertmaster.job_run.message IS 'what was done, or why it failed or was put off';
COMMENT ON COLUMN concertmaster.job_run.detail IS 'detail of the failure';
COMMENT ON COLUMN concertmaster.job_run.hint IS 'what to do about the failure';

-- Dumped: the indexes that build_indexes() makes.
CREATE TABLE concertmaster.index_plan (
    phase           integer NOT NULL CHECK (phase > 0),
    schema_name     name NOT NULL,
    table_name      name NOT NULL,
    index_name      name NOT NULL,
    is_unique       boolean NOT NULL DEFAULT false,
    definition      text NOT NULL,
    purpose         text,
    hot_window      interval CHECK (hot_window > interval '0'),
    PRIMARY KEY (schema_name, index_name)
);
COMMENT ON TABLE concertmaster.index_plan IS 'indexes to build, by phase; add rows for tables of your own, see them in view indexes, take them out with unplan_index()';
COMMENT ON COLUMN concertmaster.index_plan.phase IS 'phase in which it is built, 1 first';
COMMENT ON COLUMN concertmaster.index_plan.schema_name IS 'schema of the table and of the index';
COMMENT ON COLUMN concertmaster.index_plan.table_name IS 'table to index';
COMMENT ON COLUMN concertmaster.index_plan.index_name IS 'name of the index';
COMMENT ON COLUMN concertmaster.index_plan.is_unique IS 'true for a unique index';
COMMENT ON COLUMN concertmaster.index_plan.definition IS 'what follows ON table in CREATE INDEX, for instance: USING gin (data) WHERE data IS NOT NULL';
COMMENT ON COLUMN concertmaster.index_plan.purpose IS 'the query that it serves, in words';
COMMENT ON COLUMN concertmaster.index_plan.hot_window IS 'how far back partitions shall have it, each by itself; the next build drops from those that have aged out what it made there; an end in time is read from a range by timestamptz, timestamp, date or uuid of version 7; NULL: all';

-- Not dumped: what the last build said about a planned index.
CREATE TABLE concertmaster.index_state (
    schema_name     name NOT NULL,
    index_name      name NOT NULL,
    serving_relid   oid,
    conflict_relid  oid,
    leaf_relids     oid[] NOT NULL DEFAULT '{}',
    leaf_total      integer NOT NULL DEFAULT 0,
    worker_pid      integer,
    last_run        timestamptz,
    sqlstate        text,
    message         text,
    detail          text,
    hint            text,
    PRIMARY KEY (schema_name, index_name),
    FOREIGN KEY (schema_name, index_name) REFERENCES concertmaster.index_plan ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE concertmaster.index_state IS 'what the last build said about each planned index';
COMMENT ON COLUMN concertmaster.index_state.schema_name IS 'schema of the planned index';
COMMENT ON COLUMN concertmaster.index_state.index_name IS 'name of the planned index';
COMMENT ON COLUMN concertmaster.index_state.serving_relid IS 'the index that serves: the planned one, or an equivalent one under another name';
COMMENT ON COLUMN concertmaster.index_state.conflict_relid IS 'what has the planned name and is not the planned index';
COMMENT ON COLUMN concertmaster.index_state.leaf_relids IS 'with a hot window: the indexes of the partitions inside it';
COMMENT ON COLUMN concertmaster.index_state.leaf_total IS 'with a hot window: number of partitions inside it';
COMMENT ON COLUMN concertmaster.index_state.worker_pid IS 'process that is building it; NULL: none';
COMMENT ON COLUMN concertmaster.index_state.last_run IS 'when a build last looked at it';
COMMENT ON COLUMN concertmaster.index_state.sqlstate IS 'SQLSTATE of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.index_state.message IS 'what the last build did, or why it could not';
COMMENT ON COLUMN concertmaster.index_state.detail IS 'detail of the last failure';
COMMENT ON COLUMN concertmaster.index_state.hint IS 'what to do about the last failure';
