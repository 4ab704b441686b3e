"""PostgreSQL: the pool, the repositories and their SQL, the classification of faults, the migrations.

Only this package knows asyncpg. It is given a connection or a URL; it knows neither Redis nor settings.

- `pool`: one `Pool` per process; `transaction()` is the only way to write. `gate` decides whose turn it is, `loan`
  knows who has a connection, `connections` what becomes of the server's, and `figures` counts.
- `side_connection`: the one beside the pool, for work that must not wait behind it.
- `repositories`: what one connection offers, a repository for each table (`users`, `results`, `snapshots`, …); their
  SQL is in `sql/`, by name (`queries`, `rows`).
- `overview`, `result_pages`: what readers ask of tables of any length.
- `capacity`: how many connections the server can give; `roles`: who may do what in it.
- `faults`: the errors that callers see instead of the driver's.
- `migrations`: numbered SQL files, applied once each.
"""
