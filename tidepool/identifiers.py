"""Checks the names of PostgreSQL's schemas and roles, and writes them into SQL text."""

import re
from typing import LiteralString, cast

MAX_BYTES = 63
"""Max length of a name in PostgreSQL, which cuts a longer one."""
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


def check(name: str) -> str:
    """Return *name* if it can name a schema or a role. Raises `ValueError` if not, with what it must consist of."""
    if not _NAME.fullmatch(name) or len(name) > MAX_BYTES:
        raise ValueError(
            f"must consist of max {MAX_BYTES} lower-case letters, digits and underscores, and not begin with a digit"
        )
    if name.startswith("pg_") or name == "information_schema":
        raise ValueError("must not be information_schema or begin with pg_: PostgreSQL keeps these names for itself")
    return name


def fill_in(text: str, **names: str) -> LiteralString:
    """Return the SQL *text* with each `{key}` replaced by the quoted name *names*`[key]`.

    Other braces stay as they are. Raises `ValueError` as `check` does, so that a name never becomes other SQL.
    """
    for key, name in names.items():
        text = text.replace(f"{{{key}}}", f'"{check(name)}"')
    return cast("LiteralString", text)
