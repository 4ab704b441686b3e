-- The history of the connection pools: one row for each process and tick, and the tables beside it that verdicts are
-- made of. *_hist is a cumulative histogram of durations, see histogram_bounds_ms.
-- older processes: go on

-- One row for each worker process and tick. Gauges are one moment's reading and need not add up; *_max
-- are peaks since the last row; counters and sums are cumulative since the process started, so that a
-- window is a subtraction and a lost row loses nothing.
CREATE TABLE {schema}.pool_snapshots (
    instance_id          uuid NOT NULL,                              -- one start of one process
    tick                 timestamptz NOT NULL,                       -- a multiple of the interval
    worker_id            text NOT NULL,
    host                 text NOT NULL,
    pid                  integer NOT NULL,
    started_at           timestamptz NOT NULL,
    captured_at          timestamptz NOT NULL,
    written_at           timestamptz NOT NULL,
    min_size             integer NOT NULL,
    max_size             integer NOT NULL,
    size                 integer NOT NULL,
    idle                 integer NOT NULL,
    in_use               integer NOT NULL,
    in_use_max           integer NOT NULL,
    waiting              integer NOT NULL,
    waiting_max          integer NOT NULL,
    acquire_requests     bigint NOT NULL,
    acquire_ok           bigint NOT NULL,
    acquire_timeouts     bigint NOT NULL,
    acquire_errors       bigint NOT NULL,
    wait_us_sum          bigint NOT NULL,
    wait_us_max          bigint NOT NULL,
    hold_us_sum          bigint NOT NULL,
    hold_us_max          bigint NOT NULL,
    connections_opened   bigint NOT NULL,
    connections_closed   bigint NOT NULL,
    queries              bigint NOT NULL,
    query_errors         bigint NOT NULL,
    query_us_sum         bigint NOT NULL,
    jobs_applied         bigint NOT NULL,
    jobs_rejected        bigint NOT NULL,
    jobs_failed          bigint NOT NULL,
    loop_lag_us_sum      bigint NOT NULL,
    loop_lag_us_max      bigint NOT NULL,
    loop_lag_count       bigint NOT NULL,
    pool_limit           integer,                                    -- connections that may be in use, of max_size
    in_use_us            bigint,                                     -- time integrals: 2 in use for 1 s are 2,000,000
    waiting_us           bigint,
    saturated_us         bigint,                                     -- time in which at least one task waited
    acquire_waited       bigint,
    acquire_cancelled    bigint,
    acquire_rejected     bigint,                                     -- refused at once: too many waited
    wait_hist            bigint[],
    hold_hist            bigint[],
    query_hist           bigint[],
    return_us_sum        bigint,
    oldest_hold_us       bigint,                                     -- a gauge: age of the longest checkout; growing: a leak
    connect_us_sum       bigint,
    connect_us_max       bigint,
    connect_refused      bigint,
    connect_starting     bigint,                                     -- 57P03: the server starts or stops
    connect_too_many     bigint,                                     -- 53300
    connect_timeouts     bigint,
    connect_errors       bigint,
    closed_idle          bigint,
    closed_used_up       bigint,
    closed_lost_idle     bigint,
    closed_lost_in_use   bigint,
    closed_shutdown      bigint,
    database_restarts    bigint,
    cpu_us               bigint,                                     -- of the process, user and system
    rss_bytes            bigint,                                     -- its resident memory
    callers              integer,                                    -- max tasks that use the pool at a time
    overdue_holders      integer,                                    -- checkouts older than a transaction may be
    holding_us           bigint,                                     -- a gauge: the sum of the present checkouts' ages
    closed_surplus       bigint,                                     -- closed since the limit was lowered
    loop_lag_hist        bigint[],
    late                 boolean,                                    -- written after its tick: PostgreSQL was away
    batches              bigint,                                     -- batches that have left the batcher
    batch_jobs           bigint,                                     -- jobs in them
    batch_wait_us_sum    bigint,                                     -- of jobs, taken to their batch having left
    batch_wait_us_max    bigint,
    batch_wait_hist      bigint[],
    batch_pending        integer,                                    -- a gauge: jobs whose batch has not left
    commits              bigint,
    commit_us_sum        bigint,
    commit_us_max        bigint,
    commit_hist          bigint[],
    loop_block_hist      bigint[],                                   -- loop lag without the time spent waiting for a CPU
    cpu_wait_us          bigint,                                     -- ready to run, waiting for a CPU
    queue_waiting        integer,                                    -- gauges of the queue; null: Redis did not answer
    queue_oldest_us      bigint,                                     -- age of the oldest job that is due
    jobs_retried         bigint,
    functions            jsonb,                                      -- name -> [applied, rejected, failed, retried]
    PRIMARY KEY (instance_id, tick)
);
-- snapshots.newest, snapshots.prune; and snapshots.peak, which reads all of the table without the second column.
CREATE INDEX pool_snapshots_tick_idx ON {schema}.pool_snapshots (tick) INCLUDE (in_use_max);
-- pool_health and fleet_health: a condition on the minute uses it, and one on the process after the minute's.
CREATE INDEX pool_snapshots_minute_idx ON {schema}.pool_snapshots (
    date_bin('1 minute', tick, timestamptz 'epoch'), instance_id, tick);

