"""Defines jobs, and how an application declares its job types.

- `job`       a job in a worker, its arguments and its id, and the declaration of a job type
- `outcomes`  how a job can end (outcomes), and what a handler can return for a job (verdicts)
"""
