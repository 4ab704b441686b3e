"""Reads, writes and migrates the library's own tables in PostgreSQL.

- `repositories`  a class for each table; the ledger's is in `results`, the outbox's in `outbox`. Their SQL is in `sql/`
- `queries`       loads that SQL by name, and writes the schema of the tables into it
- `snapshots`     the records of processes and of the database server
- `migrator`      applies the numbered SQL files of `migrations/`, and those of applications, once each; checks the
  database when a process starts
- `roles`         creates PostgreSQL's roles
"""
