-- name: create
-- Insert many users, except those whose username or email exists. Sorted by key, so that two batches take their
-- locks in the same order; of two equal users within the batch the first one is inserted.
-- Returns for each given row, in order, the new id or null.
-- $1 rows: username, email, full_name, is_active
WITH given AS (
    SELECT nextval('public.users_id_seq') AS id, position,
           r ->> 0 AS username, r ->> 1 AS email, r ->> 2 AS full_name, (r -> 3)::boolean AS is_active
    FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY AS g (r, position)
), created AS (
    INSERT INTO public.users (id, username, email, full_name, is_active)
    OVERRIDING SYSTEM VALUE
    SELECT id, username, email, full_name, is_active FROM given ORDER BY username, position
    ON CONFLICT DO NOTHING
    RETURNING id
)
SELECT created.id FROM given LEFT JOIN created USING (id) ORDER BY given.position

-- name: taken
-- The users that have one of these usernames or emails. It is a separate statement after the insert, so that it sees
-- what others have committed.
-- $1 username text[], $2 email text[]
SELECT found.username, found.email
FROM (SELECT DISTINCT unnest($1::text[]) AS username) AS asked
CROSS JOIN LATERAL (SELECT * FROM public.users WHERE username = asked.username OFFSET 0) AS found
UNION ALL
SELECT found.username, found.email
FROM (SELECT DISTINCT unnest($2::text[]) AS email) AS asked
CROSS JOIN LATERAL (SELECT * FROM public.users WHERE email = asked.email OFFSET 0) AS found

-- name: lock
-- Find users by id or username and lock them in the order of their ids, which prevents deadlocks between batches.
-- $1 id bigint[], $2 username text[]
WITH asked AS (
    SELECT users.id FROM unnest($1::bigint[]) AS given (id) JOIN public.users USING (id)
    UNION
    SELECT users.id FROM unnest($2::text[]) AS given (username) JOIN public.users USING (username)
)
SELECT users.id, users.username
FROM asked JOIN public.users USING (id)
ORDER BY users.id
FOR NO KEY UPDATE OF users

-- name: update
-- Set the given fields. Null means "not given", because none of these columns can be null. The ids must be distinct.
-- $1 rows: id, email, full_name, is_active
UPDATE public.users
SET email = coalesce(r ->> 1, users.email),
    full_name = coalesce(r ->> 2, users.full_name),
    is_active = coalesce((r ->> 3)::boolean, users.is_active),
    updated_at = now()
FROM jsonb_array_elements($1::jsonb) AS g (r)
WHERE users.id = (r ->> 0)::bigint

-- name: get_by_id
-- $1 id bigint
SELECT * FROM public.users WHERE id = $1

-- name: get_by_email
-- $1 email text
SELECT * FROM public.users WHERE email = $1

-- name: get_by_username
-- $1 username text
SELECT * FROM public.users WHERE username = $1

-- name: list_page
-- Users in the order of their ids, beginning after $1, which stays fast on page 10,000.
-- $1 after_id bigint, $2 offset bigint, $3 limit bigint
SELECT * FROM public.users WHERE id > $1 ORDER BY id OFFSET $2 LIMIT $3
