-- name: read
-- What a process needs of its database: an encoding that holds any text, writing, and the tables.
-- No parameters. Needs no grant on the tables.
SELECT current_setting('server_encoding') AS encoding,
       pg_is_in_recovery() AS is_standby,
       current_setting('transaction_read_only') = 'on' AS is_read_only,
       to_regclass('schema_migrations') IS NOT NULL AS has_tables
