-- Make jobs due now that were put back to be run later.
--
-- KEYS[1]  the queue
-- ARGV     four for each job: id, due time that it gets (Unix ms), delay that it was put back with (ms), number of the
--          attempt that it was put back before
-- Reply    how many are due now. A job that has left the queue, that a worker holds, that was deferred for another
--          reason, that an attempt has deferred since (a stock worker adds the delay to its score), or that is due later
--          than by its delay is left alone: another job may have the same id by now
-- If the queue has a wrong type, nothing is done: the claim reports it.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.ceil(time[2] / 1000)
local RECALLABLE = 0.5 -- as finish.lua puts them back
local count = 0
for i = 1, #ARGV, 4 do
    local due = typed('ZSCORE', KEYS[1], ARGV[i])
    local is_recallable = due and tonumber(due) % 1 == RECALLABLE and tonumber(due) <= now + 1 + ARGV[i + 2]
    local tries = is_recallable and tonumber(typed('GET', RETRY .. ARGV[i]) or 0) or 0
    if is_recallable and tries < tonumber(ARGV[i + 3]) and redis.call('EXISTS', IN_PROGRESS .. ARGV[i]) == 0 then
        redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
        count = count + 1
    end
end
return count
