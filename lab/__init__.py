"""What measures the system and breaks it on purpose: `python -m lab`. Nothing imports it.

- `bench`   throughput and latency, beside stock arq and pgbench
- `drill`   faults under load, and proof that no job was lost or applied twice
- `tuning`  experiments with the pool and other settings, which keep their proof
"""
