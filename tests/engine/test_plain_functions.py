"""Plain functions of an arq application on our engine: hooks, tries that lost workers spend, and final failures."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job
from arq.worker import Retry, func
from engines import own_client, stop

from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker
from tidepool.queue import wire

QUEUE = "arq:queue"
Ctx = dict[Any, Any]
Start = Callable[..., Worker]


@pytest.fixture
async def make(redis: ArqRedis) -> AsyncIterator[Start]:
    """Give a function that makes a worker of the function `job`; all are closed at the end."""
    made: list[Worker] = []

    def make_worker(job: Any, options: EngineOptions | None = None, **more: Any) -> Worker:
        settings: dict[str, Any] = {
            "functions": [func(job, name="job")],
            "redis_pool": own_client(redis),
            "handle_signals": False,
            "tidepool": options,
            "job_serializer": wire.serialize,
            "job_deserializer": wire.deserialize,
            "burst": True,
        }
        made.append(Worker(**{**settings, **more}))
        return made[-1]

    yield make_worker
    for one in made:
        await stop(one)


async def lose(redis: ArqRedis, one: Worker) -> None:
    """End a worker as if it were killed: its lease ends, and it acknowledges nothing."""
    assert one.main_task is not None
    (owner,) = await redis.zrange(f"{QUEUE}:owners", 0, -1)
    await redis.zadd(f"{QUEUE}:owners", {owner: 1})


async def test_all_hooks_get_one_context_with_the_job_in_it(make: Start, redis: ArqRedis) -> None:
    """What one puts there, the next finds; function and arguments are there, and `after_job_end` has all of it."""
    seen: list[tuple[str, int, Any]] = []

    async def job(ctx: Ctx, first: str, *, second: int) -> str:
        ctx["mine"] += 1
        return second * first

    def hook(name: str) -> Any:
        async def call(ctx: Ctx) -> None:
            ctx["mine"] = ctx.get("mine", 0) + 1
            held = ctx["tidepool"]
            assert "secret" not in repr(held)
            seen.append((name, id(ctx), (ctx["mine"], held.function, tuple(held.args), held.kwargs, ctx["job_try"])))

        return call

    await redis.enqueue_job("job", "secret", second=4)
    names = ("on_job_start", "on_job_end", "after_job_end")
    await make(job, **{name: hook(name) for name in names}).main()
    assert [*names] == [name for name, _, _ in seen]
    assert 1 == len({context for _, context, _ in seen})
    assert [(n, "job", ("secret",), {"second": 4}, 1) for n in (1, 3, 4)] == [words for _, _, words in seen]


async def test_a_start_hook_that_fails_gives_the_job_back(make: Start, redis: ArqRedis) -> None:
    """It is not run, no try is spent, and the worker goes on."""
    calls: list[int] = []

    async def job(ctx: Ctx) -> int:
        return int(ctx["job_try"])

    async def start(ctx: Ctx) -> None:
        calls.append(ctx["job_try"])
        if len(calls) == 1:
            raise OSError("the database is away")

    enqueued = await redis.enqueue_job("job", _job_id="a")
    assert enqueued is not None
    await make(job, on_job_start=start).main()
    assert 1 == await enqueued.result(timeout=5)
    assert [1, 1] == calls


async def test_an_end_hook_that_fails_changes_no_ending(make: Start, redis: ArqRedis) -> None:
    """The function has returned, and is not run again."""
    runs: list[str] = []

    async def job(ctx: Ctx) -> str:
        runs.append(ctx["job_id"])
        return "done"

    async def end(_ctx: Ctx) -> None:
        raise ValueError("on purpose")

    enqueued = await redis.enqueue_job("job", _job_id="a")
    assert enqueued is not None
    await make(job, on_job_end=end, after_job_end=end).main()
    assert "done" == await enqueued.result(timeout=5)
    assert ["a"] == runs


async def test_no_hook_is_called_for_a_job_that_is_not_run(make: Start, redis: ArqRedis) -> None:
    """As in arq: its function is not known."""
    calls: list[Ctx] = []

    async def hook(ctx: Ctx) -> None:
        calls.append(ctx)

    async def job(_ctx: Ctx) -> None: ...

    await redis.enqueue_job("other")
    await make(job, on_job_start=hook, on_job_end=hook, after_job_end=hook).main()
    assert [] == calls


@pytest.mark.parametrize(
    ("limits", "runs"),
    [({"max_tries": 1}, [1]), ({"retry_jobs": False}, [1]), ({"max_tries": 2}, [1, 2]), ({}, [1, 2])],
    ids=["max_tries=1", "retry_jobs=False", "max_tries=2", "default"],
)
async def test_a_lost_worker_spends_a_try(make: Start, redis: ArqRedis, limits: Ctx, runs: list[int]) -> None:
    """So a function that may be begun once is not begun again, and others can see that it is not the first time."""
    begun, tries = asyncio.Event(), list[int]()

    async def job(ctx: Ctx) -> str:
        tries.append(ctx["job_try"])
        begun.set()
        if len(tries) == 1:
            await asyncio.Event().wait()
        assert ctx["tidepool"].lapses == len(tries) - 1
        return "done"

    enqueued = await redis.enqueue_job("job", _job_id="a")
    assert enqueued is not None
    lost = make(job, EngineOptions(lease_s=60.0), burst=False, **limits)
    lost.main_task = asyncio.create_task(lost.main())
    await begun.wait()
    await lose(redis, lost)
    await make(job, **limits).main()
    assert runs == tries
    info = await enqueued.result_info()
    assert info is not None
    assert info.success == (len(runs) == 2)


@pytest.mark.parametrize(("max_tries", "runs"), [(1, 1), (2, 2)])
async def test_a_stop_spends_a_try(make: Start, redis: ArqRedis, max_tries: int, runs: int) -> None:
    """As in arq: the function has begun, and nobody knows what it has done."""
    begun, tries = asyncio.Event(), list[int]()

    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        begun.set()
        if len(tries) == 1:
            await asyncio.Event().wait()

    await redis.enqueue_job("job", _job_id="a")
    one = make(job, burst=False, max_tries=max_tries)
    one.main_task = asyncio.create_task(one.main())
    await begun.wait()
    await stop(one)
    await make(job, max_tries=max_tries).main()
    assert list(range(1, runs + 1)) == tries


async def test_the_hook_for_final_failures_is_called_once_for_each(make: Start, redis: ArqRedis) -> None:
    """Of errors, of a last try, of jobs that cannot be run; not of tries that are repeated, nor of successes."""
    failed: dict[str, str] = {}

    async def job(ctx: Ctx, how: str) -> None:
        if how == "retry":
            raise Retry
        if how == "error":
            raise ValueError("on purpose")

    async def note(ctx: Ctx, error: BaseException) -> None:
        assert ctx["job_id"] not in failed
        failed[ctx["job_id"]] = f"{type(error).__name__}: {error}"
        raise RuntimeError("a mistake in the hook itself")

    for how in ("fine", "retry", "error"):
        await redis.enqueue_job("job", how, _job_id=how)
    await redis.enqueue_job("other", _job_id="unknown")
    await make(job, EngineOptions(on_final_failure=note, leave_s=None), max_tries=2).main()
    assert {
        "retry": "JobExecutionFailed: max 2 retries exceeded",
        "error": "ValueError: on purpose",
        "unknown": "JobExecutionFailed: function 'other' not found",
    } == failed
    assert "complete" == (await Job("error", redis).status()).value


class Awkward(Exception):
    """An application's error whose parts mean something else than in most, or fail."""

    def extra(self, key: str) -> str:
        """Return one of its details: arq's log line calls `extra` without arguments."""
        raise KeyError(key)

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Observed:
    """An observer that fails."""

    async def start(self, context: Ctx, worker_id: str, functions: Any) -> None:
        """Do nothing."""

    def beaten(self) -> bool:
        """Return that the worker is ready."""
        return True

    async def stop(self) -> None:
        """Do nothing."""

    def ended(self, job: Any) -> None:
        """Read the text of the job's error, as a history does."""
        str(job.error)


