"""The drill: it injects faults while workers run jobs, and checks every single job afterwards.

- `log`        writes each job to a file before it is enqueued, with the outcome that it must have
- `arena`      the servers, and the workers, each behind two proxies
- `proxy`      a TCP proxy that can lose, delay or cut what goes through it
- `faults`     the faults, each of which breaks one thing in one way
- `launcher`   starts workers that have a defect, for a few of the faults
- `check`      compares the log with the database, row by row
- `run`        one drill from beginning to end; `command` is `python -m lab drill`
- `timeline`   a plot of the drill over time
- `addresses`  the addresses of servers that the user names; `guard` asks before they are broken

The service has no hooks for the drill in its code.
"""
