"""The connection pool of a process. Only this folder and `storage` import asyncpg, the PostgreSQL driver.

- `pool`         one `Pool` per process; its `transaction()` is the only way to write. Callers wait in its `Gate`
- `connections`  opens the pool's connections, records which task has each, and counts why they end
- `connection`   the types of a connection
- `config`       the configuration of a pool, also of one connection outside the pool
- `figures`      counters and histograms of the pool
- `faults`       the exceptions that callers get instead of the driver's
- `side_connection`  a connection outside the pool, for work that must not wait for the pool
"""
