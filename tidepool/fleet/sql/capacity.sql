-- name: read
-- One row per application name, with the number of its sessions, and the server's limits (the same in each row).
-- A name counts only of a role that may write the ledger: any other could call itself a worker. Limits count the role
-- that has logged in, whichever role it has been SET to then.
-- No parameters. PostgreSQL hides the backend type of other roles' sessions from an ordinary role, so each session that
-- has a role and a database counts.
SELECT current_setting('max_connections')::integer AS max_connections,
       current_setting('superuser_reserved_connections')::integer AS superuser_reserved_connections,
       coalesce(current_setting('reserved_connections', true)::integer, 0) AS reserved_connections,  -- since 16
       r.rolconnlimit AS role_limit,
       d.datconnlimit AS database_limit,
       CASE WHEN a.usesysid = r.oid OR has_table_privilege(a.usesysid, l.oid, 'INSERT')
            THEN coalesce(a.application_name, '') ELSE '' END AS application_name,
       coalesce(a.usesysid = r.oid, false) AS same_role,
       coalesce(a.datid = d.oid, false) AS same_database,
       count(*) AS count
FROM pg_stat_activity AS a
LEFT JOIN pg_class AS l ON l.relname = 'job_results' AND l.relnamespace = to_regnamespace('{schema}'), -- the ledger
     pg_roles AS r, pg_database AS d
WHERE r.rolname = session_user AND d.datname = current_database()
  AND (a.backend_type = 'client backend' OR a.backend_type IS NULL AND a.usesysid IS NOT NULL AND a.datid IS NOT NULL)
GROUP BY r.rolconnlimit, d.datconnlimit, 6, 7, 8
