"""The worker: takes jobs out of Redis and applies them to PostgreSQL, exactly once.

A tour, in the order in which a job meets the files:

- `wire`      what jobs and results look like in Redis
- `engine`    arq's Worker, and the intake that turns its calls into deliveries
- `delivery`  one attempt at a job
- `batcher`   gathers deliveries of one function while the connections are busy
- `ledger`    one batch from commands to outcomes, in one transaction: the heart of it
- `jobs`      the commands and their handlers, one file each
- `db`        pool, repositories, faults, migrations
- `budget`    how many connections this worker may have, of those that PostgreSQL has for all of them
- `outcomes`  what can become of a job
- `health`    the stats job, the pruning, verdict and advice, readiness, and the figures for Prometheus
- `bounded_http` the HTTP server of the front and of METRICS_PORT, with bounds on what callers may take
- `protocols` finds out what else answers where one of the servers was expected
- `main`      makes and wires all of it; `servers`, `embedded` and `broker` know where the servers are
- `bench`, `drill` and `lab` measure it and break it; no code of the service uses them
- `process`   signals, standard streams and exit statuses, before anything else of a process
- `terminal`  what the commands share; `pool_command` and `advice_command` are two of them

Start it with `arq worker.WorkerSettings`; operators' commands are under `python -m worker`.
"""

import sys
from typing import Any

from tidepool import process


def __getattr__(name: str) -> Any:
    """Hand out WorkerSettings when it is asked for: importing a part of this package reads no environment."""
    if name == "WorkerSettings":
        if process.is_arq_command():
            process.prepare()
            process.terminate_on_hangup()
        from tidepool.lifecycle import worker_settings  # noqa: PLC0415  (only the arq command needs all of it)

        return worker_settings()
    if process.is_arq_command() and f"{__name__}.{name}" in sys.argv:
        print(f"error: no settings are called {name}: arq {__name__}.WorkerSettings", file=sys.stderr)  # noqa: T201
        sys.exit(process.ERROR)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
