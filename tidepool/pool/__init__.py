"""The connection pool of a process. Only this folder and `storage` know asyncpg.

- `pool`         one `Pool` per process; `transaction()` is the only way to write
- `gate`         decides who gets the next connection; `loan` knows who has one
- `connections`  the server's connections behind the pool; `connection` is the part of one that others use
- `figures`      counters and histograms
- `faults`       the errors that callers see instead of the driver's
- `address`      how the driver is given a URL
- `side_connection`  one beside the pool, for work that must not wait behind it
"""
