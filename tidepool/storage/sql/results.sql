-- name: lookup
-- The outcomes that these jobs already have. A requeued row is not an outcome, and the row of a plain function is not
-- that of a declared type's job. The query forces one index look-up per key: a plan made while the table was empty would
-- compare every row with every key.
-- $1 job_id text[], $2 key_ms bigint[]
SELECT found.job_id, found.key_ms, found.status, found.result::text AS result, found.reason, found.error
FROM (SELECT DISTINCT job_id, key_ms FROM unnest($1::text[], $2::bigint[]) AS a (job_id, key_ms)) AS asked
CROSS JOIN LATERAL (
    SELECT * FROM {schema}.job_results WHERE job_id = asked.job_id AND key_ms = asked.key_ms OFFSET 0
) AS found
WHERE found.requeued_at IS NULL AND found.atomic

-- name: lookup_unknown
-- The outcomes that these jobs may have, whose type is unknown here, or whose content cannot be read: another worker may
-- have known their keys. It is that of the newest row of the id if the job is its identity or it finished when the job
-- was due or later.
-- $1 job_id text[], $2 due bigint[], Unix ms
SELECT asked.job_id, found.status, found.result::text AS result, found.reason, found.error
FROM (SELECT job_id, max(due_ms) AS due_ms FROM unnest($1::text[], $2::bigint[]) AS a (job_id, due_ms) GROUP BY job_id)
     AS asked
CROSS JOIN LATERAL (
    SELECT * FROM {schema}.job_results WHERE job_id = asked.job_id ORDER BY key_ms DESC LIMIT 1
) AS found
WHERE found.requeued_at IS NULL AND found.atomic
  AND (found.key_ms = -1 OR found.finished_at >= timestamptz 'epoch' + asked.due_ms * interval '1 ms')

-- name: write
-- Store outcomes. A row that exists stays as it is and is not counted, unless it was requeued or is that of a plain
-- function: another worker was faster, and the caller must roll back. Sorted by key, which prevents deadlocks between
-- batches.
-- $1 rows: job_id, status, result, reason, error, args, attempts, enqueued_at ms, started_at ms, queue_us,
-- pool_wait_us, batch_us, key_ms
-- $2 function text, $3 db_us bigint, $4 worker_id text, $5 write_us bigint
INSERT INTO {schema}.job_results (job_id, key_ms, function, status, result, reason, error, args, attempts, worker_id,
                         enqueued_at, started_at, finished_at, queue_us, pool_wait_us, batch_us, db_us, write_us)
SELECT r ->> 0 AS job_id, (r -> 12)::bigint AS key_ms, $2, r ->> 1, (r ->> 2)::jsonb, r ->> 3, r ->> 4, (r ->> 5)::jsonb, (r -> 6)::integer, $4,
       timestamptz 'epoch' + (r -> 7)::bigint * interval '1 ms',
       timestamptz 'epoch' + (r -> 8)::bigint * interval '1 ms',
       clock_timestamp(), (r -> 9)::bigint, (r -> 10)::bigint, (r -> 11)::bigint, $3, $5
FROM jsonb_array_elements($1::jsonb) AS g (r)
ORDER BY job_id, key_ms
ON CONFLICT (job_id, key_ms) DO UPDATE
SET function = excluded.function, status = excluded.status, result = excluded.result, reason = excluded.reason,
    error = excluded.error, args = excluded.args, attempts = excluded.attempts, worker_id = excluded.worker_id,
    enqueued_at = excluded.enqueued_at, started_at = excluded.started_at, finished_at = excluded.finished_at,
    queue_us = excluded.queue_us, batch_us = excluded.batch_us, pool_wait_us = excluded.pool_wait_us,
    db_us = excluded.db_us, write_us = excluded.write_us, requeued_at = NULL, atomic = true
WHERE job_results.requeued_at IS NOT NULL OR NOT job_results.atomic

