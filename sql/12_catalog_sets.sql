/*
 * Catalog tables, second part: partition sets and materialized views; all the
 * names in both parts, and which tables are dumped.
 */

-- Dumped: partitioned tables that are kept rolling.
CREATE TABLE concertmaster.partition_set (
    schema_name     name NOT NULL,
    table_name      name NOT NULL,
    period          interval CHECK (period > interval '0'),
    width           bigint CHECK (width > 0),
    epoch           text CHECK (epoch IN ('seconds', 'milliseconds', 'microseconds', 'nanoseconds')),
    ahead           integer NOT NULL DEFAULT 4 CHECK (ahead >= 0),
    start_at        timestamptz,
    start_value     bigint,
    timezone        text NOT NULL DEFAULT 'UTC',
    retention       interval CHECK (retention > interval '0'),
    retention_width bigint CHECK (retention_width > 0),
    retention_keep  boolean NOT NULL DEFAULT true,
    retention_schema name,
    PRIMARY KEY (schema_name, table_name),
    CHECK ((period IS NULL) <> (width IS NULL))
);
COMMENT ON TABLE concertmaster.partition_set IS 'partitioned tables whose partitions are made ahead of time and retired';
COMMENT ON COLUMN concertmaster.partition_set.schema_name IS 'schema of the partitioned table';
COMMENT ON COLUMN concertmaster.partition_set.table_name IS 'name of the partitioned table';
COMMENT ON COLUMN concertmaster.partition_set.period IS 'width of one partition, where the key is a time';
COMMENT ON COLUMN concertmaster.partition_set.width IS 'width of one partition, where the key is a number';
COMMENT ON COLUMN concertmaster.partition_set.epoch IS 'what an integer key counts since 1970; NULL: the key is no such integer';
COMMENT ON COLUMN concertmaster.partition_set.ahead IS 'number of whole partitions kept ready after the present one';
COMMENT ON COLUMN concertmaster.partition_set.start_at IS 'time in the oldest partition to make; NULL: the present';
COMMENT ON COLUMN concertmaster.partition_set.start_value IS 'number in the oldest partition to make; NULL: the present';
COMMENT ON COLUMN concertmaster.partition_set.timezone IS 'time zone of the bounds';
COMMENT ON COLUMN concertmaster.partition_set.retention IS 'age at which partitions retire; NULL: never';
COMMENT ON COLUMN concertmaster.partition_set.retention_width IS 'how far behind the newest number partitions retire; NULL: never';
COMMENT ON COLUMN concertmaster.partition_set.retention_keep IS 'true: retired partitions stay as tables of their own; false: they are dropped';
COMMENT ON COLUMN concertmaster.partition_set.retention_schema IS 'schema that kept ones are moved to; NULL: they stay where they are';

