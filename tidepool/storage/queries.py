"""Loads SQL queries by name from the files in `sql/`, one file for each table. `-- name: …` precedes each query."""

import re
from importlib.resources import files
from typing import LiteralString, cast

from tidepool import identifiers

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load(table: str, package: str) -> dict[str, LiteralString]:
    """Return the queries of `sql/{table}.sql` in *package*, by name. Raises `ValueError` if two have the same name.

    Queries are typed `LiteralString`, so that the type checker refuses one that is built from input.
    """
    _, *parts = _NAME.split((files(package) / "sql" / f"{table}.sql").read_text("utf-8"))
    names, texts = parts[::2], parts[1::2]
    if len(set(names)) < len(names):
        raise ValueError(f"two queries of {table}.sql have the same name")
    return {name: cast("LiteralString", text.strip()) for name, text in zip(names, texts, strict=True)}


class Queries:
    """The queries of one file, in which `{schema}` stands for the schema of the library's tables.

    They are loaded once, and rendered once for each schema.
    """

    def __init__(self, table: str, package: str = "tidepool.storage") -> None:
        self._texts = load(table, package)
        self._rendered: dict[str, dict[str, LiteralString]] = {}

    def of(self, schema: str) -> dict[str, LiteralString]:
        """Return the queries by name, for the library's tables in *schema*, such as `connection.schema`."""
        if schema not in self._rendered:
            self._rendered[schema] = dict[str, LiteralString](
                (name, identifiers.fill_in(text, schema=schema)) for name, text in self._texts.items()
            )
        return self._rendered[schema]
