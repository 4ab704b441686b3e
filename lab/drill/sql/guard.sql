-- name: is_new
-- Whether the service's tables are not there yet.
SELECT to_regclass('public.job_results') IS NULL

-- name: workers
-- Sessions of workers in this database.
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'tidepool:%'

-- name: tables
-- Tables that no migration has made.
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname NOT LIKE 'pg\_toast%' AND n.nspname NOT LIKE 'pg\_temp%'
  AND (n.nspname, c.relname) <> ('public', 'tidepool_migrations')
  AND ARRAY[n.nspname, c.relname]::text[] NOT IN (
      SELECT (parse_ident(made))[:2] FROM public.tidepool_migrations, unnest(columns) AS made)

-- name: strangers
-- Tables of the service that have rows of others than the drill.
SELECT 'users' WHERE EXISTS (SELECT FROM public.users WHERE email NOT LIKE '%@drill.example')
UNION ALL SELECT 'products' WHERE EXISTS (SELECT FROM public.products WHERE category <> 'drill')
UNION ALL SELECT 'orders' WHERE EXISTS (SELECT FROM public.orders WHERE job_id NOT LIKE 'drill-%')
UNION ALL SELECT 'job_results' WHERE EXISTS (SELECT FROM public.job_results WHERE job_id NOT LIKE 'drill-%')

-- name: empty
-- Remove what an earlier drill has left.
TRUNCATE public.users, public.products, public.orders, public.job_results
