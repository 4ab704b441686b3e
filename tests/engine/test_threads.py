"""Blocking functions in threads: what they get and give, and what a timeout, an abort and a stop do with them."""

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job
from arq.worker import Retry, func
from engines import Start, ended, stop
from waiting import until

from tidepool import threaded
from tidepool.engine.options import EngineOptions

Ctx = dict[Any, Any]
WAIT_S = 20.0

where: contextvars.ContextVar[str] = contextvars.ContextVar("where")


class Blocking:
    """A blocking function: it waits until it may end, or its job is aborted."""

    def __init__(self) -> None:
        self.has_begun, self.may_end, self.has_ended = threading.Event(), threading.Event(), threading.Event()
        self.runs = 0

    def job(self, ctx: Ctx) -> str:
        """Wait, and return what for."""
        self.runs += 1
        self.has_begun.set()
        while not self.may_end.wait(0.01):
            if ctx["tidepool"].is_aborted:
                break
        self.has_ended.set()
        return "aborted" if ctx["tidepool"].is_aborted else "ended"

    async def until(self, event: threading.Event) -> None:
        """Wait for one of the events without blocking the loop."""

        async def is_set() -> bool:
            return event.is_set()

        await until(is_set)


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    """Give the function; its thread ends with the test."""
    one = Blocking()
    yield one
    one.may_end.set()
    assert one.has_ended.wait(WAIT_S) or not one.has_begun.is_set()


async def enqueue(redis: ArqRedis, function: str = "job", *args: Any, **kwargs: Any) -> Job:
    """Enqueue a job."""
    job = await redis.enqueue_job(function, *args, **kwargs)
    assert job is not None
    return job


async def test_a_plain_function_runs_in_a_thread_with_the_contextvars_of_its_job(start: Start, redis: ArqRedis) -> None:
    """Also those that the start hook has set; its result is the job's."""
    main = threading.get_ident()

    def job(ctx: Ctx, first: int, *, second: int) -> list[Any]:
        return [threading.get_ident() != main, where.get(), ctx["job_try"], first + second]

    async def hook(_ctx: Ctx) -> None:
        where.set("hook")

    job.__qualname__ = "job"
    enqueued = await enqueue(redis, "job", 3, second=4)
    start(job, on_job_start=hook)
    assert [True, "hook", 1, 7] == await enqueued.result(timeout=WAIT_S)


async def test_a_callable_object_runs_in_a_thread(start: Start, redis: ArqRedis) -> None:
    """It has no name of its own."""

    class Double:
        def __call__(self, _ctx: Ctx, number: int) -> int:
            return 2 * number

    enqueued = [await enqueue(redis, name, 21) for name in ("object", "partial")]
    one = Double()
    start(func(threaded(one), name="object"), func(threaded(functools.partial(one)), name="partial"))
    assert [42, 42] == [await job.result(timeout=WAIT_S) for job in enqueued]


