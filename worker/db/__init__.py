"""PostgreSQL: the pool, the repositories and their SQL, the classification of faults, the migrations.

Only this package knows asyncpg. It is given a connection or a URL; it knows neither Redis nor settings.

- `pool`: one `Pool` per process; `transaction()` is the only way to write.
- `repositories`: what one connection offers, a repository per table; SQL by name in `sql/`.
- `faults`: the errors that callers see instead of the driver's.
- `migrations`: numbered SQL files, applied once each.
"""
