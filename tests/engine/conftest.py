"""What the tests of the engine share."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.worker import func
from both_workers import Make, add, again, fail
from engines import Start, own_client, stop

import tidepool.engine.worker
from tidepool.queue import wire


@pytest.fixture(params=["arq", "ours"])
async def make(request: pytest.FixtureRequest, redis: ArqRedis) -> AsyncIterator[Make]:
    """Give a function that makes workers of one class, in burst mode by default; all are closed at the end."""
    kind = arq.worker.Worker if request.param == "arq" else tidepool.engine.worker.Worker
    made: list[arq.worker.Worker] = []

    def make_worker(**options: Any) -> arq.worker.Worker:
        functions = options.pop("functions", [add, func(fail, name="fail"), func(again, name="again", max_tries=3)])
        made.append(
            kind(
                functions=functions,
                **{
                    "redis_pool": redis,
                    "burst": True,
                    "poll_delay": 0,
                    "handle_signals": False,
                    "job_serializer": wire.serialize,
                    "job_deserializer": wire.deserialize,
                    **options,
                },
            )
        )
        return made[-1]

    yield make_worker
    for one in made:
        one._handle_signals = True  # a closing worker that handles none would cancel the test's own task
        close = one.pool.aclose
        one.pool.aclose = one.pool.close = _nothing  # type: ignore[method-assign]  # the next one needs the connection
        await one.close()
        redis.aclose = close  # type: ignore[method-assign]


@pytest.fixture
async def start(redis: ArqRedis) -> AsyncIterator[Start]:
    """Give a function that makes and runs a worker of ours, by default in burst mode; all end with the test."""
    started: list[tidepool.engine.worker.Worker] = []

    def start_worker(*functions: Any, **options: Any) -> tidepool.engine.worker.Worker:
        settings: dict[str, Any] = {"burst": True, "handle_signals": False, "redis_pool": own_client(redis)}
        codec = {"job_serializer": wire.serialize, "job_deserializer": wire.deserialize}
        worker = tidepool.engine.worker.Worker(functions, **{**settings, **codec, **options})
        worker.main_task = asyncio.create_task(worker.main())
        started.append(worker)
        return worker

    yield start_worker
    for one in started:
        await stop(one)


async def _nothing(**_: Any) -> None:
    pass
