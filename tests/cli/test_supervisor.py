"""The supervisor of workers, with programs in their place that end at once or record how they were started."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import AsyncMock

import pytest
import structlog
from waiting import until

from tidepool.cli import CommandError, Supervisor
from tidepool.cli import supervisor as module
from tidepool.repeating import RetryPolicy

ROOT = Path(__file__).parents[2]
Program = Callable[[str], None]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Give a function that puts a shell script in the place of the workers' Python."""
    monkeypatch.setattr(module, "_BACKOFF", RetryPolicy(first_s=0.001, max_s=0.001))

    def place(script: str) -> None:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{script}\n", "utf-8")
        path.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(path))

    return place


async def test_logs_of_more_than_a_week_ago_are_deleted(tmp_path: Path, program: Program) -> None:
    """A nightly run would leave a file for each worker for ever; files that are no worker's log stay."""
    program("exit 1")
    logs = tmp_path / "logs"
    logs.mkdir()
    for name, days in (("worker-1-0.log", 8), ("worker-2-0.log", 6), ("notes.log", 8)):
        (logs / name).touch()
        os.utime(logs / name, (then := time.time() - days * 86_400, then))
    with pytest.raises(CommandError):
        await Supervisor("shop:app", [{}], bury=AsyncMock(), log_dir=logs, max_restarts=0).run()
    own = f"worker-{os.getpid()}-0.log"
    assert {"worker-2-0.log", "notes.log", own} == {path.name for path in logs.iterdir()}


async def test_the_log_of_a_live_worker_is_kept(tmp_path: Path, program: Program) -> None:
    """Another run deletes no file that a worker of this one may still write to, however long it has been quiet."""
    program('test "$PART" = 2 && exit 2; read nothing')
    logs = tmp_path / "logs"
    running = asyncio.create_task(Supervisor("shop:app", [{}], bury=AsyncMock(), log_dir=logs).run())

    async def begun() -> bool:
        return logs.exists() and any(logs.iterdir())

    async def is_kept() -> bool:
        with pytest.raises(CommandError):
            await Supervisor("shop:app", [{"PART": "2"}], bury=AsyncMock(), log_dir=logs).run()
        return quiet.exists()

    await until(begun)
    quiet = next(logs.iterdir()).rename(logs / "worker-1-0.log")
    os.utime(quiet, (0, 0))
    assert await is_kept()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not await is_kept()


async def test_a_log_that_somebody_has_deleted_ends_nothing(tmp_path: Path, program: Program) -> None:
    """The worker that wrote it is replaced like any other, until there have been too many."""
    program(f"rm {tmp_path}/logs/*; exit 1")
    bury = AsyncMock()
    supervisor = Supervisor("shop:app", [{}], bury=bury, log_dir=tmp_path / "logs", max_restarts=1)
    with pytest.raises(CommandError, match="its log cannot be read: No such file"):
        await supervisor.run()
    assert 2 == bury.await_count


async def test_a_worker_that_cannot_start_ends_all_of_them(tmp_path: Path, program: Program) -> None:
    """With the last line of its log; the others have ended when the error is raised."""
    program(
        f'test "$PART" = 2 && echo "error: no room" && exit 2; trap "exit 0" TERM; read nothing; touch {tmp_path}/b'
    )
    supervisor = Supervisor("shop:app", [{"PART": "1"}, {"PART": "2"}], bury=AsyncMock(), log_dir=tmp_path)
    with pytest.raises(CommandError, match="a worker ended with status 2: error: no room"):
        await supervisor.run()
    assert not (tmp_path / "b").exists(), "the other one was not asked to stop, but lost its pipe"


@pytest.mark.parametrize(("script", "end"), [("exit 1", "status 1"), ("kill -9 $$", "signal SIGKILL")])
async def test_there_is_a_max_number_of_replacements(program: Program, script: str, end: str) -> None:
    """Each death is reported for its jobs; the third one is too many."""
    program(script)
    bury = AsyncMock()
    with pytest.raises(CommandError, match=f"^a worker ended with {end}$"):
        await Supervisor("shop:app", [{}], bury=bury, max_restarts=2).run()
    assert 3 == bury.await_count


