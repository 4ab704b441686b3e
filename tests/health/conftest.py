"""What the tests of the recorder and the pruner share."""

import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from unsteady_side import UnsteadySide

from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.health.recorder import Recorder
from tidepool.ledger.batcher import Tally
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection


@pytest.fixture
async def side(database: PoolConfig) -> AsyncIterator[UnsteadySide]:
    """Give a side connection to the test's database."""
    side = SideConnection(database, "stats")
    yield UnsteadySide(side)
    await side.close()


@pytest.fixture
def a_recorder(pool: Pool, side: UnsteadySide) -> Callable[..., Recorder]:
    """Give a factory of recorders of one imagined process."""
    identity = Identity(uuid.uuid4(), "worker-1", "host-1", datetime.now(UTC))

    def build(tally: Tally | None = None, interval_s: float = 0.1, on: Pool = pool) -> Recorder:
        unsteady: Any = side
        journal = Journal(identity, unsteady, about={"versions": {"python": "3"}, "config": {"max_size": 4}})
        return Recorder(journal, pool=on, tally=tally or Tally(), callers=lambda: 4, interval_s=interval_s)

    return build
