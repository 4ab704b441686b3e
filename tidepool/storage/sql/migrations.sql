-- name: exists
-- Whether the table of applied migrations is there. Needs no grant.
-- No parameters.
SELECT EXISTS (
    SELECT FROM pg_class WHERE relname = 'tidepool_migrations' AND relnamespace = to_regnamespace('{schema}'))

-- name: create
-- Create the schema and the table of applied migrations, unless they exist. A schema that exists may have tables of
-- others, but none with a name of the library's.
-- No parameters.
DO $tidepool_create$
DECLARE
    taken text;
BEGIN
    BEGIN
        IF to_regnamespace('{schema}') IS NULL THEN
            CREATE SCHEMA {schema};
        END IF;
    EXCEPTION WHEN insufficient_privilege THEN
        RAISE EXCEPTION 'the schema {schema} is missing, and % may not create it: the database''s owner has to run'
            ' CREATE SCHEMA {schema} AUTHORIZATION %', current_user, current_user USING ERRCODE = '42501';
    END;
    IF EXISTS (
        SELECT FROM pg_class WHERE relname = 'tidepool_migrations' AND relnamespace = '{schema}'::regnamespace) THEN
        RETURN;
    END IF;
    SELECT min(relname::text) INTO taken
    FROM pg_class
    WHERE relnamespace = '{schema}'::regnamespace AND relname IN (
        'job_results', 'pool_snapshots', 'pool_processes', 'pool_events', 'db_snapshots', 'retention', 'turns');
    IF taken IS NOT NULL THEN
        RAISE EXCEPTION 'the schema {schema} has a table % that another program made, or a version before the first'
            ' release (of embedded servers, delete DATA_DIR, by default .data)', taken USING ERRCODE = '42P07';
    END IF;
    CREATE TABLE {schema}.tidepool_migrations (
        set_name     text NOT NULL,                                  -- tidepool, or the application's name for its own
        version      integer NOT NULL,
        name         text NOT NULL,
        checksum     text NOT NULL,
        breaks_older boolean NOT NULL,                               -- processes that do not know it must not go on
        columns      text[] NOT NULL,                                -- schema.table.column: added, and still there
        applied_at   timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (set_name, version)
    );
END
$tidepool_create$

-- name: bound
-- Set the timeouts of the present transaction. The statement and transaction timeouts of the role or the database are
-- switched off, because they are made for short statements.
-- $1 lock_timeout_ms text
SELECT pg_backend_pid(), set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true),
       CASE WHEN current_setting('server_version_num')::integer >= 170000
            THEN set_config('transaction_timeout', '0', true) END

-- name: lock
-- Wait until no other process applies migrations, and lock them until the end of the transaction.
-- No parameters.
LOCK TABLE {schema}.tidepool_migrations IN EXCLUSIVE MODE

-- name: applied
-- The applied migrations.
-- No parameters.
SELECT set_name, version, name, checksum, breaks_older
FROM {schema}.tidepool_migrations
ORDER BY set_name, version

-- name: apply
-- Apply one migration unless it is applied, and record it with the columns that it has added. Columns that it has
-- dropped are removed from the records of the migrations that added them.
-- No parameters: `Migration.statement` writes set_name, version, name, checksum, breaks_older and text into it.
DO $tidepool_apply$
DECLARE
    look text := $tidepool_look$
        SELECT coalesce(array_agg(name), '{}'), coalesce(array_agg(name) FILTER (WHERE is_new), '{}')
        FROM (
            SELECT format('%I.%I.%I', nspname, relname, attname) AS name, a.xmin = pg_current_xact_id()::xid AS is_new
            FROM pg_attribute AS a
            JOIN pg_class AS c ON c.oid = a.attrelid
            JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT relispartition AND attnum > 0 AND NOT attisdropped
              AND nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
            ORDER BY c.oid, attnum
        ) AS present
    $tidepool_look$;
    before text[];
    after text[];
    added text[];
    dropped text[];
BEGIN
    LOCK TABLE {schema}.tidepool_migrations IN EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM {schema}.tidepool_migrations WHERE set_name = {set_name} AND version = {version}) THEN
        RETURN;
    END IF;
    EXECUTE look INTO before, added;

    EXECUTE $tidepool_migration$
{text}
$tidepool_migration$;

    EXECUTE look INTO after, added;
    dropped := ARRAY(SELECT unnest(before) EXCEPT SELECT unnest(after));
    UPDATE {schema}.tidepool_migrations
    SET columns = ARRAY(SELECT kept FROM unnest(columns) AS kept WHERE kept <> ALL (dropped))
    WHERE columns && dropped;
    INSERT INTO {schema}.tidepool_migrations (set_name, version, name, checksum, breaks_older, columns)
    VALUES ({set_name}, {version}, {name}, {checksum}, {breaks_older},
            ARRAY(SELECT one FROM unnest(added) WITH ORDINALITY AS a (one, position)
                  WHERE NOT EXISTS (SELECT FROM unnest(before) AS other WHERE other = one)
                  ORDER BY position));
END
$tidepool_apply$

-- name: missing
-- The tables and columns that migrations have added and that are not there any more: `schema.table` for a table.
-- No parameters.
SELECT CASE WHEN c.oid IS NULL THEN format('%I.%I', part[1], part[2]) ELSE name END AS name
FROM (SELECT set_name, columns FROM {schema}.tidepool_migrations) AS applied
CROSS JOIN unnest(columns) WITH ORDINALITY AS made (name, position)
CROSS JOIN parse_ident(name) AS part
LEFT JOIN (pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace)
    ON n.nspname = part[1] AND c.relname = part[2]
WHERE NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = part[3] AND NOT attisdropped)
ORDER BY set_name, position

-- name: blockers
-- The sessions that block backend $1. A prepared transaction has no backend: PostgreSQL reports it as process 0.
-- $1 pid integer
SELECT pid, usename, application_name, state, query_start::text
FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))
UNION ALL
SELECT 0, owner, 'prepared transaction ' || gid, 'prepared', prepared::text
FROM pg_prepared_xacts WHERE 0 = ANY (pg_blocking_pids($1)) AND database = current_database()
ORDER BY pid
