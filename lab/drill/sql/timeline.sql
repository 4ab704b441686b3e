-- name: slots
-- Stretches of the drill: outcomes in each, how many failed, and the 95th percentiles of a job's whole time and of its
-- wait for a connection (milliseconds).
-- $1 since timestamptz, $2 seconds of a stretch double precision
SELECT floor(extract(epoch FROM finished_at - $1::timestamptz) / $2::double precision)::integer AS slot,
       count(*) AS outcomes,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY queue_us + batch_us + pool_wait_us + db_us) / 1000 AS latency_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY batch_us + pool_wait_us) / 1000 AS wait_ms
FROM public.job_results
WHERE finished_at >= $1
GROUP BY 1
ORDER BY 1

-- name: errors
-- Errors of the pools in each stretch, as the workers' snapshots count them.
-- $1 since timestamptz, $2 seconds of a stretch double precision
SELECT floor(extract(epoch FROM captured_at - $1::timestamptz) / $2::double precision)::integer AS slot,
       sum(errors - before) AS errors
FROM (
    SELECT captured_at, errors, lag(errors, 1, 0::numeric) OVER (PARTITION BY instance_id ORDER BY tick) AS before
    FROM public.pool_snapshots,
         LATERAL (SELECT (query_errors + acquire_errors + acquire_timeouts + connect_refused + connect_starting
                          + connect_too_many + connect_timeouts + connect_errors)::numeric AS errors) AS summed
) AS each
WHERE captured_at >= $1
GROUP BY 1
HAVING sum(errors - before) > 0
ORDER BY 1

-- name: around
-- Jobs that ended in a time, and how many of them did not fail.
-- $1 since timestamptz, $2 until timestamptz
SELECT count(*) AS jobs, count(*) FILTER (WHERE status <> 'failed') AS succeeded
FROM public.job_results
WHERE finished_at >= $1 AND finished_at < $2
