"""The laboratory's commands, each as small as it can be, on servers of their own."""

import argparse
import asyncio
import functools
import itertools
import json
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis
from redis.exceptions import RedisError

from lab.__main__ import command_line
from lab.bench.servers import own_site
from lab.tuning.arm import Arm, measure
from lab.tuning.load import ClosedLoad
from lab.tuning.record import Record
from lab.tuning.requests import Jobs
from lab.tuning.trials import Plan, trials, usual_of
from lab.tuning.workers import running_workers
from settings import Settings, load
from tidepool.cli import Context
from tidepool.cli.terminal import CommandError
from worker import app


@pytest.fixture
def settings(servers: Any, tmp_path: Path) -> Settings:
    """Give settings of the session's servers, on which the laboratory makes databases of its own."""
    with Redis.from_url(servers.redis_url(15)) as redis:
        cast("Any", redis).flushdb()  # what a test has left there is nobody's
    urls = {"DATABASE_URL": servers.database_url("postgres"), "REDIS_URL": servers.redis_url(0)}
    return load({**urls, "DATA_DIR": str(tmp_path / "data")})


async def run(settings: Settings, *words: str) -> int:
    """Run one command of `python -m lab`; returns its exit status."""
    arguments: argparse.Namespace = command_line().parse(words)
    return await arguments.command.run(arguments, Context(app, settings, settings.urls))


