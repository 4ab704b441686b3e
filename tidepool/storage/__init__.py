"""The library's own tables.

- `repositories`  one for each table (`results`, `snapshots`, …); their SQL is in `sql/`, by name (`queries`, `rows`)
- `overview`, `result_pages`  what readers ask of tables of any length
- `migrations`    numbered SQL files, applied once each
- `roles`         who may do what in the database; `requirements` is what a start needs of it
"""
