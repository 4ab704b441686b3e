"""How an adopted application's workers start, run and stop: hooks, ctx, bursts, several queues, on both classes."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.jobs import Job
from arq.worker import FailedJobs, func

Make = Callable[..., arq.worker.Worker]
Connect = Callable[..., ArqRedis]
Ctx = dict[Any, Any]
_current: ContextVar[str] = ContextVar("current job of an application")


async def echo(_ctx: Ctx, value: Any) -> Any:
    """Return the argument."""
    return value


async def _enqueue(redis: ArqRedis, function: str, *args: Any, count: int = 1) -> None:
    for _ in range(count):
        assert await redis.enqueue_job(function, *args) is not None


# -------------------------------------------------------------------- ctx and hooks


async def test_ctx_is_the_applications_from_the_setting_to_the_job(make: Make, redis: ArqRedis) -> None:
    """What it is given as a setting and what the start-up adds; each job has a dictionary of its own."""
    seen: list[Ctx] = []

    async def job(ctx: Ctx) -> None:
        seen.append(ctx)
        ctx["mine"] = ctx["job_id"]

    async def on_startup(ctx: Ctx) -> None:
        ctx["pool"] = "a pool"

    given: Ctx = {"session_factory": "a factory", "engine": "an engine", "intake": 1, "options": 2}
    await _enqueue(redis, "job", count=2)
    worker = make(func(job, name="job"), ctx=given, on_startup=on_startup)
    await worker.async_run()
    assert worker.ctx is given
    assert {"session_factory", "engine", "intake", "options", "pool", "redis"} == {*given}
    for ctx in seen:
        assert given.items() <= ctx.items()
        assert {"job_id", "job_try", "enqueue_time", "score", "mine"} <= ctx.keys()
    assert 2 == len({ctx["mine"] for ctx in seen})


async def test_a_client_that_the_start_up_puts_into_ctx_is_the_jobs(make: Make, redis: ArqRedis) -> None:
    """drone-tm and safir replace `redis`, to enqueue into another queue; the worker keeps its own for itself."""

    async def parent(ctx: Ctx) -> None:
        await ctx["redis"].enqueue_job("child", _queue_name="other")

    async def on_startup(ctx: Ctx) -> None:
        ctx["redis"] = redis

    await _enqueue(redis, "parent")
    worker = make(func(parent, name="parent"), on_startup=on_startup)
    assert 1 == await worker.run_check()
    assert ("child", 0) == ((await redis.queued_jobs(queue_name="other"))[0].function, await redis.zcard("arq:queue"))
    assert worker.pool is not redis


async def test_context_variables_go_from_the_start_hook_into_the_job(make: Make, redis: ArqRedis) -> None:
    """And into both hooks after it; jobs that run at the same time do not see each other's."""
    begun, seen = 0, list[tuple[str, str, str]]()
    all_begun = asyncio.Event()

    async def job(ctx: Ctx) -> None:
        nonlocal begun
        begun += 1
        if begun == 3:
            all_begun.set()
        await all_begun.wait()
        seen.append(("job", ctx["job_id"], _current.get()))

    async def on_job_start(ctx: Ctx) -> None:
        _current.set(ctx["job_id"])

    async def on_job_end(ctx: Ctx) -> None:
        seen.append(("end", ctx["job_id"], _current.get()))

    async def after_job_end(ctx: Ctx) -> None:
        seen.append(("after", ctx["job_id"], _current.get()))

    await _enqueue(redis, "job", count=3)
    hooks = {"on_job_start": on_job_start, "on_job_end": on_job_end, "after_job_end": after_job_end}
    assert 3 == await make(func(job, name="job"), **hooks).run_check()
    assert 9 == len(seen)
    assert all(job_id == current for _, job_id, current in seen)
    assert "none" == _current.get("none")


async def test_after_job_end_finds_the_result_and_what_the_start_hook_has_left(make: Make, redis: ArqRedis) -> None:
    """As mavedb's and waza-ari's hooks: they read the job's result there, and its try, and close a session."""
    seen: list[tuple[Any, ...]] = []

    async def job(ctx: Ctx) -> str:
        ctx["state"].append("job")
        if ctx["job_try"] == 1:
            raise arq.worker.Retry
        return "done"

    async def on_job_start(ctx: Ctx) -> None:
        ctx["state"] = ["start"]

    async def on_job_end(ctx: Ctx) -> None:
        ctx["state"].append("end")

    async def after_job_end(ctx: Ctx) -> None:
        info = await Job(ctx["job_id"], redis).result_info()
        seen.append((ctx["job_try"], ctx["state"], ctx["score"], info and info.result))

    enqueued = await redis.enqueue_job("job", _job_id="j")
    assert enqueued is not None
    queued = await enqueued.info()
    assert queued is not None
    hooks = {"on_job_start": on_job_start, "on_job_end": on_job_end, "after_job_end": after_job_end}
    await make(func(job, name="job"), **hooks).async_run()
    state = ["start", "job", "end"]
    assert [(1, state, queued.score, None), (2, state, queued.score, "done")] == seen


async def test_start_up_and_shutdown_hooks_share_ctx(make: Make, redis: ArqRedis) -> None:
    """The shutdown hook is called after the last job, and can still use Redis."""
    seen: list[str] = []

    async def job(_ctx: Ctx) -> None:
        seen.append("job")

    async def on_startup(ctx: Ctx) -> None:
        ctx["stack"] = seen
        seen.append("start")

    async def on_shutdown(ctx: Ctx) -> None:
        ctx["stack"].append(f"stop, {await ctx['redis'].zcard('arq:queue')} left")

    await _enqueue(redis, "job")
    worker = make(func(job, name="job"), on_startup=on_startup, on_shutdown=on_shutdown)
    await worker.async_run()
    await worker.close()
    assert ["start", "job", "stop, 0 left"] == seen


