-- name: want
-- Note that a process which runs now wants rows to be kept for so long.
-- $1 kind text[], $2 days double precision[]
INSERT INTO retention (kind, days, wanted_at)
SELECT kind, days, now() FROM unnest($1::text[], $2::double precision[]) AS wish (kind, days)
ON CONFLICT (kind, days) DO UPDATE SET wanted_at = excluded.wanted_at

-- name: longest
-- Of each kind the longest wish of the last seven days, so that a process that is away for a while is heeded.
-- No parameters.
SELECT kind, max(days) AS days FROM retention WHERE wanted_at > now() - interval '7 days' GROUP BY kind
