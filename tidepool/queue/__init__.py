"""Everything that knows Redis; other rooms import neither redis nor arq.

- `keys`        the names of all keys
- `wire`        the format of jobs and results, which is arq's
- `connection`  opens the client, and waits for Redis at the start
- `faults`      what an error of Redis means, and how an outage is waited out
- `scripts`     loads the Lua scripts of `lua`
- `submission`  a job to enqueue
- `results`     reads the status and the results of jobs
- `leases`      claims and acknowledges many jobs in a round trip
- `holding`     the jobs that this process holds: `renewal` renews their lease, `finisher` acknowledges them
- `wakeup`      wakes an idle worker
"""
