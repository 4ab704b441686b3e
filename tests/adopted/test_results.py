"""What arq's own clients see of jobs and their results, on arq's class and on ours."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus, SerializationError
from arq.utils import timestamp_ms
from arq.worker import func
from waiting import until

Make = Callable[..., arq.worker.Worker]
Ctx = dict[Any, Any]
QUEUE = "arq:queue"


class TransientError(Exception):
    """An application's error with details, which says how pickle builds it again."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return _transient, (str(self), self.code)


def _transient(message: str, code: int) -> TransientError:
    return TransientError(message, code=code)


class Held:
    """A function `job` that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()

    async def job(self, ctx: Ctx, *_args: Any) -> Any:
        """Wait, and return the score in ctx."""
        self.begun.set()
        await self.may_end.wait()
        return ctx["score"]


async def echo(_ctx: Ctx, value: Any) -> Any:
    """Return the argument."""
    return value


def start(worker: arq.worker.Worker) -> asyncio.Task[None]:
    """Run a worker beside the test."""
    return asyncio.create_task(worker.async_run())


async def test_an_error_is_raised_at_the_client_with_its_class_and_details(make: Make, redis: ArqRedis) -> None:
    """So that its caller can distinguish errors."""

    async def job(_ctx: Ctx) -> None:
        raise TransientError("the backend is away", code=503)

    enqueued = await redis.enqueue_job("job")
    assert enqueued is not None
    await make(func(job, name="job")).async_run()
    with pytest.raises(TransientError, match="the backend is away") as caught:
        await enqueued.result(timeout=5)
    assert 503 == caught.value.code


@pytest.mark.parametrize("fails", [False, True], ids=["result", "error"])
async def test_what_cannot_be_pickled_is_arqs_own_error(make: Make, redis: ArqRedis, *, fails: bool) -> None:
    """The job is done, and its client gets an error that says why there is no result."""

    async def job(_ctx: Ctx) -> Any:
        if fails:
            raise ValueError(lambda: None)
        return lambda: None

    enqueued = await redis.enqueue_job("job")
    assert enqueued is not None
    await make(func(job, name="job")).async_run()
    with pytest.raises(SerializationError, match="unable to serialize result"):
        await enqueued.result(timeout=5)
    assert 0 == await redis.zcard(QUEUE)


async def test_all_that_a_result_says(make: Make, redis: ArqRedis) -> None:
    """`result_info`, `info` and `all_job_results` have arq's fields, with arq's meanings."""
    before_ms = timestamp_ms()
    job = await redis.enqueue_job("echo", 1, _job_id="j", _defer_by=timedelta(milliseconds=30))
    assert job is not None
    await make(echo).async_run()
    (info,) = await redis.all_job_results()
    assert ("echo", (1,), {}, 1, True, 1) == (
        *(info.function, info.args, info.kwargs, info.job_try, info.success, info.result),
    )
    assert ("j", QUEUE) == (info.job_id, info.queue_name)
    assert before_ms / 1000 <= info.enqueue_time.timestamp() <= before_ms / 1000 + 5
    assert timedelta(milliseconds=30) <= info.start_time - info.enqueue_time
    assert info.start_time <= info.finish_time
    seen = await job.info()
    assert seen is not None
    assert (None, info.enqueue_time) == (seen.score, seen.enqueue_time)


async def test_the_status_of_a_job_through_its_life(make: Make, redis: ArqRedis) -> None:
    """Deferred, queued, in progress, complete; unknown again when the result is gone. ZCARD counts it while it runs."""
    held = Held()
    job = await redis.enqueue_job("job", _job_id="j", _defer_by=60)
    assert job is not None
    assert JobStatus.deferred == await job.status()
    await redis.zadd(QUEUE, {"j": timestamp_ms() - 5})
    assert JobStatus.queued == await job.status()
    running = start(make(func(held.job, name="job")))
    await held.begun.wait()
    assert (JobStatus.in_progress, 1, None) == (await job.status(), await redis.zcard(QUEUE), await job.result_info())
    held.may_end.set()
    await running
    assert (JobStatus.complete, 0) == (await job.status(), await redis.zcard(QUEUE))
    await redis.delete("arq:result:j")
    assert JobStatus.not_found == await job.status()


async def test_what_a_client_sees_of_a_running_job(make: Make, redis: ArqRedis, kind: type[arq.worker.Worker]) -> None:
    """`queued_jobs` and `info` list it, as in arq; ctx has its due time.

    One thing differs: on our class the score of a running job is the time at which other workers run it if nothing is
    heard of this one, two leases ahead. arq's is its due time.
    """
    held, lease_ms = Held(), 5000
    job = await redis.enqueue_job("job", 1, _job_id="j")
    assert job is not None
    (queued,) = await redis.queued_jobs()
    running = start(make(func(held.job, name="job")))
    await held.begun.wait()
    (seen,) = await redis.queued_jobs()
    info = await job.info()
    assert info is not None
    assert ("j", "job", (1,)) == (seen.job_id, seen.function, seen.args) == ("j", info.function, info.args)
    assert seen.score == info.score
    assert queued.score is not None
    assert seen.score is not None
    if kind is arq.worker.Worker:
        assert queued.score == seen.score
    else:
        assert 0 < seen.score - timestamp_ms() <= 2 * lease_ms
    held.may_end.set()
    await running
    assert queued.score == await job.result(timeout=5)


async def test_a_running_job_is_aborted_and_its_client_gets_the_error(make: Make, redis: ArqRedis) -> None:
    """`abort` returns True; the function meets its cancellation, and is not run again."""
    held = Held()
    job = await redis.enqueue_job("job", _job_id="j")
    assert job is not None
    worker = make(func(held.job, name="job"), allow_abort_jobs=True)
    running = start(worker)
    await held.begun.wait()
    assert await job.abort(timeout=10, poll_delay=0.01)
    await running
    assert (JobStatus.complete, 1) == (await job.status(), worker.jobs_failed)
    assert not await redis.exists("arq:abort", "arq:in-progress:j", "arq:retry:j", "arq:job:j")


@pytest.mark.parametrize("defer_by", [None, 3600], ids=["queued", "deferred"])
async def test_a_waiting_job_is_aborted_and_never_run(make: Make, redis: ArqRedis, defer_by: int | None) -> None:
    """A deferred one at once, and not when it would have been due."""
    job = await redis.enqueue_job("job", _defer_by=defer_by)
    assert job is not None
    aborting = asyncio.create_task(job.abort(timeout=10, poll_delay=0.01))
    await until(_is_asked(redis))
    await make(func(Held().job, name="job"), allow_abort_jobs=True).async_run()
    assert await aborting


async def test_a_job_that_swallows_its_cancellation_is_not_aborted(make: Make, redis: ArqRedis) -> None:
    """It has a result, and `abort` returns False."""
    begun = asyncio.Event()

    async def job(_ctx: Ctx) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "finished all the same"
        return ""

    enqueued = await redis.enqueue_job("job")
    assert enqueued is not None
    running = start(make(func(job, name="job"), allow_abort_jobs=True))
    await begun.wait()
    assert not await enqueued.abort(timeout=10, poll_delay=0.01)
    await running
    assert "finished all the same" == await enqueued.result(timeout=5)


async def test_without_the_setting_nothing_is_aborted(make: Make, redis: ArqRedis) -> None:
    """As in arq, whose default it is."""
    held = Held()
    held.may_end.set()
    job = await redis.enqueue_job("job", _job_id="j")
    assert job is not None
    await redis.zadd("arq:abort", {"j": timestamp_ms()})
    await make(func(held.job, name="job")).async_run()
    assert await job.result(timeout=5)


async def test_an_id_is_a_mutex_while_its_job_is_queued_or_runs_or_its_result_is_kept(
    make: Make, redis: ArqRedis
) -> None:
    """Then it is a new job, which runs again: SeraphSix's updates of a guild, requeued dead letters."""
    held, runs = Held(), list[int]()

    async def job(ctx: Ctx, number: int) -> int:
        runs.append(number)
        await held.job(ctx)
        return number

    async def enqueue(number: int) -> Job | None:
        return await redis.enqueue_job("job", number, _job_id="guild-7")

    function = func(job, name="job", keep_result=240)
    first = await enqueue(1)
    assert first is not None
    assert await enqueue(2) is None
    running = start(make(function))
    await held.begun.wait()
    assert await enqueue(3) is None
    held.may_end.set()
    await running
    assert await enqueue(4) is None
    assert 200 < await redis.ttl("arq:result:guild-7") <= 240
    await redis.delete("arq:result:guild-7")  # its time is over
    second = await enqueue(5)
    assert second is not None
    await make(function).async_run()
    assert ([1, 5], 5) == (runs, await second.result(timeout=5))


