-- name: want
-- Record for how many days a running process wants rows of each kind to be kept.
-- $1 kind text[], $2 days double precision[]
INSERT INTO {schema}.retention (kind, days, wanted_at)
SELECT kind, days, now() FROM unnest($1::text[], $2::double precision[]) AS wish (kind, days)
ON CONFLICT (kind, days) DO UPDATE SET wanted_at = excluded.wanted_at

-- name: longest
-- The longest retention of each kind that any process wanted in the last seven days, so that a process that is stopped
-- for a while still counts.
-- Kinds of a newer version are not returned. NaN and infinity, which are greater than every number, count as a century.
-- $1 kind text[]
SELECT kind, least(max(days), 36500) AS days
FROM {schema}.retention
WHERE kind = ANY ($1::text[]) AND wanted_at > now() - interval '7 days'
GROUP BY kind
