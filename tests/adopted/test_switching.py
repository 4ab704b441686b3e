"""The switch-over from arq's worker to ours, and back: with jobs in the queue, and with both at work."""

import asyncio
from collections.abc import Awaitable, Callable
from signal import Signals
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.worker import func
from waiting import until

from tidepool.engine.worker import Worker

Make = Callable[..., arq.worker.Worker]
Ctx = dict[Any, Any]
ARQS, OURS = arq.worker.Worker, Worker


@pytest.fixture
def kind() -> type[arq.worker.Worker]:
    """Give one class, since the tests name both."""
    return OURS


@pytest.mark.parametrize("order", [(ARQS, OURS, ARQS), (OURS, ARQS, OURS)], ids=["there and back", "back and there"])
async def test_a_job_is_tried_by_both_in_turn(make: Make, redis: ArqRedis, order: tuple[Any, ...]) -> None:
    """Its tries are counted on, and its pickled arguments and its result are read by either."""
    seen: list[tuple[type[Any], int, set[int]]] = []

    async def job(ctx: Ctx, numbers: set[int]) -> set[int]:
        seen.append((ctx["of"], ctx["job_try"], numbers))
        if ctx["job_try"] < 3:
            raise arq.worker.Retry
        return numbers

    enqueued = await redis.enqueue_job("job", {1, 2})
    assert enqueued is not None
    for of in order:
        await make(func(job, name="job"), of=of, ctx={"of": of}, max_burst_jobs=1).async_run()
    assert [(of, number, {1, 2}) for number, of in enumerate(order, 1)] == seen
    assert {1, 2} == await enqueued.result(timeout=5)


@pytest.mark.parametrize(("first", "second"), [(ARQS, OURS), (OURS, ARQS)], ids=["arq's first", "ours first"])
async def test_what_one_runs_the_other_leaves(make: Make, redis: ArqRedis, first: Any, second: Any) -> None:
    """Both look at one queue; the other jobs are run beside it."""
    begun, may_end, runs = asyncio.Event(), asyncio.Event(), list[tuple[str, type[Any]]]()

    async def job(ctx: Ctx) -> None:
        runs.append((ctx["job_id"], ctx["of"]))
        if ctx["job_id"] == "long":
            begun.set()
            await may_end.wait()

    await redis.enqueue_job("job", _job_id="long")
    running = asyncio.create_task(make(func(job, name="job"), of=first, ctx={"of": first}).async_run())
    await begun.wait()
    await redis.enqueue_job("job", _job_id="short")
    other = make(func(job, name="job"), of=second, ctx={"of": second}, burst=False)
    looking = asyncio.create_task(other.async_run())
    await until(_was_run("short", runs))
    may_end.set()
    await running
    other.handle_sig(Signals.SIGTERM)
    await asyncio.gather(looking, return_exceptions=True)
    assert 1 == [job_id for job_id, _ in runs].count("long")
    assert ("long", first) in runs
    assert 0 == await redis.zcard("arq:queue")


def _was_run(job_id: str, runs: list[tuple[str, type[Any]]]) -> Callable[[], Awaitable[object]]:
    async def was_run() -> bool:
        return job_id in dict(runs)

    return was_run