-- One row for each start of a worker process.
CREATE TABLE {schema}.pool_processes (
    instance_id  uuid PRIMARY KEY,
    worker_id    text NOT NULL,
    host         text NOT NULL,
    pid          integer NOT NULL,
    started_at   timestamptz NOT NULL,
    ended_at     timestamptz,                                        -- null: runs, or was killed
    end_reason   text,
    versions     jsonb NOT NULL,
    config       jsonb NOT NULL
);

-- One row for each tick of the database itself, by whichever process is first. Counters are the server's own.
CREATE TABLE {schema}.db_snapshots (
    tick                         timestamptz PRIMARY KEY,
    written_by                   text NOT NULL,                      -- a worker_id
    server_version               integer NOT NULL,
    server_started_at            timestamptz NOT NULL,
    in_recovery                  boolean NOT NULL,
    max_connections              integer NOT NULL,
    reserved_connections         integer NOT NULL,                   -- for superusers, and by the setting of that name
    role_limit                   integer,                            -- null: none
    database_limit               integer,
    backends                     integer NOT NULL,                   -- of clients, in all databases
    backends_of_workers          integer NOT NULL,
    backends_orphaned            integer NOT NULL,                   -- of workers that do not live any more
    active                       integer NOT NULL,                   -- of this database, from here on
    idle                         integer NOT NULL,
    idle_in_transaction          integer NOT NULL,
    waiting_lock                 integer NOT NULL,
    waiting_io                   integer NOT NULL,
    oldest_transaction_us        bigint NOT NULL,
    oldest_idle_in_transaction_us bigint NOT NULL,
    commits                      bigint NOT NULL,
    rollbacks                    bigint NOT NULL,
    deadlocks                    bigint NOT NULL,
    sessions_abandoned           bigint NOT NULL,
    sessions_fatal               bigint NOT NULL,
    sessions_killed              bigint NOT NULL,
    workers                      integer NOT NULL,                   -- that live
    granted                      integer NOT NULL,                   -- connections that they may have together
    usable                       integer NOT NULL                    -- connections that there are for workers
);

-- What happened to a process, or what it saw happen; rare.
CREATE TABLE {schema}.pool_events (
    instance_id  uuid NOT NULL,
    at           timestamptz NOT NULL,
    kind         text NOT NULL,                                      -- leak_suspected, database_restarted, …
    worker_id    text NOT NULL,
    detail       jsonb NOT NULL,
    PRIMARY KEY (instance_id, at, kind)
);
CREATE INDEX pool_events_at_idx ON {schema}.pool_events (at);                -- events.newest, events.prune

-- The upper bounds of the buckets; what is longer is in one more.
CREATE FUNCTION {schema}.histogram_bounds_ms() RETURNS double precision[] LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000]
$$;

