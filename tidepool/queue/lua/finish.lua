-- Finish jobs: store results, give jobs back, or make dead letters of them; each only if this owner still holds it.
--
-- KEYS[1]  the queue  KEYS[2]  owners  KEYS[3]  held by this owner  KEYS[4]  lapses  KEYS[5]  arq's jobs to abort
-- KEYS[6]  dead letters  KEYS[7]  announced functions  KEYS[8]  announced deserializers
-- ARGV[1]  owner
-- ARGV[2]  the prefix of the keys of dead letters' contents
-- ARGV[3…] six for each job (250 jobs or fewer): id, how, value, ms, keep, tried
--   how    "done"    it has ended: value is the result ("" none), kept for ms (0: for ever); the job's keys go;
--                    keep: for how many ms the in-progress key stays (cron), 0: it goes, too;
--                    tried: 1 if it has a count of failed tries: to delete keys that are not there costs as much
--          "again"   run it again in ms (0: at its old due time); value: failed tries so far, and after a blank the cause
--                    of the last one, which is kept for clients that ask about the job
--          "release" give it back as it was, to run in ms (0: at its old due time), no try spent
--          "recallable" the same, but recall.lua may make it due before ms are over
--          "dead"    make a dead letter of it: value is what its worker lacks, a blank, the reason, a line feed and the
--                    function's name; where a live worker may understand it, or it has no content: release it
-- Reply    a string with a character per job: "1" done as asked, "2" a dead letter now, "0" not held any more, nothing
--          done
-- A key of a wrong type is left alone: the claim deletes it. Held of a wrong type: no job is held any more. Dead letters
-- of a wrong type are deleted here, since no claim looks at them.
local ids = {}
for i = 3, #ARGV, 6 do
    ids[#ids + 1] = ARGV[i]
end
local dues = typed('ZMSCORE', KEYS[3], unpack(ids)) or {}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local RECALLABLE = 0.5 -- a part of a millisecond, which no other due time has
local answers, gone, ended, left = {}, {}, {}, {}

local function is_understood(lacks, name)
    if lacks == 'function' then
        return tonumber(typed('ZSCORE', KEYS[7], name) or 0) > now
    end
    -- Its own worker has announced one.
    return lacks == 'deserializer' and #(typed('ZRANGEBYSCORE', KEYS[8], now, '+inf', 'LIMIT', 0, 2) or {}) > 1
end

-- Make a dead letter of a job; return false if it is none.
local function set_aside(id, due, value)
    local lacks, reason, name = string.match(value, '^(%S+) ([^\n]*)\n(.*)$')
    if is_understood(lacks, name) or redis.call('EXISTS', JOB .. id) == 0 then
        return false
    end
    if not typed('XLEN', KEYS[6]) then
        redis.call('DEL', KEYS[6])
    end
    local entry = { 'XADD', KEYS[6], '*', 'id', id, 'due', due, 'function', name, 'reason', reason }
    local letter = redis.pcall(unpack(entry))
    if type(letter) == 'table' then
        if string.find(tostring(letter.err), 'last possible ID', 1, true) then
            return false -- another program has used them up
        end
        redis.call(unpack(entry)) -- raises it
    end
    redis.call('RENAME', JOB .. id, ARGV[2] .. letter)
    redis.call('PERSIST', ARGV[2] .. letter)
    return true
end

for i, id in ipairs(ids) do
    local at = (i - 1) * 6 + 2
    local how, value, ms, keep = ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
    answers[i] = dues[i] and '1' or '0'
    if dues[i] then
        left[#left + 1] = id
        if keep > 0 then
            redis.call('PEXPIRE', IN_PROGRESS .. id, keep)
        else
            gone[#gone + 1] = IN_PROGRESS .. id
        end
        if how == 'done' then
            if value ~= '' then
                if ms > 0 then
                    redis.call('SET', RESULT .. id, value, 'PX', ms)
                else
                    redis.call('SET', RESULT .. id, value)
                end
            end
            ended[#ended + 1] = id
            gone[#gone + 1] = JOB .. id
        elseif how == 'dead' and set_aside(id, dues[i], value) then
            answers[i] = '2'
            ended[#ended + 1] = id
        else
            if how == 'again' then
                local tries, cause = string.match(value, '^(%S+) ?(.*)$')
                redis.call('SET', RETRY .. id, tries, 'EX', 88400)
                if cause ~= '' then
                    redis.call('SET', CAUSE .. id, cause, 'EX', 88400)
                else
                    redis.call('DEL', CAUSE .. id) -- that of a try before
                end
                typed('HDEL', KEYS[4], id) -- it has been run to its end, and killed nobody
            end
            -- XX: a job that was taken out of the queue meanwhile stays out
            typed('ZADD', KEYS[1], 'XX', ms > 0 and now + ms + (how == 'recallable' and RECALLABLE or 0) or dues[i], id)
        end
        if ARGV[at + 6] == '1' and ended[#ended] == id then
            gone[#gone + 1] = RETRY .. id
            gone[#gone + 1] = CAUSE .. id
        end
    end
end
if #left > 0 then
    redis.call('ZREM', KEYS[3], unpack(left))
    if #gone > 0 then
        redis.call('DEL', unpack(gone))
    end
    if redis.call('EXISTS', KEYS[3]) == 0 then
        typed('ZREM', KEYS[2], ARGV[1])
    end
end
if #ended > 0 then
    typed('ZREM', KEYS[1], unpack(ended))
    typed('ZREM', KEYS[5], unpack(ended))
    typed('HDEL', KEYS[4], unpack(ended))
end
return table.concat(answers)
