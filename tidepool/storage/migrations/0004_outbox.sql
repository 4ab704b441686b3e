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
    INSERT INTO {schema}.job_outbox (queue_name, job_id, function, payload, enqueued_ms, due_ms)
    VALUES (enqueue.queue, id, enqueue.function, payload, now_ms,
            ceil(extract(epoch FROM enqueue.due) * 1000));
    PERFORM pg_notify('tidepool_outbox', '{schema} ' || enqueue.queue);
    RETURN id;
END
$$;
