-- Take jobs that are due under this owner's lease, and mark them; first put back those of an owner whose lease has lapsed.
--
-- KEYS[1]  the queue: zset of job ids; score: due time, of a claimed job the end of its mark (Unix ms)
-- KEYS[2]  owners: zset of owners that hold jobs; score: end of the owner's lease
-- KEYS[3]  held: zset of the jobs that this owner holds; score: their due time before the claim
-- KEYS[4]  lapses: hash of job ids to the number of owners that were lost while they held it
-- KEYS[5]  suspects: zset of jobs that two owners were lost with; they are handed out one at a time
-- KEYS[6]  aborts: arq's zset of jobs that somebody asked to abort
-- ARGV[1]  owner     ARGV[2]  lease, ms     ARGV[3]  max jobs (250 or fewer)
-- ARGV[4]  1: one of them may be a suspect  ARGV[5]  the prefix of every owner's held key
-- ARGV[6]  max bytes of a payload: of a larger one only its length is returned
-- ARGV[7]  max bytes of ids and payloads together; the first job is taken however large it is
-- ARGV[8]  the rank in the queue to begin at
-- ARGV[9…] ids of jobs that this owner does not take
-- Reply    {ids, due times, payloads, failed tries, lapses, abort marks, how many jobs were put back, unusable keys,
--           the rank to begin at next time, 1: lost owners hold more jobs, and none was taken}
--          payload: nil where there is none or it is empty, an integer (its length) where it is larger than ARGV[6]
--          failed tries, lapses, marks: empty where no job has any
--          unusable: keys of a wrong type; KEYS[2] to KEYS[5] are deleted then, others are ignored
--          the rank: not 0 if so many jobs have a foreign mark that this call did not get past them
-- Error    WRONGTYPE with the queue's name, before anything is changed, if the queue is no sorted set
local owner, lease_ms, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local max_payload, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local time = redis.call('TIME')
-- Rounded up: arq rounds the times it writes, and a job that was enqueued this very millisecond is due.
local now = time[1] * 1000 + math.ceil(time[2] / 1000)
-- A job's marks outlive the lease: only those held for long are renewed, and what ends first is the lease.
local mark_ms = 2 * lease_ms
local A_DAY_MS = 86400000
local MAX_DIGITS = 6 -- of a count that is believed

if not typed('ZCARD', KEYS[1]) then
    return redis.error_reply('WRONGTYPE the queue ' .. KEYS[1] .. ' is not a sorted set')
