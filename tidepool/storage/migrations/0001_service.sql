-- The service's tables. Each constraint states what the code assumes; each index names the query it serves.
-- numeric has a NaN that is equal to itself and greater than every number, hence "price < 'NaN'".

CREATE TABLE users (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,      -- users.get_by_id, users.list_page
    username   varchar(50) NOT NULL CHECK (username <> ''),
    email      varchar(255) NOT NULL CHECK (email <> ''),
    full_name  varchar(255) NOT NULL CHECK (full_name <> ''),
    is_active  boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_username_key UNIQUE (username),                 -- users.get_by_username, orders.place
    CONSTRAINT users_email_key UNIQUE (email)                        -- users.get_by_email
);

CREATE TABLE products (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku         varchar(64) CHECK (sku <> ''),                       -- absent: a product without a key of its own
    name        varchar(255) NOT NULL CHECK (name <> ''),
    description text NOT NULL DEFAULT '',
    price       numeric(10, 2) NOT NULL CHECK (price >= 0 AND price < 'NaN'),
    category    varchar(100) NOT NULL CHECK (category <> ''),
    in_stock    boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT products_sku_key UNIQUE (sku)                         -- orders.place
);
CREATE INDEX products_category_idx ON products (category, id);      -- products.by_category

CREATE TABLE orders (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id      text CONSTRAINT orders_job_id_key UNIQUE,            -- a second guard, behind the ledger
    user_id     bigint NOT NULL CONSTRAINT orders_user_id_fkey REFERENCES users,
    product_id  bigint NOT NULL CONSTRAINT orders_product_id_fkey REFERENCES products,
    quantity    integer NOT NULL CHECK (quantity > 0),
    total_price numeric(20, 2) NOT NULL CHECK (total_price >= 0 AND total_price < 'NaN'),
    status      varchar(50) NOT NULL DEFAULT 'pending' CHECK (status <> ''),
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_user_id_idx ON orders (user_id, id);            -- orders.of_user

-- The ledger: one row for each job that has an outcome. It commits together with the job's effect, and
-- its key is what makes a redelivered job harmless.
CREATE TABLE job_results (
    job_id       text PRIMARY KEY,                                   -- results.lookup
    function     text NOT NULL,
    status       text NOT NULL CHECK (status IN (
                     'applied',                                      -- the effect is committed; result
                     'rejected',                                     -- a rule said no, or invalid content; reason
                     'failed')),                                     -- gave up after the tries; error
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
    args         jsonb,                                              -- what requeue enqueues; null once applied
    requeued_at  timestamptz,                                        -- set: no outcome any more, the job runs again
    CHECK ((status = 'applied') = (result IS NOT NULL)),
    CHECK ((status = 'rejected') = (reason IS NOT NULL)),
    CHECK (status <> 'applied' OR requeued_at IS NULL)
);
CREATE INDEX job_results_finished_at_idx ON job_results (finished_at);           -- results.newest, results.prune
CREATE INDEX job_results_not_applied_idx ON job_results (finished_at)            -- results.newest by status, requeue
    WHERE status <> 'applied';

-- One row for each worker process and tick. Gauges are one moment's reading and need not add up; *_max
-- are peaks since the last row; counters and sums are cumulative since the process started, so that a
-- window is a subtraction and a lost row loses nothing.
CREATE TABLE pool_snapshots (
    instance_id          uuid NOT NULL,                              -- one start of one process
    tick                 timestamptz NOT NULL,                       -- a multiple of the interval
    worker_id            text NOT NULL,
    host                 text NOT NULL,
    pid                  integer NOT NULL,
    started_at           timestamptz NOT NULL,
    captured_at          timestamptz NOT NULL,
    written_at           timestamptz NOT NULL,
    min_size             integer NOT NULL,
    max_size             integer NOT NULL,
    size                 integer NOT NULL,
    idle                 integer NOT NULL,
    in_use               integer NOT NULL,
    in_use_max           integer NOT NULL,
    waiting              integer NOT NULL,
    waiting_max          integer NOT NULL,
    acquire_requests     bigint NOT NULL,
    acquire_ok           bigint NOT NULL,
    acquire_timeouts     bigint NOT NULL,
    acquire_errors       bigint NOT NULL,
    wait_us_sum          bigint NOT NULL,
    wait_us_max          bigint NOT NULL,
    hold_us_sum          bigint NOT NULL,
    hold_us_max          bigint NOT NULL,
    connections_opened   bigint NOT NULL,
    connections_closed   bigint NOT NULL,
    queries              bigint NOT NULL,
    query_errors         bigint NOT NULL,
    query_us_sum         bigint NOT NULL,
    jobs_applied         bigint NOT NULL,
    jobs_rejected        bigint NOT NULL,
    jobs_failed          bigint NOT NULL,
    loop_lag_us_sum      bigint NOT NULL,
    loop_lag_us_max      bigint NOT NULL,
    loop_lag_count       bigint NOT NULL,
    PRIMARY KEY (instance_id, tick)
);
CREATE INDEX pool_snapshots_tick_idx ON pool_snapshots (tick);      -- snapshots.newest, snapshots.prune
