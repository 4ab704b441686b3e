-- Return the results of jobs that have one.
--
-- KEYS     results (500 or fewer)
-- ARGV[1]  max bytes of a result: no worker writes a larger one, and it is not read
-- ARGV[2]  max bytes of all results; further ones are left to the next call
-- Reply    {number of the key, result, number of the key, result, …}, the numbers counted from 1
local max_bytes, max_bytes_of_all = tonumber(ARGV[1]), tonumber(ARGV[2])
local found, bytes = {}, 0
local function add(i)
    local length = typed('STRLEN', KEYS[i]) or 0
    if length > 0 and length <= max_bytes and bytes + length <= max_bytes_of_all then
        bytes = bytes + length
        found[#found + 1], found[#found + 2] = i, redis.call('GET', KEYS[i])
    end
end
for first = 1, #KEYS, 8 do
    local last = math.min(first + 7, #KEYS)
    if redis.call('EXISTS', unpack(KEYS, first, last)) > 0 then -- few have one: a question for each would cost twice as much
        for i = first, last do
            add(i)
        end
    end
end
return found
