-- name: write
-- Store events, matched to the columns by name. An event that is stored already stays as it is.
-- $1 events jsonb, an array of objects
INSERT INTO {schema}.pool_events
SELECT * FROM jsonb_populate_recordset(null::{schema}.pool_events, $1::jsonb)
ON CONFLICT (instance_id, at, kind) DO NOTHING

-- name: newest
-- The newest events first. A null parameter means no condition.
-- $1 since timestamptz, $2 kind text, $3 limit bigint
SELECT * FROM {schema}.pool_events
WHERE at >= $1 AND ($2::text IS NULL OR kind = $2)
ORDER BY at DESC, instance_id
LIMIT $3

-- name: lock_advice
-- Lock the task "advice" until the end of the transaction. Returns a row unless another process has the lock.
SELECT true FROM {schema}.turns WHERE task = 'advice' FOR UPDATE SKIP LOCKED

-- name: prune
-- Delete up to $2 of the events before $1. Returns how many were deleted.
-- $1 before timestamptz, $2 limit bigint
WITH gone AS (
    DELETE FROM {schema}.pool_events
    WHERE (instance_id, at, kind) IN (
        SELECT instance_id, at, kind FROM {schema}.pool_events WHERE at < $1 ORDER BY at LIMIT $2
        FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) FROM gone
