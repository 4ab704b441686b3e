"""The job queue in Redis. Besides this folder, only `engine` imports arq, and only `embedded` imports redis.

- `wire`        the names of all keys, and the format of jobs and results, which is arq's
- `connection`  opens the client, and waits for Redis at the start
- `faults`      what an error of Redis means, and how an outage is waited out
- `scripts`     loads the Lua scripts of `lua`
- `submission`  a job to enqueue
- `state`       reads how many jobs wait, and the status and the results of jobs
- `leases`      claims jobs under a lease, many in a round trip, and tracks those that this process holds
- `renewal`     renews the lease of this process
- `finisher`    acknowledges ended jobs, many in a round trip
- `dead_letters` lists the jobs that no worker understood, puts them back into the queue, and deletes them
- `relaying`    copies jobs that were enqueued in transactions into the queue
- `wakeup`      wakes an idle worker when a job is enqueued

Words used here: an *owner* is the name under which a worker process holds jobs; to *claim* a job is to reserve it for
an owner; a *lease* is the time for which an owner holds its jobs, and which the process renews; to *acknowledge* a job
is to record in Redis how an attempt ended; a *mark* is a note in Redis about a job, for example that it runs or is to
be aborted.
"""
