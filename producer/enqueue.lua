-- Enqueue many jobs at once, each unless its id is known, and exactly once however often the call is repeated.
--
-- KEYS[1]   the queue: sorted set of job ids by due time
-- KEYS[2]   the receipt of this call: its reply, kept for a while, so that a repetition after a lost reply
--           gets the same answer instead of finding its own jobs as duplicates
-- ARGV[1]   due time, Unix ms
-- ARGV[2]   how long the receipt is kept, ms
-- ARGV[3]   "1": the jobs may run again, so a result of an earlier run is dropped; else it makes a duplicate
-- ARGV[4…]  id, payload, id, payload, …
-- Reply     a string with a character per job: "1" enqueued, "0" known already
local receipt = redis.call('GET', KEYS[2])
if receipt then
    return receipt
end
local answers, members = {}, {}
for i = 4, #ARGV, 2 do
    local id, result = ARGV[i], 'arq:result:' .. ARGV[i]
    local known = ARGV[3] ~= '1' and redis.call('EXISTS', result) == 1
    if not known and redis.call('SET', 'arq:job:' .. id, ARGV[i + 1], 'NX') then
        if ARGV[3] == '1' then
            redis.call('DEL', result)
        end
        members[#members + 1] = ARGV[1]
        members[#members + 1] = id
        answers[#answers + 1] = '1'
    else
        answers[#answers + 1] = '0'
    end
end
if #members > 0 then
    redis.call('ZADD', KEYS[1], unpack(members))
end
local reply = table.concat(answers)
redis.call('SET', KEYS[2], reply, 'PX', ARGV[2])
return reply
