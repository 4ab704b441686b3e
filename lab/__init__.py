"""Commands that measure the system, tune it, and break it on purpose (`python -m lab`).

The service does not import this package.

- `bench`   throughput and latency, compared with stock arq and pgbench
- `drill`   faults under load, and a check that no job was lost or applied twice
- `tuning`  experiments with the connection pool and other settings, which keep their measurements
"""
