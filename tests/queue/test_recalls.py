"""Recalls against a real Redis: which jobs that were put back with a delay become due before it is over."""

from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.worker import Retry, func
from leasing import QUEUE, claim, enqueue, finished

from tidepool.jobs.outcomes import Release, RetryLater
from tidepool.queue.leases import Leases, Recall


@pytest.fixture
async def put_back(redis: ArqRedis, leases: Leases) -> Recall:
    """Give the recall of the job `a`, which was put back for a minute."""
    await enqueue(redis, "a")
    due_ms = int(await redis.zscore(QUEUE, "a") or 0)
    await claim(leases, "me")
    await leases.finish("me", [finished("a", Release(60_000, may_be_recalled=True))])
    return Recall("a", due_ms, 60_000)


async def test_a_recalled_job_is_due_at_its_old_place(redis: ArqRedis, leases: Leases, put_back: Recall) -> None:
    """It is claimed at once. A job that a worker of Tidepool or of stock arq holds is not recalled."""
    await redis.set("arq:in-progress:a", "stock")
    assert 0 == await leases.recall([put_back])
    await redis.delete("arq:in-progress:a")
    assert 1 == await leases.recall([put_back])
    assert put_back.due_ms == await redis.zscore(QUEUE, "a")
    assert ["a"] == await claim(leases, "other")
    held = await redis.zscore(QUEUE, "a")
    assert 0 == await leases.recall([put_back])
    assert held == await redis.zscore(QUEUE, "a")


async def test_a_retry_that_another_worker_defers_is_not_recalled(
    redis: ArqRedis, leases: Leases, put_back: Recall
) -> None:
    """The job came back when its delay was over, and ran elsewhere: it was run again without its 20 seconds."""
    await redis.zadd(QUEUE, {"a": put_back.due_ms + 0.5})
    assert ["a"] == await claim(leases, "other")
    await leases.finish("other", [finished("a", RetryLater(20.0))])
    deferred = await redis.zscore(QUEUE, "a")
    assert 0 == await leases.recall([put_back])
    assert deferred == await redis.zscore(QUEUE, "a")


async def test_a_retry_that_a_stock_worker_defers_is_not_recalled(
    redis: ArqRedis, leases: Leases, put_back: Recall
) -> None:
    """Its place in the queue still looks like that of a job that was put back: a stock worker adds the delay to it."""
    await redis.zadd(QUEUE, {"a": put_back.due_ms + 0.5})  # its delay is over

    async def put_off(_ctx: dict[Any, Any]) -> None:
        raise Retry(defer=20)

    options = {"redis_pool": redis, "job_deserializer": redis.job_deserializer, "job_serializer": redis.job_serializer}
    worker = arq.worker.Worker([func(put_off, name="f")], burst=True, handle_signals=False, max_burst_jobs=1, **options)
    await worker.async_run()
    worker.tasks.clear()
    deferred = await redis.zscore(QUEUE, "a") or 0
    assert 1 == worker.jobs_retried
    assert deferred % 1 == 0.5
    assert put_back.due_ms + 20_000 < deferred
    assert 0 == await leases.recall([put_back])
    assert deferred == await redis.zscore(QUEUE, "a")


async def test_another_job_of_the_same_id_is_not_recalled(redis: ArqRedis, leases: Leases, put_back: Recall) -> None:
    """It is deferred for longer than the one that was put back, which has ended elsewhere."""
    later = await redis.zscore(QUEUE, "a") or 0
    await redis.zadd(QUEUE, {"a": later + 60_000})
    assert 0 == await leases.recall([put_back])
    assert later + 60_000 == await redis.zscore(QUEUE, "a")


async def test_a_deferred_job_of_the_same_id_is_not_recalled(redis: ArqRedis, leases: Leases, put_back: Recall) -> None:
    """A client has deferred it, for less than the delay of the one that was put back."""
    due = put_back.due_ms + 30_000
    await redis.zadd(QUEUE, {"a": due})
    assert 0 == await leases.recall([put_back])
    assert due == await redis.zscore(QUEUE, "a")


async def test_a_job_that_has_left_the_queue_does_not_come_back(
    redis: ArqRedis, leases: Leases, put_back: Recall
) -> None:
    """Nor does a queue of a wrong type raise an error: the next claim reports it."""
    await redis.zrem(QUEUE, "a")
    assert 0 == await leases.recall([put_back])
    assert not await redis.exists(QUEUE)
    await redis.set(QUEUE, "text")
    assert 0 == await leases.recall([put_back])


async def test_many_jobs_are_recalled_in_several_calls(redis: ArqRedis, leases: Leases, put_back: Recall) -> None:
    """The last of them as well as the first."""
    gone = [Recall(f"gone-{number}", 1, 60_000) for number in range(600)]
    assert 1 == await leases.recall([*gone, put_back])
    assert put_back.due_ms == await redis.zscore(QUEUE, "a")
