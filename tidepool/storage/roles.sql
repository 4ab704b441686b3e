-- Two PostgreSQL roles beside the owner of the tables: tidepool_work for workers and producers, tidepool_read for those
-- who look at outcomes and pools. `python -m worker migrate --roles` runs this, as the owner, in a transaction, and then
-- grants tidepool_work what the application's job types declare; a second run changes nothing. The first one needs the
-- right to create roles. Without a password (WORK_PASSWORD, READ_PASSWORD) nobody logs in as them. docs/operations.md
-- says how they are used.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['tidepool_work', 'tidepool_read'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', name);
        END IF;
    END LOOP;
    -- Readers must not use up the server's connections. A limit that somebody has set is left as it is.
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'tidepool_read' AND rolconnlimit = -1) THEN
        ALTER ROLE tidepool_read CONNECTION LIMIT 10;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tidepool_read') THEN
        RAISE;
    END IF;
    RAISE WARNING 'tidepool_read has no connection limit: ALTER ROLE tidepool_read CONNECTION LIMIT 10';
END
$$;

-- Some databases let nobody in, or call functions, who was not granted it; elsewhere this changes nothing.
DO $$
BEGIN
    IF NOT has_database_privilege('tidepool_work', current_database(), 'CONNECT')
       OR NOT has_database_privilege('tidepool_read', current_database(), 'CONNECT') THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO tidepool_work, tidepool_read', current_database());
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'tidepool_work and tidepool_read may not connect: the database''s owner has to GRANT CONNECT';
END
$$;
GRANT EXECUTE ON FUNCTION histogram_bounds_ms(), histogram_plus(bigint[], bigint[]),
    histogram_since(bigint[], bigint[]), histogram_sum(bigint[]), histogram_quantile_ms(bigint[], double precision),
    live_processes(timestamptz) TO tidepool_work, tidepool_read;

REVOKE CREATE ON SCHEMA public FROM PUBLIC;                       -- as it is by default since version 15
GRANT USAGE ON SCHEMA public TO tidepool_work, tidepool_read;

-- The ledger and the history of the pools. Each worker prunes what is past its time, and thins old snapshots.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON job_results, pool_snapshots, pool_processes, pool_events, db_snapshots TO tidepool_work;

GRANT SELECT, INSERT, UPDATE ON retention TO tidepool_work;
GRANT SELECT, UPDATE ON turns TO tidepool_work;

-- What `results`, `snapshots`, `pool`, `why` and `advise` read. job_results holds the fields of jobs that were not applied.
GRANT SELECT ON job_results, pool_snapshots, pool_processes, pool_events, db_snapshots TO tidepool_read;
GRANT SELECT ON pool_health, fleet_health, job_latency TO tidepool_work, tidepool_read; -- the front's is the first

GRANT SELECT ON retention TO tidepool_read;

-- What a process compares with its own migrations, to say whether it is ready.
GRANT SELECT ON schema_migrations TO tidepool_work, tidepool_read;