async def test_an_error_that_cannot_be_shown_fails_its_job_once(make: Start, redis: ArqRedis, logs: list[Any]) -> None:
    """Neither its log line nor an observer that raises an error makes the job run again."""
    runs = 0

    async def job(_ctx: Ctx) -> None:
        nonlocal runs
        runs += 1
        raise Awkward

    enqueued = await redis.enqueue_job("job")
    assert enqueued is not None
    worker = make(job, EngineOptions(observer=Observed), max_tries=1)
    async with asyncio.timeout(10):
        await worker.main()
    info = await enqueued.result_info()
    assert info is not None
    assert (1, 1, False) == (runs, worker.jobs_failed, info.success)
    assert ["observer.failed"] == [line["event"] for line in logs]


async def test_a_job_whose_end_cannot_be_found_out_spends_a_try(make: Start, redis: ArqRedis) -> None:
    """An unexpected error after its function has begun does not put it back as if it had not."""
    runs = 0

    class Odd(Retry):
        defer_score: Any = property(lambda _self: 1 // 0, lambda _self, _value: None)

    async def job(_ctx: Ctx) -> None:
        nonlocal runs
        runs += 1
        raise Odd

    await redis.enqueue_job("job")
    worker = make(job, max_tries=2)
    async with asyncio.timeout(10):
        await worker.main()
    assert (2, 2, 1) == (runs, worker.jobs_retried, worker.jobs_failed)


@pytest.mark.parametrize("ends", ["burst", "after a number of jobs", "at a stop"])
async def test_a_worker_ends_after_the_last_hook_of_its_jobs(make: Start, redis: ArqRedis, ends: str) -> None:
    """The hook `after_job_end` comes after the acknowledgement, and a job counts against `max_jobs` until then."""
    begun, gone, most = asyncio.Event(), 0, 0

    async def job(_ctx: Ctx) -> None: ...

    async def hook(_ctx: Ctx) -> None:
        nonlocal gone, most
        most = max(most, worker._jobs_started() - gone)
        begun.set()
        await asyncio.sleep(0.1)
        gone += 1

    for _ in range(3):
        await redis.enqueue_job("job")
    worker = make(job, after_job_end=hook, burst=ends == "burst", max_jobs=1)
    worker.tidepool_max_jobs_run = 3 if ends == "after a number of jobs" else None
    worker.main_task = asyncio.create_task(worker.main())
    async with asyncio.timeout(10):
        await (begun.wait() if ends == "at a stop" else worker.main_task)
    if ends == "at a stop":
        await stop(worker)
    assert (1 if ends == "at a stop" else 3, 1) == (gone, most)


class Shielding(Worker):
    """A worker whose wrapper of `run_job` keeps cancellations away from the job, and calls twice."""

    async def run_job(self, job_id: str, score: int) -> None:
        """Run the job in a task of its own."""
        await asyncio.shield(super().run_job(job_id, score))
        await super().run_job(job_id, score)


@pytest.mark.parametrize("stops", [False, True])
async def test_a_job_in_a_wrapper_with_a_shield_ends_once(redis: ArqRedis, *, stops: bool) -> None:
    """An abort reaches the function itself; at a stop, the worker waits for the function behind the shield."""
    runs, begun = 0, asyncio.Event()

    async def job(_ctx: Ctx) -> None:
        nonlocal runs
        runs += 1
        begun.set()
        await asyncio.sleep(0.3 if stops else 30)

    enqueued = await redis.enqueue_job("job")
    assert enqueued is not None
    settings: dict[str, Any] = {"job_serializer": wire.serialize, "job_deserializer": wire.deserialize}
    functions = [func(job, name="job", max_tries=1)]
    client = own_client(redis)
    worker = Shielding(functions, redis_pool=client, handle_signals=False, allow_abort_jobs=True, **settings)
    worker.main_task = asyncio.create_task(worker.main())
    await begun.wait()
    if not stops:
        assert await enqueued.abort(timeout=10)
    jobs = worker._tidepool_assembled().jobs
    await stop(worker)
    ended = (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried, jobs.count)
    assert (1, (1, 0, 0, 0) if stops else (0, 1, 0, 0)) == (runs, ended)


async def test_a_worker_runs_again_after_a_stop_before_its_jobs_began(make: Start, redis: ArqRedis) -> None:
    """They are given back, and its next burst neither counts them as running nor waits for them."""

    async def job(_ctx: Ctx) -> None: ...

    await redis.enqueue_job("job")
    worker = make(job, EngineOptions(concurrency={"job": 1}))
    await worker._tidepool_open()
    assert 1 == await worker.start_jobs()
    await worker.close()
    worker._pool = own_client(redis)
    async with asyncio.timeout(10):
        await worker.main()
    assert 1 == worker.jobs_complete
