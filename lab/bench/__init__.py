"""The benchmark `python -m lab bench`: this service compared with stock arq and pgbench on the same machine.

- `targets`    the settings classes that the measured workers run with
- `drain`      preload a queue, start workers, measure until it is empty
- `latency`    one job at a time on an idle worker
- `acquire`    one connection acquired and released over and over, of asyncpg's pool and of this project's
- `pgbench`    the same two inserts without any queue
- `servers`    databases or servers of the benchmark's own
- `processes`  the CPU time and memory that processes use
- `command`    which of these measurements are made, how often, and the report

Each round measures all systems in turn, so that a machine that gets slower is slower for all of them, and the ratios
stay valid. The benchmark uses a Redis database and a PostgreSQL database (`tidepool_bench_…`) of its own, made anew for
each run and dropped afterwards.
"""
