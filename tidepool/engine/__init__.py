"""arq's side of the worker: how jobs come out of Redis and outcomes go back. It knows arq and Redis, never SQL.

- `worker`   arq's Worker, with what the service needs of it
- `holding`  what a process holds in Redis, and as whom: `leases` claims and finishes many jobs in a round trip (the
             scripts are in `lua`), `renewal` keeps the lease, `finisher` acknowledges
- `job_run`  one attempt at a job, and what is to become of it
- `intake`   from arq's call to a delivery, and from an outcome to what arq stores
- `wakeup`   ends an idle worker's sleep
- `trouble`  what an error of Redis means, and how it is waited out
"""