CREATE FUNCTION {schema}.histogram_plus(one bigint[], other bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT array_agg(a + b ORDER BY i) FROM unnest(one, other) WITH ORDINALITY AS t (a, b, i)
$$;

-- What was added since *before*; all of it where there is no before.
CREATE FUNCTION {schema}.histogram_since(now bigint[], before bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(a - coalesce(b, 0) ORDER BY i) FROM unnest(now, before) WITH ORDINALITY AS t (a, b, i)
$$;

CREATE AGGREGATE {schema}.histogram_sum(bigint[]) (SFUNC = {schema}.histogram_plus, STYPE = bigint[]);

-- The *share* quantile in milliseconds, read along a straight line within its bucket; null of an empty histogram.
-- What is beyond the last bound counts as that bound.
CREATE FUNCTION {schema}.histogram_quantile_ms(histogram bigint[], share double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    WITH bounds AS (
        SELECT {schema}.histogram_bounds_ms() AS ms
    ), buckets AS (
        SELECT n, sum(n) OVER (ORDER BY i) AS up_to, sum(n) OVER () AS total,
               coalesce(ms[i - 1], 0) AS low, coalesce(ms[i], ms[i - 1]) AS high
        FROM bounds, unnest(histogram) WITH ORDINALITY AS t (n, i)
    )
    SELECT low + (high - low) * (share * total - (up_to - n))::double precision / n
    FROM buckets
    WHERE n > 0 AND up_to >= share * total
    ORDER BY up_to
    LIMIT 1
$$;

-- The processes that are live at a time: started, not ended, and not silent for longer than four of their ticks, or ten
-- seconds. Everything that speaks of live or dead processes asks here.
CREATE FUNCTION {schema}.live_processes(at timestamptz) RETURNS TABLE (instance_id uuid) LANGUAGE sql STABLE AS $$
    SELECT p.instance_id
    FROM {schema}.pool_processes AS p
    WHERE (p.ended_at IS NULL OR p.ended_at > at)
      AND EXISTS (
          SELECT FROM {schema}.pool_snapshots AS s
          WHERE s.instance_id = p.instance_id
            AND s.tick >= at - greatest(
                interval '10 s', 4 * coalesce((p.config ->> 'stats_interval')::double precision, 5) * interval '1 s'))
$$;

-- Each process, minute by minute: what its counters gained since its last row of an earlier minute.
CREATE VIEW {schema}.pool_health AS
WITH last AS (
    SELECT DISTINCT ON (minute, instance_id) date_bin('1 minute', tick, timestamptz 'epoch') AS minute, instance_id, tick
    FROM {schema}.pool_snapshots
    ORDER BY minute DESC, instance_id DESC, tick DESC                                      -- the index, read backwards
), pairs AS (
    SELECT minute, instance_id, now, earlier.row AS before
    FROM last
    JOIN {schema}.pool_snapshots AS now USING (instance_id, tick)
    LEFT JOIN LATERAL (
        SELECT s AS row FROM {schema}.pool_snapshots AS s
        WHERE s.instance_id = last.instance_id AND s.tick < last.minute
        ORDER BY s.tick DESC
        LIMIT 1
    ) AS earlier ON true
), gains AS (
    SELECT minute, instance_id, now, before,
           extract(epoch FROM (now).captured_at - coalesce((before).captured_at, (now).started_at)) AS seconds,
           (now).acquire_ok - coalesce((before).acquire_ok, 0) AS acquires,
           (now).hold_us_sum - coalesce((before).hold_us_sum, 0) AS hold_us,
           (now).wait_us_sum - coalesce((before).wait_us_sum, 0) AS wait_us,
           (now).query_us_sum - coalesce((before).query_us_sum, 0) AS query_us,
           (now).in_use_us - coalesce((before).in_use_us, 0) AS in_use_us,
           (now).saturated_us - coalesce((before).saturated_us, 0) AS saturated_us,
           {schema}.histogram_since((now).wait_hist, (before).wait_hist) AS wait_hist,
           {schema}.histogram_since((now).hold_hist, (before).hold_hist) AS hold_hist,
           {schema}.histogram_since((now).batch_wait_hist, (before).batch_wait_hist) AS batch_wait_hist,
           {schema}.histogram_since((now).commit_hist, (before).commit_hist) AS commit_hist
    FROM pairs
)
SELECT minute,
       (now).worker_id,
       instance_id,
       (now).max_size,
       (now).pool_limit,
       round(seconds, 1) AS seconds,
       acquires,
       round(acquires / nullif(seconds, 0), 1) AS acquires_per_second,
       ((now).jobs_applied + (now).jobs_rejected + (now).jobs_failed - coalesce(
           (before).jobs_applied + (before).jobs_rejected + (before).jobs_failed, 0)) AS jobs,
       coalesce((now).jobs_retried, 0) - coalesce((before).jobs_retried, 0) AS retries,
       (now).batch_pending,
       (now).queue_waiting,
       round(wait_us / 1000.0 / nullif(acquires, 0), 3) AS wait_mean_ms,
       {schema}.histogram_quantile_ms(wait_hist, 0.50) AS wait_p50_ms,
       {schema}.histogram_quantile_ms(wait_hist, 0.95) AS wait_p95_ms,
       {schema}.histogram_quantile_ms(wait_hist, 0.99) AS wait_p99_ms,
       round(hold_us / 1000.0 / nullif(acquires, 0), 3) AS hold_mean_ms,
       {schema}.histogram_quantile_ms(batch_wait_hist, 0.50) AS batch_wait_p50_ms,
       {schema}.histogram_quantile_ms(batch_wait_hist, 0.95) AS batch_wait_p95_ms,
       {schema}.histogram_quantile_ms(commit_hist, 0.50) AS commit_p50_ms,
       {schema}.histogram_quantile_ms(commit_hist, 0.95) AS commit_p95_ms,
       {schema}.histogram_quantile_ms(hold_hist, 0.50) AS hold_p50_ms,
       {schema}.histogram_quantile_ms(hold_hist, 0.95) AS hold_p95_ms,
       {schema}.histogram_quantile_ms(hold_hist, 0.99) AS hold_p99_ms,
       round(in_use_us / 1e6 / nullif(seconds, 0), 3) AS in_use_mean,                     -- Little: rate * hold
       round(in_use_us / 1e6 / nullif(seconds * (now).pool_limit, 0), 3) AS utilisation,  -- 1: all in use all the time
       round(saturated_us / 1e6 / nullif(seconds, 0), 3) AS saturation,                   -- share of time with a queue
       round(query_us / nullif(hold_us, 0)::numeric, 3) AS working,                       -- share of holds in queries
       (now).acquire_timeouts - coalesce((before).acquire_timeouts, 0) AS acquire_timeouts,
       (now).connections_opened - coalesce((before).connections_opened, 0) AS connections_opened,
       (now).database_restarts - coalesce((before).database_restarts, 0) AS database_restarts,
       round((((now).cpu_us - coalesce((before).cpu_us, 0)) / 1e6 / nullif(seconds, 0))::numeric, 3) AS cpu,
       (now).rss_bytes / 1048576 AS rss_mb,
       wait_hist,
       hold_hist,
       batch_wait_hist,
       commit_hist
FROM gains;

-- All processes together, minute by minute. Quantiles are of the summed histograms, as those of processes cannot be
-- averaged.
CREATE VIEW {schema}.fleet_health AS
SELECT minute,
       count(*) AS processes,
       sum(max_size) AS max_size,
       sum(pool_limit) AS pool_limit,
       sum(jobs) AS jobs,
       sum(retries) AS retries,
       sum(batch_pending) AS batch_pending,
       max(queue_waiting) AS queue_waiting,
       sum(acquires) AS acquires,
       sum(acquires_per_second) AS acquires_per_second,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(wait_hist), 0.50) AS wait_p50_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(wait_hist), 0.95) AS wait_p95_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(wait_hist), 0.99) AS wait_p99_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(batch_wait_hist), 0.50) AS batch_wait_p50_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(batch_wait_hist), 0.95) AS batch_wait_p95_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(commit_hist), 0.50) AS commit_p50_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(commit_hist), 0.95) AS commit_p95_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(hold_hist), 0.50) AS hold_p50_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(hold_hist), 0.95) AS hold_p95_ms,
       {schema}.histogram_quantile_ms({schema}.histogram_sum(hold_hist), 0.99) AS hold_p99_ms,
       sum(in_use_mean) AS in_use_mean,
       max(saturation) AS saturation_max,
       sum(acquire_timeouts) AS acquire_timeouts,
       sum(connections_opened) AS connections_opened,
       sum(cpu) AS cpu,
       sum(rss_mb) AS rss_mb
FROM {schema}.pool_health
GROUP BY minute;
