"""What the tests of adopted applications share: arq's own client, which pickles, and workers of arq's class and ours."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis

import tidepool.engine.worker


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[ArqRedis]:
    """Give arq's own client of the test's Redis database."""
    redis = ArqRedis.from_url(redis_url)
    yield redis
    await redis.aclose(close_connection_pool=True)


@pytest.fixture(params=["arq", "ours"])
def kind(request: pytest.FixtureRequest) -> type[arq.worker.Worker]:
    """Give a class of workers, arq's and ours in turn."""
    return arq.worker.Worker if request.param == "arq" else tidepool.engine.worker.Worker


@pytest.fixture
async def make(kind: type[arq.worker.Worker], redis_url: str) -> AsyncIterator[Callable[..., arq.worker.Worker]]:
    """Give a function that makes workers of one class, in burst mode by default; all are closed at the end."""
    made: list[arq.worker.Worker] = []

    def make_worker(*functions: Any, **options: Any) -> arq.worker.Worker:
        client = ArqRedis.from_url(redis_url)
        client.close = client.aclose  # type: ignore[method-assign]  # arq calls it by its old name: a warning
        given = {"redis_pool": client, "burst": True, "poll_delay": 0, "handle_signals": False, **options}
        made.append(kind(functions, **given))
        return made[-1]

    yield make_worker
    for one in made:
        await one.close()
