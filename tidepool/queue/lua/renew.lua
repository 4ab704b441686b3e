-- Renew an owner's lease, and the marks of the jobs that it has held for long.
--
-- KEYS[1]  the queue  KEYS[2]  owners  KEYS[3]  held by this owner
-- ARGV[1]  owner      ARGV[2]  lease, ms
-- ARGV[3]  the rank in held to begin at     ARGV[4]  max jobs to look at: anybody may have added millions
-- Reply    {1: renewed, also where the lease had ended but nobody took the jobs; 0: the lease is lost,
--           the rank to begin at next time}
-- A key of a wrong type is left alone: the claim deletes it. Owners of a wrong type: the lease is lost.
local owner, lease_ms = ARGV[1], tonumber(ARGV[2])
if not typed('ZSCORE', KEYS[2], owner) then
    return { 0, 0 }
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.ceil(time[2] / 1000)
redis.call('ZADD', KEYS[2], now + lease_ms, owner)

local function renew_marks(id)
    local key = 'arq:in-progress:' .. id
    local holder = typed('GETRANGE', key, 0, #owner) or '' -- whole values may be huge; of another type: no worker's
    if holder == '' or holder == owner then
        redis.call('SET', key, owner, 'PX', 2 * lease_ms)
        typed('ZADD', KEYS[1], 'XX', now + 2 * lease_ms, id)
    else
        redis.call('ZREM', KEYS[3], id) -- a stock worker has it: not ours to finish any more
    end
end

local first_rank, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local held = typed('ZRANGE', KEYS[3], first_rank, first_rank + most - 1) or {}
for first = 1, #held, 1000 do
    local last = math.min(first + 999, #held)
    local ends = typed('ZMSCORE', KEYS[1], unpack(held, first, last)) or {}
    for i = first, last do
        local mark_end = ends[i - first + 1]
        if not mark_end or tonumber(mark_end) < now + 1.5 * lease_ms then
            renew_marks(held[i])
        end
    end
end
return { 1, #held < most and 0 or first_rank + most }
