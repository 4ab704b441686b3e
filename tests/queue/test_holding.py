"""What a process holds: jobs that it does not know of, and finishes that do not get through."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.exceptions import ResponseError
from waiting import until

from tidepool.jobs.job import Job
from tidepool.queue import holding as holding_module
from tidepool.queue.faults import Outage
from tidepool.queue.finisher import Done
from tidepool.queue.holding import Holding
from tidepool.queue.leases import Leases

QUEUE = "arq:queue"


@pytest.fixture
async def held(redis: ArqRedis) -> AsyncIterator[Holding]:
    """Give what a process called `me` holds: nothing yet."""

    def acknowledged(_: Sequence[Job]) -> None:
        pass

    it = Holding(redis, QUEUE, name="me", lease_s=10, outage=Outage(), acknowledged=acknowledged)
    yield it
    await it.close()


async def enqueue(redis: ArqRedis, *job_ids: str) -> None:
    """Put jobs into the queue."""
    for job_id in job_ids:
        await redis.enqueue_job("job", _job_id=job_id)


async def test_a_claim_that_reaches_redis_late_is_found(
    redis: ArqRedis, held: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was given up here, and what it takes belongs to nobody: so after trouble there is more than one look."""
    monkeypatch.setattr(holding_module, "_LOOK_AGAIN_S", 0.0)
    await enqueue(redis, "mine")
    assert ["mine"] == [job.id for job in await held.claim(10)]
    held.doubt()
    assert [] == await held.claim(0)

    await enqueue(redis, "late")
    await Leases(redis, QUEUE, lease_ms=10_000).claim(held.owner, 10, suspect_too=False)
    await held.claim(0)
    await held.drain()

    assert {b"mine"} == set(await redis.zrange(f"{QUEUE}:held:{held.owner}", 0, -1))
    assert ["late"] == [job.id for job in await held.claim(10)]


async def test_nobody_looks_for_strays_for_ever(
    redis: ArqRedis, held: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the doubt is over."""
    monkeypatch.setattr(holding_module, "_DOUBT_S", 0.0)
    monkeypatch.setattr(holding_module, "_LOOK_AGAIN_S", 0.0)
    held.doubt()
    await held.claim(0)

    await enqueue(redis, "a")
    await Leases(redis, QUEUE, lease_ms=10_000).claim(held.owner, 10, suspect_too=False)
    await held.claim(0)
    await held.drain()
    assert [b"a"] == await redis.zrange(f"{QUEUE}:held:{held.owner}", 0, -1)


async def test_a_finish_that_is_refused_is_kept_and_reported(
    redis: ArqRedis, held: Holding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error ends the worker by its next claim, as an error of the claim itself does; nothing is forgotten."""
    await enqueue(redis, "a", "b")
    claimed = await held.claim(10)
    right = Leases.finish
    refused = asyncio.Event()

    async def refuse(*_: Any) -> Any:
        refused.set()
        raise ResponseError("ERR wrong number of arguments")

    monkeypatch.setattr(Leases, "finish", refuse)
    for job in claimed:
        held.finish(job, Done())
    await refused.wait()
    await held.drain()
    with pytest.raises(ResponseError, match="wrong number"):
        await held.claim(10)

    monkeypatch.setattr(Leases, "finish", right)
    await enqueue(redis, "c")
    (later,) = await held.claim(10)
    held.finish(later, Done())

    async def all_are_gone() -> bool:
        return not await redis.zcard(QUEUE)

    await until(all_are_gone)
