"""Defines jobs, and how an application declares its job types.

- `job`       a job in a worker, and the declaration of a job type
- `command`   the base class of a job's arguments
- `outcomes`  the verdicts and outcomes that a job can have
- `ids`       the rule for job ids
"""
