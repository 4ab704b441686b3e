"""The library's own tables.

- `repositories`  a class for each table; `results` is the ledger's. Their SQL is in `sql/`, by name (`queries`, `rows`)
- `snapshots`, `server`  the records of processes and of the database server
- `migrator`      applies the numbered SQL files of `migrations/`, and those of applications, once each
- `roles`         makes PostgreSQL's roles; `requirements` checks what a process needs of its database at the start
"""
