-- name: jobs
-- The outcomes of the jobs of a time, and how long they took (microseconds): in all, and waiting for a batch to leave and
-- for a connection.
-- $1 since timestamptz, $2 until timestamptz, $3 shares double precision[]
SELECT count(*) AS jobs,
       count(*) FILTER (WHERE status <> 'applied') AS not_applied,
       percentile_cont($3::double precision[]) WITHIN GROUP (ORDER BY batch_us + pool_wait_us) AS wait_us,
       percentile_cont($3::double precision[]) WITHIN GROUP (ORDER BY queue_us + batch_us + pool_wait_us + db_us) AS latency_us
FROM public.job_results
WHERE finished_at >= $1 AND finished_at < $2

-- name: pools
-- What all pools together had: connections open, in use (maximum and average), and allowed.
-- $1 since timestamptz
SELECT coalesce(sum(open), 0) AS open,
       coalesce(sum(in_use_max), 0) AS in_use_max,
       coalesce(sum(in_use), 0) AS in_use,
       coalesce(sum(pool_limit), 0) AS pool_limit
FROM (
    SELECT max(size) AS open,
           max(in_use_max) AS in_use_max,
           max(pool_limit) AS pool_limit,
           (max(in_use_us) - min(in_use_us))
               / nullif(extract(epoch FROM max(captured_at) - min(captured_at)) * 1e6, 0) AS in_use
    FROM public.pool_snapshots
    WHERE captured_at >= $1
    GROUP BY instance_id
) AS each

-- name: started
-- How many workers that have committed a job wrote a snapshot since then.
-- $1 since timestamptz
SELECT count(DISTINCT instance_id) FROM public.pool_snapshots WHERE jobs_applied > 0 AND captured_at >= $1

-- name: forget
-- Delete the snapshots of workers that started since then.
-- $1 since timestamptz
DELETE FROM public.pool_snapshots WHERE started_at >= $1
