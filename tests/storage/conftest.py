"""What the tests of the tables share."""

from collections.abc import Iterator
from typing import Any

import pytest
from commands import Service
from roles import READ, ROLES, WORK, as_role

from tidepool.pool.config import PoolConfig
from worker import app


@pytest.fixture
async def roles(database: PoolConfig, connection: Any) -> Any:
    """Have the roles, made twice, as after an upgrade."""
    await ROLES.grant(database, {}, app.grants)
    await ROLES.grant(database, {}, app.grants)
    yield
    await connection.execute(f"DROP OWNED BY {WORK}, {READ}")
    await connection.execute(f"DROP ROLE {WORK}, {READ}")


@pytest.fixture
def least(service: Service, database: PoolConfig, roles: None) -> Iterator[Service]:
    """Give the commands as the role that works."""
    service.environment |= {"DATABASE_URL": as_role(database, WORK).url, "MIGRATE_ON_START": "false"}
    yield service
    for worker in service.started:  # before the roles go
        worker.kill()
        worker.wait()