async def test_a_function_that_arq_takes_for_an_async_one_is_left_as_it_is(
    start: Start, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `def` that returns a coroutine and is marked: each version of arq and Python knows marks of its own."""

    def job(_ctx: Ctx) -> Any:
        return asyncio.sleep(0, "awaited")

    job.__qualname__ = "job"
    theirs = inspect.iscoroutinefunction
    monkeypatch.setattr("arq.worker.inspect.iscoroutinefunction", lambda one: one is job or theirs(one))
    monkeypatch.setattr("arq.worker.asyncio.iscoroutinefunction", lambda one: one is job or theirs(one))
    enqueued = await enqueue(redis)
    start(job)
    assert "awaited" == await enqueued.result(timeout=WAIT_S)


async def test_the_error_of_a_thread_is_that_of_its_job(start: Start, redis: ArqRedis) -> None:
    """`Retry` has its meaning there, too; the decorated function has arq's own settings."""

    @threaded
    def job(ctx: Ctx) -> None:
        if ctx["job_try"] == 1:
            raise Retry
        raise ValueError("on purpose")

    enqueued = await enqueue(redis)
    start(func(job, name="job", max_tries=2))
    with pytest.raises(RuntimeError, match="on purpose"):
        await enqueued.result(timeout=WAIT_S)
    info = await enqueued.result_info()
    assert info is not None
    assert 2 == info.job_try


async def test_no_thread_waits_for_another(start: Start, redis: ArqRedis) -> None:
    """Forty run at once, each in a thread of its own, so none times out before it has begun."""
    together = threading.Barrier(40)

    @threaded
    def job(_ctx: Ctx) -> int:
        return together.wait(WAIT_S)

    enqueued = [await enqueue(redis) for _ in range(40)]
    start(func(job, name="job"), max_jobs=40)
    assert list(range(40)) == sorted([await one.result(timeout=WAIT_S) for one in enqueued])


async def test_a_limit_bounds_the_threads_of_a_function(start: Start, redis: ArqRedis) -> None:
    """`EngineOptions.concurrency` counts jobs, and each has one thread."""
    lock = threading.Lock()

    @threaded
    def job(_ctx: Ctx) -> bool:
        is_alone = lock.acquire(blocking=False)
        try:
            return is_alone
        finally:
            if is_alone:
                lock.release()

    enqueued = [await enqueue(redis) for _ in range(5)]
    start(func(job, name="job"), tidepool=EngineOptions(concurrency={"job": 1}))
    assert [True] * 5 == [await one.result(timeout=WAIT_S) for one in enqueued]


async def test_after_a_timeout_the_job_ends_and_the_thread_goes_on(
    start: Start, redis: ArqRedis, blocking: Blocking
) -> None:
    """The job fails at once and for good; its worker ends without the thread."""
    enqueued = await enqueue(redis)
    worker = start(func(threaded(blocking.job), name="job", timeout=0.05))
    with pytest.raises(TimeoutError):
        await enqueued.result(timeout=WAIT_S)
    await ended(worker)
    await stop(worker)
    assert not blocking.has_ended.is_set()


async def test_an_aborted_thread_can_see_that_it_is(start: Start, redis: ArqRedis, blocking: Blocking) -> None:
    """The job ends at once, and the thread when it looks."""
    enqueued = await enqueue(redis)
    start(func(threaded(blocking.job), name="job"), allow_abort_jobs=True)
    await blocking.until(blocking.has_begun)
    assert await enqueued.abort(timeout=WAIT_S)
    await blocking.until(blocking.has_ended)


async def test_a_stop_waits_for_a_thread_and_stores_its_result(
    start: Start, redis: ArqRedis, blocking: Blocking
) -> None:
    """Nobody else runs the job meanwhile, for longer than a lease: it is held, and not put back."""
    enqueued = await enqueue(redis)
    lease = EngineOptions(lease_s=0.5)
    stopping = start(func(threaded(blocking.job), name="job"), tidepool=lease, burst=False)
    await blocking.until(blocking.has_begun)
    end = asyncio.create_task(stop(stopping))
    other = start(func(threaded(blocking.job), name="job"), tidepool=lease)
    marks: set[float] = set()

    async def renewed() -> bool:
        marks.add(await redis.zscore("arq:queue", enqueued.job_id) or 0)
        return len(marks) > 4

    await until(renewed)
    assert not end.done()
    blocking.may_end.set()
    await end
    assert "ended" == await enqueued.result(timeout=WAIT_S)
    await ended(other)
    assert 1 == blocking.runs


async def test_an_async_function_in_a_plain_wrapper_is_an_error(start: Start, redis: ArqRedis) -> None:
    """Its call returns a coroutine that nobody would run."""

    async def inner(_ctx: Ctx) -> None: ...

    @functools.wraps(inner)
    def job(ctx: Ctx) -> Any:
        return inner(ctx)

    job.__qualname__ = "job"
    enqueued = await enqueue(redis)
    start(job)
    with pytest.raises(RuntimeError, match="job returned a coroutine; make it an async function"):
        await enqueued.result(timeout=WAIT_S)


async def test_a_threaded_function_can_be_called_anywhere() -> None:
    """Without a worker of ours, such as arq's own or in a test, it is an async function."""

    @threaded
    def add(first: int, second: int) -> int:
        return first + second

    assert 5 == await add(2, second=3)


async def test_a_timeout_counts_while_the_worker_stops(start: Start, redis: ArqRedis, blocking: Blocking) -> None:
    """The stop waits for the thread no longer than the job's timeout, and the job fails as at any other time."""
    enqueued = await enqueue(redis)
    worker = start(func(threaded(blocking.job), name="job", timeout=0.5), burst=False)
    await blocking.until(blocking.has_begun)
    async with asyncio.timeout(5):
        await stop(worker)
    assert not blocking.has_ended.is_set()
    with pytest.raises(TimeoutError):
        await enqueued.result(timeout=WAIT_S)
