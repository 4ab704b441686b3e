"""Loads SQL by name: a file per table in `sql/`, in which each query follows a line `-- name: …`."""

import re
from importlib.resources import files
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(table: str, package: str = "tidepool.storage") -> dict[str, LiteralString]:
    """Return the queries of `sql/{table}.sql` in *package*, by name. Raises `ValueError` if two have the same name.

    Their type is `LiteralString`: the type checker refuses a query that is put together from anything else.
    """
    _, *parts = _NAME.split((files(package) / "sql" / f"{table}.sql").read_text("utf-8"))
    names, texts = parts[::2], parts[1::2]
    if len(set(names)) < len(names):
        raise ValueError(f"two queries of {table}.sql have the same name")
    return {name: cast("LiteralString", text.strip()) for name, text in zip(names, texts, strict=True)}
