"""The connection pool of a process. Only this folder and `storage` know asyncpg.

- `pool`         one `Pool` per process; `transaction()` is the only way to write
- `gate`         decides which caller gets the next connection; `checkout` records which task has one
- `connections`  the server's connections behind the pool; `connection` has the types of one
- `figures`      counters and histograms
- `faults`       the errors that callers get instead of the driver's
- `address`      makes the driver's arguments from a URL
- `side_connection`  a connection outside the pool, for work that must not wait for it
"""
