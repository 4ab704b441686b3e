-- This text is prepended to every script. Runs a command and returns its reply, or nil if the key has a wrong type:
-- anybody who can write to Redis may have stored any type. A missing key counts as any type. Other errors are raised.
local function typed(...)
    local reply = redis.pcall(...)
    if type(reply) == 'table' and reply.err then
        if string.find(tostring(reply.err), 'WRONGTYPE', 1, true) then
            return nil
        end
        return redis.call(...) -- raises it
    end
    return reply
end

-- Return how many members to read next: 16 times as many, but fewer if those of the last page were long.
-- An id may have megabytes, and its length is not known before it is read.
local function next_size(size, page)
    local bytes, MAX_PAGE_BYTES = 1, 1048576
    for _, text in ipairs(page) do
        bytes = bytes + #text
    end
    return math.max(1, math.min(16 * size, math.floor(size * MAX_PAGE_BYTES / bytes)))
end

