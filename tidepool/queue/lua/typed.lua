-- In front of every script: run a command; return its reply, or nil if the key has a wrong type.
-- Whoever can write to Redis may have put anything anywhere. A missing key is of every type. Other errors are raised.
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

