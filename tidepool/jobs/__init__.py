"""Defines jobs, and how an application declares its job types.

- `job`       a job in a worker, its arguments and its id, and the declaration of a job type
- `outcomes`  the verdicts and outcomes that a job can have
"""
