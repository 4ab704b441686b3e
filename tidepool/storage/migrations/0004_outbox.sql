-- Jobs that are enqueued inside a transaction.
-- older processes: go on

-- The outbox: the jobs that were enqueued in a transaction and are not settled yet, which means that the ledger has no
-- outcome of them. A relay in the workers copies committed rows to Redis, and deletes those of settled jobs. So this
-- table fills an empty Redis again.
CREATE TABLE {schema}.job_outbox (
    queue_name   text NOT NULL,
    id           bigint GENERATED ALWAYS AS IDENTITY,
    job_id       text COLLATE "C" NOT NULL,
    function     text NOT NULL,
    payload      bytea NOT NULL,                                     -- the job as it is stored in Redis
    enqueued_ms  bigint NOT NULL,                                    -- the time in the payload, Unix ms: a part of the
                                                                     -- ledger's key, unless the id is the identity
    due_ms       bigint,                                             -- Unix ms; null: at once
    identity     boolean,                                            -- as in the payload; null: its type decides
    relayed_at   timestamptz,                                        -- when it was last copied to Redis
    PRIMARY KEY (queue_name, id)                                     -- outbox.sweep
);
CREATE INDEX job_outbox_fresh_idx ON {schema}.job_outbox (queue_name, id) WHERE relayed_at IS NULL;     -- outbox.fresh

-- Enqueue a job in this transaction: for plain SQL and triggers. args is an object with arguments by name, or an array
-- with arguments by position; due is when the job may run, null: at once; identity says whether the id is the job's
-- identity, null: its type decides. Returns the id, which is made up if none is given. The workers must read jobs as
-- JSON, as those of tidepool.App do.
CREATE FUNCTION {schema}.enqueue(
    function text, args jsonb DEFAULT '{}', job_id text DEFAULT NULL, queue text DEFAULT 'arq:queue',
    due timestamptz DEFAULT NULL, identity boolean DEFAULT NULL
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    id text := coalesce(enqueue.job_id, replace(gen_random_uuid()::text, '-', ''));
    now_ms bigint := floor(extract(epoch FROM clock_timestamp()) * 1000);
    is_named boolean := jsonb_typeof(enqueue.args) = 'object';
    payload bytea;
BEGIN
    IF coalesce(jsonb_typeof(enqueue.args), 'null') NOT IN ('object', 'array') THEN
        RAISE EXCEPTION 'args must be a JSON object or array' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF id !~ '^[A-Za-z0-9_:-]{1,200}$' THEN
        RAISE EXCEPTION 'a job id must have 1 to 200 letters, digits, underscores, colons and hyphens'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    payload := convert_to((jsonb_build_object(
        'f', enqueue.function,
        'a', CASE WHEN is_named THEN '[]' ELSE enqueue.args END,
        'k', CASE WHEN is_named THEN enqueue.args ELSE '{}' END,
        't', NULL,
        'et', now_ms
    ) || CASE WHEN enqueue.identity IS NULL THEN '{}' ELSE jsonb_build_object('identity', enqueue.identity) END
    )::text, 'UTF8');
    IF octet_length(payload) > 1048576 THEN
        RAISE EXCEPTION 'job % is larger than 1048576 bytes', id USING ERRCODE = 'program_limit_exceeded';
    END IF;
    INSERT INTO {schema}.job_outbox (queue_name, job_id, function, payload, enqueued_ms, due_ms, identity)
    VALUES (enqueue.queue, id, enqueue.function, payload, now_ms,
            ceil(extract(epoch FROM enqueue.due) * 1000), enqueue.identity);
    PERFORM pg_notify('tidepool_outbox', '{schema} ' || enqueue.queue);
    RETURN id;
END
$$;

-- Where jobs stand, as far as the database knows: state is 'applied', 'rejected' or 'failed' for a job with an outcome,
-- 'enqueued' for one in the outbox or one that was requeued, and 'unknown' for others. Redis alone knows whether an
-- enqueued job waits or runs, and knows of jobs that were not enqueued in a transaction. Of an id that was used several
-- times, this is the job that was enqueued last. The outbox, which has jobs without an outcome only, is read once.
CREATE FUNCTION {schema}.job_states(job_ids text[]) RETURNS TABLE (
    job_id text, state text, since timestamptz, attempts integer, reason text, error text
) LANGUAGE sql STABLE AS $$
    WITH waiting AS (
        SELECT o.job_id, max(o.enqueued_ms) AS enqueued_ms FROM {schema}.job_outbox AS o
        WHERE (o.job_id IN (SELECT unnest($1))) IS TRUE                  -- hashed, and never turned into a join
          AND (SELECT count(*) FROM {schema}.job_results AS r
               WHERE r.job_id = o.job_id AND (r.key_ms = o.enqueued_ms OR r.key_ms = -1 AND coalesce(o.identity, true)) AND r.requeued_at IS NULL) = 0
        GROUP BY o.job_id
    )
    SELECT asked.job_id,
           CASE WHEN w.job_id IS NULL AND r.requeued_at IS NULL THEN coalesce(r.status, 'unknown') ELSE 'enqueued' END,
           coalesce(timestamptz 'epoch' + w.enqueued_ms * interval '1 ms', r.requeued_at, r.finished_at),
           CASE WHEN w.job_id IS NULL AND r.requeued_at IS NULL THEN r.attempts END,
           CASE WHEN w.job_id IS NULL AND r.requeued_at IS NULL THEN r.reason END,
           CASE WHEN w.job_id IS NULL AND r.requeued_at IS NULL THEN r.error END
    FROM (SELECT DISTINCT unnest($1) AS job_id) AS asked
    LEFT JOIN waiting AS w ON w.job_id = asked.job_id
    LEFT JOIN LATERAL (
        SELECT * FROM {schema}.job_results WHERE job_results.job_id = asked.job_id ORDER BY key_ms DESC LIMIT 1
    ) AS r ON true
$$;
