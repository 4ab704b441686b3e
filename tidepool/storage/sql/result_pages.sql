-- name: edge
-- The time at which the $2-th row before $1 finished. No row if there are fewer rows.
-- $1 before timestamptz, $2 most bigint
SELECT finished_at FROM job_results
WHERE $1::timestamptz IS NULL OR finished_at <= $1
ORDER BY finished_at DESC
LIMIT 1 OFFSET $2

-- name: edge_of_not_applied
-- The same for rejected and failed jobs only.
-- $1 before timestamptz, $2 most bigint
SELECT finished_at FROM job_results
WHERE status <> 'applied' AND ($1::timestamptz IS NULL OR finished_at <= $1)
ORDER BY finished_at DESC
LIMIT 1 OFFSET $2

-- name: page
-- Rows before a key, the newest first. A null parameter means no condition. The rows have no arguments, which may have a
-- megabyte each, and no long results; long errors are cut.
-- $1 status text, $2 function text, $3 since timestamptz, $4 before finished_at timestamptz, $5 before job_id text,
-- $6 limit bigint
SELECT job_id, function, status, CASE WHEN octet_length(result::text) <= 4096 THEN result END AS result, reason,
       left(error, 2000) AS error, attempts, worker_id, enqueued_at, started_at, finished_at, queue_us,
       batch_us, pool_wait_us, db_us, write_us, requeued_at, status <> 'applied' AND args IS NOT NULL AS requeueable
FROM (
    SELECT * FROM job_results
    WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR function = $2)
      AND ($3::timestamptz IS NULL OR finished_at >= $3)
      AND ($4::timestamptz IS NULL OR (finished_at, job_id) < ($4, $5::text))
    ORDER BY finished_at DESC, job_id DESC
    LIMIT $6
) AS page
ORDER BY finished_at DESC, job_id DESC

-- name: by_text
-- The same for rejected and failed jobs whose reason or error contains a text, ignoring case.
-- $1 status text, $2 function text, $3 since timestamptz, $4 before finished_at timestamptz, $5 before job_id text,
-- $6 limit bigint, $7 text text
SELECT job_id, function, status, CASE WHEN octet_length(result::text) <= 4096 THEN result END AS result, reason,
       left(error, 2000) AS error, attempts, worker_id, enqueued_at, started_at, finished_at, queue_us,
       batch_us, pool_wait_us, db_us, write_us, requeued_at, status <> 'applied' AND args IS NOT NULL AS requeueable
FROM (
    SELECT * FROM job_results
    WHERE status <> 'applied' AND strpos(lower(concat_ws(' ', reason, error)), lower($7::text)) > 0
      AND ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR function = $2)
      AND ($3::timestamptz IS NULL OR finished_at >= $3)
      AND ($4::timestamptz IS NULL OR (finished_at, job_id) < ($4, $5::text))
    ORDER BY finished_at DESC, job_id DESC
    LIMIT $6
) AS page
ORDER BY finished_at DESC, job_id DESC

-- name: by_id
-- The same for the first thousand jobs whose id begins with a text, found by the primary key.
-- $1 status text, $2 function text, $3 since timestamptz, $4 before finished_at timestamptz, $5 before job_id text,
-- $6 limit bigint, $7 prefix text
SELECT job_id, function, status, CASE WHEN octet_length(result::text) <= 4096 THEN result END AS result, reason,
       left(error, 2000) AS error, attempts, worker_id, enqueued_at, started_at, finished_at, queue_us,
       batch_us, pool_wait_us, db_us, write_us, requeued_at, status <> 'applied' AND args IS NOT NULL AS requeueable
FROM (
    SELECT * FROM job_results
    WHERE job_id = ANY (ARRAY(SELECT job_id FROM job_results WHERE job_id ^@ $7::text ORDER BY job_id LIMIT 1000))
      AND ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR function = $2)
      AND ($3::timestamptz IS NULL OR finished_at >= $3)
      AND ($4::timestamptz IS NULL OR (finished_at, job_id) < ($4, $5::text))
    ORDER BY finished_at DESC, job_id DESC
    LIMIT $6
) AS page
ORDER BY finished_at DESC, job_id DESC
