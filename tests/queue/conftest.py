"""What the tests of the queue share."""

import pytest
from arq.connections import ArqRedis
from leasing import QUEUE

from tidepool.queue.leases import Leases


@pytest.fixture
def leases(redis: ArqRedis) -> Leases:
    """Give the leases of the queue, ten seconds long."""
    return Leases(redis, QUEUE, lease_ms=10_000)
