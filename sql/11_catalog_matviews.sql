/*
 * Catalog tables of the materialized views.  What users decided is dumped;
 * what is tracked, and how far, is of this database alone: a restored view
 * is tracked anew and refreshed in full first.
 */

-- Dumped: materialized views that are kept fresh.
CREATE TABLE concertmaster.matview (
    schema_name     name NOT NULL,
    view_name       name NOT NULL,
    every           interval CHECK (every > interval '0'),
    allow_blocking  boolean NOT NULL DEFAULT false,
    incremental     boolean NOT NULL DEFAULT true,
    allow_inexact   boolean NOT NULL DEFAULT false,
    timezone        text NOT NULL DEFAULT 'UTC',
    history_schema  name,
    history_name    name,
    PRIMARY KEY (schema_name, view_name),
    CHECK ((history_schema IS NULL) = (history_name IS NULL))
);
COMMENT ON TABLE concertmaster.matview IS 'materialized views that are refreshed by jobs';
COMMENT ON COLUMN concertmaster.matview.schema_name IS 'schema of the view';
COMMENT ON COLUMN concertmaster.matview.view_name IS 'name of the view';
COMMENT ON COLUMN concertmaster.matview.every IS 'period of the refresh; NULL: something else refreshes it on schedule';
COMMENT ON COLUMN concertmaster.matview.allow_blocking IS 'true: may be refreshed without CONCURRENTLY, which blocks its readers meanwhile';
COMMENT ON COLUMN concertmaster.matview.incremental IS 'true: changes are logged and only changed groups computed, where its query allows it';
COMMENT ON COLUMN concertmaster.matview.allow_inexact IS 'true: so too where aggregates depend on the order of rows, such as sums of floating-point numbers';
COMMENT ON COLUMN concertmaster.matview.timezone IS 'time zone in which it is refreshed';
COMMENT ON COLUMN concertmaster.matview.history_schema IS 'schema of the table that keeps its rows before partitions retire; NULL: none does';
COMMENT ON COLUMN concertmaster.matview.history_name IS 'name of that table';