async def test_a_sweep_goes_on_and_names_the_settings(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last arm is measured, with a worker as the `arq` command runs it, and all of it is reported."""
    monkeypatch.setattr("lab.tuning.arm._WARM_S", 0.1)
    mix = {"create_user": 1, "create_product": 1, "place_order": 2}
    plan = Plan("POOL_MAX_SIZE", (2,), 1, 0.6, 200, 0.0, mix, usual_of(settings, 1), 7)
    record = Record.begin(tmp_path / "run", plan)
    assert 4 == len(trials(plan))
    assert 0 == await run(settings, "tune", "--resume", str(_measured_before(record)), "--json")
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (4, 4, {"POOL_MAX_SIZE": 2}) == (said["arms"], said["of"], said["settings"])
    arm = Record.resume(tmp_path / "run").arms[-1]
    assert "jobs were not applied" != arm.invalid
    assert arm.jobs_per_second > 0
    assert 0 < arm.latency_ms["p50"] <= arm.latency_ms["p99"]
    assert 1 <= arm.connections["open"] <= 2
    assert (tmp_path / "run" / "arms.csv").exists()


async def test_callers_beyond_the_pool_wait_or_give_up(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Two connections and holds of 50 ms: five callers wait, and with a hundred of them most have none in 100 ms."""
    words = ("--max-concurrent", "100", "--pool-size", "2", "--hold-ms", "50", "--acquire-timeout", "0.1")
    assert 0 == await run(settings, "pool-test", *words, "--seconds", "0.2", "--json")
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [5, 10, 20, 40, 80, 100] == [step["concurrent"] for step in steps]
    assert steps[0]["waited"] > 0
    assert steps[-1]["timed_out"] >= 80
    assert all(step["connections"] <= 2 and not step["failed"] for step in steps)


async def test_a_pool_is_compared_with_its_parts(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """As pools of one process and as processes, with as many connections in all."""
    words = ("--connections", "4", "--shards", "2", "--hold-ms", "5", "--seconds", "0.3", "--repeats", "1")
    assert 0 == await run(settings, "layouts", *words, "--json")
    said = json.loads(capsys.readouterr().out)
    assert ["1 pool", "2 pools", "2 processes"] == [row["layout"] for row in said["layouts"]]
    assert [4, 2, 2] == [row["size"] for row in said["layouts"]]
    assert all(row["succeeded"] > 5 and not row["failed"] for row in said["layouts"])
    assert 2 == len(said["found"])


async def test_users_get_the_outcomes_of_their_jobs(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """From a worker that is started for them."""
    assert 0 == await run(settings, "load-test", "--users", "5", "--requests", "4", "--json")
    said = json.loads(capsys.readouterr().out)
    assert (20, 20, 1.0) == (said["requests"], said["succeeded"], said["success_rate"])
    assert 0 < said["latency_ms"]["min"] <= said["latency_ms"]["median"] <= said["latency_ms"]["max"]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@pytest.mark.parametrize("moment", ["first", pytest.param("middle", marks=pytest.mark.slow)])
async def test_a_worker_that_ends_under_its_load_ends_the_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, number: int, moment: str
) -> None:
    """At once and in a line: its requests would each wait for half a minute, and count as failed."""
    running: list[asyncio.subprocess.Process] = []

    @asynccontextmanager
    async def watched(*words: Any, **variables: str) -> AsyncIterator[list[asyncio.subprocess.Process]]:
        async with running_workers(*words, **variables) as workers:
            running.extend(workers)
            yield workers

    send, sent = Jobs.send, itertools.count()

    async def sends(jobs: Jobs, user: int, request: int) -> str:
        if next(sent) == {"first": 0, "middle": 20}[moment]:
            running[0].send_signal(number)
        return await send(jobs, user, request)

    monkeypatch.setattr("lab.tuning.load_test_command.running_workers", watched)
    monkeypatch.setattr(Jobs, "send", sends)
    async with asyncio.timeout(15):
        with pytest.raises(CommandError, match="a measured worker ended by itself"):
            await run(settings, "load-test", "--users", "5", "--requests", "2000", "--workers", "2")
    assert all(worker.returncode is not None for worker in running)


async def test_a_front_that_is_away_is_reported(settings: Settings) -> None:
    """In a line, before the users are let loose."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(CommandError, match=f"no front at {url}: Connection refused"):
            await run(settings, "load-test", "--users", "2", "--requests", "2", "--url", url)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("POOL_MIN_SIZE", "1,9", r"POOL_MIN_SIZE: is 9, more than POOL_MAX_SIZE \(4\)"),
        ("WORKERS", "0,1", "WORKERS: is 0, less than 1"),
    ],
)
async def test_a_setting_that_no_worker_starts_with_is_reported(
    settings: Settings, tmp_path: Path, name: str, values: str, said: str
) -> None:
    """Before anything is started, and with nothing left in the directory."""
    with pytest.raises(CommandError, match=said):
        await run(settings, "tune", "--vary", name, "--values", values, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.fixture
async def arm(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[], Awaitable[Arm]]]:
    """Give a function that measures one arm, a short one."""
    monkeypatch.setattr("lab.tuning.arm._WARM_S", 0.1)
    plan = Plan("POOL_MAX_SIZE", (2,), 1, 0.6, 200, 0.0, {"create_user": 1}, usual_of(settings, 1), 7)
    async with own_site(settings, connections=plan.connections) as site:
        yield functools.partial(measure, site, plan, trials(plan)[0])


async def test_a_worker_that_dies_while_it_is_measured_is_reported(
    arm: Callable[[], Awaitable[Arm]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures in /proc are gone with it, and were looked for with a traceback."""
    running: list[asyncio.subprocess.Process] = []

    @asynccontextmanager
    async def watched(*words: Any, **variables: str) -> AsyncIterator[list[asyncio.subprocess.Process]]:
        async with running_workers(*words, **variables) as workers:
            running.extend(workers)
            yield workers

    monkeypatch.setattr("lab.tuning.arm.running_workers", watched)
    monkeypatch.setattr(ClosedLoad, "begin", lambda _load: running[0].kill())
    with pytest.raises(CommandError, match="a measured worker ended by itself"):
        await arm()


async def test_the_error_that_ends_the_load_is_reported(
    arm: Callable[[], Awaitable[Arm]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was lost, and the workers were said to commit nothing after a minute."""

    async def ends(_load: ClosedLoad) -> None:
        raise RedisError("no space")

    monkeypatch.setattr(ClosedLoad, "run", ends)
    async with asyncio.timeout(30):
        with pytest.raises(RedisError, match="no space"):
            await arm()


def _measured_before(record: Record) -> Path:
    """Write down the arms of a run but for its last."""
    for trial in trials(record.plan)[:-1]:
        document = {
            "number": trial.number, "round": trial.round, "value": trial.value, "kind": trial.kind,
            "jobs_per_second": 1000.0, "wait_ms": {}, "latency_ms": {}, "cpu": {"worker": 0.5}, "memory_mb": {},
            "connections": {"open": 2.0}, "client_lag_ms": 0.0, "bound": "", "invalid": "",
        }  # fmt: skip
        with (record.directory / "arms.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(document) + "\n")
    return record.directory
