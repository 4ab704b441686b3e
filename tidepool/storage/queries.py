"""SQL by name: one file per table in `sql/`, each query under a line `-- name: …` that its method repeats."""

import re
from importlib.resources import files
from typing import LiteralString, cast

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(table: str, package: str = "tidepool.storage") -> dict[str, LiteralString]:
    """Return the queries of `sql/{table}.sql` in *package*, by name.

    The text is ours and nobody adds to it, so it counts as literal: a query put together from anything
    else does not pass the type checker.
    """
    _, *parts = _NAME.split((files(package) / "sql" / f"{table}.sql").read_text("utf-8"))
    names, texts = parts[::2], parts[1::2]
    if len(set(names)) < len(names):
        raise ValueError(f"two queries of {table}.sql have the same name")
    return {name: cast("LiteralString", text.strip()) for name, text in zip(names, texts, strict=True)}
