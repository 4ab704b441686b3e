"""What arq's Worker documents, run on arq's class and on ours: a difference would show here.

Each test enqueues with arq's own client and looks with it, too.
"""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import arq.worker
import pytest
from arq.connections import ArqRedis, create_pool
from arq.cron import cron
from arq.jobs import Job, JobStatus
from arq.worker import FailedJobs, Retry, func

import tidepool.engine.worker
from tidepool.client import JobClient
from tidepool.queue import wire
from tidepool.queue.connection import redis_settings

Make = Callable[..., arq.worker.Worker]


@pytest.fixture(params=["arq", "ours"])
async def make(request: pytest.FixtureRequest, redis: ArqRedis) -> AsyncIterator[Make]:
    """Give a function that makes workers of one class, in burst mode unless told otherwise; all are closed later."""
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


async def _nothing(**_: Any) -> None:
    pass


async def add(ctx: dict[Any, Any], first: int, second: int = 1) -> int:
    """Return the sum."""
    return first + second


async def fail(ctx: dict[Any, Any]) -> None:
    """Raise."""
    raise ValueError("on purpose")


async def again(ctx: dict[Any, Any]) -> int:
    """Ask for another try until the third."""
    if ctx["job_try"] < 3:
        raise Retry(defer=0.01)
    return ctx["job_try"]


async def test_a_job_runs_and_its_result_is_read(make: Make, redis: ArqRedis) -> None:
    """Positional and keyword arguments arrive, the result comes back, and only the result is left in Redis."""
    job = await redis.enqueue_job("add", 1, second=2, _job_id="one")
    one = make()

    assert 1 == await one.run_check()
    assert job is not None
    assert 3 == await job.result(1)
    assert JobStatus.complete == await job.status()
    info = await job.result_info()
    assert info is not None
    assert (True, 1, "add", "one") == (info.success, info.job_try, info.function, info.job_id)
    assert {b"arq:result:one", b"arq:queue:health-check"} == set(await redis.keys("*"))


async def test_burst_waits_for_a_deferred_job(make: Make, redis: ArqRedis) -> None:
    """A job that is due later runs when it is due, not before."""
    job = await redis.enqueue_job("add", 1, _defer_by=timedelta(milliseconds=300))
    assert job is not None
    assert JobStatus.deferred == await job.status()

    await make().main()
    info = await job.result_info()

    assert info is not None
    assert info.start_time - info.enqueue_time >= timedelta(milliseconds=299)


@pytest.fixture(params=["Asia/Kolkata", "America/St_Johns"])
def local_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have a local time of some zone."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


async def test_a_naive_time_is_local_and_an_aware_one_an_instant(
    make: Make, redis: ArqRedis, redis_url: str, client: JobClient, local_zone: str
) -> None:
    """`_defer_until` from arq's own client and from ours, before now, now and soon: jobs start when they are due."""
    theirs = await create_pool(redis_settings(redis_url), job_serializer=wire.serialize)
    now = datetime.now(UTC).replace(microsecond=0)
    due_s = {"past": -7200.0, "soon": 1.2, "later": 1.4, "hours": 7200.0}
    forms = {
        "naive": lambda at: at.astimezone().replace(tzinfo=None),
        "utc": lambda at: at,
        "offset": lambda at: at.astimezone(timezone(timedelta(hours=-9, minutes=-30))),
        "zone": lambda at: at.astimezone(ZoneInfo("Australia/Lord_Howe")),
    }
    jobs: dict[str, datetime] = {}
    for when, offset_s in due_s.items():
        for form, written in forms.items():
            for name, pool in (("ours", redis), ("arq", theirs)):
                job_id, at = f"{when}-{form}-{name}", now + timedelta(seconds=offset_s)
                await pool.enqueue_job("add", 1, _job_id=job_id, _defer_until=written(at))
                jobs[job_id] = at
                assert at.timestamp() * 1000 == await redis.zscore("arq:queue", job_id), job_id
    await theirs.aclose(close_connection_pool=True)
    few = len(jobs) * 3 // 4
    await make(max_burst_jobs=few).main()

    for job_id, at in jobs.items():
        job = Job(job_id, redis, _deserializer=wire.deserialize)
        info = await job.result_info()
        if job_id.startswith("hours"):
            assert (None, JobStatus.deferred, "deferred") == (info, await job.status(), await client.status(job_id))
        else:
            assert info is not None
            assert timedelta() <= info.start_time - at, job_id
            assert info.start_time < now + timedelta(seconds=10)


async def test_max_burst_jobs_is_exact(make: Make, redis: ArqRedis) -> None:
    """Of five jobs exactly two are run."""
    for number in range(5):
        await redis.enqueue_job("add", number)

    assert 2 == await make(max_burst_jobs=2).run_check()
    assert 3 == await redis.zcard("arq:queue")