-- name: record
-- Store outcomes of plain functions, after the fact. Of several runs of one job, those of one id and enqueue time, the
-- last one stays; a row that was committed with its job's effect is never replaced, unless it was requeued. Sorted by
-- key, which prevents deadlocks between batches.
-- $1 rows: job_id, function, status, reason, error, attempts, enqueued_at ms, started_at ms, finished_at ms, queue_us
-- $2 worker_id text
INSERT INTO {schema}.job_results (job_id, key_ms, function, status, result, reason, error, attempts, worker_id,
                         enqueued_at, started_at, finished_at, queue_us, pool_wait_us, db_us, atomic)
SELECT DISTINCT ON (job_id, key_ms) r ->> 0 AS job_id, (r -> 6)::bigint AS key_ms, r ->> 1, r ->> 2,
       CASE r ->> 2 WHEN 'applied' THEN 'null'::jsonb END, r ->> 3, r ->> 4, (r -> 5)::integer, $2,
       timestamptz 'epoch' + (r -> 6)::bigint * interval '1 ms',
       timestamptz 'epoch' + (r -> 7)::bigint * interval '1 ms',
       timestamptz 'epoch' + (r -> 8)::bigint * interval '1 ms',
       (r -> 9)::bigint, 0, 0, false
FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS g (r, number)
ORDER BY job_id, key_ms, number DESC
ON CONFLICT (job_id, key_ms) DO UPDATE
SET function = excluded.function, status = excluded.status, result = excluded.result, reason = excluded.reason,
    error = excluded.error, attempts = excluded.attempts, worker_id = excluded.worker_id,
    enqueued_at = excluded.enqueued_at, started_at = excluded.started_at, finished_at = excluded.finished_at,
    queue_us = excluded.queue_us, requeued_at = NULL, atomic = false
WHERE NOT job_results.atomic OR job_results.requeued_at IS NOT NULL

-- name: finished
-- Those of these jobs that have an outcome, with the columns that a run's report counts: of each id the job that was
-- enqueued last. Uses the index as `lookup` does.
-- $1 job_id text[]
SELECT found.job_id, found.function, found.status, found.reason, found.queue_us
FROM (SELECT DISTINCT unnest($1::text[]) AS job_id) AS asked
CROSS JOIN LATERAL (
    SELECT * FROM {schema}.job_results WHERE job_id = asked.job_id ORDER BY key_ms DESC LIMIT 1
) AS found
WHERE found.requeued_at IS NULL

-- name: last_id
-- The last id, in order, of the jobs of a function whose ids begin with a text.
-- $1 prefix text, $2 function text
SELECT job_id FROM {schema}.job_results WHERE job_id ^@ $1 AND function = $2 ORDER BY job_id COLLATE "C" DESC LIMIT 1

-- name: states
-- Where jobs stand: the rows of the function job_states.
-- $1 job_id text[]
SELECT job_id, state, since, attempts, reason, error FROM {schema}.job_states($1::text[])

-- name: newest
-- The newest rows first. A null parameter means no condition.
-- $1 job_id text[], $2 status text, $3 function text, $4 since timestamptz, $5 limit bigint
SELECT * FROM {schema}.job_results
WHERE ($1::text[] IS NULL OR job_id = ANY ($1)) AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR function = $3) AND ($4::timestamptz IS NULL OR finished_at >= $4)
ORDER BY finished_at DESC, job_id
LIMIT $5

-- name: slowest
-- The rows with the longest total time; run_us is how long a plain function ran, and 0 for a job of a declared type. A
-- null parameter means no condition. This has no index, because each job would
-- pay for it: a million rows take 0.4 s, and with $4 the index on finished_at leaves few rows.
-- $1 job_id text[], $2 status text, $3 function text, $4 since timestamptz, $5 limit bigint
SELECT *, CASE WHEN atomic THEN 0 ELSE (extract(epoch FROM finished_at - started_at) * 1e6)::bigint END AS run_us
FROM {schema}.job_results
WHERE ($1::text[] IS NULL OR job_id = ANY ($1)) AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR function = $3) AND ($4::timestamptz IS NULL OR finished_at >= $4)
ORDER BY queue_us + batch_us + pool_wait_us + db_us
         + CASE WHEN atomic THEN 0 ELSE (extract(epoch FROM finished_at - started_at) * 1e6)::bigint END DESC, job_id
