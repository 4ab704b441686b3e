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

-- Renew a job's marks; return whether it is held still.
local function renew_marks(id)
    local key = IN_PROGRESS .. id
    local holder = typed('GETRANGE', key, 0, #owner) or '' -- whole values may be huge; of another type: no worker's
    if holder == '' or holder == owner then
        redis.call('SET', key, owner, 'PX', 2 * lease_ms)
        typed('ZADD', KEYS[1], 'XX', now + 2 * lease_ms, id)
        return true
    end
    redis.call('ZREM', KEYS[3], id) -- a stock worker has it: not ours to finish any more
    return false
end

local rank, left, size = tonumber(ARGV[3]), tonumber(ARGV[4]), 64
while left > 0 do
    local wanted = math.min(size, left)
    local held = typed('ZRANGE', KEYS[3], rank, rank + wanted - 1) or {}
    local ends = #held > 0 and typed('ZMSCORE', KEYS[1], unpack(held)) or {}
    for i, id in ipairs(held) do
        local mark_end, is_held = ends[i], true
        if not mark_end or tonumber(mark_end) < now + 1.5 * lease_ms then
            is_held = renew_marks(id)
        end
        rank = rank + (is_held and 1 or 0)
    end
    if #held < wanted then
        return { 1, 0 }
    end
    left, size = left - #held, math.min(1000, next_size(size, held))
end
return { 1, rank }
