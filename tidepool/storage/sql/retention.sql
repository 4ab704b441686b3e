-- name: want
-- Note that a process which runs now wants rows to be kept for so long.
-- $1 kind text[], $2 days double precision[]
INSERT INTO retention (kind, days, wanted_at)
SELECT kind, days, now() FROM unnest($1::text[], $2::double precision[]) AS wish (kind, days)
ON CONFLICT (kind, days) DO UPDATE SET wanted_at = excluded.wanted_at

-- name: longest
-- Of each of these kinds the longest wish of the last seven days, so that a process that is away for a while is heeded.
-- What a newer process keeps besides is not among them. NaN and infinity, which are greater than all, count as a century.
-- $1 kind text[]
SELECT kind, least(max(days), 36500) AS days
FROM retention
WHERE kind = ANY ($1::text[]) AND wanted_at > now() - interval '7 days'
GROUP BY kind
