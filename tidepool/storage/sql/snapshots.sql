-- name: write
-- Store snapshots, matched to the columns by name. A row that exists stays as it is.
-- $1 samples jsonb, an array of objects
INSERT INTO {schema}.pool_snapshots
SELECT * FROM jsonb_populate_recordset(null::{schema}.pool_snapshots, $1::jsonb)
ON CONFLICT (instance_id, tick) DO NOTHING

-- name: newest
-- The newest rows first. A null parameter means no condition.
-- $1 worker_id text, $2 since timestamptz, $3 limit bigint
SELECT * FROM {schema}.pool_snapshots
WHERE ($1::text IS NULL OR worker_id = $1) AND ($2::timestamptz IS NULL OR tick >= $2)
ORDER BY tick DESC, worker_id
LIMIT $3

-- name: pool_health
-- The newest minute of each live process that wrote a row since $1.
-- $1 since timestamptz
SELECT * FROM (
    SELECT DISTINCT ON (instance_id) * FROM {schema}.pool_health
    WHERE minute >= date_trunc('minute', $1::timestamptz)
      AND instance_id IN (SELECT instance_id FROM {schema}.live_processes(clock_timestamp()))
    ORDER BY instance_id, minute DESC
) AS newest
ORDER BY worker_id

-- name: fleet_health
-- The minutes of all processes together since $1, the newest first.
-- $1 since timestamptz
SELECT * FROM {schema}.fleet_health WHERE minute >= date_trunc('minute', $1::timestamptz) ORDER BY minute DESC

-- name: window
-- The last row of each process in each interval of length $2 since $1, for processes that are live at $3. The columns
-- are those of `Reading` without `functions`, because reading thousands of rows takes most of the time of a verdict.
-- $1 since timestamptz, $2 every interval, $3 until timestamptz
SELECT DISTINCT ON (instance_id, date_bin($2, tick, $1))
       instance_id, tick, worker_id, started_at, captured_at, max_size, pool_limit, callers, in_use, waiting,
       oldest_hold_us, overdue_holders, batch_pending, queue_oldest_us, rss_bytes,
       in_use_us, waiting_us, saturated_us, acquire_ok, wait_us_sum, wait_hist, hold_us_sum, holding_us, hold_hist,
       connections_opened, connect_us_sum, connect_refused, connect_starting, connect_too_many, connect_timeouts,
       connect_errors, closed_lost_idle, closed_lost_in_use, database_restarts, queries, query_us_sum, commits,
       commit_us_sum, batches, batch_jobs, batch_wait_us_sum, cpu_us, cpu_wait_us, loop_block_hist,
       jobs_applied, jobs_rejected, jobs_failed
FROM {schema}.pool_snapshots
WHERE tick >= $1 AND instance_id IN (SELECT instance_id FROM {schema}.live_processes($3))
ORDER BY instance_id, date_bin($2, tick, $1), tick DESC

-- name: history
-- The last row of each process in each period, and the last one before $1 so that gains can be computed.
-- Takes one look-up in the primary key for each process and period, however many rows a period has.
-- $1 since timestamptz, $2 until timestamptz, $3 stretch interval
WITH alive AS (
    SELECT instance_id, instance_id IN (SELECT instance_id FROM {schema}.live_processes($2)) AS live
    FROM {schema}.pool_processes AS p
    WHERE (ended_at IS NULL OR ended_at >= $1)
      AND EXISTS (SELECT FROM {schema}.pool_snapshots AS s WHERE s.instance_id = p.instance_id AND s.tick >= $1)
)
SELECT alive.live,
       s.instance_id, s.tick, s.worker_id, s.started_at, s.captured_at, s.max_size, s.pool_limit, s.callers, s.in_use,
       s.waiting, s.oldest_hold_us, s.overdue_holders, s.batch_pending, s.queue_oldest_us, s.rss_bytes, s.functions,
       s.in_use_us, s.waiting_us, s.saturated_us, s.acquire_ok, s.wait_us_sum, s.wait_hist, s.hold_us_sum,
       s.holding_us, s.hold_hist, s.connections_opened, s.connect_us_sum, s.connect_refused, s.connect_starting,
       s.connect_too_many, s.connect_timeouts, s.connect_errors, s.closed_lost_idle, s.closed_lost_in_use,
       s.database_restarts, s.queries, s.query_us_sum, s.commits, s.commit_us_sum, s.batches, s.batch_jobs,
       s.batch_wait_us_sum, s.cpu_us, s.cpu_wait_us, s.loop_block_hist, s.jobs_applied, s.jobs_rejected, s.jobs_failed
