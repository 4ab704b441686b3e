"""Runs arq jobs on PostgreSQL: in batches, with exactly-once effects, on a monitored connection pool.

This module exports the public names. Each is imported when it is first used, so that `import tidepool` is quick. The
parts that serve HTTP are in `tidepool.web`, those for command lines in `tidepool.cli`.

A job goes through the folders in this order:

- `client`   enqueues jobs and reads outcomes
- `queue`    everything that knows Redis: keys, wire format, connection, Lua scripts, leases, renewal, wake-up
- `engine`   arq's Worker, and one attempt at one job
- `ledger`   from the attempt to the commit: batches, and the transaction of effects and ledger rows
- `jobs`     how a job is declared, and the outcomes it can have
- `storage`  the library's own tables: repositories, SQL, migrations, roles
- `pool`     the connection pool of a process, and PostgreSQL's errors

Around it:

- `adopting` gives an existing arq application's settings to the engine
- `app`, `lifecycle`   what an application declares, and a worker process from its start to its end
- `scheduler`  enqueues the jobs of cron expressions, in each worker
- `settings`, `urls`, `libpq`, `servers`, `protocols`   the configuration, and which servers it means
- `fleet`    the worker processes as a group: identity, and connections for each
- `health`, `advice`   what a process records and answers; what the records say about the pool
- `web`, `bounded_http`   the operators' page and its API, and the HTTP server below it
- `cli`, `process`, `logs`   the operators' commands, signals and standard streams, the log
- `embedded`   PostgreSQL and Redis from wheels
- `testing`  what the tests of an application need: real servers, and attempts at all queued jobs
- `alembic`    the library's migrations inside an application's own, for those who use Alembic
- `identifiers`   names of PostgreSQL's schemas and roles in SQL

It imports nothing of an application; `tests/repository/test_imports.py` checks which folder may import which.
"""

from typing import TYPE_CHECKING

from tidepool.on_demand import import_on_demand

if TYPE_CHECKING:
    from tidepool.adopting import adopt
    from tidepool.app import App
    from tidepool.client import MOST_AT_ONCE, JobClient, open_client
    from tidepool.embedded import Urls
    from tidepool.engine.options import EngineOptions
    from tidepool.engine.threads import threaded
    from tidepool.entry import app_on_demand
    from tidepool.jobs.arguments import Command, LeftOut, Text, describe_pattern
    from tidepool.jobs.job import Job, check_id
    from tidepool.jobs.job_type import JobType, Receipt
    from tidepool.jobs.outcomes import Applied, Failed, Reason, Reject, Rejected, Unresolved, Verdict
    from tidepool.jobs.submission import Submission
    from tidepool.jobs.transaction import Transaction
    from tidepool.ledger.completion import complete
    from tidepool.pool.connection import Connection, Row
    from tidepool.pool.faults import DatabaseFault, NotStored
    from tidepool.queue.scoped import ScopedRedis
    from tidepool.queue.wire import MAX_PAYLOAD_BYTES
    from tidepool.repeating import RetryPolicy
    from tidepool.settings import Settings, SettingsError
    from tidepool.storage.migrator import Migrations
    from tidepool.storage.queries import load as load_queries
    from tidepool.storage.results import Finished, encode_rows
    from tidepool.urls import without_password

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "MOST_AT_ONCE",
    "App",
    "Applied",
    "Command",
    "Connection",
    "DatabaseFault",
    "EngineOptions",
    "Failed",
    "Finished",
    "Job",
    "JobClient",
    "JobType",
    "LeftOut",
    "Migrations",
    "NotStored",
    "Reason",
    "Receipt",
    "Reject",
    "Rejected",
    "RetryPolicy",
    "Row",
    "ScopedRedis",
    "Settings",
    "SettingsError",
    "Submission",
    "Text",
    "Transaction",
    "Unresolved",
    "Urls",
    "Verdict",
    "adopt",
    "app_on_demand",
    "check_id",
    "complete",
    "describe_pattern",
    "encode_rows",
    "load_queries",
    "open_client",
    "threaded",
    "without_password",
]

_HOMES = {
    "App": "tidepool.app",
    "Applied": "tidepool.jobs.outcomes",
    "Command": "tidepool.jobs.arguments",
    "Connection": "tidepool.pool.connection",
    "DatabaseFault": "tidepool.pool.faults",
    "EngineOptions": "tidepool.engine.options",
    "Failed": "tidepool.jobs.outcomes",
    "Finished": "tidepool.storage.results",
    "Job": "tidepool.jobs.job",
    "JobClient": "tidepool.client",
    "JobType": "tidepool.jobs.job_type",
    "LeftOut": "tidepool.jobs.arguments",
    "MAX_PAYLOAD_BYTES": "tidepool.queue.wire",
    "MOST_AT_ONCE": "tidepool.client",
    "Migrations": "tidepool.storage.migrator",
    "NotStored": "tidepool.pool.faults",
    "Reason": "tidepool.jobs.outcomes",
    "Receipt": "tidepool.jobs.job_type",
    "Reject": "tidepool.jobs.outcomes",
    "Rejected": "tidepool.jobs.outcomes",
    "RetryPolicy": "tidepool.repeating",
    "Row": "tidepool.pool.connection",
    "ScopedRedis": "tidepool.queue.scoped",
    "Settings": "tidepool.settings",
    "SettingsError": "tidepool.settings",
    "Submission": "tidepool.jobs.submission",
    "Text": "tidepool.jobs.arguments",
    "Transaction": "tidepool.jobs.transaction",
    "Unresolved": "tidepool.jobs.outcomes",
    "Urls": "tidepool.embedded",
    "Verdict": "tidepool.jobs.outcomes",
    "adopt": "tidepool.adopting",
    "app_on_demand": "tidepool.entry",
    "check_id": "tidepool.jobs.job",
    "complete": "tidepool.ledger.completion",
    "describe_pattern": "tidepool.jobs.arguments",
    "encode_rows": "tidepool.storage.results",
    "load_queries": "tidepool.storage.queries:load",
    "open_client": "tidepool.client",
    "threaded": "tidepool.engine.threads",
    "without_password": "tidepool.urls",
}

__getattr__ = import_on_demand(__name__, _HOMES)