LIMIT $5

-- name: edge
-- The time at which the $2-th row before $1 finished. No row if there are fewer rows.
-- $1 before timestamptz, $2 most bigint
SELECT finished_at FROM {schema}.job_results
WHERE $1::timestamptz IS NULL OR finished_at <= $1
ORDER BY finished_at DESC
LIMIT 1 OFFSET $2

-- name: edge_of_not_applied
-- The same for rejected and failed jobs only.
-- $1 before timestamptz, $2 most bigint
SELECT finished_at FROM {schema}.job_results
WHERE status <> 'applied' AND ($1::timestamptz IS NULL OR finished_at <= $1)
ORDER BY finished_at DESC
LIMIT 1 OFFSET $2

-- name: page
-- Rows before a key, the newest first. A null parameter means no condition. With a text $7, only the rows of rejected and
-- failed jobs whose reason or error contains it, ignoring case, and of the last thousand jobs whose id begins with it,
-- found by the primary key. The rows have no arguments, which may have a megabyte each, and no long results; long errors
-- are cut.
-- $1 status text, $2 function text, $3 since timestamptz, $4 before finished_at timestamptz, $5 before job_id text,
-- $6 limit bigint, $7 text text
SELECT job_id, function, status, CASE WHEN octet_length(result::text) <= 4096 THEN result END AS result, reason,
       left(error, 2000) AS error, attempts, worker_id, enqueued_at, started_at, finished_at, queue_us,
       batch_us, pool_wait_us, db_us, write_us, requeued_at, atomic, status <> 'applied' AND args IS NOT NULL AS requeueable
FROM (
    (
        SELECT * FROM {schema}.job_results
        WHERE $7::text IS NULL
          AND ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR function = $2)
          AND ($3::timestamptz IS NULL OR finished_at >= $3)
          AND ($4::timestamptz IS NULL OR (finished_at, job_id) < ($4, $5::text))
        ORDER BY finished_at DESC, job_id DESC
        LIMIT $6
    ) UNION ALL (
        SELECT * FROM {schema}.job_results
        WHERE $7::text IS NOT NULL
          AND status <> 'applied' AND strpos(lower(concat_ws(' ', reason, error)), lower($7)) > 0
          AND ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR function = $2)
          AND ($3::timestamptz IS NULL OR finished_at >= $3)
          AND ($4::timestamptz IS NULL OR (finished_at, job_id) < ($4, $5::text))
        ORDER BY finished_at DESC, job_id DESC
        LIMIT $6
    ) UNION ALL (
        SELECT * FROM (
            SELECT * FROM {schema}.job_results
            WHERE $7::text IS NOT NULL AND job_id ^@ $7 ORDER BY job_id DESC, key_ms DESC LIMIT 1000
        ) AS named
        WHERE NOT (status <> 'applied' AND strpos(lower(concat_ws(' ', reason, error)), lower($7)) > 0) -- found above
          AND ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR function = $2)
          AND ($3::timestamptz IS NULL OR finished_at >= $3)
          AND ($4::timestamptz IS NULL OR (finished_at, job_id) < ($4, $5::text))
        ORDER BY finished_at DESC, job_id DESC
        LIMIT $6
    )
) AS page
ORDER BY finished_at DESC, job_id DESC
LIMIT $6

-- name: outcomes
-- How many jobs ended since a time, by function and outcome.
-- $1 since timestamptz
SELECT function, count(*) FILTER (WHERE status = 'applied') AS applied,
       count(*) FILTER (WHERE status = 'rejected') AS rejected, count(*) FILTER (WHERE status = 'failed') AS failed