async def test_an_error_of_the_start_up_ends_the_worker(make: Make, redis: ArqRedis) -> None:
    """With that error, and no job is touched: times-square checks its schema's version there."""

    async def on_startup(_ctx: Ctx) -> None:
        raise RuntimeError("the schema is of another version")

    await _enqueue(redis, "echo", 1)
    with pytest.raises(RuntimeError, match="another version"):
        await make(echo, on_startup=on_startup).async_run()
    assert (1, 0) == (await redis.zcard("arq:queue"), len(await redis.keys("arq:retry:*")))


# -------------------------------------------------------------------- bursts


async def test_one_worker_is_run_again_and_again(make: Make, redis: ArqRedis) -> None:
    """em2's tests call `run_check` 34 times on one worker, with their own pool; it counts all jobs of its life."""
    worker = make(echo)
    for number in range(1, 6):
        await _enqueue(redis, "echo", number)
        assert number == await worker.run_check()
    assert 5 == await worker.run_check()


async def test_run_check_raises_the_errors_of_failed_jobs(make: Make, redis: ArqRedis) -> None:
    """With their number and their results; its arguments change the worker's settings."""

    async def fail(_ctx: Ctx) -> None:
        raise ValueError("on purpose")

    async def again(_ctx: Ctx) -> None:
        raise arq.worker.Retry

    await _enqueue(redis, "fail")
    await _enqueue(redis, "again")
    await _enqueue(redis, "echo", 1)
    with pytest.raises(FailedJobs, match="2 jobs failed") as caught:
        await make(func(fail, name="fail"), func(again, name="again"), echo).run_check(retry_jobs=False)
    assert 2 == caught.value.count
    assert {ValueError, arq.worker.Retry} == {type(result.result) for result in caught.value.job_results}


async def test_a_burst_ends_when_the_queue_is_empty_also_of_what_jobs_enqueue(make: Make, redis: ArqRedis) -> None:
    """Fan-out: a parent's children are run in the same burst."""
    runs: list[int] = []

    async def job(ctx: Ctx, depth: int) -> None:
        runs.append(depth)
        if depth:
            for _ in range(2):
                await ctx["redis"].enqueue_job("job", depth - 1)

    await _enqueue(redis, "job", 2)
    await make(func(job, name="job")).async_run()
    assert [2, 1, 1, 0, 0, 0, 0] == sorted(runs, reverse=True)


@pytest.mark.parametrize("most", [0, 1, 3])
async def test_max_burst_jobs_bounds_a_burst(make: Make, redis: ArqRedis, most: int) -> None:
    """The others stay in the queue, untouched."""
    await _enqueue(redis, "echo", 1, count=5)
    assert most == await make(echo, max_burst_jobs=most).run_check()
    assert (5 - most, []) == (await redis.zcard("arq:queue"), await redis.keys("arq:in-progress:*"))


async def test_max_burst_jobs_of_run_check(make: Make, redis: ArqRedis) -> None:
    """The argument is that of the life of the worker, as in arq: qserv-kafka's and socket-server's tests."""
    await _enqueue(redis, "echo", 1, count=3)
    worker = make(echo)
    assert 2 == await worker.run_check(max_burst_jobs=2)
    assert 1 == await redis.zcard("arq:queue")


# -------------------------------------------------------------------- several queues


async def test_two_queues_with_a_worker_each(make: Make, redis: ArqRedis) -> None:
    """Fast and slow, or one for each plan: each worker sees its own only, and a job of one enqueues into the other."""
    runs: list[tuple[str, str]] = []

    async def job(ctx: Ctx, queue: str, follow: str | None = None) -> None:
        runs.append((queue, ctx["of"]))
        if follow is not None:
            await ctx["redis"].enqueue_job("job", follow, _queue_name=follow)

    await redis.enqueue_job("job", "fast", "slow", _queue_name="fast")
    await redis.enqueue_job("job", "slow", _queue_name="slow")
    workers = {name: make(func(job, name="job"), queue_name=name, ctx={"of": name}) for name in ("fast", "slow")}
    assert 1 == await workers["fast"].run_check()
    assert [("fast", "fast")] == runs
    assert 2 == await workers["slow"].run_check()
    assert [("fast", "fast"), ("slow", "slow"), ("slow", "slow")] == runs
    assert ["fast", "slow", "slow"] == sorted(result.queue_name for result in await redis.all_job_results())


async def test_a_client_of_another_default_queue(make: Make, redis: ArqRedis, connect: Connect) -> None:
    """`queue_name=None` means the queue of the worker's own client."""
    client = connect(default_queue_name="theirs")
    await _enqueue(client, "echo", 1)
    worker = make(echo, redis_pool=client, queue_name=None)
    assert ("theirs", 1) == (worker.queue_name, await worker.run_check())
    assert await redis.exists("theirs:health-check")


# -------------------------------------------------------------------- settings


async def test_options_of_arqs_own_serializers_are_used_both_ways(make: Make, connect: Connect) -> None:
    """SeraphSix's: its own serializer, in the worker and in the client."""
    calls: list[str] = []

    def dumps(value: Any) -> bytes:
        calls.append("out")
        return repr(value).encode()

    def loads(text: bytes) -> Any:
        calls.append("in")
        return eval(text)

    client = connect(job_serializer=dumps, job_deserializer=loads)
    job = await client.enqueue_job("echo", (1, {2}))
    assert job is not None
    assert 1 == await make(echo, job_serializer=dumps, job_deserializer=loads).run_check()
    assert (1, {2}) == await job.result(timeout=5)
    assert ["out", "in", "out", "in"] == calls
