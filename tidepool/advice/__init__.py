"""What the records of processes say about their pools.

- `window`        the figures of a stretch of time, from snapshots
- `crowding`      whether anything waits, and where
- `verdict`       what limits the throughput; `sizing` (with `queueing`'s models) says which size the pool should have
- `study`         reads the records of processes that are set up alike
- `advice_job`    notes advice in the events table; `fleet_report` is all of it for a page or a command
"""
