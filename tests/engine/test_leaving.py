"""Workers with different functions or serializers on one queue: each job runs where it is understood, none is lost."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from arq.worker import FailedJobs, func
from engines import own_client, stop
from waiting import until

from tidepool.client import JobClient
from tidepool.engine import leaving
from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker
from tidepool.jobs import job as jobs
from tidepool.queue import wire

QUEUE = "arq:queue"

Function = Callable[..., Awaitable[Any]]


def named(name: str, ran: list[str]) -> Function:
    """Return a function that notes its name and the job's id."""

    async def run(ctx: dict[Any, Any]) -> str:
        ran.append(f"{name} {ctx['job_id']}")
        return name

    return func(run, name=name)  # type: ignore[return-value]


def worker(redis: ArqRedis, *functions: Any, leave_s: float | None = 60.0, limit: int = 2**20, **more: Any) -> Worker:
    """Return a worker with these functions; its jobs are JSON unless *more* says otherwise."""
    options = {"job_serializer": wire.serialize, "job_deserializer": wire.deserialize, "handle_signals": False}
    return Worker(
        functions=functions,
        redis_pool=own_client(redis),
        tidepool=EngineOptions(leave_s=leave_s, max_job_bytes=limit),
        **{**options, **more},
    )


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    """Run workers until the block ends."""
    for one in workers:
        one.main_task = asyncio.create_task(one.main())
    try:
        yield
        for one in workers:
            assert one.main_task is not None
            assert not one.main_task.done()
    finally:
        for one in workers:
            await stop(one)


def is_empty(redis: ArqRedis) -> Callable[[], Awaitable[bool]]:
    """Return a condition: no job is in the queue."""

    async def empty() -> bool:
        return not await redis.zcard(QUEUE)

    return empty


def has_logged(logs: list[Any], event: str, count: int = 1) -> Callable[[], Awaitable[bool]]:
    """Return a condition: the event has been logged so often."""

    async def logged() -> bool:
        return count <= sum(line["event"] == event for line in logs)

    return logged


async def stocks_pickle(redis: ArqRedis, function: str, job_id: str) -> None:
    """Enqueue a job as arq does by default."""
    await ArqRedis(redis.connection_pool).enqueue_job(function, _job_id=job_id)


async def test_seven_kinds_of_workers_on_one_queue_run_every_job(redis: ArqRedis) -> None:
    """Each job once, by the worker that has its function, even if another one claims it first."""
    ran: list[str] = []
    kinds = "abcdefg"
    expected = {f"{kind} {kind}{number}" for kind in kinds for number in range(30)}
    async with running(*(worker(redis, named(kind, ran)) for kind in kinds)):
        for number in range(30):
            for kind in kinds:
                await redis.enqueue_job(kind, _job_id=f"{kind}{number}")
        await until(is_empty(redis))
    assert expected == set(ran)
    assert len(expected) == len(ran)


async def test_a_worker_of_another_serializer_harms_no_job(redis: ArqRedis, logs: list[Any]) -> None:
    """Pickled jobs are left by the one that reads JSON, and the other way round, until their own workers come."""
    ran: list[str] = []
    pickling = {"job_serializer": None, "job_deserializer": None}
    async with running(worker(redis, named("f", ran))):
        for number in range(150):
            await stocks_pickle(redis, "f", f"pickle{number}")
        await until(has_logged(logs, "job.left"))
        async with running(worker(redis, named("f", ran), **pickling)):
            for number in range(20):
                await redis.enqueue_job("f", _job_id=f"json{number}")
            await until(is_empty(redis))
    assert 170 == len(ran) == len(set(ran))


async def test_a_left_job_is_at_once_free_for_others(redis: ArqRedis, logs: list[Any]) -> None:
    """It keeps its place and is not claimed again here, so that nothing is done for it, and others are not delayed."""
    ran: list[str] = []
    one = worker(redis, named("known", ran))
    await redis.enqueue_job("unknown", _job_id="u")
    due = await redis.zscore(QUEUE, "u")
    async with running(one):
        await until(has_logged(logs, "job.left"))
        await redis.enqueue_job("known", _job_id="k")
        await redis.enqueue_job("known", _job_id="later", _defer_by=0.05)
        await until(lambda: has_run(ran, 2))
        retried = one.jobs_retried
        for _ in range(5):
            await one.start_jobs()
    assert (due, 1, 1) == (await redis.zscore(QUEUE, "u"), retried, one.jobs_retried)
    assert not await redis.exists("arq:in-progress:u", "arq:retry:u")


