"""Everything that knows Redis: keys, wire format, connection, Lua scripts, leases, renewal, wake-up."""
