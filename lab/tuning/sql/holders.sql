-- name: hold
-- Keep the connection for so long, which costs the server next to nothing.
-- $1 seconds double precision
SELECT pg_sleep($1)
