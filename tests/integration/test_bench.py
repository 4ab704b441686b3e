"""The benchmark's parts that need no worker."""

import pytest

from worker.bench.acquire import acquire_us
from worker.db.pool import PoolConfig


async def test_both_pools_are_measured(database: PoolConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its turn, an acquire and release in microseconds."""
    monkeypatch.setattr("worker.bench.acquire._TURNS", 1)
    us = await acquire_us(database)
    assert ["asyncpg", "tidepool"] == list(us)
    assert all(0 < figure < 1_000_000 for figure in us.values())
