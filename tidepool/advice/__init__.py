"""Finds what limits the workers, and recommends how many connections each worker's connection pool should have.

Both are computed from snapshots: figures of each process and its pool, stored in PostgreSQL every few seconds.

- `window`        what the pools did in a period, as differences between snapshots
- `evidence`      a measured figure beside its limit; whether work waits for the connections of a pool
- `queueing`      predicts how long callers wait for a connection, by queueing theory
- `sizing`        the size that a pool should have, by the predictions of `queueing`
- `study`         reads what is needed to judge a group of processes from the database
- `checks`        the checks for what may limit a group of processes, in their order
- `verdict`       applies the checks: the first one that holds names what limits the processes
- `advice_job`    judges all pools every 15 minutes, and writes its advice to the table `pool_events`
"""
