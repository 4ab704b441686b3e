"""What the tests of the queue share."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from engines import stop
from held_jobs import Running
from leasing import QUEUE

from tidepool.queue.leases import Leases


@pytest.fixture
def leases(redis: ArqRedis) -> Leases:
    """Give the leases of the queue, ten seconds long."""
    return Leases(redis, QUEUE, lease_ms=10_000)


@pytest.fixture
async def start(redis: ArqRedis) -> AsyncIterator[Any]:
    """Give a function that starts a worker; it ends with the test."""
    started: list[Running] = []

    def make(**options: Any) -> Running:
        started.append(Running(redis, **options))
        return started[-1]

    yield make
    for running in started:
        running.may_end.set()
        await stop(running.worker)