async def test_max_jobs_bounds_what_runs_at_a_time(make: Make, redis: ArqRedis) -> None:
    """With max_jobs 3 no more than three of ten jobs ever run together, and all of them run."""
    running = most = 0

    async def count(ctx: dict[Any, Any]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    for _ in range(10):
        await redis.enqueue_job("count")

    assert 10 == await make(functions=[func(count, name="count")], max_jobs=3).run_check()
    assert 3 == most


async def test_a_job_that_takes_too_long_fails(make: Make, redis: ArqRedis) -> None:
    """The timeout cancels the job and is its failed result; the function's own timeout wins over the worker's."""
    cancelled = []

    async def slow(ctx: dict[Any, Any]) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(ctx["job_id"])
            raise

    job = await redis.enqueue_job("slow", _job_id="s")
    with pytest.raises(FailedJobs):
        await make(functions=[func(slow, name="slow", timeout=0.05)], job_timeout=20).run_check()

    assert ["s"] == cancelled
    assert job is not None
    with pytest.raises(TimeoutError):
        await job.result(1)


async def test_a_job_may_have_no_timeout(make: Make, redis: ArqRedis) -> None:
    """With `job_timeout` None a job takes as long as it takes."""
    job = await redis.enqueue_job("add", 1)
    assert 1 == await make(functions=[add], job_timeout=None).run_check()
    assert job is not None
    assert 2 == await job.result(1)


async def test_retry_runs_again_and_counts(make: Make, redis: ArqRedis) -> None:
    """`Retry` runs the job again with the next try's number; at the end nothing but its result is left."""
    job = await redis.enqueue_job("again")
    one = make()
    await one.main()

    assert job is not None
    assert 3 == await job.result(1)
    assert not await redis.exists(*(f"arq:{kind}:{job.job_id}" for kind in ("job", "retry", "in-progress")))
    assert (1, 2, 0) == (one.jobs_complete, one.jobs_retried, one.jobs_failed)


async def test_tries_end(make: Make, redis: ArqRedis) -> None:
    """After max_tries a job that asks for another try is failed."""

    async def never(ctx: dict[Any, Any]) -> None:
        raise Retry

    await redis.enqueue_job("never")
    one = make(functions=[func(never, name="never", max_tries=2)])

    with pytest.raises(FailedJobs, match="max 2 retries exceeded"):
        await one.run_check()
    assert (2, 1) == (one.jobs_retried, one.jobs_failed)


async def test_an_exception_is_the_failed_result(make: Make, redis: ArqRedis) -> None:
    """A job that raises is not run again; its error is the result."""
    job = await redis.enqueue_job("fail")
    one = make()
    await one.main()

    assert (0, 1) == (one.jobs_complete, one.jobs_failed)
    assert job is not None
    with pytest.raises(RuntimeError, match="on purpose"):
        await job.result(1)


async def test_an_unknown_function_and_an_expired_job_fail(make: Make, redis: ArqRedis) -> None:
    """Jobs that cannot be run are failed and leave the queue."""
    await redis.enqueue_job("nobody_knows")
    await redis.enqueue_job("add", 1, _job_id="gone")
    await redis.delete("arq:job:gone")
    one = make()
    await one.main()

    assert (0, 2, 0) == (one.jobs_complete, one.jobs_failed, await redis.zcard("arq:queue"))


async def test_the_same_id_is_enqueued_once(make: Make, redis: ArqRedis) -> None:
    """While a job is queued, and as long as its result is kept, its id is taken."""
    assert await redis.enqueue_job("add", 1, _job_id="same") is not None
    assert await redis.enqueue_job("add", 2, _job_id="same") is None
    await make().main()
    assert await redis.enqueue_job("add", 3, _job_id="same") is None


async def test_keep_result_zero_keeps_none(make: Make, redis: ArqRedis) -> None:
    """With keep_result 0 nothing of a job is left, and its id is free again."""
    await redis.enqueue_job("add", 1, _job_id="fleeting")
    await make(keep_result=0).main()

    assert not await redis.exists("arq:result:fleeting")
    assert await redis.enqueue_job("add", 1, _job_id="fleeting") is not None


async def test_results_are_kept_for_their_time_or_for_ever(make: Make, redis: ArqRedis) -> None:
    """keep_result is the result's time to live; keep_result_forever leaves it without one."""
    await redis.enqueue_job("add", 1, _job_id="hour")
    await redis.enqueue_job("kept", 1, _job_id="ever")
    await make(functions=[add, func(add, name="kept", keep_result_forever=True)], keep_result=3600).main()

    assert 3590 < await redis.ttl("arq:result:hour") <= 3600
    assert -1 == await redis.ttl("arq:result:ever")


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


async def test_the_health_key_tells_the_counts(make: Make, redis: ArqRedis) -> None:
    """The health key exists while the worker lives, with arq's words, and `async_check_health` reads it."""
    await redis.enqueue_job("add", 1)
    one = make(health_check_key="health", health_check_interval=30)
    await one.main()

    text = await redis.get("health")
    assert b"j_complete=" in text
    assert 29 < await redis.ttl("health") <= 31


async def test_queue_name_and_serializer_are_the_workers_own(make: Make, redis: ArqRedis) -> None:
    """Jobs of another queue are left alone; a serializer of one's own is used both ways."""
    await redis.enqueue_job("add", 1, _queue_name="other", _job_id="o")
    await redis.enqueue_job("add", 1, _job_id="m")
    one = make(queue_name="other")
    await one.main()

    assert (1, 1) == (one.jobs_complete, await redis.zcard("arq:queue"))
    assert 2 == await Job("o", redis, "other", wire.deserialize).result(1)


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
    """A job that was running when the worker was told to stop is queued again, and runs elsewhere."""
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


async def test_log_lines_are_arqs(make: Make, redis: ArqRedis, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever watches for arq's lines about jobs finds them."""
    caplog.set_level(logging.INFO)
    await redis.enqueue_job("add", 1, _job_id="j", _defer_until=datetime.now(UTC))
    await make().main()

    assert "→ j:add(1)" in caplog.text
    assert "← j:add ● 2" in caplog.text
