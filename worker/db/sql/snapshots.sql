-- name: write
-- Store samples, matched to the columns by name. One that is there already is left alone.
-- $1 samples jsonb, an array of objects
INSERT INTO pool_snapshots
SELECT * FROM jsonb_populate_recordset(null::pool_snapshots, $1::jsonb)
ON CONFLICT (instance_id, tick) DO NOTHING

-- name: newest
-- The newest rows first; a null leaves its condition out.
-- $1 worker_id text, $2 since timestamptz, $3 limit bigint
SELECT * FROM pool_snapshots
WHERE ($1::text IS NULL OR worker_id = $1) AND ($2::timestamptz IS NULL OR tick >= $2)
ORDER BY tick DESC, worker_id
LIMIT $3

-- name: pool_health
-- Each process's last minute, of those that wrote a row since then.
-- $1 since timestamptz
SELECT * FROM (
    SELECT DISTINCT ON (instance_id) * FROM pool_health WHERE minute >= date_trunc('minute', $1::timestamptz)
    ORDER BY instance_id, minute DESC
) AS newest
ORDER BY worker_id

-- name: fleet_health
-- The fleet's minutes, the newest first.
-- $1 since timestamptz
SELECT * FROM fleet_health WHERE minute >= date_trunc('minute', $1::timestamptz) ORDER BY minute DESC

-- name: window
-- Rows since then, of each process at the most one in each stretch of *every*, the last one.
-- $1 since timestamptz, $2 every interval
SELECT DISTINCT ON (instance_id, date_bin($2, tick, $1)) *
FROM pool_snapshots
WHERE tick >= $1
ORDER BY instance_id, date_bin($2, tick, $1), tick DESC

-- name: peak
-- The most connections that one process had in use at a time since then.
-- $1 since timestamptz
SELECT coalesce(max(in_use_max), 0) FROM pool_snapshots WHERE tick >= $1

-- name: prune
-- Delete one small batch of rows that are past their time. Answers how many.
-- $1 before timestamptz, $2 limit bigint
WITH gone AS (
    DELETE FROM pool_snapshots
    WHERE (instance_id, tick) IN (
        SELECT instance_id, tick FROM pool_snapshots WHERE tick < $1 ORDER BY tick LIMIT $2
        FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) FROM gone
