"""What limits the workers, and which size their pools should have, according to their stored snapshots.

- `window`        the figures of some time, from snapshots
- `evidence`      a figure beside its limit; whether a pool is crowded, and whether anything waits
- `sizing`        the size that a pool should have, by the models of `queueing`
- `study`         the records that one verdict is based on
- `checks`        the table of checks, in their order; `verdict` applies them
- `advice_job`    writes advice to the events table
"""
