-- Enqueue many jobs at once, each unless its id is known, and exactly once however often the call is repeated.
--
-- KEYS[1]   the queue: sorted set of job ids by due time
-- KEYS[2]   the receipt of this call: its reply, kept for a while, so that a repetition after a lost reply
--           gets the same answer instead of finding its own jobs as duplicates
-- ARGV[1]   how long the receipt is kept, ms
-- ARGV[2]   "1": the jobs may run again, so a result of an earlier run is dropped; else it makes a duplicate
-- ARGV[3…]  id, payload, due time (500 jobs or fewer). A due time is in Unix ms; "" is now, by the clock that workers
--           claim by: the producer's may be ahead
-- Reply     a string with a character per job: "1" enqueued, "0" known already, "2" known, and the queue's job with this
--           id has the same payload
-- Error    WRONGTYPE with the queue's name, before anything is changed, if the queue is no sorted set
if not typed('ZCARD', KEYS[1]) then
    return redis.error_reply('WRONGTYPE the queue ' .. KEYS[1] .. ' is not a sorted set')
end
local receipt = redis.call('GET', KEYS[2])
if receipt then
    return receipt
end

local known = {}
local function find_known(prefix)
    local keys = {}
    for i = 3, #ARGV, 3 do
        keys[#keys + 1] = prefix .. ARGV[i]
    end
    if redis.call('EXISTS', unpack(keys)) > 0 then -- seldom: one question for all costs a tenth of one for each
        for i, key in ipairs(keys) do
            known[ARGV[3 * i]] = known[ARGV[3 * i]] or redis.call('EXISTS', key) == 1
        end
    end
    return keys
end

local again = ARGV[2] == '1'
local jobs = find_known(JOB)
if not again then
    find_known(RESULT)
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answers, payloads, members, results = {}, {}, {}, {}
for i, job in ipairs(jobs) do
    local id, payload, due = ARGV[3 * i], ARGV[1 + 3 * i], ARGV[2 + 3 * i]
    answers[i] = not known[id] and '1' or typed('GET', job) == payload and '2' or '0'
    if not known[id] then
        known[id] = true -- its twin in this call is a duplicate
        payloads[#payloads + 1], payloads[#payloads + 2] = job, payload
        members[#members + 1], members[#members + 2] = due ~= '' and due or now, id
        if again then
            results[#results + 1] = RESULT .. id
        end
    end
end
if #members > 0 then
    redis.call('MSET', unpack(payloads))
    redis.call('ZADD', KEYS[1], unpack(members))
    if again then
        redis.call('DEL', unpack(results))
    end
end
local reply = table.concat(answers)
redis.call('SET', KEYS[2], reply, 'PX', ARGV[1])
return reply
