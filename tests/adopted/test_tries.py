"""How often, when and with which number a plain function is tried, on arq's class and on ours."""

import asyncio
from collections.abc import Callable
from signal import Signals
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.jobs import JobStatus
from arq.utils import timestamp_ms
from arq.worker import JobExecutionFailed, Retry, RetryJob, func

Make = Callable[..., arq.worker.Worker]
Ctx = dict[Any, Any]
QUEUE = "arq:queue"
DELAYS_S = (5, 60, 600, 1800, 3600, 12 * 3600)
"""The delays of morpheus, by try; after the last one it writes "failed" itself."""


async def test_delays_by_try_and_a_last_try_that_the_function_recognizes(make: Make, redis: ArqRedis) -> None:
    """Each delay counts from the end of the try; the test sets the clock forward by moving the job to now."""
    tries: list[int] = []

    async def send(ctx: Ctx) -> str:
        tries.append(ctx["job_try"])
        if ctx["job_try"] > len(DELAYS_S):
            return "failed"
        raise Retry(defer=DELAYS_S[ctx["job_try"] - 1])

    job = await redis.enqueue_job("send", _job_id="j")
    assert job is not None
    for delay_s in DELAYS_S:
        before_ms = timestamp_ms()
        await make(func(send, name="send", max_tries=len(DELAYS_S) + 1), max_burst_jobs=1).async_run()
        score = await redis.zscore(QUEUE, "j")
        assert score is not None
        assert before_ms + delay_s * 1000 <= score <= timestamp_ms() + delay_s * 1000
        assert JobStatus.deferred == await job.status()
        await redis.zadd(QUEUE, {"j": timestamp_ms() - 1})
    await make(func(send, name="send", max_tries=len(DELAYS_S) + 1)).async_run()
    assert ("failed", list(range(1, 8))) == (await job.result(timeout=5), tries)
    info = await job.result_info()
    assert info is not None
    assert 7 == info.job_try


@pytest.mark.parametrize("error", [Retry, RetryJob, asyncio.CancelledError], ids=lambda error: error.__name__)
async def test_without_delay_it_is_tried_again_at_once_and_counted(make: Make, redis: ArqRedis, error: Any) -> None:
    """`Retry()`, `RetryJob`, and a cancellation that the function raises itself; its due time stays."""
    seen: list[tuple[int, int]] = []

    async def job(ctx: Ctx) -> str:
        seen.append((ctx["job_try"], ctx["score"]))
        if ctx["job_try"] < 3:
            raise error
        return "done"

    enqueued = await redis.enqueue_job("job", _job_id="j")
    assert enqueued is not None
    due_ms = await redis.zscore(QUEUE, "j")
    worker = make(func(job, name="job"))
    await worker.async_run()
    assert "done" == await enqueued.result(timeout=5)
    assert [(number, due_ms) for number in (1, 2, 3)] == seen
    assert (1, 2, 0) == (worker.jobs_complete, worker.jobs_retried, worker.jobs_failed)


@pytest.mark.parametrize("error", [Retry(defer=5), RetryJob(), asyncio.CancelledError()], ids=repr)
async def test_with_retry_jobs_false_nothing_is_tried_again(make: Make, redis: ArqRedis, error: Any) -> None:
    """The error itself is the result."""
    runs: list[int] = []

    async def job(ctx: Ctx) -> None:
        runs.append(ctx["job_try"])
        raise error

    enqueued = await redis.enqueue_job("job")
    assert enqueued is not None
    await make(func(job, name="job"), retry_jobs=False).async_run()
    with pytest.raises(type(error)):
        await enqueued.result(timeout=5)
    assert [1] == runs


@pytest.mark.parametrize(
    ("of_worker", "of_function", "runs"), [(5, None, 5), (1, None, 1), (5, 2, 2), (1, 3, 3)], ids=str
)
async def test_max_tries_of_the_worker_and_of_the_function(
    make: Make, redis: ArqRedis, of_worker: int, of_function: int | None, runs: int
) -> None:
    """That of the function counts; its job then fails with arq's words."""
    tries: list[int] = []

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        raise Retry

    enqueued = await redis.enqueue_job("job")
    assert enqueued is not None
    await make(func(job, name="job", max_tries=of_function), max_tries=of_worker).async_run()
    limit = of_function or of_worker
    with pytest.raises(JobExecutionFailed, match=f"max {limit} retries exceeded"):
        await enqueued.result(timeout=5)
    assert list(range(1, runs + 1)) == tries


async def test_the_result_of_a_job_that_is_not_run_is_kept_as_the_worker_says(make: Make, redis: ArqRedis) -> None:
    """Not as its function says, which may keep none: its client still gets to know that the tries are used up."""

    async def job(_ctx: Ctx) -> None:
        raise Retry

    for name in ("none", "ever"):
        await redis.enqueue_job(name, _job_id=name)
    functions = [func(job, name="none", keep_result=0), func(job, name="ever", keep_result_forever=True)]
    await make(*functions, max_tries=1, keep_result=60).async_run()
    for name in ("none", "ever"):
        assert 50 < await redis.ttl(f"arq:result:{name}") <= 60


async def test_a_try_that_the_client_names_counts(make: Make, redis: ArqRedis) -> None:
    """`_job_try=3` with two tries allowed: it is not run."""
    runs: list[int] = []

    async def job(ctx: Ctx) -> None:
        runs.append(ctx["job_try"])
        raise Retry

    await redis.enqueue_job("job", _job_try=2)
    await redis.enqueue_job("job", _job_try=4)
    await make(func(job, name="job", max_tries=3)).async_run()
    assert [2, 3] == runs


async def test_a_signal_waits_for_jobs_and_claims_no_more(make: Make, redis: ArqRedis) -> None:
    """`job_completion_wait`: what runs ends within it, and what waits stays in the queue untouched."""
    begun, may_end, runs = asyncio.Event(), asyncio.Event(), list[str]()

    async def job(ctx: Ctx) -> None:
        runs.append(ctx["job_id"])
        begun.set()
        await may_end.wait()

    first = await redis.enqueue_job("job", _job_id="first")
    assert first is not None
    worker = make(func(job, name="job"), burst=False, job_completion_wait=20)
    running = asyncio.create_task(worker.async_run())
    await begun.wait()
    worker.handle_sig_wait_for_completion(Signals.SIGTERM)
    second = await redis.enqueue_job("job", _job_id="second")
    assert second is not None
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (JobStatus.complete, JobStatus.queued) == (await first.status(), await second.status())
    assert (["first"], 0) == (runs, await redis.exists("arq:retry:second"))


async def test_a_job_that_outlasts_the_wait_is_cancelled_and_run_again(make: Make, redis: ArqRedis) -> None:
    """It has spent a try."""
    begun, tries = asyncio.Event(), list[int]()

    async def job(ctx: Ctx) -> str:
        tries.append(ctx["job_try"])
        begun.set()
        if ctx["job_try"] == 1:
            await asyncio.Event().wait()
        return "done"

    enqueued = await redis.enqueue_job("job", _job_id="j")
    assert enqueued is not None
    worker = make(func(job, name="job"), burst=False, job_completion_wait=0.01)
    running = asyncio.create_task(worker.async_run())
    await begun.wait()
    worker.handle_sig_wait_for_completion(Signals.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.gather(*worker.tasks.values(), return_exceptions=True)
    await make(func(job, name="job")).async_run()
    assert ("done", [1, 2]) == (await enqueued.result(timeout=5), tries)