-- Not dumped: what the last refresh did.
CREATE TABLE concertmaster.matview_state (
    schema_name     name NOT NULL,
    view_name       name NOT NULL,
    last_refresh    timestamptz,
    last_mode       text,
    last_reason     text,
    last_duration   double precision,
    last_groups     bigint,
    last_inserted   bigint,
    last_deleted    bigint,
    not_logging_code text,
    not_logging     text,
    PRIMARY KEY (schema_name, view_name),
    FOREIGN KEY (schema_name, view_name) REFERENCES concertmaster.matview ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE concertmaster.matview_state IS 'what the last refresh of each managed materialized view did';
COMMENT ON COLUMN concertmaster.matview_state.schema_name IS 'schema of the view';
COMMENT ON COLUMN concertmaster.matview_state.view_name IS 'name of the view';
COMMENT ON COLUMN concertmaster.matview_state.last_refresh IS 'snapshot time of the last refresh that succeeded';
COMMENT ON COLUMN concertmaster.matview_state.last_mode IS 'how it was refreshed: incremental, full, concurrently, blocking or first fill';
COMMENT ON COLUMN concertmaster.matview_state.last_reason IS 'why so';
COMMENT ON COLUMN concertmaster.matview_state.last_duration IS 'time that it took, in milliseconds';
COMMENT ON COLUMN concertmaster.matview_state.last_groups IS 'groups that were computed anew; NULL: all';
COMMENT ON COLUMN concertmaster.matview_state.last_inserted IS 'rows written to the view; NULL: not known';
COMMENT ON COLUMN concertmaster.matview_state.last_deleted IS 'rows removed from the view; NULL: not known';
COMMENT ON COLUMN concertmaster.matview_state.not_logging_code IS 'why its tables could not be made to log when its job tried last: lock_not_available, deadline_too_short or trigger_failed; NULL: nothing was in the way';
COMMENT ON COLUMN concertmaster.matview_state.not_logging IS 'the same in words';

-- Not dumped: views whose tables log their changes, and what the view stands for.
CREATE TABLE concertmaster.matview_track (
    view            oid PRIMARY KEY,
    stale           text,
    stamp           text,
    refreshed_at    timestamptz,
    timezone        text NOT NULL
);
COMMENT ON TABLE concertmaster.matview_track IS 'materialized views whose tables log their changes';
COMMENT ON COLUMN concertmaster.matview_track.view IS 'oid of the view';
COMMENT ON COLUMN concertmaster.matview_track.stale IS 'why all of it has to be computed anew; NULL: what changed is in the log';
COMMENT ON COLUMN concertmaster.matview_track.stamp IS 'what no trigger can see, as of the last refresh: the view''s file and definition, functions, time zones';
COMMENT ON COLUMN concertmaster.matview_track.refreshed_at IS 'what now() was in the last refresh';
COMMENT ON COLUMN concertmaster.matview_track.timezone IS 'time zone in which its tables log, that of table matview when it was tracked';

-- Not dumped: the tables of each tracked view.  Triggers look here.
CREATE TABLE concertmaster.matview_source (
    relid           oid NOT NULL,
    view            oid NOT NULL,
    PRIMARY KEY (relid, view)
);
COMMENT ON TABLE concertmaster.matview_source IS 'tables that log their changes for materialized views';
COMMENT ON COLUMN concertmaster.matview_source.relid IS 'oid of the table; if it is partitioned, all its partitions log';
COMMENT ON COLUMN concertmaster.matview_source.view IS 'oid of the view';

-- Not dumped: what the last refresh saw below each tracked view.
CREATE TABLE concertmaster.matview_leaf (
    view            oid NOT NULL,
    relid           oid NOT NULL,
    root            oid NOT NULL,
    relfilenode     oid NOT NULL,
    trigger_stamp   text NOT NULL,
    bounds          text,
    PRIMARY KEY (view, relid, root)
);
COMMENT ON TABLE concertmaster.matview_leaf IS 'tables and partitions that each tracked view was last computed from';
COMMENT ON COLUMN concertmaster.matview_leaf.view IS 'oid of the view';
COMMENT ON COLUMN concertmaster.matview_leaf.relid IS 'oid of the table or partition';
COMMENT ON COLUMN concertmaster.matview_leaf.root IS 'oid of the table in matview_source that it belongs to';
COMMENT ON COLUMN concertmaster.matview_leaf.relfilenode IS 'its file; another one: it was truncated or rewritten';
COMMENT ON COLUMN concertmaster.matview_leaf.trigger_stamp IS 'version of its trigger''s row and of its being a partition; another one: it may have been disabled or detached for a while';
COMMENT ON COLUMN concertmaster.matview_leaf.bounds IS 'bounds of the partition in the first key column of the root, for when it is gone; as stored, NULL: none that are known';

/*
 * Not dumped: the groups that were written to since the view's last refresh.
 * Written by a trigger of every writer, by functions of heap (src/matview_log.c).
 * Without an index, which would cost a writer as much again: a view's rows are
 * in the leaf of its oid, which is read as a whole.
 * No file is cut off at its end: that would let writers wait.
 */
CREATE TABLE concertmaster.matview_log (
    view            oid NOT NULL,
    mask            integer NOT NULL,
    key             bytea
) PARTITION BY HASH (view);
DO $$
BEGIN
    FOR i IN 0..7 LOOP
        EXECUTE format('CREATE TABLE concertmaster.matview_log_%s PARTITION OF concertmaster.matview_log'
                       ' FOR VALUES WITH (MODULUS 8, REMAINDER %s) USING heap'
                       ' WITH (vacuum_truncate = false, autovacuum_vacuum_threshold = 1000,'
                       ' autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_insert_threshold = -1)', i, i);
        EXECUTE format('COMMENT ON TABLE concertmaster.matview_log_%s IS %L', i, 'leaf of matview_log');
    END LOOP;
END $$;
COMMENT ON TABLE concertmaster.matview_log IS 'changed groups of tracked materialized views, at most one row per transaction and group';
COMMENT ON COLUMN concertmaster.matview_log.view IS 'oid of the view';
COMMENT ON COLUMN concertmaster.matview_log.mask IS 'which of the view''s key columns are known: bit n for the n-th; 0: any group may have changed';
COMMENT ON COLUMN concertmaster.matview_log.key IS 'their values, as a tuple (src/matview_group.c); if mask is 0, why it is, as text';

SELECT pg_extension_config_dump('concertmaster.matview', '');
