-- Record a worker's heartbeat, and return how many connections of the server the worker may hold.
--
-- KEYS[1]  fleet: hash of worker ids to "last heartbeat, Unix ms:connections held", and ":unnamed" if there are any; expires
--          with its newest entry
-- KEYS[2]  capacity: the newest reading of the server by any worker, for a worker that has none
-- KEYS[3]  restless until, Unix ms: set when a worker joins, leaves, or is granted less than it asks for
-- ARGV[1]  worker    ARGV[2]  connections it holds: granted or open, whichever is more; 0: it has just started
-- ARGV[3]  max connections that it asks for             ARGV[4]  the same, if the fleet is calm (not restless)
-- ARGV[5]  min connections that it needs                ARGV[6]  its reading of the server as JSON, or ""
--            {"room": connections for the fleet if all these workers live, "workers": {id: connections on the server}, …}
-- ARGV[7]  TTL of an entry, ms                          ARGV[8]  how long the fleet stays restless, ms
-- ARGV[9]  unnamed: how many of its open connections a reading counts among those of others
-- Reply    {granted, usable (-1: no recent reading), held by all workers, 1: calm, ids of the live workers, reading or "",
--           what was deleted because no worker can have written it, or "", unnamed connections of all workers}
local worker, holds, most, most_if_calm = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local least, reading, life_ms = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local MOST_ENTRIES = 4096 -- workers of two connections each, and more than any server has
local MOST_BYTES = 2097152 -- 512 for each entry: ids and values are short, but a field name may be of any length
local unusable = ''
local size = typed('HLEN', KEYS[1])
local bytes = size and redis.pcall('MEMORY', 'USAGE', KEYS[1], 'SAMPLES', 0) -- an error if that is not permitted
if not size or size > MOST_ENTRIES or type(bytes) == 'number' and bytes > MOST_BYTES then
    unusable = 'the fleet: ' .. (size and size .. ' entries' or 'of a wrong type')
    redis.call('DEL', KEYS[1]) -- as if Redis had lost it: live workers send a heartbeat within a second
end

local lives, ids, others_hold, unnamed = { [worker] = true }, { worker }, 0, tonumber(ARGV[9])
local stirred = redis.call('HEXISTS', KEYS[1], worker) == 0
local MAX_ENTRY_BYTES = 32
for _, id in ipairs(redis.call('HKEYS', KEYS[1])) do
    local is_short = redis.call('HSTRLEN', KEYS[1], id) <= MAX_ENTRY_BYTES -- whole values may be huge
    local entry = is_short and redis.call('HMGET', KEYS[1], id)[1] or ''
    local beat, held, hidden = string.match(entry, '^(%d+):(%d+):?(%d*)$')
    local age = beat and #held <= 6 and #hidden <= 6 and now - tonumber(beat) -- a heartbeat in the future would never expire
    if not age or age < -life_ms then
        redis.call('HDEL', KEYS[1], id)
        unusable = 'an entry'
    elseif age >= life_ms then
        redis.call('HDEL', KEYS[1], id)
        stirred = true
    elseif id ~= worker then
        lives[id], ids[#ids + 1], others_hold = true, id, others_hold + tonumber(held)
        unnamed = unnamed + math.min(tonumber(hidden) or 0, tonumber(held))
    end
end
table.sort(ids)
-- Return a value, or '' if it has another type or is longer than any worker writes one.
local function short(key, max_bytes)
    local length = typed('STRLEN', key) or 0
    return length <= max_bytes and typed('GET', key) or ''
end
local restless_until = tonumber(short(KEYS[3], 20)) or 0
local calm = not stirred and not (restless_until > now and restless_until <= now + tonumber(ARGV[8]))

if reading ~= '' then
    redis.call('SET', KEYS[2], reading, 'PX', math.floor(life_ms / 2))
else
    reading = short(KEYS[2], 1048576)
end
-- Return a reading as a table, or nil if no worker can have written it.
local function parsed(text)
    local ok, server = pcall(cjson.decode, text)
    if not ok or type(server) ~= 'table' or type(server.workers) ~= 'table' then
        return nil
    end
    local function is_count(value)
        return type(value) == 'number' and value > -1e6 and value < 1e6
    end
    if not is_count(server.room) then
        return nil
    end
    for _, connections in pairs(server.workers) do
        if not is_count(connections) or connections < 0 then
            return nil
        end
    end
    return server
end
local server = reading ~= '' and parsed(reading)
if reading ~= '' and not server then
    redis.call('DEL', KEYS[2])
    reading, unusable = '', 'a reading of the server'
end

local granted, usable = 0, -1
if reading == '' then
    -- A worker keeps what it holds. Of workers that have just started, one gets the minimum and reads the server first.
    granted = holds > 0 and math.min(most, holds) or others_hold == 0 and least or 0
else
    usable = server.room + unnamed
    for id, connections in pairs(server.workers) do
        if not lives[id] then
            usable = usable - connections -- a dead worker's count until the server has closed them
        end
    end
    usable = math.max(usable, 0)
    local share = math.floor(usable / #ids)
    for rank, id in ipairs(ids) do
        if id == worker and rank <= usable % #ids then
            share = share + 1 -- the remainder of the division, one each
        end
    end
    -- What a worker already holds is not checked against the room again: its share limits it, and the shares fit.
    granted = math.min(calm and most_if_calm or most, math.max(share, least), math.max(holds, usable - others_hold))
end
if granted < least then
    granted = 0
end

stirred = stirred or holds > 0 and granted < most
if stirred then
    redis.call('SET', KEYS[3], string.format('%.0f', now + tonumber(ARGV[8])), 'PX', ARGV[8])
end
holds = math.max(holds, granted)
redis.call('HSET', KEYS[1], worker, string.format('%.0f:%d', now, holds) .. (ARGV[9] == '0' and '' or ':' .. ARGV[9]))
redis.call('PEXPIRE', KEYS[1], life_ms)
return { granted, usable, others_hold + holds, calm and not stirred and 1 or 0, ids, reading, unusable, unnamed }
