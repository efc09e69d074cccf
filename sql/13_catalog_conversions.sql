/*
 * Conversions of tables that were begun: by oid, so not dumped.
 */
CREATE TABLE concertmaster.conversion (
    relid           oid PRIMARY KEY,
    parent          oid UNIQUE,
    state           text NOT NULL DEFAULT 'preparing' CHECK (state IN ('preparing', 'swapped', 'converted', 'cancelled', 'stopped')),
    column_name     name NOT NULL,
    period          interval,
    width           bigint,
    epoch           text,
    timezone        text NOT NULL,
    foreign_keys    text,
    accept          text[] NOT NULL,
    ahead           integer NOT NULL,
    retention       interval,
    bound           text,
    check_name      name,
    fingerprint     text,
    started_at      timestamptz NOT NULL DEFAULT now(),
    swapped_at      timestamptz,
    ended_at        timestamptz
);
COMMENT ON TABLE concertmaster.conversion IS 'tables that are being, or were, converted to partitioned ones in place';
COMMENT ON COLUMN concertmaster.conversion.relid IS 'oid of the table, which becomes the old part';
COMMENT ON COLUMN concertmaster.conversion.parent IS 'oid of the partitioned table; NULL: not made yet';
COMMENT ON COLUMN concertmaster.conversion.state IS 'preparing: the table is what it was, with something beside it; swapped: the partitioned table has its place; converted: nothing is left to do; cancelled: what is beside it is being removed; stopped: preparing, until somebody calls again';
COMMENT ON COLUMN concertmaster.conversion.column_name IS 'partition key';
COMMENT ON COLUMN concertmaster.conversion.period IS 'length of a partition in time; NULL: width counts';
COMMENT ON COLUMN concertmaster.conversion.width IS 'numbers in a partition; NULL: period counts';
COMMENT ON COLUMN concertmaster.conversion.epoch IS 'what an integer key counts since 1970, for instance seconds';
COMMENT ON COLUMN concertmaster.conversion.timezone IS 'time zone in which periods are counted';
COMMENT ON COLUMN concertmaster.conversion.foreign_keys IS 'what becomes of foreign keys to the table that do not reference the key';
COMMENT ON COLUMN concertmaster.conversion.accept IS 'codes of findings whose consequences are accepted';
COMMENT ON COLUMN concertmaster.conversion.ahead IS 'partitions that the set shall have ahead';
COMMENT ON COLUMN concertmaster.conversion.retention IS 'age at which partitions of the set shall retire; NULL: never';
COMMENT ON COLUMN concertmaster.conversion.bound IS 'literal below which all rows are, in the table''s CHECK; NULL: it has none yet';
COMMENT ON COLUMN concertmaster.conversion.check_name IS 'of that CHECK, which keeps its name where the table is renamed';
COMMENT ON COLUMN concertmaster.conversion.fingerprint IS 'of the definition that the partitioned table was made of';
COMMENT ON COLUMN concertmaster.conversion.started_at IS 'when it was asked for';
COMMENT ON COLUMN concertmaster.conversion.swapped_at IS 'when the tables were exchanged';
COMMENT ON COLUMN concertmaster.conversion.ended_at IS 'when nothing was left to do';

/*
 * Foreign keys that are made to reference the partition key, too, until the
 * tables are exchanged: by oid, so not dumped.
 */
CREATE TABLE concertmaster.conversion_key (
    key             oid PRIMARY KEY,
    relid           oid NOT NULL REFERENCES concertmaster.conversion ON DELETE CASCADE,
    new_key         oid NOT NULL,
    referencing     oid NOT NULL,
    column_number   smallint NOT NULL,
    function        oid NOT NULL
);
CREATE INDEX ON concertmaster.conversion_key (relid);
COMMENT ON TABLE concertmaster.conversion_key IS 'foreign keys that are made to reference the partition key, too, until the tables are exchanged';
COMMENT ON COLUMN concertmaster.conversion_key.key IS 'oid of the foreign key as it is';
COMMENT ON COLUMN concertmaster.conversion_key.relid IS 'oid of the table that it references';
COMMENT ON COLUMN concertmaster.conversion_key.new_key IS 'oid of the one that takes its place';
COMMENT ON COLUMN concertmaster.conversion_key.referencing IS 'oid of the table whose it is';
COMMENT ON COLUMN concertmaster.conversion_key.column_number IS 'of the column that this table has been given';
COMMENT ON COLUMN concertmaster.conversion_key.function IS 'oid of the trigger function that fills it';