async def test_a_redis_that_is_away_keeps_no_worker_from_being_replaced(program: Program) -> None:
    """The lease of the dead one ends by itself."""
    program("exit 1")
    bury = AsyncMock(side_effect=ConnectionError("away"))
    with pytest.raises(CommandError):
        await Supervisor("shop:app", [{}], bury=bury, max_restarts=1).run()
    assert 2 == bury.await_count


async def test_a_system_without_room_for_a_process_is_asked_again(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other workers go on; nothing is raised."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(Supervisor("shop:app", [{}], bury=AsyncMock()).run())

        async def refused_twice() -> bool:
            return 2 <= [line["event"] for line in logs].count("worker.not_started")

        async def begun() -> bool:
            return (tmp_path / "begun").exists()

        await until(refused_twice)
        program(f"touch {tmp_path}/begun; read nothing")
        await until(begun)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


@pytest.mark.parametrize(("first", "options"), [("", "-m"), ("/elsewhere", "-P -m")])
async def test_workers_look_for_the_application_where_this_process_does(
    tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch, first: str, options: str
) -> None:
    """The working directory comes before what is installed, as for `python -m`, or after it, as for `arq`."""
    program(f'echo "$*" > {tmp_path}/call; exit 2')
    monkeypatch.setattr(sys, "path", [first, *sys.path])
    with pytest.raises(CommandError):
        await Supervisor("shop:app", [{}], bury=AsyncMock()).run()
    assert f"{options} tidepool.cli.worker_process shop:app\n" == (tmp_path / "call").read_text("utf-8")


async def test_workers_take_turns_to_end(tmp_path: Path, program: Program) -> None:
    """Of three workers that end after 30 jobs, the first ones end after 10, 20 and 30. Nothing of it is a death."""
    program(f'echo "$*" >> {tmp_path}/calls; test $(grep -c . {tmp_path}/calls) -lt 6 || read nothing')
    bury = AsyncMock()
    running = asyncio.create_task(Supervisor("shop:app", [{}] * 3, bury=bury, restart_after=30).run())

    async def six() -> bool:
        return (tmp_path / "calls").exists() and 6 <= len((tmp_path / "calls").read_text("utf-8").splitlines())

    await until(six)
    assert 0 == bury.await_count
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    limits = [line.rpartition("shop:app ")[2] for line in (tmp_path / "calls").read_text("utf-8").splitlines()]
    assert {"10", "20", "30"} <= set(limits)
    assert {"10": 1, "20": 1} == {limit: limits.count(limit) for limit in ("10", "20")}


async def test_a_worker_that_does_not_end_in_time_is_killed(tmp_path: Path, program: Program) -> None:
    """Its jobs are given back as those of any dead worker."""
    program(f"trap '' TERM; touch {tmp_path}/begun; while :; do read nothing || sleep 0.01; done")
    bury = AsyncMock()
    running = asyncio.create_task(Supervisor("shop:app", [{}], bury=bury, stop_timeout_s=0.1).run())

    async def begun() -> bool:
        return (tmp_path / "begun").exists()

    await until(begun)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert 1 == bury.await_count


_AS_PROCESS_ONE = """
import asyncio, os, pathlib, sys
from tidepool.cli import Supervisor, supervisor
supervisor._REAP_PERIOD_S = 0.01
sys.executable = sys.argv[1]

def states():
    return [path.read_text().rpartition(")")[2].split()[0] for path in pathlib.Path("/proc").glob("[0-9]*/stat")]

async def main():
    running = asyncio.create_task(Supervisor("shop:app", [{}], bury=asyncio.sleep, restart_after=1).run())
    while not pathlib.Path(sys.argv[2]).exists() or "Z" in states() or len(states()) > 3:
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes process 1 of a new namespace")
def test_process_one_reaps_what_dead_workers_leave_behind(tmp_path: Path, program: Program) -> None:
    """A program that a job has started, and that ends later than its worker, becomes a child of process 1."""
    done = tmp_path / "done"
    program(f"test -e {done} && read nothing; (sleep 0.1; touch {done}) & exit 0")
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.prefix + "/bin/python"]
    subprocess.run([*unshare, "-c", _AS_PROCESS_ONE, sys.executable, str(done)], check=True, cwd=ROOT, timeout=30)
