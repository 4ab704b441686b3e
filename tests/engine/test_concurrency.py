"""Limits of how many jobs run at a time: of all functions, and of one; and from when on timeouts count."""

import asyncio
from collections import Counter
from typing import Any

import arq.worker
import pytest
from arq import cron
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from arq.worker import func
from engines import Start, ended, own_client, stop
from waiting import until

from tidepool.engine import concurrency
from tidepool.engine.options import EngineOptions
from tidepool.queue import wire

QUEUE = "arq:queue"
Ctx = dict[Any, Any]


class Rooms:
    """A function `slow` whose runs wait until they may end, and a function `quick`."""

    def __init__(self) -> None:
        self.may_end = asyncio.Semaphore(0)
        self.running = self.most_running = 0
        self.begun = asyncio.Condition()
        self.tries: list[tuple[str, int, int]] = []
        """Id, try and score of each run of `slow`, in order."""

    async def slow(self, ctx: Ctx) -> str:
        """Run until there is leave to end."""
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        self.tries.append((ctx["job_id"], ctx["job_try"], ctx["score"]))
        try:
            await self.may_end.acquire()
        finally:
            self.running -= 1
        return "slow"

    async def quick(self, _ctx: Ctx) -> str:
        """Return at once."""
        return "quick"

    @property
    def functions(self) -> list[Any]:
        """Return both, under their names."""
        return [func(self.slow, name="slow"), func(self.quick, name="quick")]

    def let_end(self, number: int = 1) -> None:
        """Let so many runs end, now or later."""
        for _ in range(number):
            self.may_end.release()

    async def until_begun(self, number: int) -> None:
        """Wait until `slow` has been begun so many times."""

        async def are_begun() -> bool:
            return len(self.tries) >= number

        await until(are_begun)


@pytest.fixture
def rooms() -> Rooms:
    """Give the two functions."""
    return Rooms()


