"""Runs arq jobs on PostgreSQL: exactly-once effects, in batches, on a connection pool that explains itself.

A job goes through the folders in this order:

- `client`   enqueues jobs and reads outcomes
- `queue`    everything that knows Redis: keys, wire format, connection, Lua scripts, leases, renewal, wake-up
- `engine`   arq's Worker, and one attempt at one job
- `ledger`   from the attempt to the commit: batches, and the transaction of effects and ledger rows
- `jobs`     how a job is declared, and the outcomes it can have
- `storage`  the library's own tables: repositories, SQL, migrations, roles
- `pool`     the connection pool of a process, and PostgreSQL's errors

Around it:

- `app`, `lifecycle`   what an application declares, and a worker process from its start to its end
- `settings`, `urls`, `libpq`, `servers`, `protocols`   the configuration, and which servers it means
- `fleet`    the worker processes as a group: identity, and connections for each
- `health`, `advice`   what a process records and answers; what the records say about the pool
- `web`, `bounded_http`   the operators' page and its API, and the HTTP server below it
- `cli`, `process`, `logs`   the operators' commands, signals and standard streams, the log
- `embedded`   PostgreSQL and Redis from wheels

It imports nothing of an application; `tests/repository/test_imports.py` checks the walls between these folders.
"""
