-- More figures of each pool, and views that a person can query. A null in a new column: the row is of a worker of
-- the version before. *_hist: a cumulative histogram of durations, see histogram_bounds_ms.

ALTER TABLE pool_snapshots
    ADD COLUMN pool_limit         integer,                           -- connections that may be in use, of max_size
    ADD COLUMN in_use_us          bigint,                            -- time integrals: 2 in use for 1 s are 2,000,000
    ADD COLUMN waiting_us         bigint,
    ADD COLUMN saturated_us       bigint,                            -- time in which somebody waited
    ADD COLUMN acquire_waited     bigint,
    ADD COLUMN acquire_cancelled  bigint,
    ADD COLUMN acquire_rejected   bigint,                            -- too many waited already
    ADD COLUMN wait_hist          bigint[],
    ADD COLUMN hold_hist          bigint[],
    ADD COLUMN query_hist         bigint[],
    ADD COLUMN return_us_sum      bigint,
    ADD COLUMN oldest_hold_us     bigint,                            -- a gauge; grows from row to row: a leak
    ADD COLUMN connect_us_sum     bigint,
    ADD COLUMN connect_us_max     bigint,
    ADD COLUMN connect_refused    bigint,
    ADD COLUMN connect_starting   bigint,                            -- 57P03: the server starts or stops
    ADD COLUMN connect_too_many   bigint,                            -- 53300
    ADD COLUMN connect_timeouts   bigint,
    ADD COLUMN connect_errors     bigint,
    ADD COLUMN closed_idle        bigint,
    ADD COLUMN closed_used_up     bigint,
    ADD COLUMN closed_lost_idle   bigint,
    ADD COLUMN closed_lost_in_use bigint,
    ADD COLUMN closed_shutdown    bigint,
    ADD COLUMN database_restarts  bigint,
    ADD COLUMN cpu_us             bigint,                            -- of the process, user and system
    ADD COLUMN rss_bytes          bigint;                            -- its resident memory

-- The upper bounds of the buckets; what is longer is in one more.
CREATE FUNCTION histogram_bounds_ms() RETURNS double precision[] LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000]
$$;