async def test_a_function_that_keeps_no_result_frees_its_id_at_once(make: Make, redis: ArqRedis) -> None:
    """Also for the job itself: drone-tm's reconciling job enqueues the next under the same id after its end."""
    runs: list[str] = []

    async def job(ctx: Ctx) -> None:
        runs.append(ctx["job_id"])

    for _ in range(3):
        assert await redis.enqueue_job("job", _job_id="same") is not None
        await make(func(job, name="job", keep_result=0)).async_run()
    assert ["same"] * 3 == runs


async def test_a_second_run_under_an_id_begins_with_the_first_try(make: Make, redis: ArqRedis) -> None:
    """Nothing of the first run is left: neither tries nor lapses nor an abort."""
    tries: list[int] = []

    async def job(ctx: Ctx) -> int:
        tries.append(ctx["job_try"])
        if ctx["job_try"] < 3:
            raise arq.worker.Retry
        return ctx["job_try"]

    for _ in range(2):
        assert await redis.enqueue_job("job", _job_id="same") is not None
        await make(func(job, name="job", keep_result=0)).async_run()
    assert [1, 2, 3, 1, 2, 3] == tries
    assert [b"arq:queue:health-check"] == await redis.keys("*")


async def test_a_job_may_enqueue_itself_again_under_another_id_with_a_later_try(make: Make, redis: ArqRedis) -> None:
    """`_job_try` is where its tries begin: mavedb's and em2's retries of their own."""
    tries: list[int] = []

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        if len(tries) < 3:
            await ctx["redis"].enqueue_job(
                "job", _job_id=f"j-{len(tries)}", _job_try=ctx["job_try"] + 1, _defer_by=0.01
            )

    await redis.enqueue_job("job", _job_id="j-0")
    await make(func(job, name="job")).async_run()
    assert [1, 2, 3] == tries


def _is_asked(redis: ArqRedis) -> Callable[[], Awaitable[object]]:
    async def asked() -> object:
        return await redis.zcard("arq:abort")

    return asked
