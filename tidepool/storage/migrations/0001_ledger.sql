-- The outcomes of jobs.

-- The ledger: one row for each job that has an outcome. It commits together with the job's effect, and
-- its key is what makes a redelivered job harmless: a redelivery repeats both the job's id and its enqueue time. If an id
-- is enqueued again, with a new time, that is a new job, as in arq, unless the id is the job's identity. Ids are in the
-- order of their bytes, whatever the database's locale: only so does the key find the ids that begin alike, and requeue
-- its next chunk. Comparing bytes is also less work for each row that is written.
CREATE TABLE {schema}.job_results (
    job_id       text COLLATE "C" NOT NULL,
    key_ms       bigint NOT NULL DEFAULT -1,                         -- when it was enqueued, Unix ms; -1 in the row of a
                                                                     -- job whose id is its identity: one row for the id
    function     text NOT NULL,
    status       text NOT NULL CHECK (status IN (
                     'applied',                                      -- the effect is committed; result
                     'rejected',                                     -- a rule said no, or invalid content; reason
                     'failed')),                                     -- gave up after its attempts; error
    result       jsonb,
    reason       text,
    error        text,
    attempts     integer NOT NULL CHECK (attempts > 0),
    worker_id    text NOT NULL,
    enqueued_at  timestamptz NOT NULL,
    started_at   timestamptz NOT NULL,
    finished_at  timestamptz NOT NULL,
    queue_us     bigint NOT NULL,                                    -- enqueued (or due) to taken by a worker
    pool_wait_us bigint NOT NULL,                                    -- taken to its batch having a connection
    db_us        bigint NOT NULL,                                    -- connection to the ledger's write, of the batch
    args         jsonb,                                              -- what requeue enqueues; null if applied
    requeued_at  timestamptz,                                        -- if set, there is no outcome: the job runs again
    batch_us     bigint NOT NULL DEFAULT 0,                          -- taken to its batch having left the batcher
    write_us     bigint NOT NULL DEFAULT 0,                          -- of db_us: the ledger's write and the COMMIT
    atomic       boolean NOT NULL DEFAULT true,                      -- committed with the job's effect; false: the row
                                                                     -- of a plain function, written after it had ended
    PRIMARY KEY (job_id, key_ms),                                    -- results.lookup, results.finished, results.page
    CHECK ((status = 'applied') = (result IS NOT NULL)),
    CHECK ((status = 'rejected') = (reason IS NOT NULL)),
    CHECK (status <> 'applied' OR requeued_at IS NULL)
);
CREATE INDEX job_results_finished_at_idx ON {schema}.job_results (finished_at);           -- results.newest, results.prune
CREATE INDEX job_results_not_applied_idx ON {schema}.job_results (finished_at)            -- results.newest by status, requeue
    WHERE status <> 'applied';

-- Where the time of jobs goes, by function: in the queue, in the batcher until their batch leaves, at the pool's gate
-- until it has a connection, and in the database.
CREATE VIEW {schema}.job_latency AS
SELECT function, part, count(*) AS jobs,
       percentile_cont(0.50) WITHIN GROUP (ORDER BY us) / 1000 AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY us) / 1000 AS p95_ms,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY us) / 1000 AS p99_ms,
       max(us) / 1000.0 AS max_ms
FROM {schema}.job_results,
     LATERAL (VALUES ('queue', queue_us), ('batch', batch_us), ('pool', pool_wait_us), ('database', db_us))
         AS parts (part, us)
GROUP BY function, part;
