"""Finds what limits the workers, and recommends a size for their connection pools, from stored snapshots.

- `window`        what pools did in a period, computed from snapshots
- `evidence`      a figure beside its limit; whether a pool is crowded, and whether anything waits
- `sizing`        the size that a pool should have, by the models of `queueing`
- `study`         the records that one verdict is based on
- `checks`        the table of checks, in their order; `verdict` applies them
- `advice_job`    judges the pools every 15 minutes, and writes advice to the events table
"""