FROM alive
CROSS JOIN generate_series($1 - $3::interval, $2, $3::interval) AS g (at)
CROSS JOIN LATERAL (
    SELECT * FROM {schema}.pool_snapshots
    WHERE instance_id = alive.instance_id AND tick < g.at + $3::interval
      AND tick >= CASE WHEN g.at < $1 THEN timestamptz '-infinity' ELSE g.at END
    ORDER BY tick DESC
    LIMIT 1
) AS s

-- name: peak
-- The largest number of connections that one process had in use at the same time since $1.
-- $1 since timestamptz
SELECT coalesce(max(in_use_max), 0) FROM {schema}.pool_snapshots WHERE tick >= $1

-- name: prune
-- Delete up to $2 rows before $1. Returns how many were deleted.
-- $1 before timestamptz, $2 limit bigint
WITH gone AS (
    DELETE FROM {schema}.pool_snapshots
    WHERE (instance_id, tick) IN (
        SELECT instance_id, tick FROM {schema}.pool_snapshots WHERE tick < $1 ORDER BY tick LIMIT $2
        FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) FROM gone

-- name: lock_thinning
-- Lock the task of thinning until the end of the transaction. Returns a row unless another process has the lock.
SELECT true FROM {schema}.turns WHERE task = 'thinning' FOR UPDATE SKIP LOCKED

-- name: thin
-- Keep the last row of each process and period, and delete up to $4 of the rows before it, the oldest first.
-- The peaks of deleted rows move into the row that is kept. Its other columns are cumulative and lose nothing.
-- Returns how many were deleted, and the tick of the last one: no row before that tick is left to delete.
-- $1 since timestamptz, $2 before timestamptz, $3 period interval, $4 limit bigint
WITH extra AS (
    SELECT s.instance_id, s.tick, kept.tick AS kept
    FROM {schema}.pool_snapshots AS s
    CROSS JOIN LATERAL (
        SELECT tick FROM {schema}.pool_snapshots
        WHERE instance_id = s.instance_id AND tick > s.tick
          AND tick < date_bin($3::interval, s.tick, timestamptz 'epoch') + $3
        ORDER BY tick DESC
        LIMIT 1
    ) AS kept
    WHERE s.tick >= $1 AND s.tick < $2
    ORDER BY s.tick
    LIMIT $4
), gone AS (
    DELETE FROM {schema}.pool_snapshots AS s USING extra
    WHERE s.instance_id = extra.instance_id AND s.tick = extra.tick
    RETURNING s.*, extra.kept
), peaks AS (
    SELECT instance_id, kept,
           max(in_use_max) AS in_use_max,
           max(waiting_max) AS waiting_max,
           max(wait_us_max) AS wait_us_max,
           max(hold_us_max) AS hold_us_max,
           max(connect_us_max) AS connect_us_max,
           max(commit_us_max) AS commit_us_max,
           max(batch_wait_us_max) AS batch_wait_us_max,
           max(loop_lag_us_max) AS loop_lag_us_max
    FROM gone
    GROUP BY instance_id, kept
), folded AS (
    UPDATE {schema}.pool_snapshots AS s
    SET in_use_max = greatest(s.in_use_max, peaks.in_use_max),
        waiting_max = greatest(s.waiting_max, peaks.waiting_max),
        wait_us_max = greatest(s.wait_us_max, peaks.wait_us_max),
        hold_us_max = greatest(s.hold_us_max, peaks.hold_us_max),
        connect_us_max = greatest(s.connect_us_max, peaks.connect_us_max),
        commit_us_max = greatest(s.commit_us_max, peaks.commit_us_max),
        batch_wait_us_max = greatest(s.batch_wait_us_max, peaks.batch_wait_us_max),
        loop_lag_us_max = greatest(s.loop_lag_us_max, peaks.loop_lag_us_max)
    FROM peaks
    WHERE s.instance_id = peaks.instance_id AND s.tick = peaks.kept
)
SELECT count(*) AS gone, max(tick) AS last_tick FROM gone
