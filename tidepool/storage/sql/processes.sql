-- name: write
-- Store the start of a process, matched to the columns by name. A row that exists stays as it is.
-- $1 process jsonb, an object
INSERT INTO {schema}.pool_processes
SELECT * FROM jsonb_populate_record(null::{schema}.pool_processes, $1::jsonb)
ON CONFLICT (instance_id) DO NOTHING

-- name: end
-- Set when and why a process ended.
-- $1 instance_id uuid, $2 reason text
UPDATE {schema}.pool_processes SET ended_at = clock_timestamp(), end_reason = $2 WHERE instance_id = $1::uuid

-- name: prune
-- Delete up to $2 processes that started before $1 and have no snapshots left. Returns how many were deleted.
-- $1 before timestamptz, $2 limit bigint
WITH gone AS (
    DELETE FROM {schema}.pool_processes
    WHERE instance_id IN (
        SELECT instance_id FROM {schema}.pool_processes AS p
        WHERE started_at < $1
          AND NOT EXISTS (SELECT FROM {schema}.pool_snapshots AS s WHERE s.instance_id = p.instance_id)
        LIMIT $2
        FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) FROM gone
