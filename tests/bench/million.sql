-- A service that has run for a day: a million outcomes, and the snapshots of ten processes every five seconds.
-- The database has its schema, and no rows.

INSERT INTO users (username, email, full_name)
SELECT 'user-' || n, 'user-' || n || '@example.org', 'User ' || n FROM generate_series(1, 100000) AS n;

INSERT INTO products (sku, name, price, category, in_stock)
SELECT 'sku-' || n, 'Product ' || n, n % 1000 + 0.5, 'category-' || n % 20, n % 50 <> 0
FROM generate_series(1, 50000) AS n;

INSERT INTO orders (job_id, user_id, product_id, quantity, total_price)
SELECT md5(n::text), n % 100000 + 1, n % 50000 + 1, 1, 12.50 FROM generate_series(1, 700000) AS n;

-- 70 in 100 are orders, one in 10,000 changes a product's stock; 3 in 100 were rejected, one in 1,000 has failed.
INSERT INTO job_results (job_id, function, status, result, reason, error, attempts, worker_id, enqueued_at, started_at,
                         finished_at, queue_us, pool_wait_us, db_us, args)
SELECT md5(n::text), function, status,
       CASE WHEN status = 'applied' THEN jsonb_build_object('order_id', n, 'total_price', '12.50') END,
       CASE WHEN status = 'rejected' THEN (ARRAY['out_of_stock', 'email_taken', 'unknown_user'])[n % 3 + 1] END,
       CASE status WHEN 'rejected' THEN 'a rule says no' WHEN 'failed' THEN 'RuntimeError: number ' || n END,
       1, 'host-' || n % 10 || '-abcd', at - interval '30 ms', at - interval '20 ms', at,
       n % 10000, n % 5000, n % 7000,
       CASE WHEN status <> 'applied' THEN jsonb_build_object('username', 'user-' || n, 'sku', 'sku-1', 'quantity', 1) END
FROM (
    SELECT n, now() - interval '1 day' + n * interval '86.4 ms' AS at,
           CASE WHEN n % 10000 = 7 THEN 'set_stock' WHEN n % 10 < 7 THEN 'place_order'
                WHEN n % 10 = 7 THEN 'create_product' ELSE 'create_user' END AS function,
           CASE WHEN n % 1000 = 5 THEN 'failed' WHEN n % 100 IN (11, 42, 73) THEN 'rejected' ELSE 'applied' END AS status
    FROM generate_series(1, 1000000) AS n
) AS jobs;

INSERT INTO pool_processes (instance_id, worker_id, host, pid, started_at, versions, config)
SELECT md5('process ' || p)::uuid, 'host-' || p || '-abcd', 'host', p, now() - interval '25 hours', '{}', '{}'
FROM generate_series(0, 9) AS p;

-- Up to ten minutes from now, so that they are fresh when somebody looks. Each tick has 500 uses of the pool, for 10 ms;
-- a tenth of them waited for less than 5 ms.
CREATE TEMP TABLE one AS
SELECT s.*
FROM generate_series(1::bigint, 17280) AS n,
     LATERAL (SELECT date_bin('5 s', now() - interval '1 day', 'epoch') + (n + 120) * interval '5 s' AS at,
                     array_fill(0::bigint, ARRAY[12]) AS none) AS t,
     LATERAL jsonb_populate_record(null::pool_snapshots, jsonb_build_object(
         'instance_id', md5('one'), 'worker_id', 'one', 'host', 'host', 'pid', 0,
         'tick', at, 'captured_at', at, 'written_at', at, 'started_at', now() - interval '25 hours')
         || jsonb_build_object(
         'min_size', 1, 'max_size', 4, 'pool_limit', 4, 'callers', 4, 'size', 4, 'idle', 2, 'in_use', 2,
         'in_use_max', 4, 'waiting', 0, 'waiting_max', 3, 'oldest_hold_us', 9000, 'overdue_holders', 0,
         'acquire_requests', 500 * n, 'acquire_ok', 500 * n, 'acquire_waited', 50 * n, 'acquire_timeouts', 0,
         'acquire_errors', 0, 'acquire_cancelled', 0, 'acquire_rejected', 0)
         || jsonb_build_object(
         'wait_us_sum', 200000 * n, 'wait_us_max', 5000, 'hold_us_sum', 5000000 * n, 'hold_us_max', 24000,
         'in_use_us', 5000000 * n, 'waiting_us', 200000 * n, 'saturated_us', 100000 * n, 'return_us_sum', 1000 * n,
         'holding_us', 18000, 'connect_us_sum', 9000, 'connect_us_max', 0, 'cpu_us', 2000000 * n,
         'rss_bytes', 90000000, 'queries', 1500 * n, 'query_errors', 0, 'query_us_sum', 4000000 * n)
         || jsonb_build_object(
         'connect_refused', 0, 'connect_starting', 0, 'connect_too_many', 0, 'connect_timeouts', 0,
         'connect_errors', 0, 'connections_opened', 4, 'connections_closed', 0, 'closed_idle', 0,
         'closed_used_up', 0, 'closed_lost_idle', 0, 'closed_lost_in_use', 0, 'closed_surplus', 0,
         'closed_shutdown', 0, 'database_restarts', 0)
         || jsonb_build_object(
         'jobs_applied', 96 * n, 'jobs_rejected', 3 * n, 'jobs_failed', n / 10, 'loop_lag_us_sum', 10000 * n,
         'loop_lag_us_max', 900, 'loop_lag_count', 50 * n, 'late', false,
         'wait_hist', ARRAY[450 * n, 0, 0, 0, 0, 50 * n] || none,
         'hold_hist', ARRAY[0, 0, 0, 0, 0, 250 * n, 0, 250 * n] || none[3:],
         'query_hist', ARRAY[0, 0, 0, 750 * n, 0, 750 * n] || none, 'loop_lag_hist', ARRAY[0, 0, 50 * n, 0, 0, 0] || none)
     ) AS s;

DO $$
BEGIN
    FOR p IN 0..9 LOOP
        UPDATE one SET instance_id = md5('process ' || p)::uuid, worker_id = 'host-' || p || '-abcd', pid = p;
        INSERT INTO pool_snapshots SELECT * FROM one;
    END LOOP;
END
$$;

INSERT INTO db_snapshots
SELECT s.*
FROM generate_series(1::bigint, 17280) AS n,
     LATERAL jsonb_populate_record(null::db_snapshots, jsonb_build_object(
         'tick', date_bin('5 s', now() - interval '1 day', 'epoch') + (n + 120) * interval '5 s', 'written_by', 'host-0-abcd',
         'server_version', 180004, 'server_started_at', now() - interval '26 hours', 'in_recovery', false,
         'max_connections', 100, 'reserved_connections', 3, 'backends', 52, 'backends_of_workers', 50,
         'backends_orphaned', 0, 'active', 20, 'idle', 32, 'idle_in_transaction', 1, 'waiting_lock', 0,
         'waiting_io', 0, 'oldest_transaction_us', 9000, 'oldest_idle_in_transaction_us', 500, 'commits', 5000 * n,
         'rollbacks', 0, 'deadlocks', 0, 'sessions_abandoned', 0, 'sessions_fatal', 0, 'sessions_killed', 0,
         'workers', 10, 'granted', 50, 'usable', 86)) AS s;

INSERT INTO pool_events (instance_id, at, kind, worker_id, detail)
SELECT md5('process ' || n % 10)::uuid, now() - n * interval '5 min', 'saturation_began', 'host-' || n % 10 || '-abcd',
       '{"share": 0.6, "limit": 4}'
FROM generate_series(1, 288) AS n;
