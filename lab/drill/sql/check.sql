-- name: expected
-- What the log says: what was enqueued, and what must become of it.
CREATE TEMP TABLE expected (
    job_id text PRIMARY KEY, function text, outcome text, reason text, total numeric, username text, sku text)

-- name: analyze
-- After a crash PostgreSQL has forgotten how large the tables are, and would join them row by row, for minutes.
ANALYZE expected, public.users, public.products, public.orders, public.job_results, public.pool_snapshots

-- name: lost
-- Enqueued, and has no outcome.
SELECT job_id FROM expected AS e WHERE NOT EXISTS (SELECT FROM public.job_results AS r WHERE r.job_id = e.job_id)

-- name: unknown
-- Has an outcome or an effect, and was never enqueued.
SELECT job_id FROM public.job_results AS r WHERE NOT EXISTS (SELECT FROM expected AS e WHERE e.job_id = r.job_id)
UNION
SELECT job_id FROM public.orders AS o WHERE NOT EXISTS (SELECT FROM expected AS e WHERE e.job_id = o.job_id)

-- name: doubled
-- More effects than applied jobs: an order of a job that is not applied, or two; a user or product of no applied job.
SELECT o.job_id FROM public.orders AS o LEFT JOIN public.job_results AS r USING (job_id)
GROUP BY o.job_id, r.status HAVING count(*) > 1 OR r.status IS DISTINCT FROM 'applied'
UNION ALL
SELECT 'user ' || u.username FROM public.users AS u
LEFT JOIN public.job_results AS r
    ON r.function = 'create_user' AND r.status = 'applied' AND (r.result ->> 'user_id')::bigint = u.id
GROUP BY u.username HAVING count(r.job_id) <> 1
UNION ALL
SELECT 'product ' || p.sku FROM public.products AS p
LEFT JOIN public.job_results AS r
    ON r.function = 'create_product' AND r.status = 'applied' AND (r.result ->> 'product_id')::bigint = p.id
GROUP BY p.sku HAVING count(r.job_id) <> 1

-- name: without_effect
-- Applied, and the effect is not there or is another one.
SELECT e.job_id FROM expected AS e JOIN public.job_results AS r USING (job_id)
LEFT JOIN public.orders AS o USING (job_id)
LEFT JOIN public.users AS u
    ON u.id = CASE e.function WHEN 'place_order' THEN o.user_id ELSE (r.result ->> 'user_id')::bigint END
LEFT JOIN public.products AS p
    ON p.id = CASE e.function WHEN 'place_order' THEN o.product_id ELSE (r.result ->> 'product_id')::bigint END
WHERE r.status = 'applied' AND (
    e.username IS DISTINCT FROM u.username OR e.sku IS DISTINCT FROM p.sku OR e.total IS DISTINCT FROM o.total_price)

-- name: wrong
-- Another outcome, or another reason, than it had to be; of jobs with one username not exactly one was applied.
SELECT e.job_id FROM expected AS e JOIN public.job_results AS r USING (job_id)
WHERE e.outcome <> 'one_of' AND (r.status <> e.outcome OR r.reason IS DISTINCT FROM e.reason)
UNION ALL
SELECT min(e.job_id) FROM expected AS e JOIN public.job_results AS r USING (job_id)
WHERE e.outcome = 'one_of'
GROUP BY e.username
HAVING count(*) FILTER (WHERE r.status = 'applied') <> 1
    OR bool_or(r.status <> 'applied' AND r.reason IS DISTINCT FROM 'username_taken')

-- name: left_in_transaction
-- Sessions that were left in a transaction.
SELECT pid::text FROM pg_stat_activity
WHERE datname = current_database() AND state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()

-- name: snapshot_gaps
-- A process that lived, and wrote nothing for longer than its longest fault explains.
-- $1 gap interval, $2 since timestamptz
SELECT worker_id || ' ' || tick
FROM (
    SELECT worker_id, tick, tick - lag(tick) OVER (PARTITION BY instance_id ORDER BY tick) AS gap
    FROM public.pool_snapshots
    WHERE tick >= $2
) AS s
WHERE gap > $1::interval
