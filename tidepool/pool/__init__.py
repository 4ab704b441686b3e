"""The connection pool of a process. Only this folder and `storage` import asyncpg, the PostgreSQL driver.

- `pool`         one `Pool` per process; `transaction()` is the only way to write
- `gate`         decides which caller gets the next connection; `checkout` records which task has one
- `connections`  opens the pool's connections and counts why they end; `connection` has the types of a connection
- `figures`      counters and histograms of the pool
- `faults`       the exceptions that callers get instead of the driver's
- `address`      converts a URL to the driver's arguments
- `side_connection`  a connection outside the pool, for work that must not wait for it
"""
