"""PostgreSQL's roles in tests."""

from dataclasses import replace

from tidepool.pool.config import PoolConfig
from tidepool.storage.roles import Roles

ROLES = Roles.of("tidepool")
WORK, READ = ROLES.work, ROLES.read


def as_role(database: PoolConfig, role: str) -> PoolConfig:
    """Return *database* as it is reached by *role*."""
    return replace(database, url=database.url.replace("postgres@", f"{role}@"))
