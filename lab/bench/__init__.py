"""`python -m lab bench`: our engine beside stock arq and pgbench, on the same machine in the same run.

- `targets`   the settings classes that the measured workers run with
- `drain`     preload a queue, start workers, measure until it is empty
- `latency`   one job at a time on an idle worker
- `acquire`   one connection acquired and released over and over, of asyncpg's pool and of ours
- `pgbench`   the same two inserts without any queue
- `servers`   databases of its own, or servers of its own; `processes` what they use of the machine
- `command`   which of them, how often, and the report

Rounds go through all systems in turn, so that a machine that gets slower is slower for all of them, and
the ratios hold. The queue and the tables that it uses are its own: a Redis database and a PostgreSQL
database called `tidepool_bench_…`, made anew for each run and dropped afterwards.
"""
