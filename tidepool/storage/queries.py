"""Loads SQL queries by name from the files in `sql/`, one file for each table. `-- name: …` precedes each query."""

import re
from importlib.resources import files
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(table: str, package: str = "tidepool.storage") -> dict[str, LiteralString]:
    """Return the queries of `sql/{table}.sql` in *package*, by name. Raises `ValueError` if two have the same name.

    Queries are typed `LiteralString`, so that the type checker refuses one that is built from input.
    """
    _, *parts = _NAME.split((files(package) / "sql" / f"{table}.sql").read_text("utf-8"))
    names, texts = parts[::2], parts[1::2]
    if len(set(names)) < len(names):
        raise ValueError(f"two queries of {table}.sql have the same name")
    return {name: cast("LiteralString", text.strip()) for name, text in zip(names, texts, strict=True)}