end
local unusable = {}
local function delete_unusable(key, ...)
    if not typed(...) then
        redis.call('DEL', key)
        unusable[#unusable + 1] = key
    end
end
for _, key in ipairs({ KEYS[2], KEYS[3], KEYS[5] }) do
    delete_unusable(key, 'ZCARD', key)
end
delete_unusable(KEYS[4], 'HEXISTS', KEYS[4], '')
local abort_marks = typed('ZCARD', KEYS[6])
if not abort_marks then
    unusable[#unusable + 1], abort_marks = KEYS[6], 0
end

local function put_back_jobs(lost, jobs)
    local count = 0
    for i = 1, #jobs, 2 do
        local id, due, key = jobs[i], jobs[i + 1], IN_PROGRESS .. jobs[i]
        local holder = typed('GETRANGE', key, 0, #lost) or '' -- whole values may be huge; of another type: no worker's
        if (holder == '' or holder == lost) and redis.call('ZSCORE', KEYS[1], id) then
            redis.call('DEL', key)
            count = count + 1
            local lapsed = redis.pcall('HINCRBY', KEYS[4], id, 1)
            if type(lapsed) == 'table' then -- the count was no number
                redis.call('HSET', KEYS[4], id, 1)
                lapsed = 1
            end
            if lapsed < 2 then
                redis.call('ZADD', KEYS[1], due, id)
            else
                redis.call('ZADD', KEYS[5], due, id)
                redis.call('ZADD', KEYS[1], now + A_DAY_MS, id)
            end
        end
    end
    return count
end

-- Put back up to 250 jobs of an owner, and fewer if their ids are long: the next claim goes on.
-- Returns how many were put back, and how many were looked at: others have left the queue.
local function put_back(lost)
    local held, back, count, size = ARGV[5] .. lost, 0, 0, 1
    if not typed('ZCARD', held) then
        redis.call('ZREM', KEYS[2], lost)
        unusable[#unusable + 1] = held
        return 0, 0
    end
    for _ = 1, 4 do
        local jobs = redis.call('ZRANGE', held, 0, math.min(size, 250 - count) - 1, 'WITHSCORES')
        back = back + put_back_jobs(lost, jobs)
        redis.call('ZREMRANGEBYRANK', held, 0, #jobs / 2 - 1)
        count, size = count + #jobs / 2, next_size(size, jobs)
        if redis.call('EXISTS', held) == 0 then
            redis.call('ZREM', KEYS[2], lost)
            break
        end
        if count == 250 then
            break
        end
    end
    return back, count
end

local returned, put, some_are_left = 0, 0, false
local kept, looked, page_size = 0, 0, 1 -- owners: those that stay in the set, and all
while looked < 100 and put < 2 do -- those without jobs cost little, and must not stand before those with some
    local page = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', kept, math.min(page_size, 100 - looked))
    for _, lost in ipairs(page) do
        if lost ~= owner and put < 2 then
            local back, count = put_back(lost)
            returned, put = returned + back, put + (count > 0 and 1 or 0)
        end
        if redis.call('ZSCORE', KEYS[2], lost) then
            kept, some_are_left = kept + 1, some_are_left or lost ~= owner
        end
    end
    if #page == 0 then
        break
    end
    looked, page_size = looked + #page, next_size(page_size, page)
end
-- Their marks may have expired, too: such a job would be claimed, and the loss of its worker not be counted.
if some_are_left or #redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', kept, 1) > 0 then
    return { {}, {}, {}, {}, {}, {}, returned, unusable, 0, 1 }
end

local ids, dues, payloads, raised, held = {}, {}, {}, {}, {}
local bytes, is_full, some_are_large = 0, false, false
local function has_room(size)
    return #ids == 0 or bytes + size <= max_bytes
end

-- Return a payload, or its length if it is not to be returned, and how many bytes it counts for. Only payloads that fit
-- are read whole. Of the first that is too large the beginning is read, too: asking for each length would cost a command.
local function payload_of(id)
    local job, most = JOB .. id, max_payload
    if #ids > 0 then
        most = math.min(most, max_bytes - bytes - #id)
    end
    if not some_are_large and most >= 0 then
        local payload = redis.pcall('GETRANGE', job, 0, most) -- one byte more than fits: shows a larger one
        if type(payload) == 'table' then
            payload = typed('GETRANGE', job, 0, most) or ''
        end
        if #payload <= most then
            return payload, #payload
        end
        some_are_large = true
    end
    local length = typed('STRLEN', job) or 0
    if length > max_payload then
        return length, 0
    end
    return length > 0 and has_room(#id + length) and redis.call('GETRANGE', job, 0, -1) or '', length
end

local function take(id, due)
    local mark = IN_PROGRESS .. id
    -- The key is arq's own mark: a stock worker beside us respects it, and NX respects a stock worker's.
    if not redis.call('SET', mark, owner, 'PX', mark_ms, 'NX') then
        if typed('STRLEN', mark) then
            return false
        end
        redis.call('SET', mark, owner, 'PX', mark_ms) -- of another type: no worker's
    end
    local payload, size = payload_of(id)
    if not has_room(#id + size) then
        redis.call('DEL', mark)
        is_full = true -- it is the first one of the next claim
        return false
    end
    bytes = bytes + #id + size
    ids[#ids + 1], dues[#dues + 1] = id, due
    payloads[#ids] = payload ~= '' and payload
    raised[#raised + 1], raised[#raised + 2] = now + mark_ms, id
    held[#held + 1], held[#held + 2] = due, id
    return true
end

local is_skipped = {} -- of suspects none is: here they would leave the set without being taken
for i = 9, #ARGV do
    is_skipped[ARGV[i]] = true
end

if ARGV[4] == '1' then
    local suspect = redis.call('ZPOPMIN', KEYS[5])
    if #suspect > 0 and redis.call('ZSCORE', KEYS[1], suspect[1]) then
        take(suspect[1], suspect[2])
    end
end

local skipped, done, size, next_rank = tonumber(ARGV[8]), 0, 1, 0
for number = 1, 24 do -- jobs that stock workers run, or that are skipped, stay at the head: page past them, but not for ever
    size = math.min(size, limit - #ids) -- growing, since ids of megabytes would all be read at once
    local page = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', skipped, size)
    for i = 1, #page, 2 do
        if is_skipped[page[i]] or not take(page[i], page[i + 1]) then
            skipped = skipped + 1
        end
        if is_full then
            break
        end
    end
    if #raised > done then
        redis.call('ZADD', KEYS[1], unpack(raised, done + 1)) -- out of the scan
        done = #raised
    end
    if is_full or #page < 2 * size or #ids >= limit then
        break
    end
    size, next_rank = next_size(size, page), number == 24 and skipped or 0
end
if #ids == 0 then
    return { {}, {}, {}, {}, {}, {}, returned, unusable, next_rank, 0 }
end

redis.call('ZADD', KEYS[3], unpack(held))
redis.call('ZADD', KEYS[2], now + lease_ms, owner)

-- A count that is too long to be one is cut: nobody reads it as a number then.
local retries = {}
for i, id in ipairs(ids) do
    retries[i] = RETRY .. id
end
local tries = {}
if redis.call('EXISTS', unpack(retries)) > 0 then
    for i, key in ipairs(retries) do
        local length = typed('STRLEN', key) or 0
        tries[i] = length > 0 and (length > MAX_DIGITS and '?' or redis.call('GET', key))
    end
end
local lapses = {}
if redis.call('EXISTS', KEYS[4]) == 1 then
    for i, id in ipairs(ids) do
        local length = redis.call('HSTRLEN', KEYS[4], id)
        lapses[i] = length > 0 and (length > MAX_DIGITS and '?' or redis.call('HMGET', KEYS[4], id)[1])
    end
end
local aborts = abort_marks > 0 and redis.call('ZMSCORE', KEYS[6], unpack(ids)) or {}
return { ids, dues, payloads, tries, lapses, aborts, returned, unusable, next_rank, 0 }
