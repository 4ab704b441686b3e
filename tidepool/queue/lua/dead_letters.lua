-- Put dead letters back into the queue, or delete them.
--
-- KEYS[1]  the queue   KEYS[2]  dead letters: stream; see `keys.QueueKeys`
-- ARGV[1]  the prefix of the keys of dead letters' contents
-- ARGV[2]  "1": put them back, due now; a result under the same id is deleted. "0": delete them
-- ARGV[3…] ids of entries of the stream (250 or fewer)
-- Reply    a string with a character per entry: "1" done, "0" nothing done: a job with the same id is in the queue, or
--          there is no such entry, or it has no content
-- Error    WRONGTYPE with the queue's name, before anything is changed, if the queue is no sorted set
if not typed('ZCARD', KEYS[1]) then
    return redis.error_reply('WRONGTYPE the queue ' .. KEYS[1] .. ' is not a sorted set')
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Return the id of an entry's job, or nil.
local function job_of(letter)
    local entry = (typed('XRANGE', KEYS[2], letter, letter) or {})[1]
    for i = 1, entry and #entry[2] or 0, 2 do
        if entry[2][i] == 'id' then
            return entry[2][i + 1]
        end
    end
end

local function put_back(letter)
    local id, content = job_of(letter), ARGV[1] .. letter
    if not id or redis.call('EXISTS', content) == 0 then
        return false
    end
    if redis.call('EXISTS', JOB .. id) == 1 or redis.call('ZSCORE', KEYS[1], id) then
        return false
    end
    redis.call('RENAME', content, JOB .. id)
    redis.call('DEL', RESULT .. id)
    redis.call('ZADD', KEYS[1], now, id)
    return true
end

local answers = {}
for i = 3, #ARGV do
    local is_done = ARGV[2] == '0' or put_back(ARGV[i])
    if is_done then
        redis.call('DEL', ARGV[1] .. ARGV[i])
        is_done = (typed('XDEL', KEYS[2], ARGV[i]) or 0) > 0
    end
    answers[#answers + 1] = is_done and '1' or '0'
end
if typed('XLEN', KEYS[2]) == 0 then -- an empty stream stays
    redis.call('DEL', KEYS[2])
end
return table.concat(answers)
