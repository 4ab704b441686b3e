-- name: read
-- What a process needs of its database: an encoding that holds any text, writing, and the tables.
-- No parameters. Needs no grant on the tables.
SELECT current_setting('server_encoding') AS encoding,
       pg_is_in_recovery() AS is_standby,
       current_setting('transaction_read_only') = 'on' AS is_read_only,
       EXISTS (SELECT FROM pg_class WHERE relname = 'tidepool_migrations'
                                      AND relnamespace = to_regnamespace('{schema}')) AS has_tables