FROM {schema}.job_results
WHERE finished_at >= $1
GROUP BY function
ORDER BY function

-- name: has_any
-- Whether the ledger has any row.
-- No parameters.
SELECT EXISTS (SELECT FROM {schema}.job_results)

-- name: latency
-- The figures of the view job_latency for selected jobs. Those of plain functions have the parts queue and run instead.
-- A null parameter means no condition.
-- $1 job_id text[], $2 status text, $3 function text, $4 since timestamptz
SELECT function, part, count(*) AS jobs,
       percentile_cont(0.50) WITHIN GROUP (ORDER BY us) / 1000 AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY us) / 1000 AS p95_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY us) / 1000 AS p99_ms,
       max(us) / 1000.0 AS max_ms
FROM {schema}.job_results,
     LATERAL (VALUES (1, 'queue', queue_us, true, true), (2, 'batch', batch_us, true, false),
                     (3, 'pool', pool_wait_us, true, false), (4, 'database', db_us, true, false),
                     (5, 'run', (extract(epoch FROM finished_at - started_at) * 1e6)::bigint, false, true))
         AS parts (place, part, us, of_typed, of_plain)
WHERE CASE WHEN atomic THEN of_typed ELSE of_plain END
  AND ($1::text[] IS NULL OR job_id = ANY ($1)) AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR function = $3) AND ($4::timestamptz IS NULL OR finished_at >= $4)
GROUP BY function, part, place
ORDER BY function, place

-- name: mark_requeued
-- Mark jobs as requeued that had no effect and whose arguments are kept; other rows stay as they are, and so do all but
-- the newest of an id, because the queue has one job of an id at a time. Rows that an interrupted requeue has marked are
-- returned again. A null parameter means no condition.
-- $1 job_id text[], $2 status text, $3 function text, $4 since timestamptz, $5 search text, $6 after_id text,
-- $7 limit bigint
UPDATE {schema}.job_results
SET requeued_at = clock_timestamp()
WHERE (job_id, key_ms) IN (
    SELECT job_id, key_ms FROM {schema}.job_results AS kept
    WHERE status <> 'applied' AND args IS NOT NULL
      AND NOT EXISTS (SELECT FROM {schema}.job_results WHERE job_id = kept.job_id AND key_ms > kept.key_ms)
      AND ($1::text[] IS NULL OR job_id = ANY ($1)) AND ($2::text IS NULL OR status = $2)
      AND ($3::text IS NULL OR function = $3) AND ($4::timestamptz IS NULL OR finished_at >= $4)
      AND ($5::text IS NULL OR job_id ^@ $5 OR strpos(lower(concat_ws(' ', reason, error)), lower($5)) > 0)
      AND job_id COLLATE "C" > $6
    ORDER BY job_id COLLATE "C"
    LIMIT $7
    FOR UPDATE
)
RETURNING job_id, function, args, key_ms

-- name: count_plain
-- How many rejected and failed rows of plain functions `mark_requeued` leaves out. A null parameter means no condition.
-- $1 job_id text[], $2 status text, $3 function text, $4 since timestamptz, $5 search text
SELECT count(*) FROM {schema}.job_results
WHERE status <> 'applied' AND NOT atomic
  AND ($1::text[] IS NULL OR job_id = ANY ($1)) AND ($2::text IS NULL OR status = $2)
  AND ($3::text IS NULL OR function = $3) AND ($4::timestamptz IS NULL OR finished_at >= $4)
  AND ($5::text IS NULL OR job_id ^@ $5 OR strpos(lower(concat_ws(' ', reason, error)), lower($5)) > 0)

-- name: prune
-- Delete up to $2 rows that finished before $1. Returns how many were deleted.
-- $1 before timestamptz, $2 limit bigint
WITH gone AS (
    DELETE FROM {schema}.job_results
    WHERE (job_id, key_ms) IN (SELECT job_id, key_ms FROM {schema}.job_results WHERE finished_at < $1
                               ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) FROM gone
