-- name: add
-- Enqueue jobs in the transaction of the caller. Its COMMIT wakes the relay. The parameters are cast from text because
-- an application may have set a codec of its own for JSON on its connections.
-- $1 rows: job_id, function, payload base64, enqueued_ms, due_ms or null, identity or null
-- $2 queue_name text
WITH added AS (
    INSERT INTO {schema}.job_outbox (queue_name, job_id, function, payload, enqueued_ms, due_ms, identity)
    SELECT CAST($2 AS text), r ->> 0, r ->> 1, decode(r ->> 2, 'base64'),
           CAST(r ->> 3 AS bigint), CAST(r ->> 4 AS bigint), CAST(r ->> 5 AS boolean)
    FROM jsonb_array_elements(CAST(CAST($1 AS text) AS jsonb)) WITH ORDINALITY AS g (r, number)
    ORDER BY number
)
SELECT pg_notify('tidepool_outbox', '{schema} ' || CAST($2 AS text))

-- name: fresh
-- The first rows that were never copied to Redis: so many that their payloads without that of the last one have fewer
-- bytes than $3.
-- $1 queue_name text, $2 limit bigint, $3 bytes bigint
SELECT id, job_id, function, payload, due_ms
FROM (
    SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS bytes_before
    FROM (
        SELECT id, job_id, function, payload, due_ms FROM {schema}.job_outbox
        WHERE queue_name = $1 AND relayed_at IS NULL ORDER BY id LIMIT $2
    ) AS first
) AS sized
WHERE bytes_before < $3
ORDER BY id

-- name: unsettled
-- Those of these rows whose jobs have no outcome: limited in bytes as in `fresh`.
-- $1 queue_name text, $2 id bigint[], $3 bytes bigint, $4 functions whose jobs' ids are their identity text[]
SELECT id, job_id, function, payload, due_ms
FROM (
    SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS bytes_before
    FROM {schema}.job_outbox AS o
    WHERE queue_name = $1 AND id = ANY ($2::bigint[])
      AND (SELECT count(*) FROM {schema}.job_results AS r
           WHERE r.job_id = o.job_id AND (r.key_ms = o.enqueued_ms OR r.key_ms = -1 AND (
               coalesce(o.identity, o.function = ANY ($4::text[]))
               OR r.enqueued_at = timestamptz 'epoch' + o.enqueued_ms * interval '1 ms')) AND r.requeued_at IS NULL) = 0
) AS sized
WHERE bytes_before < $3
ORDER BY id

-- name: mark
-- Record that these rows were copied to Redis.
-- $1 queue_name text, $2 id bigint[]
UPDATE {schema}.job_outbox SET relayed_at = clock_timestamp() WHERE queue_name = $1 AND id = ANY ($2::bigint[])

-- name: drop
-- Delete these rows.
-- $1 queue_name text, $2 id bigint[]
DELETE FROM {schema}.job_outbox WHERE queue_name = $1 AND id = ANY ($2::bigint[])

-- name: sweep
-- Look at the next rows after one, and delete those whose jobs have an outcome. Of each row: whether it is deleted, and
-- for how many seconds it has been in Redis, null if it is not. The count, which is never turned into a join, makes the
-- query look each job up in the ledger's index: a plan made while the ledger was empty would read all of it.
-- $1 queue_name text, $2 after_id bigint, $3 limit bigint, $4 functions as in `unsettled` text[]
WITH page AS MATERIALIZED (
    SELECT o.id, o.job_id, o.function,
           extract(epoch FROM clock_timestamp() - o.relayed_at)::double precision AS relayed_s,
           (SELECT count(*) FROM {schema}.job_results AS r
            WHERE r.job_id = o.job_id AND (r.key_ms = o.enqueued_ms OR r.key_ms = -1 AND (
               coalesce(o.identity, o.function = ANY ($4::text[]))
               OR r.enqueued_at = timestamptz 'epoch' + o.enqueued_ms * interval '1 ms')) AND r.requeued_at IS NULL) > 0
               AS is_settled
    FROM {schema}.job_outbox AS o
    WHERE o.queue_name = $1 AND o.id > $2 ORDER BY o.id LIMIT $3
), gone AS (
    DELETE FROM {schema}.job_outbox
    WHERE queue_name = $1 AND id = ANY (ARRAY(SELECT id FROM page WHERE is_settled))
)
SELECT id, job_id, function, relayed_s, is_settled FROM page ORDER BY id
