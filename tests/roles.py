"""PostgreSQL's roles in tests."""

from dataclasses import replace

from tidepool.pool.config import PoolConfig

WORK, READ = "tidepool_work", "tidepool_read"


def as_role(database: PoolConfig, role: str) -> PoolConfig:
    """Return *database* as it is reached by *role*."""
    return replace(database, url=database.url.replace("postgres@", f"{role}@"))