@pytest.fixture
def no_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no job that was put back become due by itself while the test lasts."""
    monkeypatch.setattr(concurrency, "_LEAST_DELAY_MS", 3_600_000)
    monkeypatch.setattr(concurrency, "_LONGEST_DELAY_MS", 3_600_000)


def limited(limit: int, **more: Any) -> EngineOptions:
    """Return options with a limit for `slow`."""
    return EngineOptions(concurrency={"slow": limit}, **more)


async def enqueue(redis: ArqRedis, function: str, number: int) -> list[Job]:
    """Enqueue so many jobs, with ids like `slow-0`."""
    jobs = [await redis.enqueue_job(function, _job_id=f"{function}-{n}") for n in range(number)]
    return [job for job in jobs if job is not None]


async def are_put_back(redis: ArqRedis, number: int) -> None:
    """Wait until so many jobs of the queue are deferred, and not held by a worker."""

    async def are() -> bool:
        ids = [job_id.decode() for job_id in await redis.zrange(QUEUE, 0, -1)]
        states = [await Job(job_id, redis).status() for job_id in ids]
        return states.count(JobStatus.deferred) == number

    await until(are)


async def test_no_more_jobs_of_a_function_run_than_its_limit(start: Start, redis: ArqRedis, rooms: Rooms) -> None:
    """The others wait in the queue; each runs in the end, once and with its first try."""
    jobs = await enqueue(redis, "slow", 7)
    worker = start(*rooms.functions, tidepool=limited(2), max_jobs=10)
    await rooms.until_begun(2)
    await are_put_back(redis, 5)
    rooms.let_end(7)
    await ended(worker)
    assert 2 == rooms.most_running
    assert {job.job_id: 1 for job in jobs} == Counter(job_id for job_id, job_try, _ in rooms.tries if job_try == 1)
    assert (7, 0, 0) == (worker.jobs_complete, worker.jobs_retried, worker.jobs_failed)


@pytest.mark.usefixtures("no_return")
async def test_a_job_takes_a_free_place_at_once_in_the_order_of_the_queue(
    start: Start, redis: ArqRedis, rooms: Rooms
) -> None:
    """It does not wait until its delay is over, and has the due time that it had before."""
    await enqueue(redis, "slow", 5)
    dues = [(job_id.decode(), int(due)) for job_id, due in await redis.zrange(QUEUE, 0, -1, withscores=True)]
    worker = start(*rooms.functions, tidepool=limited(1), max_jobs=3)
    for number in range(1, 6):
        await rooms.until_begun(number)
        if number == 1:
            await are_put_back(redis, 4)
        rooms.let_end()
    await ended(worker)
    assert sorted(dues, key=lambda one: one[1]) == [(job_id, score) for job_id, _, score in rooms.tries]


@pytest.mark.usefixtures("no_return")
async def test_a_new_job_waits_behind_those_that_were_put_back(start: Start, redis: ArqRedis, rooms: Rooms) -> None:
    """The place that becomes free is for the oldest."""
    await enqueue(redis, "slow", 2)
    worker = start(*rooms.functions, tidepool=limited(1))
    await rooms.until_begun(1)
    await are_put_back(redis, 1)
    await redis.enqueue_job("slow", _job_id="new")
    await are_put_back(redis, 2)
    rooms.let_end(3)
    await ended(worker)
    assert "new" == rooms.tries[-1][0]


@pytest.mark.usefixtures("no_return")
async def test_a_thousand_jobs_of_one_function_do_not_keep_others_waiting(
    start: Start, redis: ArqRedis, rooms: Rooms
) -> None:
    """They are before the other job in the queue, and more than the worker may have."""
    await enqueue(redis, "slow", 1000)
    (other,) = await enqueue(redis, "quick", 1)
    start(*rooms.functions, tidepool=limited(2), max_jobs=10)
    assert "quick" == await other.result(timeout=20)
    assert 2 == rooms.running


async def test_a_worker_with_room_runs_what_another_one_has_put_back(
    start: Start, redis: ArqRedis, rooms: Rooms
) -> None:
    """The limit counts in one process; a job is due for the others after a second."""
    await enqueue(redis, "slow", 2)
    start(*rooms.functions, tidepool=limited(1))
    await rooms.until_begun(1)
    await are_put_back(redis, 1)
    start(*rooms.functions, tidepool=limited(1))
    await rooms.until_begun(2)
    assert 2 == rooms.running
    rooms.let_end(2)


async def test_a_burst_counts_runs_only(start: Start, redis: ArqRedis, rooms: Rooms) -> None:
    """Of five jobs it runs `max_burst_jobs`, however often the others were put back."""
    await enqueue(redis, "slow", 5)
    worker = start(*rooms.functions, tidepool=limited(1), max_burst_jobs=3)
    await rooms.until_begun(1)
    await are_put_back(redis, 4)
    rooms.let_end(5)
    await ended(worker)
    assert (3, 2) == (worker.jobs_complete, await redis.zcard(QUEUE))


@pytest.mark.usefixtures("no_return")
async def test_wrappers_of_run_job_do_not_see_jobs_that_are_put_back(
    start: Start, redis: ArqRedis, rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For Sentry, a job is one transaction."""
    seen: list[str] = []
    original = arq.worker.Worker.run_job

    async def run_job(self: Any, job_id: str, score: int) -> None:
        seen.append(job_id)
        await original(self, job_id, score)

    monkeypatch.setattr(arq.worker.Worker, "run_job", run_job)
    jobs = await enqueue(redis, "slow", 4)
    worker = start(*rooms.functions, tidepool=limited(1))
    await rooms.until_begun(1)
    await are_put_back(redis, 3)
    rooms.let_end(4)
    await ended(worker)
    assert [job.job_id for job in jobs] == sorted(seen)


@pytest.mark.usefixtures("no_return")
async def test_a_job_that_was_put_back_can_be_aborted(start: Start, redis: ArqRedis, rooms: Rooms) -> None:
    """Also while the limit is reached: it needs no place to end."""
    first, second = await enqueue(redis, "slow", 2)
    start(*rooms.functions, tidepool=limited(1), allow_abort_jobs=True, burst=False)
    await rooms.until_begun(1)
    await are_put_back(redis, 1)
    waiting = second if rooms.tries[0][0] == first.job_id else first
    assert await waiting.abort(timeout=20)
    assert (1, 1) == (rooms.running, len(rooms.tries))


@pytest.mark.usefixtures("no_return")
async def test_jobs_that_were_put_back_survive_their_worker(start: Start, redis: ArqRedis, rooms: Rooms) -> None:
    """They are in the queue with no try spent, also by a worker that is lost."""
    await enqueue(redis, "slow", 3)
    worker = start(*rooms.functions, tidepool=limited(1))
    await rooms.until_begun(1)
    await are_put_back(redis, 2)
    running = rooms.tries[0][0]
    (owner,) = await redis.zrange(f"{QUEUE}:owners", 0, -1)
    assert [running.encode()] == await redis.zrange(f"{QUEUE}:held:{owner.decode()}", 0, -1)
    await stop(worker)
    assert [f"arq:retry:{running}".encode()] == await redis.keys("arq:retry:*")
    assert 3 == await redis.zcard(QUEUE)


