-- What verdicts and the page's counts are made of: waits by where they are spent, COMMITs, CPU time that others took,
-- outcomes by function. A null in a new column: the row is of a worker of the version before.
-- older processes: go on

ALTER TABLE job_results
    ADD COLUMN batch_us bigint NOT NULL DEFAULT 0,                   -- taken to its batch having left the batcher
    ADD COLUMN write_us bigint NOT NULL DEFAULT 0;                   -- of db_us: the ledger's write and the COMMIT

ALTER TABLE pool_snapshots
    ADD COLUMN batches            bigint,                            -- that have left the batcher
    ADD COLUMN batch_jobs         bigint,                            -- jobs in them
    ADD COLUMN batch_wait_us_sum  bigint,                            -- of jobs, taken to their batch having left
    ADD COLUMN batch_wait_us_max  bigint,
    ADD COLUMN batch_wait_hist    bigint[],
    ADD COLUMN batch_pending      integer,                           -- a gauge: jobs whose batch has not left
    ADD COLUMN commits            bigint,
    ADD COLUMN commit_us_sum      bigint,
    ADD COLUMN commit_us_max      bigint,
    ADD COLUMN commit_hist        bigint[],
    ADD COLUMN loop_block_hist    bigint[],                          -- loop lag without the time that others had the CPU
    ADD COLUMN cpu_wait_us        bigint,                            -- ready to run, and others had the CPU
    ADD COLUMN queue_waiting      integer,                           -- gauges of the queue; null: Redis did not answer
    ADD COLUMN queue_oldest_us    bigint,                            -- for how long the oldest job that is due has been
    ADD COLUMN jobs_retried       bigint,
    ADD COLUMN functions          jsonb;                             -- name -> [applied, rejected, failed, retried]

-- The processes that are live at a time: started, not ended, and not silent for longer than four of their ticks, or ten
-- seconds. Everything that speaks of live or dead processes asks here.
CREATE FUNCTION live_processes(at timestamptz) RETURNS TABLE (instance_id uuid) LANGUAGE sql STABLE AS $$
    SELECT p.instance_id
    FROM pool_processes AS p
    WHERE (p.ended_at IS NULL OR p.ended_at > at)
      AND EXISTS (
          SELECT FROM pool_snapshots AS s
          WHERE s.instance_id = p.instance_id
            AND s.tick >= at - greatest(
                interval '10 s', 4 * coalesce((p.config ->> 'stats_interval')::double precision, 5) * interval '1 s'))
$$;

DROP VIEW fleet_health;
DROP VIEW pool_health;
DROP VIEW job_latency;

-- Each process, minute by minute: what its counters gained since its last row of an earlier minute.
CREATE VIEW pool_health AS
WITH last AS (
    SELECT DISTINCT ON (minute, instance_id) date_bin('1 minute', tick, timestamptz 'epoch') AS minute, instance_id, tick
    FROM pool_snapshots
    ORDER BY minute DESC, instance_id DESC, tick DESC                                      -- the index, read backwards
), pairs AS (
    SELECT minute, instance_id, now, earlier.row AS before
    FROM last
    JOIN pool_snapshots AS now USING (instance_id, tick)
    LEFT JOIN LATERAL (
        SELECT s AS row FROM pool_snapshots AS s
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
           histogram_since((now).wait_hist, (before).wait_hist) AS wait_hist,
           histogram_since((now).hold_hist, (before).hold_hist) AS hold_hist,
           histogram_since((now).batch_wait_hist, (before).batch_wait_hist) AS batch_wait_hist,
           histogram_since((now).commit_hist, (before).commit_hist) AS commit_hist
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
       histogram_quantile_ms(wait_hist, 0.50) AS wait_p50_ms,
       histogram_quantile_ms(wait_hist, 0.95) AS wait_p95_ms,
       histogram_quantile_ms(wait_hist, 0.99) AS wait_p99_ms,
       round(hold_us / 1000.0 / nullif(acquires, 0), 3) AS hold_mean_ms,
       histogram_quantile_ms(batch_wait_hist, 0.50) AS batch_wait_p50_ms,
       histogram_quantile_ms(batch_wait_hist, 0.95) AS batch_wait_p95_ms,
       histogram_quantile_ms(commit_hist, 0.50) AS commit_p50_ms,
       histogram_quantile_ms(commit_hist, 0.95) AS commit_p95_ms,
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
       hold_hist,
       batch_wait_hist,
       commit_hist
FROM gains;

-- All processes together, minute by minute. Quantiles are of the summed histograms: those of processes cannot be averaged.
CREATE VIEW fleet_health AS
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
       histogram_quantile_ms(histogram_sum(wait_hist), 0.50) AS wait_p50_ms,
       histogram_quantile_ms(histogram_sum(wait_hist), 0.95) AS wait_p95_ms,
       histogram_quantile_ms(histogram_sum(wait_hist), 0.99) AS wait_p99_ms,
       histogram_quantile_ms(histogram_sum(batch_wait_hist), 0.50) AS batch_wait_p50_ms,
       histogram_quantile_ms(histogram_sum(batch_wait_hist), 0.95) AS batch_wait_p95_ms,
       histogram_quantile_ms(histogram_sum(commit_hist), 0.50) AS commit_p50_ms,
       histogram_quantile_ms(histogram_sum(commit_hist), 0.95) AS commit_p95_ms,
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

-- Where the time of jobs goes, by function: in the queue, in the batcher until their batch leaves, at the pool's gate
-- until it has a connection, and in the database. Rows of versions before this one have the batcher's part in the pool's.
CREATE VIEW job_latency AS
SELECT function, part, count(*) AS jobs,
       percentile_cont(0.50) WITHIN GROUP (ORDER BY us) / 1000 AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY us) / 1000 AS p95_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY us) / 1000 AS p99_ms,
       max(us) / 1000.0 AS max_ms
FROM job_results,
     LATERAL (VALUES ('queue', queue_us), ('batch', batch_us), ('pool', pool_wait_us), ('database', db_us))
         AS parts (part, us)
GROUP BY function, part;
