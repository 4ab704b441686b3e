"""What arq's Worker documents of signals, aborts, hooks and cron jobs, run on arq's class and on ours."""

import asyncio
import signal
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.cron import cron
from arq.jobs import JobStatus
from arq.worker import func
from both_workers import Make


async def test_a_running_job_is_aborted(make: Make, redis: ArqRedis) -> None:
    """`Job.abort` cancels a running job, answers True, and the job does not run again."""
    started = asyncio.Event()

    async def long(ctx: dict[Any, Any]) -> None:
        started.set()
        await asyncio.sleep(30)

    job = await redis.enqueue_job("long")
    one = make(functions=[func(long, name="long")], allow_abort_jobs=True, poll_delay=0.05, burst=False)
    running = asyncio.create_task(one.main())
    await asyncio.wait_for(started.wait(), 10)

    assert job is not None
    assert await job.abort(timeout=10, poll_delay=0.02)
    running.cancel()
    assert (1, 0) == (one.jobs_failed, await redis.zcard("arq:queue"))


async def test_a_deferred_job_is_aborted_before_it_starts(make: Make, redis: ArqRedis) -> None:
    """Aborting a job that is not due ends it without running it."""
    job = await redis.enqueue_job("add", 1, _defer_by=1000)
    one = make(allow_abort_jobs=True, poll_delay=0.05, burst=False)
    running = asyncio.create_task(one.main())

    assert job is not None
    assert await job.abort(timeout=10, poll_delay=0.02)
    running.cancel()
    assert (0, 1) == (one.jobs_complete, one.jobs_failed)


async def test_hooks_run_around_the_job(make: Make, redis: ArqRedis) -> None:
    """Start-up, job start, job end, after the job and shutdown, in this order, with the job's context."""
    seen: list[Any] = []

    def hook(name: str) -> Any:
        async def run(ctx: dict[Any, Any]) -> None:
            seen.append((name, ctx.get("job_id"), "redis" in ctx))

        return run

    names = ("on_startup", "on_job_start", "on_job_end", "after_job_end", "on_shutdown")
    await redis.enqueue_job("add", 1, _job_id="j")
    one = make(**{name: hook(name) for name in names})
    await one.main()
    await one.on_shutdown(one.ctx)  # type: ignore[misc]  # what close does; closing here would close the test's connection
    one.on_shutdown = None

    assert [
        ("on_startup", None, True),
        *((name, "j", True) for name in names[1:4]),
        ("on_shutdown", None, True),
    ] == seen


async def test_cron_jobs_run_at_their_time_once_for_all_workers(make: Make, redis: ArqRedis) -> None:
    """Two workers with the same cron job enqueue it once for its time."""
    runs: list[str] = []

    async def tick(ctx: dict[Any, Any]) -> None:
        runs.append(ctx["job_id"])

    jobs = [cron(tick, name="tick", run_at_startup=True, hour=3, minute=33)]
    one = make(functions=[], cron_jobs=jobs, burst=False, poll_delay=0.05)
    two = make(functions=[], cron_jobs=[cron(tick, name="tick", hour=3, minute=33)], burst=False, poll_delay=0.05)
    running = [asyncio.create_task(one.main()), asyncio.create_task(two.main())]
    async with asyncio.timeout(10):
        while not runs or one.jobs_complete + two.jobs_complete < 1:
            await asyncio.sleep(0.02)
    for task in running:
        task.cancel()

    assert 1 == len(runs)


async def test_a_signal_lets_jobs_complete_within_the_wait(make: Make, redis: ArqRedis) -> None:
    """With job_completion_wait a stopping worker takes no new jobs and finishes the ones it has."""
    started, go = asyncio.Event(), asyncio.Event()

    async def patient(ctx: dict[Any, Any]) -> str:
        started.set()
        await go.wait()
        return "done"

    job = await redis.enqueue_job("patient")
    one = make(functions=[func(patient, name="patient")], burst=False, job_completion_wait=10, poll_delay=0.02)
    one.main_task = running = asyncio.create_task(one.main())
    await asyncio.wait_for(started.wait(), 10)

    one.handle_sig_wait_for_completion(signal.SIGTERM)
    late = await redis.enqueue_job("patient")
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert job is not None
    assert late is not None
    assert "done" == await job.result(1)
    assert JobStatus.queued == await late.status()


async def test_a_signal_without_wait_puts_running_jobs_back(make: Make, redis: ArqRedis) -> None:
    """A job that was running when the worker was asked to stop is queued again, and runs elsewhere."""
    started = asyncio.Event()

    async def interrupted(ctx: dict[Any, Any]) -> int:
        if not started.is_set():
            started.set()
            await asyncio.sleep(30)
        return 7

    job = await redis.enqueue_job("interrupted")
    functions = [func(interrupted, name="interrupted")]
    one = make(functions=functions, burst=False, poll_delay=0.02)
    one.main_task = running = asyncio.create_task(one.main())
    await asyncio.wait_for(started.wait(), 10)
    one.handle_sig(signal.SIGTERM)
    await asyncio.gather(running, *one.tasks.values(), return_exceptions=True)

    assert 1 == await make(functions=functions).run_check()
    assert job is not None
    assert 7 == await job.result(1)
