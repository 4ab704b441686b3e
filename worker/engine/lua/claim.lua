-- Take jobs that are due under this owner's lease, and mark them; first put back those of an owner whose lease has lapsed.
--
-- KEYS[1]  the queue: zset of job ids; score: due time, of a claimed job the end of its mark (Unix ms)
-- KEYS[2]  owners: zset of owners that hold jobs; score: end of the owner's lease
-- KEYS[3]  held: zset of the jobs that this owner holds; score: their due time before the claim
-- KEYS[4]  lapses: hash of job ids to the number of owners that were lost while they held it
-- KEYS[5]  suspects: zset of jobs that two owners were lost with; they are handed out one at a time
-- KEYS[6]  aborts: arq's zset of jobs that somebody asked to abort
-- ARGV[1]  owner     ARGV[2]  lease, ms     ARGV[3]  how many jobs at the most (250 or fewer)
-- ARGV[4]  1: one of them may be a suspect  ARGV[5]  the prefix of every owner's held key
-- ARGV[6]  the most bytes of a payload: a larger one is handed out cut after one byte more, which tells it apart
-- Reply    {ids, due times, payloads, failed tries, lapses, abort marks, how many jobs were put back}
--          nil for a job without one; no lapses or marks at all where there is none of them
local owner, lease_ms, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
-- Rounded up: arq rounds the times it writes, and a job that was enqueued this very millisecond is due.
local now = time[1] * 1000 + math.ceil(time[2] / 1000)
-- A job's marks outlive the lease: only those held for long are renewed, and what ends first is the lease.
local mark_ms = 2 * lease_ms
local A_DAY_MS = 86400000

local function put_back(lost)
    local held = ARGV[5] .. lost
    local jobs = redis.call('ZRANGE', held, 0, 249, 'WITHSCORES')
    for i = 1, #jobs, 2 do
        local id, due, key = jobs[i], jobs[i + 1], 'arq:in-progress:' .. jobs[i]
        local holder = redis.call('GET', key)
        if (not holder or holder == lost) and redis.call('ZSCORE', KEYS[1], id) then
            redis.call('DEL', key)
            if redis.call('HINCRBY', KEYS[4], id, 1) < 2 then
                redis.call('ZADD', KEYS[1], due, id)
            else
                redis.call('ZADD', KEYS[5], due, id)
                redis.call('ZADD', KEYS[1], now + A_DAY_MS, id)
            end
        end
    end
    redis.call('ZREMRANGEBYRANK', held, 0, 249)
    if redis.call('EXISTS', held) == 0 then
        redis.call('ZREM', KEYS[2], lost)
    end
    return #jobs / 2
end

local returned = 0
for _, lost in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 2)) do
    if lost ~= owner then
        returned = returned + put_back(lost)
    end
end

local ids, dues, raised, kept = {}, {}, {}, {}
local function take(id, due)
    -- The key is arq's own mark: a stock worker beside us respects it, and NX respects a stock worker's.
    if not redis.call('SET', 'arq:in-progress:' .. id, owner, 'PX', mark_ms, 'NX') then
        return false
    end
    ids[#ids + 1], dues[#dues + 1] = id, due
    raised[#raised + 1], raised[#raised + 2] = now + mark_ms, id
    kept[#kept + 1], kept[#kept + 2] = due, id
    return true
end

if ARGV[4] == '1' then
    local suspect = redis.call('ZPOPMIN', KEYS[5])
    if #suspect > 0 and redis.call('ZSCORE', KEYS[1], suspect[1]) then
        take(suspect[1], suspect[2])
    end
end

local skipped, done, page = 0, 0, nil
for _ = 1, 20 do -- jobs that stock workers run stay at the head: page past them, but not for ever
    page = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', skipped, limit - #ids)
    for i = 1, #page, 2 do
        if not take(page[i], page[i + 1]) then
            skipped = skipped + 1
        end
    end
    if #raised > done then
        redis.call('ZADD', KEYS[1], unpack(raised, done + 1)) -- out of the scan
        done = #raised
    end
    if #page == 0 or #ids >= limit then
        break
    end
end
if #ids == 0 then
    return { {}, {}, {}, {}, {}, {}, returned }
end

redis.call('ZADD', KEYS[3], unpack(kept))
redis.call('ZADD', KEYS[2], now + lease_ms, owner)
local jobs, tries = {}, {}
for i, id in ipairs(ids) do
    jobs[i], tries[i] = 'arq:job:' .. id, 'arq:retry:' .. id
end
local lapses = redis.call('EXISTS', KEYS[4]) == 1 and redis.call('HMGET', KEYS[4], unpack(ids)) or {}
local aborts = redis.call('EXISTS', KEYS[6]) == 1 and redis.call('ZMSCORE', KEYS[6], unpack(ids)) or {}
local payloads, most = redis.call('MGET', unpack(jobs)), tonumber(ARGV[6])
for i, payload in ipairs(payloads) do
    if payload and #payload > most then
        payloads[i] = string.sub(payload, 1, most + 1)
    end
end
return { ids, dues, payloads, redis.call('MGET', unpack(tries)), lapses, aborts, returned }