async def test_a_limit_needs_a_function_and_a_number(start: Start, rooms: Rooms) -> None:
    """A mistake in a name would be no limit at all. A cron job has a name, too."""
    with pytest.raises(ValueError, match="no function is called 'slwo'; there are slow, quick"):
        start(*rooms.functions, tidepool=EngineOptions(concurrency={"slwo": 1}))
    with pytest.raises(ValueError, match="'slow' has the limit 0"):
        start(*rooms.functions, tidepool=limited(0))
    tick = cron(rooms.quick, name="tick", month=2, day=30)
    start(*rooms.functions, cron_jobs=[tick], tidepool=EngineOptions(concurrency={"tick": 1}))


async def test_one_job_at_a_time_means_one(start: Start, redis: ArqRedis, rooms: Rooms) -> None:
    """With `max_jobs=1` a worker neither runs nor holds a second one."""
    beats = asyncio.Semaphore(0)
    await enqueue(redis, "slow", 3)
    worker = start(*rooms.functions, tidepool=EngineOptions(beaten=beats.release), max_jobs=1)
    await rooms.until_begun(1)
    for _ in range(3):
        await beats.acquire()
    (owner,) = await redis.zrange(f"{QUEUE}:owners", 0, -1)
    assert 1 == await redis.zcard(f"{QUEUE}:held:{owner.decode()}")
    rooms.let_end(3)
    await ended(worker)
    assert (3, 1) == (worker.jobs_complete, rooms.most_running)


async def test_a_timeout_counts_from_the_start_of_the_function(start: Start, redis: ArqRedis) -> None:
    """Not from the claim: the start hook takes longer than the function may."""

    async def job(_ctx: Ctx) -> str:
        await asyncio.sleep(0)
        return "in time"

    async def hook(_ctx: Ctx) -> None:
        await asyncio.sleep(0.3)

    (enqueued,) = await enqueue(redis, "job", 1)
    start(func(job, name="job", timeout=0.2), on_job_start=hook)
    assert "in time" == await enqueued.result(timeout=20)


async def test_many_slow_jobs_of_a_limited_function_do_not_time_out(start: Start, redis: ArqRedis) -> None:
    """Two workers have 60 jobs for a service that does one at a time: together they take twice their timeout."""

    def slow_function() -> Any:
        service = asyncio.Semaphore(1)

        async def slow(_ctx: Ctx) -> None:
            async with service:
                await asyncio.sleep(0.05)

        return func(slow, name="slow", timeout=0.75)

    await enqueue(redis, "slow", 60)
    workers = [start(slow_function(), tidepool=limited(1), max_jobs=1000) for _ in range(2)]
    for worker in workers:
        await ended(worker)
    assert (60, 0) == (sum(one.jobs_complete for one in workers), sum(one.jobs_failed for one in workers))


async def test_a_job_that_runs_for_longer_than_any_lease_is_left_to_its_worker(
    start: Start, redis: ArqRedis, rooms: Rooms
) -> None:
    """Its marks are renewed for as long as it runs, so that neither kind of worker takes it: for a day, if need be."""
    (job,) = await enqueue(redis, "slow", 1)
    start(*rooms.functions, tidepool=EngineOptions(lease_s=1.0), burst=False, job_timeout=86_400)
    await rooms.until_begun(1)
    start(*rooms.functions, tidepool=EngineOptions(lease_s=1.0), burst=False)
    codec = {"job_serializer": wire.serialize, "job_deserializer": wire.deserialize}
    pool = own_client(redis)
    stock = arq.worker.Worker(rooms.functions, redis_pool=pool, poll_delay=0.02, handle_signals=False, **codec)
    polling = asyncio.create_task(stock.main())
    marks: set[float] = set()

    async def renewed_five_times() -> bool:
        marks.add(await redis.zscore(QUEUE, job.job_id) or 0)
        assert 0 < await redis.pttl(f"arq:in-progress:{job.job_id}") <= 2000
        return len(marks) > 5

    await until(renewed_five_times)
    rooms.let_end(2)
    assert "slow" == await job.result(timeout=20)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    await stock.pool.aclose(close_connection_pool=True)
    assert 1 == len(rooms.tries)
