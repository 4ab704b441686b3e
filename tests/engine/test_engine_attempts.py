"""What arq's Worker documents of tries, limits and times, run on arq's class and on ours."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from arq.connections import ArqRedis, create_pool
from arq.jobs import Job, JobStatus
from arq.worker import FailedJobs, Retry, func
from both_workers import Make, add

from tidepool.client import JobClient
from tidepool.queue import wire
from tidepool.queue.connection import RedisClient


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
    theirs = await create_pool(RedisClient.settings_for(redis_url), job_serializer=wire.serialize)
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
    three_run = asyncio.Event()

    async def count(ctx: dict[Any, Any]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            three_run.set()
        await three_run.wait()
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
