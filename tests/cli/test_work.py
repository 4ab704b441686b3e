"""`worker work`: worker processes of an application, supervised; with real processes, which all end with their test."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from arq.connections import ArqRedis, RedisSettings, create_pool
from commands import Service, until

from lab.bench.processes import children

ROOT = Path(__file__).parents[2]
USER = {"username": "ada", "email": "ada@example.org", "full_name": "Ada"}
TIMEOUT_S = 20.0


class Work:
    """A running `worker work`, and what it has logged."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.running = running
        self.lines: list[dict[str, Any]] = []

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of an event that have been read so far."""
        return [line for line in self.lines if line.get("event") == name]

    def workers(self) -> list[int]:
        """Return the process ids of all workers that have started, in this order."""
        return [int(line["worker_id"].split("-")[-2]) for line in self.events("worker.started")]

    def read_until(self, name: str, count: int = 1) -> None:
        """Read the log until so many lines of an event have been there."""
        while len(self.events(name)) < count:
            line = self._stderr.readline()
            assert line, f"all have ended without {count} lines {name!r}: {self.lines}"
            self.lines.append(json.loads(line) if line.startswith("{") else {"event": line.strip()})

    async def have(self, name: str, count: int = 1) -> None:
        """Do the same without blocking the event loop."""
        async with asyncio.timeout(TIMEOUT_S):
            await asyncio.to_thread(self.read_until, name, count)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status when neither the supervisor nor a worker holds its log open."""
        self.running.send_signal(number)
        return self.all_gone()

    def all_gone(self) -> int:
        """Wait until the supervisor has ended and every process has closed the log; return the supervisor's status."""
        try:
            _, rest = self.running.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for pid in self.workers():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        self.lines += [json.loads(line) if line.startswith("{") else {"event": line} for line in rest.splitlines()]
        return self.running.returncode

    @property
    def _stderr(self) -> Any:
        return self.running.stderr


Start = Callable[..., Work]


