-- Two PostgreSQL roles beside the owner of the tables: {work} for workers and producers, {read} for those who look at
-- outcomes and pools. `python -m worker migrate --roles` runs this, as the owner, in a transaction, and then grants
-- {work} what the application's job types declare; a second run changes nothing. The first one needs the right to
-- create roles. Without a password (WORK_PASSWORD, READ_PASSWORD) nobody logs in as them. docs/operations.md says how
-- they are used.

DO $$
BEGIN
    IF to_regrole('{work}') IS NULL THEN
        CREATE ROLE {work} LOGIN;
    END IF;
    IF to_regrole('{read}') IS NULL THEN
        CREATE ROLE {read} LOGIN;
    END IF;
    -- Readers must not use up the server's connections. A limit that somebody has set is left as it is.
    IF EXISTS (SELECT FROM pg_roles WHERE oid = to_regrole('{read}') AND rolconnlimit = -1) THEN
        ALTER ROLE {read} CONNECTION LIMIT 10;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    IF to_regrole('{work}') IS NULL OR to_regrole('{read}') IS NULL THEN
        RAISE;
    END IF;
    RAISE WARNING '{read} has no connection limit: ALTER ROLE {read} CONNECTION LIMIT 10';
END
$$;

-- Some databases let nobody in, or call functions, who was not granted it; elsewhere this changes nothing.
DO $$
BEGIN
    IF NOT has_database_privilege(to_regrole('{work}'), current_database(), 'CONNECT')
       OR NOT has_database_privilege(to_regrole('{read}'), current_database(), 'CONNECT') THEN
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO {work}, {read}', current_database());
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING '{work} and {read} may not connect: the database''s owner has to GRANT CONNECT';
END
$$;
GRANT EXECUTE ON FUNCTION {schema}.histogram_bounds_ms(), {schema}.histogram_plus(bigint[], bigint[]),
    {schema}.histogram_since(bigint[], bigint[]), {schema}.histogram_sum(bigint[]),
    {schema}.histogram_quantile_ms(bigint[], double precision), {schema}.live_processes(timestamptz) TO {work}, {read};
GRANT EXECUTE ON FUNCTION {schema}.enqueue(text, jsonb, text, text, timestamptz, boolean) TO {work};
GRANT EXECUTE ON FUNCTION {schema}.job_states(text[]) TO {work}, {read};

REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;                     -- as it is by default since version 15
GRANT USAGE ON SCHEMA {schema} TO {work}, {read};

-- The ledger, the outbox and the history of the pools. Each worker prunes what is past its time, and thins old snapshots.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON {schema}.job_results, {schema}.pool_snapshots, {schema}.pool_processes, {schema}.pool_events,
       {schema}.db_snapshots, {schema}.job_outbox TO {work};

GRANT SELECT, INSERT, UPDATE ON {schema}.retention TO {work};
GRANT SELECT, UPDATE ON {schema}.turns TO {work};

-- What `results`, `snapshots`, `pool`, `why` and `advise` read. job_results holds the fields of jobs that were not
-- applied.
GRANT SELECT
    ON {schema}.job_results, {schema}.pool_snapshots, {schema}.pool_processes, {schema}.pool_events,
       {schema}.db_snapshots TO {read};
GRANT SELECT (job_id, enqueued_ms, identity) ON {schema}.job_outbox TO {read};
-- The front's is the first.
GRANT SELECT ON {schema}.pool_health, {schema}.fleet_health, {schema}.job_latency TO {work}, {read};

GRANT SELECT ON {schema}.retention TO {read};

-- What a process compares with its own migrations, to say whether it is ready.
GRANT SELECT ON {schema}.tidepool_migrations TO {work}, {read};