CREATE FUNCTION histogram_plus(one bigint[], other bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT array_agg(a + b ORDER BY i) FROM unnest(one, other) WITH ORDINALITY AS t (a, b, i)
$$;

-- What was added since *before*; all of it where there is no before.
CREATE FUNCTION histogram_since(now bigint[], before bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array_agg(a - coalesce(b, 0) ORDER BY i) FROM unnest(now, before) WITH ORDINALITY AS t (a, b, i)
$$;

CREATE AGGREGATE histogram_sum(bigint[]) (SFUNC = histogram_plus, STYPE = bigint[]);

-- The *share* quantile in milliseconds, read along a straight line within its bucket; null of an empty histogram.
-- What is beyond the last bound counts as that bound.
CREATE FUNCTION histogram_quantile_ms(histogram bigint[], share double precision) RETURNS double precision
LANGUAGE sql IMMUTABLE AS $$
    WITH bounds AS (
        SELECT histogram_bounds_ms() AS ms
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

-- Each process, minute by minute: what its counters gained since its last row of an earlier minute.
CREATE VIEW pool_health AS
WITH last AS (
    SELECT DISTINCT ON (s.instance_id, date_trunc('minute', s.tick)) date_trunc('minute', s.tick) AS minute, s
    FROM pool_snapshots AS s
    ORDER BY s.instance_id, date_trunc('minute', s.tick), s.tick DESC
), pairs AS (
    SELECT minute, s AS now, lag(s) OVER (PARTITION BY (s).instance_id ORDER BY minute) AS before FROM last
), gains AS (
    SELECT minute, now, before,
           extract(epoch FROM (now).captured_at - coalesce((before).captured_at, (now).started_at)) AS seconds,
           (now).acquire_ok - coalesce((before).acquire_ok, 0) AS acquires,
           (now).hold_us_sum - coalesce((before).hold_us_sum, 0) AS hold_us,
           (now).wait_us_sum - coalesce((before).wait_us_sum, 0) AS wait_us,
           (now).query_us_sum - coalesce((before).query_us_sum, 0) AS query_us,
           (now).in_use_us - coalesce((before).in_use_us, 0) AS in_use_us,
           (now).saturated_us - coalesce((before).saturated_us, 0) AS saturated_us,
           histogram_since((now).wait_hist, (before).wait_hist) AS wait_hist,
           histogram_since((now).hold_hist, (before).hold_hist) AS hold_hist
    FROM pairs
)
SELECT minute,
       (now).worker_id,
       (now).instance_id,
       (now).max_size,
       (now).pool_limit,
       round(seconds, 1) AS seconds,
       acquires,
       round(acquires / nullif(seconds, 0), 1) AS acquires_per_second,
       ((now).jobs_applied + (now).jobs_rejected + (now).jobs_failed - coalesce(
           (before).jobs_applied + (before).jobs_rejected + (before).jobs_failed, 0)) AS jobs,
       round(wait_us / 1000.0 / nullif(acquires, 0), 3) AS wait_mean_ms,
       histogram_quantile_ms(wait_hist, 0.50) AS wait_p50_ms,
       histogram_quantile_ms(wait_hist, 0.95) AS wait_p95_ms,
       histogram_quantile_ms(wait_hist, 0.99) AS wait_p99_ms,
       round(hold_us / 1000.0 / nullif(acquires, 0), 3) AS hold_mean_ms,
       histogram_quantile_ms(hold_hist, 0.50) AS hold_p50_ms,
       histogram_quantile_ms(hold_hist, 0.95) AS hold_p95_ms,
       histogram_quantile_ms(hold_hist, 0.99) AS hold_p99_ms,
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
       hold_hist
FROM gains;

-- All processes together, minute by minute. Quantiles are of the summed histograms: those of processes cannot be averaged.
CREATE VIEW fleet_health AS
SELECT minute,
       count(*) AS processes,
       sum(max_size) AS max_size,
       sum(pool_limit) AS pool_limit,
       sum(jobs) AS jobs,
       sum(acquires) AS acquires,
       sum(acquires_per_second) AS acquires_per_second,
       histogram_quantile_ms(histogram_sum(wait_hist), 0.50) AS wait_p50_ms,
       histogram_quantile_ms(histogram_sum(wait_hist), 0.95) AS wait_p95_ms,
       histogram_quantile_ms(histogram_sum(wait_hist), 0.99) AS wait_p99_ms,
       histogram_quantile_ms(histogram_sum(hold_hist), 0.50) AS hold_p50_ms,
       histogram_quantile_ms(histogram_sum(hold_hist), 0.95) AS hold_p95_ms,
       histogram_quantile_ms(histogram_sum(hold_hist), 0.99) AS hold_p99_ms,
       sum(in_use_mean) AS in_use_mean,
       max(saturation) AS saturation_max,
       sum(acquire_timeouts) AS acquire_timeouts,
       sum(connections_opened) AS connections_opened,
       sum(cpu) AS cpu,
       sum(rss_mb) AS rss_mb
FROM pool_health
GROUP BY minute;

-- Where the time of jobs goes, by function: waiting in Redis, waiting for a connection, in the database.
CREATE VIEW job_latency AS
SELECT function, part, count(*) AS jobs,
       percentile_cont(0.50) WITHIN GROUP (ORDER BY us) / 1000 AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY us) / 1000 AS p95_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY us) / 1000 AS p99_ms,
       max(us) / 1000.0 AS max_ms
FROM job_results, LATERAL (VALUES ('queue', queue_us), ('pool', pool_wait_us), ('database', db_us)) AS parts (part, us)
GROUP BY function, part;
