"""Functions that end their process, and stops that come when a function has returned already."""

import asyncio
from collections.abc import Callable
from signal import Signals
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.worker import func
from programs import run

from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker

Make = Callable[..., arq.worker.Worker]
Ctx = dict[Any, Any]


@pytest.fixture
def kind() -> type[arq.worker.Worker]:
    """Give our class: of such a job, arq's own workers know nothing for as long as the longest timeout."""
    return Worker


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, ["try-1", "exit", "try-2", "exit", "try-3", "end"]),
        ({"max_tries": 1}, ["try-1", "exit", "end", "end"]),
        ({"retry_jobs": False}, ["try-1", "exit", "end", "end"]),
    ],
    ids=str,
)
def test_a_function_that_ends_its_process_spends_a_try(redis_url: str, limits: Ctx, words: list[str]) -> None:
    """The jobs of noteburst may end their worker so that a new one is started; the job is not run for ever."""
    program = f"""
    import asyncio, sys
    from arq.connections import ArqRedis
    from arq.worker import run_worker
    from redis.asyncio import ConnectionPool
    import tidepool

    def connect():
        return ArqRedis(ConnectionPool.from_url({redis_url!r}))

    async def job(ctx):
        print(f"try-{{ctx['job_try']}}")
        if ctx["job_try"] < 3:
            sys.exit(3)

    asyncio.set_event_loop(asyncio.new_event_loop())
    asyncio.get_event_loop().run_until_complete(connect().enqueue_job("job"))
    for _ in range(3):
        settings = tidepool.adopt({{"functions": [job], "redis_pool": connect(), "burst": True, **{limits!r}}})
        try:
            run_worker(settings)
            print("end")
        except SystemExit as error:
            assert error.code == 3
            print("exit")
    """
    assert words == [word for word in run(program) if word in ("end", "exit") or word.startswith("try-")]  # no log


@pytest.mark.parametrize("hook", ["on_job_end", "after_job_end", "on_final_failure"])
async def test_a_stop_during_a_later_hook_does_not_run_the_function_again(
    make: Make, redis: ArqRedis, hook: str
) -> None:
    """The function has ended: its result stays, and its only try is not made twice."""
    begun, runs = asyncio.Event(), list[int]()

    async def job(ctx: Ctx) -> str:
        runs.append(ctx["job_try"])
        if hook == "on_final_failure":
            raise ValueError("on purpose")
        return "done"

    async def wait(*_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    options: Ctx = {hook: wait}
    if hook == "on_final_failure":
        options = {"tidepool": EngineOptions(on_final_failure=wait)}
    enqueued = await redis.enqueue_job("job")
    assert enqueued is not None
    worker = make(func(job, name="job"), burst=False, **options)
    running = asyncio.create_task(worker.async_run())
    await begun.wait()
    worker.handle_sig(Signals.SIGTERM)
    await asyncio.gather(running, return_exceptions=True)
    await worker.close()
    await make(func(job, name="job")).async_run()
    assert [1] == runs
    info = await enqueued.result_info()
    assert info is not None
    assert info.success == (hook != "on_final_failure")
