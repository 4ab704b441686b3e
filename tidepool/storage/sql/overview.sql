-- name: history
-- The last row of each process in each period, beginning one period before $1 so that gains can be computed.
-- Takes one look-up in the primary key for each process and period, however many rows a period has.
-- $1 since timestamptz, $2 until timestamptz, $3 stretch interval
WITH alive AS (
    SELECT instance_id, instance_id IN (SELECT instance_id FROM live_processes($2)) AS live
    FROM pool_processes AS p
    WHERE (ended_at IS NULL OR ended_at >= $1)
      AND EXISTS (SELECT FROM pool_snapshots AS s WHERE s.instance_id = p.instance_id AND s.tick >= $1)
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
    SELECT * FROM pool_snapshots
    WHERE instance_id = alive.instance_id AND tick >= g.at AND tick < g.at + $3::interval
    ORDER BY tick DESC
    LIMIT 1
) AS s

-- name: server
-- The newest row of db_snapshots.
-- No parameters.
SELECT * FROM db_snapshots ORDER BY tick DESC LIMIT 1

-- name: has_results
-- Whether the ledger has any row.
-- No parameters.
SELECT EXISTS (SELECT FROM job_results)
