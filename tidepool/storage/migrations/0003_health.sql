-- Who ran, how the database was, and what happened: the rows beside the snapshots that verdicts are made of.

ALTER TABLE pool_snapshots
    ADD COLUMN callers          integer,                             -- tasks that use the pool at a time, at the most
    ADD COLUMN overdue_holders  integer,                             -- have a connection for longer than a transaction may last
    ADD COLUMN holding_us       bigint,                              -- a gauge: for how long the present holders have theirs, together
    ADD COLUMN closed_surplus   bigint,                              -- to keep to a limit that was lowered
    ADD COLUMN loop_lag_hist    bigint[],
    ADD COLUMN late             boolean;                             -- written later than at its tick: PostgreSQL was away

-- One row for each start of a worker process.
CREATE TABLE pool_processes (
    instance_id  uuid PRIMARY KEY,
    worker_id    text NOT NULL,
    host         text NOT NULL,
    pid          integer NOT NULL,
    started_at   timestamptz NOT NULL,
    ended_at     timestamptz,                                        -- null: runs, or was killed
    end_reason   text,
    versions     jsonb NOT NULL,
    config       jsonb NOT NULL
);

-- One row for each tick of the database itself, by whichever process is first. Counters are the server's own.
CREATE TABLE db_snapshots (
    tick                         timestamptz PRIMARY KEY,
    written_by                   text NOT NULL,                      -- a worker_id
    server_version               integer NOT NULL,
    server_started_at            timestamptz NOT NULL,
    in_recovery                  boolean NOT NULL,
    max_connections              integer NOT NULL,
    reserved_connections         integer NOT NULL,                   -- for superusers, and by the setting of that name
    role_limit                   integer,                            -- null: none
    database_limit               integer,
    backends                     integer NOT NULL,                   -- of clients, in all databases
    backends_of_workers          integer NOT NULL,
    backends_orphaned            integer NOT NULL,                   -- of workers that do not live any more
    active                       integer NOT NULL,                   -- of this database, from here on
    idle                         integer NOT NULL,
    idle_in_transaction          integer NOT NULL,
    waiting_lock                 integer NOT NULL,
    waiting_io                   integer NOT NULL,
    oldest_transaction_us        bigint NOT NULL,
    oldest_idle_in_transaction_us bigint NOT NULL,
    commits                      bigint NOT NULL,
    rollbacks                    bigint NOT NULL,
    deadlocks                    bigint NOT NULL,
    sessions_abandoned           bigint NOT NULL,
    sessions_fatal               bigint NOT NULL,
    sessions_killed              bigint NOT NULL,
    workers                      integer NOT NULL,                   -- that live
    granted                      integer NOT NULL,                   -- connections that they may have together
    usable                       integer NOT NULL                    -- connections that there are for workers
);

-- What happened to a process, or what it saw happen; rare.
CREATE TABLE pool_events (
    instance_id  uuid NOT NULL,
    at           timestamptz NOT NULL,
    kind         text NOT NULL,                                      -- leak_suspected, database_restarted, …
    worker_id    text NOT NULL,
    detail       jsonb NOT NULL,
    PRIMARY KEY (instance_id, at, kind)
);
CREATE INDEX pool_events_at_idx ON pool_events (at);                -- events.newest, events.prune
