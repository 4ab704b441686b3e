-- Record which functions a live worker of a queue has, and how it decodes jobs.
--
-- KEYS[1]  functions: zset of names; score: until when a worker that has the function counts as alive (Unix ms)
-- KEYS[2]  deserializers: the same, of functions that decode jobs
-- ARGV[1]  how long the announcement counts, ms
-- ARGV[2]  the deserializer        ARGV[3…]  the functions
-- Reply    nothing
-- Both keys expire when their newest announcement does. A key of a wrong type is deleted.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function announce(key, name)
    redis.call('ZADD', key, now + ARGV[1], name)
end
for _, key in ipairs({ KEYS[1], KEYS[2] }) do
    if not typed('ZREMRANGEBYSCORE', key, '-inf', now) then
        redis.call('DEL', key)
    end
end
announce(KEYS[2], ARGV[2])
for i = 3, #ARGV do
    announce(KEYS[1], ARGV[i])
end
for _, key in ipairs({ KEYS[1], KEYS[2] }) do
    redis.call('PEXPIRE', key, ARGV[1])
end
return false