@pytest.fixture
def start(service: Service) -> Start:
    """Give a function that starts the command with options and settings."""

    def start_work(*words: str, program: str = "worker", cwd: Path = ROOT, **variables: str) -> Work:
        running = subprocess.Popen(
            [sys.executable, "-m", program, "work", *words],
            env={**service.environment, **variables},
            cwd=cwd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        service.started.append(running)
        return Work(running)

    return start_work


async def test_a_killed_worker_is_replaced_and_its_jobs_run_once(start: Start, service: Service, rows: Any) -> None:
    """At once: with a lease of an hour, nothing else would ever run the jobs that it held."""
    other: Any = await asyncpg.connect(service.environment["DATABASE_URL"])
    await other.execute("BEGIN; LOCK TABLE products")
    work = start(LEASE="3600")
    await work.have("worker.started")
    await asyncio.to_thread(service.run, "producer", "--jobs", "200", "--seed", "3")

    async def it_waits() -> bool:
        return await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")

    async def all_are_settled() -> bool:
        return 200 == (await rows("SELECT count(*) AS n FROM job_results"))[0]["n"]

    await until(it_waits)
    (killed,) = work.workers()
    os.kill(killed, signal.SIGKILL)
    await work.have("worker.started", 2)
    await other.close()
    await until(all_are_settled)
    (counts,) = await rows(
        "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM products) + (SELECT count(*) FROM orders)"
        " AS effects, (SELECT count(*) FROM job_results WHERE status = 'applied') AS applied"
    )
    assert 0 == await asyncio.to_thread(work.end)
    (died,) = work.events("worker.died")
    assert (killed, "signal SIGKILL") == (died["pid"], died["end"])
    assert counts["effects"] == counts["applied"]
    assert 1 == len(work.events("worker.stopped"))


async def test_a_killed_supervisor_leaves_no_worker(start: Start, rows: Any) -> None:
    """They stop as after SIGTERM, one of them while it still imports."""
    work = start("--workers", "2")
    await work.have("worker.started", 2)
    os.kill(work.workers()[0], signal.SIGKILL)
    await work.have("worker.died")
    assert -signal.SIGKILL == await asyncio.to_thread(work.end, signal.SIGKILL)
    assert 1 <= len(work.events("worker.stopped"))
    assert [] == await rows("SELECT FROM pg_stat_activity WHERE application_name LIKE 'tidepool:%'")


def test_a_worker_that_cannot_start_ends_the_command(service: Service) -> None:
    """With status 2 and its own line; nothing of the other one is left, or this would wait for its log."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = service.run("worker", "work", "--workers", "2", METRICS_PORT=str(port))
    lines = ended.stderr.splitlines()
    assert (2, "") == (ended.status, ended.stdout)
    assert f"error: METRICS_PORT: cannot serve on 127.0.0.1, port {port}: Address already in use" in lines
    assert "error: a worker ended with status 2" == lines[-1]


async def test_workers_are_replaced_after_so_many_jobs(start: Start, service: Service, rows: Any) -> None:
    """No worker runs more than it may, the first two end at different times, and no job is lost or runs twice."""
    service.run("producer", "--jobs", "200", "--mix", "create_user=1")
    work = start("--workers", "2", "--restart-after", "60")

    async def all_are_settled() -> bool:
        return 200 == (await rows("SELECT count(*) AS n FROM job_results"))[0]["n"]

    await until(all_are_settled)
    await work.have("worker.replaced", 3)
    assert 0 == await asyncio.to_thread(work.end)
    by_worker = await rows("SELECT worker_id, count(*) AS jobs FROM job_results GROUP BY worker_id ORDER BY jobs")
    jobs = [row["jobs"] for row in by_worker]
    assert 30 in jobs, "the first one ends after half as many"
    assert max(jobs) <= 60
    assert [] == work.events("worker.died")
    assert {"attempts": 1} == (await rows("SELECT max(attempts) AS attempts FROM job_results"))[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_stops_all_workers(start: Start, number: int) -> None:
    """With status 0, as it ends the `arq` command; until then each worker has a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    work = start("--workers", "2", METRICS_PORT=str(port))
    await work.have("worker.started", 2)
    async with httpx.AsyncClient() as http:
        for one in (port, port + 1):
            assert 200 == (await http.get(f"http://127.0.0.1:{one}/health/live")).status_code
    assert 0 == await asyncio.to_thread(work.end, number)
    assert 2 == len(work.events("worker.stopped"))
    assert [] == work.events("worker.died")


@pytest.mark.slow
async def test_a_second_signal_puts_running_jobs_back(start: Start, service: Service, redis: ArqRedis) -> None:
    """The first one would have let the job run for an hour."""
    other: Any = await asyncpg.connect(service.environment["DATABASE_URL"])
    await other.execute("BEGIN; LOCK TABLE users")
    work = start(SHUTDOWN_WAIT="3600", LEASE="1")
    await work.have("worker.started")
    line = json.dumps({"job": "create_user", "id": "ada", "args": USER})
    await asyncio.to_thread(service.run, "producer", "--file", "-", stdin=line)

    async def it_waits() -> bool:
        return await other.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")

    await until(it_waits)
    work.running.send_signal(signal.SIGTERM)
    await work.have("Setting allow_pick_jobs to `False`")
    assert 0 == await asyncio.to_thread(work.end)
    assert [b"ada"] == await redis.zrange("arq:queue", 0, -1)
    assert 0 == await redis.zcard("arq:queue:owners")
    await other.close()


async def test_a_third_signal_kills_workers_that_do_not_answer(start: Start) -> None:
    """A worker that is stopped by its debugger, or whose job blocks the event loop."""
    work = start(SHUTDOWN_WAIT="3600")
    await work.have("worker.started")
    os.kill(work.workers()[0], signal.SIGSTOP)
    for count in (1, 2):
        work.running.send_signal(signal.SIGTERM)
        await work.have("supervisor.stopping", count)
    assert 0 == await asyncio.to_thread(work.end)


def test_what_it_runs_as_one_json_document(service: Service) -> None:
    """On standard output, and nothing else there."""
    with subprocess.Popen(
        [sys.executable, "-m", "worker", "work", "--json", "--restart-after", "9"],
        env=service.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        assert running.stdout is not None
        first = running.stdout.readline()
        running.terminate()
        rest = running.stdout.read()
    assert ({"app": "worker:app", "workers": 1, "restart_after": 9}, "") == (json.loads(first), rest)


_JOBS = """
import asyncio, os
from pathlib import Path

import tidepool
from arq.connections import RedisSettings

async def slow(ctx, path):
    with Path(path).open("a") as file:
        file.write(type(asyncio.get_running_loop()).__module__ + "\\n")
    while not Path(path + ".go").exists():
        await asyncio.sleep(0.01)
    return ctx["job_try"]

class WorkerSettings:
    functions = [slow]
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    poll_delay = 0.01

WorkerSettings = tidepool.adopt(WorkerSettings, tidepool.EngineOptions(lease_s=3600))
"""
"""An arq application that has been adopted, and has no database."""


async def test_adopted_arq_settings_are_run_as_they_are(start: Start, redis_url: str, tmp_path: Path) -> None:
    """A killed worker's job runs again at once; the process has uvloop, and nobody needs a database."""
    (tmp_path / "jobs.py").write_text(_JOBS, "utf-8")
    pool = await create_pool(RedisSettings.from_dsn(redis_url))
    job = await pool.enqueue_job("slow", f"{tmp_path}/runs")
    assert job is not None
    work = start("--app", "jobs:WorkerSettings", program="tidepool", cwd=tmp_path, PYTHONPATH=str(ROOT))

    async def runs(count: int) -> bool:
        return (tmp_path / "runs").exists() and ["uvloop"] * count == (tmp_path / "runs").read_text("utf-8").split()

    await until(lambda: runs(1))
    (worker,) = children(work.running.pid)
    os.kill(worker, signal.SIGKILL)
    await until(lambda: runs(2))
    (tmp_path / "runs.go").touch()
    assert 2 == await job.result(timeout=10)
    await pool.aclose(close_connection_pool=True)
    assert 0 == await asyncio.to_thread(work.end)
