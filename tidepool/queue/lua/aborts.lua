-- Return which jobs of this worker have an abort mark, and remove these marks.
--
-- KEYS[1]  aborts: arq's zset of jobs that somebody asked to abort; score: when, Unix ms
-- ARGV[1]  Unix ms: later marks are removed, as in arq, a thousand per call. Marks of other jobs are not read, because
--          there may be millions, with ids of megabytes
-- ARGV[2…] ids of jobs that run here (1,000 or fewer)
-- Reply    the numbers of those with a mark, counted from 1
-- Error    WRONGTYPE if the key is no sorted set
local MOST_REMOVED = 1000
local latest_ms, ids, marked = tonumber(ARGV[1]), { unpack(ARGV, 2) }, {}
for i, score in ipairs(redis.call('ZMSCORE', KEYS[1], unpack(ids))) do
    if score then
        marked[#marked + 1] = i
        redis.call('ZREM', KEYS[1], ids[i])
    end
end
local last = redis.call('ZRANGE', KEYS[1], -MOST_REMOVED, -MOST_REMOVED, 'WITHSCORES')
if #last > 0 and tonumber(last[2]) > latest_ms then
    redis.call('ZREMRANGEBYRANK', KEYS[1], -MOST_REMOVED, -1)
else
    redis.call('ZREMRANGEBYSCORE', KEYS[1], ARGV[1], '+inf')
end
return marked
