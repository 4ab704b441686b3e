"""Every way in which an arq application starts its workers runs its jobs on our engine, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import arq.worker
import pytest
from arq.connections import ArqRedis
from programs import run

import tidepool
from tidepool.engine.worker import Worker

_TASKS = """
import os
import tidepool
from arq import cron
from arq.connections import RedisSettings

async def charge(ctx, cents):
    assert type(ctx["worker"]).__module__ == "tidepool.engine.worker", type(ctx["worker"])
    return cents * ctx["rate"]

async def on_startup(ctx):
    import gc
    from arq import Worker
    ctx["worker"] = next(one for one in gc.get_objects() if isinstance(one, Worker) and one.ctx is ctx)

class WorkerSettings:
    functions = [charge]
    cron_jobs = [cron(on_startup, name="unused", month=12, day=31, hour=23, minute=59)]
    on_startup = on_startup
    redis_settings = RedisSettings.from_dsn(os.environ["THEIR_REDIS"])
    ctx = {"rate": 2}
    keep_result = 60
    max_jobs = 1
    burst = True
"""
_KINDS = {
    "class": "WorkerSettings",
    "dict": "{key: value for key, value in vars(WorkerSettings).items() if not key.startswith('__')}",
    "instance": "types.SimpleNamespace(**{k: v for k, v in vars(WorkerSettings).items() if not k.startswith('__')})",
    "function": "lambda: WorkerSettings",
}
_STARTS = {
    "run_worker": "run_worker(settings)",
    "run_worker with options": "run_worker(settings, ctx={'rate': 2}, health_check_key='probe')",
    "create_worker": "create_worker(settings).run()",
    "Worker": "Worker(**get_kwargs(settings)).run()",
    "async_run in a loop": "asyncio.run(lifespan())",
}


@pytest.fixture
async def tasks(redis: ArqRedis, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with an application's module `tasks`, and a job in the queue."""
    (tmp_path / "tasks.py").write_text(_TASKS)
    monkeypatch.setenv("THEIR_REDIS", redis_url)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(Path.cwd()))))
    await redis.enqueue_job("charge", 21, _job_id="j")
    return tmp_path


async def _result(redis: ArqRedis) -> object:
    (result,) = await redis.all_job_results()
    return result.result


@pytest.mark.parametrize("kind", _KINDS)
async def test_settings_of_every_kind_run_jobs(redis: ArqRedis, tasks: Path, kind: str) -> None:
    """A class, a dictionary, an object, a function; `run_worker` takes what `adopt` has returned."""
    program = f"""
    import asyncio, types
    import tidepool
    from arq.worker import run_worker
    from tasks import WorkerSettings
    asyncio.set_event_loop(asyncio.new_event_loop())
    run_worker(tidepool.adopt({_KINDS[kind]}))
    """
    run(program)
    assert 42 == await _result(redis)


@pytest.mark.parametrize("start", _STARTS)
async def test_every_start_runs_jobs(redis: ArqRedis, tasks: Path, start: str) -> None:
    """Whatever the application had imported of arq before it adopted its settings."""
    program = f"""
    import asyncio
    from arq import Worker
    from arq.worker import create_worker, get_kwargs, run_worker
    import tidepool
    from tasks import WorkerSettings

    async def lifespan():  # of a web application, which goes on after its worker
        worker = create_worker(settings, handle_signals=False)
        await worker.async_run()
        await worker.close()

    asyncio.set_event_loop(asyncio.new_event_loop())
    settings = tidepool.adopt(WorkerSettings)
    {_STARTS[start]}
    """
    run(program)
    assert 42 == await _result(redis)


async def test_the_arq_command_runs_jobs_and_checks_health(redis: ArqRedis, tasks: Path) -> None:
    """`arq adopted.WorkerSettings --burst`, and `--check`, which fails while no worker lives."""
    (tasks / "adopted.py").write_text("import tasks, tidepool\nWorkerSettings = tidepool.adopt(tasks.WorkerSettings)\n")

    def arq(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "arq", "adopted.WorkerSettings", *arguments]
        return subprocess.run(command, cwd=tasks, capture_output=True, text=True, timeout=60, check=False)

    assert 1 == arq("--check").returncode
    done = arq("--burst")
    assert 0 == done.returncode, done.stderr
    assert 42 == await _result(redis)
    await redis.set("arq:queue:health-check", "a worker's words", ex=60)
    assert 0 == arq("--check").returncode


async def test_a_web_process_that_embeds_a_worker_keeps_its_loop_and_its_garbage_collector(
    redis: ArqRedis, tasks: Path
) -> None:
    """One application forbids uvloop. Only our own commands set the event loop's policy and the collector."""
    program = """
    import asyncio, gc, sys
    before = (type(asyncio.get_event_loop_policy()), gc.get_threshold(), gc.get_freeze_count())
    import tidepool
    from arq.worker import create_worker
    from tasks import WorkerSettings

    async def lifespan():
        worker = create_worker(tidepool.adopt(WorkerSettings), handle_signals=False)
        await worker.async_run()
        await worker.close()
        assert "uvloop" not in type(asyncio.get_running_loop()).__module__

    asyncio.run(lifespan())
    assert before == (type(asyncio.get_event_loop_policy()), gc.get_threshold(), gc.get_freeze_count())
    """
    run(program)
    assert 42 == await _result(redis)


async def test_arqs_command_keeps_its_loop_and_its_garbage_collector(redis: ArqRedis, tasks: Path) -> None:
    """It is the application's own process, as before; `tidepool work` is ours, and has uvloop."""
    (tasks / "adopted.py").write_text("""
import asyncio, gc, tasks, tidepool

async def on_shutdown(ctx):
    assert before == (gc.get_threshold(), gc.get_freeze_count())
    print(type(asyncio.get_running_loop()).__module__)

before = gc.get_threshold(), gc.get_freeze_count()
tasks.WorkerSettings.on_shutdown = on_shutdown
WorkerSettings = tidepool.adopt(tasks.WorkerSettings)
""")
    command = [sys.executable, "-m", "arq", "adopted.WorkerSettings"]
    done = subprocess.run(command, cwd=tasks, capture_output=True, text=True, timeout=60, check=False)
    assert (0, "asyncio.unix_events\n") == (done.returncode, done.stdout), done.stderr
    assert 42 == await _result(redis)


@pytest.mark.parametrize("again", [False, True])
def test_an_adoption_in_this_process_ends_with_its_test(*, again: bool) -> None:
    """Both find arq's own class first: `stock_arq` in conftest undoes what an adoption changes."""
    assert arq.worker.Worker is type(arq.worker.Worker.__new__(arq.worker.Worker)), again
    tidepool.adopt({"functions": []})
    assert isinstance(arq.worker.Worker.__new__(arq.worker.Worker), Worker)
