-- name: write
-- Store the present state of the server, once per tick: for a tick that has a row, this reads nothing.
-- $1 tick timestamptz, $2 written_by text, $3 capacity jsonb: the columns that the budget knows
WITH sessions AS (
    SELECT state, wait_event_type, xact_start, state_change, clock_timestamp() AS now
    FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
), activity AS (
    SELECT count(*) FILTER (WHERE state = 'active') AS active,
           count(*) FILTER (WHERE state = 'idle') AS idle,
           count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS idle_in_transaction,
           count(*) FILTER (WHERE state = 'active' AND wait_event_type = 'Lock') AS waiting_lock,
           count(*) FILTER (WHERE state = 'active' AND wait_event_type = 'IO') AS waiting_io,
           coalesce(max(now - xact_start), interval '0') AS oldest_transaction,
           coalesce(max(now - state_change) FILTER (WHERE state LIKE 'idle in transaction%'), interval '0')
               AS oldest_idle_in_transaction
    FROM sessions
)
INSERT INTO {schema}.db_snapshots (
    tick, written_by, server_version, server_started_at, in_recovery, max_connections, reserved_connections,
    role_limit, database_limit, backends, backends_of_workers, backends_orphaned, active, idle, idle_in_transaction,
    waiting_lock, waiting_io, oldest_transaction_us, oldest_idle_in_transaction_us, commits, rollbacks, deadlocks,
    sessions_abandoned, sessions_fatal, sessions_killed, workers, granted, usable)
SELECT $1, $2, current_setting('server_version_num')::integer, pg_postmaster_start_time(), pg_is_in_recovery(),
       c.max_connections, c.reserved_connections, c.role_limit, c.database_limit, c.backends, c.backends_of_workers,
       c.backends_orphaned, a.active, a.idle, a.idle_in_transaction, a.waiting_lock, a.waiting_io,
       1000000 * extract(epoch FROM a.oldest_transaction), 1000000 * extract(epoch FROM a.oldest_idle_in_transaction),
       d.xact_commit, d.xact_rollback, d.deadlocks, d.sessions_abandoned, d.sessions_fatal, d.sessions_killed,
       c.workers, c.granted, c.usable
FROM activity AS a, pg_stat_database AS d, jsonb_populate_record(null::{schema}.db_snapshots, $3::jsonb) AS c
WHERE d.datname = current_database() AND NOT EXISTS (SELECT FROM {schema}.db_snapshots WHERE tick = $1)
ON CONFLICT (tick) DO NOTHING

-- name: clock
-- The server's time.
SELECT clock_timestamp()

-- name: newest
-- The newest row of db_snapshots.
-- No parameters.
SELECT * FROM {schema}.db_snapshots ORDER BY tick DESC LIMIT 1

-- name: window
-- Rows since $1, the oldest first.
-- $1 since timestamptz
SELECT tick, max_connections, reserved_connections, role_limit, database_limit, backends, backends_of_workers,
       backends_orphaned, workers, granted, usable, active, waiting_lock
FROM {schema}.db_snapshots
WHERE tick >= $1
ORDER BY tick

-- name: thin
-- Keep the last row of each period and delete the others. Returns how many were deleted.
-- $1 since timestamptz, $2 before timestamptz, $3 period interval
WITH gone AS (
    DELETE FROM {schema}.db_snapshots AS s
    WHERE tick >= $1 AND tick < $2
      AND EXISTS (
          SELECT FROM {schema}.db_snapshots AS later
          WHERE later.tick > s.tick AND later.tick < date_bin($3::interval, s.tick, timestamptz 'epoch') + $3)
    RETURNING 1
)
SELECT count(*) FROM gone

-- name: prune
-- Delete up to $2 rows of ticks before $1. Returns how many were deleted.
-- $1 before timestamptz, $2 limit bigint
WITH gone AS (
    DELETE FROM {schema}.db_snapshots
    WHERE tick IN (SELECT tick FROM {schema}.db_snapshots WHERE tick < $1 ORDER BY tick LIMIT $2 FOR UPDATE SKIP LOCKED)
    RETURNING 1
)
SELECT count(*) FROM gone