-- Not dumped: how the last roll of each set went.
CREATE TABLE concertmaster.partition_set_state (
    schema_name     name NOT NULL,
    table_name      name NOT NULL,
    last_roll       timestamptz,
    last_success    timestamptz,
    deferred        text,
    deferred_since  timestamptz,
    blocked_by      integer,
    newest_value    bigint,
    default_rows    bigint,
    first_failure   timestamptz,
    last_failure    timestamptz,
    failures        bigint NOT NULL DEFAULT 0,
    sqlstate        text,
    last_error      text,
    idle_until      timestamptz,
    idle_mark       bigint,
    PRIMARY KEY (schema_name, table_name),
    FOREIGN KEY (schema_name, table_name) REFERENCES concertmaster.partition_set ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE concertmaster.partition_set_state IS 'how the last roll of each partition set went';
COMMENT ON COLUMN concertmaster.partition_set_state.schema_name IS 'schema of the partitioned table';
COMMENT ON COLUMN concertmaster.partition_set_state.table_name IS 'name of the partitioned table';
COMMENT ON COLUMN concertmaster.partition_set_state.last_roll IS 'when the set was last looked at';
COMMENT ON COLUMN concertmaster.partition_set_state.last_success IS 'when nothing was left to do';
COMMENT ON COLUMN concertmaster.partition_set_state.deferred IS 'step that waits for a lock, in words; NULL: none';
COMMENT ON COLUMN concertmaster.partition_set_state.deferred_since IS 'since when a step waits for a lock; NULL: none';
COMMENT ON COLUMN concertmaster.partition_set_state.blocked_by IS 'pid that was in the way at the last try';
COMMENT ON COLUMN concertmaster.partition_set_state.newest_value IS 'greatest number in the table at the last roll, where the key is a number';
COMMENT ON COLUMN concertmaster.partition_set_state.default_rows IS 'rows that the last roll left in the default partition: before the retention, beyond what is made ahead, or null; NULL: no default partition';
COMMENT ON COLUMN concertmaster.partition_set_state.first_failure IS 'first failure since the last success';
COMMENT ON COLUMN concertmaster.partition_set_state.last_failure IS 'last failure';
COMMENT ON COLUMN concertmaster.partition_set_state.failures IS 'failures since the last success';
COMMENT ON COLUMN concertmaster.partition_set_state.sqlstate IS 'SQLSTATE of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.partition_set_state.last_error IS 'text of the last failure, NULL after a success';
COMMENT ON COLUMN concertmaster.partition_set_state.idle_until IS 'until when the set has nothing to do as long as its partitions and settings are what they were; NULL: that has to be looked at';
COMMENT ON COLUMN concertmaster.partition_set_state.idle_mark IS 'which partitions and settings these are, in one number';

-- Not dumped: partitions on their way out, or kept from it.
CREATE TABLE concertmaster.partition_state (
    relid           oid PRIMARY KEY,
    schema_name     name NOT NULL,
    table_name      name NOT NULL,
    partition_schema name NOT NULL,
    partition_name  name NOT NULL,
    upper_bound     bigint NOT NULL,
    state           text NOT NULL CHECK (state IN ('retiring', 'referenced')),
    since           timestamptz NOT NULL DEFAULT now(),
    detail          text,
    FOREIGN KEY (schema_name, table_name) REFERENCES concertmaster.partition_set ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE concertmaster.partition_state IS 'partitions that are being retired, or would be but for what references them';
COMMENT ON COLUMN concertmaster.partition_state.relid IS 'oid of the partition';
COMMENT ON COLUMN concertmaster.partition_state.schema_name IS 'schema of the partitioned table';
COMMENT ON COLUMN concertmaster.partition_state.table_name IS 'name of the partitioned table';
COMMENT ON COLUMN concertmaster.partition_state.partition_schema IS 'schema of the partition';
COMMENT ON COLUMN concertmaster.partition_state.partition_name IS 'name of the partition; one that was renamed since is left alone';
COMMENT ON COLUMN concertmaster.partition_state.upper_bound IS 'end of what it holds, as a point of the key''s axis (src/partition_axis.c)';
COMMENT ON COLUMN concertmaster.partition_state.state IS 'retiring: to be detached, then dropped or moved; referenced: rows elsewhere reference it';
COMMENT ON COLUMN concertmaster.partition_state.since IS 'when it came into this state';
COMMENT ON COLUMN concertmaster.partition_state.detail IS 'what references it, and how many rows';

-- Every name that a dumped table holds, with the oid it is known to mean.
CREATE VIEW concertmaster.managed_names AS
SELECT v.schema_name, v.relation_name, m.relid
  FROM (SELECT schema_name, relation_name FROM concertmaster.job WHERE relation_name IS NOT NULL
        UNION SELECT schema_name, table_name FROM concertmaster.index_plan
        UNION SELECT schema_name, table_name FROM concertmaster.partition_set
        UNION SELECT schema_name, view_name FROM concertmaster.matview
        UNION SELECT history_schema, history_name FROM concertmaster.matview WHERE history_name IS NOT NULL) v
  LEFT JOIN concertmaster.relation_map m USING (schema_name, relation_name);
COMMENT ON VIEW concertmaster.managed_names IS 'relations named in the dumped catalog tables, with their oids in this database';

SELECT pg_extension_config_dump('concertmaster.installation', '');
SELECT pg_extension_config_dump('concertmaster.job', '');
SELECT pg_extension_config_dump('concertmaster.job_id_seq', '');
SELECT pg_extension_config_dump('concertmaster.index_plan', '');
SELECT pg_extension_config_dump('concertmaster.partition_set', '');