async def has_run(ran: list[str], count: int) -> bool:
    """Return whether so many jobs have run."""
    return len(ran) == count


async def test_more_jobs_than_a_worker_can_skip_are_put_back_with_a_delay(
    redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own jobs run all the same, and it does not claim the others again and again."""
    monkeypatch.setattr(leaving, "_MAX_SKIPPED", 3)
    ran: list[str] = []
    one = worker(redis, named("known", ran))
    async with running(one):
        for number in range(20):
            await redis.enqueue_job("unknown", _job_id=f"u{number}")
        await redis.enqueue_job("known", _job_id="k")
        await until(lambda: has_run(ran, 1))

        async def is_quiet() -> bool:
            seconds, _ = await redis.time()
            return 3 >= await redis.zcount(QUEUE, "-inf", 1000 * seconds + 1000)

        await until(is_quiet)
        assert one.jobs_retried <= 300
    assert 20 == await redis.zcard(QUEUE)


async def test_a_job_that_nobody_understands_becomes_a_dead_letter(
    redis: ArqRedis, client: JobClient, logs: list[Any]
) -> None:
    """After its time, whole: it is in no queue, its id is free, and stock clients do not know it."""
    async with running(worker(redis, named("known", []), leave_s=0.05, limit=1000)):
        await redis.enqueue_job("unknown", 1, _job_id="function")
        await stocks_pickle(redis, "known", "pickle")
        await redis.enqueue_job("known", "x" * 2000, _job_id="large")
        await until(has_logged(logs, "job.dead_letter", 3))
        assert await is_empty(redis)()
        job = Job("function", redis)
        assert (JobStatus.not_found, None, None) == (await job.status(), await job.info(), await job.result_info())
        assert await redis.enqueue_job("known", _job_id="function")
        await until(is_empty(redis))
    letters = {letter.job_id: letter for letter in await client.dead_letters.oldest(10)}
    assert {"function", "pickle", "large"} == set(letters)
    assert ("unknown", "function 'unknown' not found") == (letters["function"].function, letters["function"].reason)
    assert "is larger than 1000 bytes" in letters["large"].reason
    assert letters["large"].size > 2000
    assert letters["pickle"].function is None
    assert -1 == await redis.ttl(f"{QUEUE}:dead-letter:{letters['pickle'].number}")


async def test_dead_letters_run_when_the_mistake_is_mended(redis: ArqRedis, client: JobClient, logs: list[Any]) -> None:
    """With their arguments and under their ids."""
    async with running(worker(redis, named("known", []), leave_s=0.0)):
        await redis.enqueue_job("forgotten", _job_id="one")
        await redis.enqueue_job("forgotten", _job_id="two")
        await until(has_logged(logs, "job.dead_letter", 2))
    assert ["one", "two"] == await client.dead_letters.requeue()
    ran: list[str] = []
    async with running(worker(redis, named("forgotten", ran))):
        await until(is_empty(redis))
    assert {"forgotten one", "forgotten two"} == set(ran)
    assert 0 == await client.dead_letters.count()


async def test_no_job_of_a_busy_worker_becomes_a_dead_letter(redis: ArqRedis, logs: list[Any]) -> None:
    """The worker that has its function is known, though it claims nothing for now."""
    begun, let_go = asyncio.Event(), asyncio.Event()

    async def slow(ctx: dict[Any, Any]) -> None:
        begun.set()
        await let_go.wait()

    async with running(worker(redis, func(slow, name="slow"), max_jobs=1)):
        await redis.enqueue_job("slow", _job_id="first")
        await begun.wait()
        other = worker(redis, named("known", []), leave_s=0.0)
        async with running(other):
            await redis.enqueue_job("slow", _job_id="second")

            async def was_seen() -> bool:
                return other.jobs_failed > 0 and not other.tasks

            await until(was_seen)
        assert {b"first", b"second"} == set(await redis.zrange(QUEUE, 0, -1))
        let_go.set()
        await until(is_empty(redis))
    assert not await has_logged(logs, "job.dead_letter")()


async def test_no_job_of_another_live_serializer_becomes_a_dead_letter(redis: ArqRedis, logs: list[Any]) -> None:
    """A worker that reads pickle is known, though it claims nothing for now."""
    busy = worker(redis, named("f", []), job_serializer=None, job_deserializer=None)
    async with running(busy):
        await until(lambda: redis.exists(f"{QUEUE}:deserializers"))
        busy.allow_pick_jobs = False
        other = worker(redis, named("f", []), leave_s=0.0)
        async with running(other):
            await stocks_pickle(redis, "f", "pickled")

            async def was_seen() -> bool:
                return other.jobs_failed > 0 and not other.tasks

            await until(was_seen)
        assert 1 == await redis.zcard(QUEUE)
        busy.allow_pick_jobs = True
        await until(is_empty(redis))
    assert not await has_logged(logs, "job.dead_letter")()


async def test_a_burst_makes_dead_letters_at_once_and_counts_them_as_failed(redis: ArqRedis, client: JobClient) -> None:
    """It would end without the jobs otherwise; `run_check` reports them."""
    await redis.enqueue_job("unknown", _job_id="u")
    one = worker(redis, named("known", []), burst=True)
    with pytest.raises(FailedJobs):
        await one.run_check()
    await stop(one)
    assert ["u"] == [letter.job_id for letter in await client.dead_letters.oldest(10)]


async def test_without_the_option_an_unknown_function_fails_as_in_arq(redis: ArqRedis, client: JobClient) -> None:
    """So does a worker whose settings were not adopted."""
    for number, options in enumerate((EngineOptions(leave_s=None), None)):
        job = await redis.enqueue_job("unknown", _job_id=f"u{number}")
        assert job is not None
        one = worker(redis, named("known", []), burst=True)
        one.tidepool_options = options or Worker([named("known", [])], handle_signals=False).tidepool_options  # type: ignore[list-item]
        await one.main()
        await stop(one)
        result = await job.result_info()
        assert result is not None
        assert "function 'unknown' not found" in str(result.result)
    assert 0 == await client.dead_letters.count()


async def test_a_job_without_content_fails_as_in_arq(redis: ArqRedis, client: JobClient) -> None:
    """There is nothing to keep."""
    await redis.enqueue_job("unknown", _job_id="gone")
    await redis.delete("arq:job:gone")
    async with running(worker(redis, named("known", []))):
        await until(is_empty(redis))
    result = await Job("gone", redis, _deserializer=wire.deserialize).result_info()
    assert result is not None
    assert "job expired" in str(result.result)
    assert 0 == await client.dead_letters.count()


@pytest.mark.parametrize(
    "fields", [{"f": ["list"]}, {"a": 7}, {"k": []}, {"et": 10**30}, {"et": "now"}, {"t": "one"}, {"t": -1}]
)
async def test_fields_that_arq_does_not_write_harm_no_worker(
    redis: ArqRedis, client: JobClient, fields: dict[str, Any], logs: list[Any]
) -> None:
    """They can be decoded, but not run; the worker goes on."""
    ran: list[str] = []
    content = {"f": "known", "a": [], "k": {}, "t": None, "et": 1_764_000_000_000, **fields}
    await redis.set("arq:job:odd", pickle.dumps(content))
    await redis.zadd(QUEUE, {"odd": 1})
    async with running(worker(redis, named("known", ran), leave_s=0.0, job_serializer=None, job_deserializer=None)):
        await until(has_logged(logs, "job.dead_letter"))
        await stocks_pickle(redis, "known", "good")
        await until(is_empty(redis))
    assert ["known good"] == ran
    assert ["odd"] == [letter.job_id for letter in await client.dead_letters.oldest(10)]


async def test_an_id_that_is_used_again_has_a_time_of_its_own(
    redis: ArqRedis, logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second job under the id is not the first one, whose time is over."""
    left = leaving.LeftJobs(10)
    now_s = [1000.0]
    monkeypatch.setattr(leaving.time, "monotonic", lambda: now_s[0])
    first = a_job(b"enqueued at one")
    assert left.leave(first, "why")
    now_s[0] += 11
    assert left.leave(a_job(b"enqueued at two"), "why")
    assert [b"id"] == left.skipped()
    now_s[0] += 11
    assert [] == left.skipped()
    assert left.leave(a_job(b"enqueued at two"), "why") is None


def a_job(payload: bytes) -> Any:
    """Return a job with this content."""
    return jobs.Job("id", payload=payload, function="f")
