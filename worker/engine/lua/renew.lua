-- Renew an owner's lease, and with it every job that it holds.
--
-- KEYS[1]  the queue  KEYS[2]  owners  KEYS[3]  held by this owner
-- ARGV[1]  owner      ARGV[2]  lease, ms
-- Reply    1: renewed, also where the lease had ended but nobody took the jobs; 0: the lease is lost
local owner, lease_ms = ARGV[1], tonumber(ARGV[2])
if not redis.call('ZSCORE', KEYS[2], owner) then
    return 0
end
local time = redis.call('TIME')
local lease_end = time[1] * 1000 + math.ceil(time[2] / 1000) + lease_ms
redis.call('ZADD', KEYS[2], lease_end, owner)
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
    local key = 'arq:in-progress:' .. id
    local holder = redis.call('GET', key)
    if not holder or holder == owner then
        redis.call('SET', key, owner, 'PX', lease_ms)
        redis.call('ZADD', KEYS[1], 'XX', lease_end, id)
    else
        redis.call('ZREM', KEYS[3], id) -- a stock worker has it: not ours to finish any more
    end
end
return 1
