"""The benchmark, as small as it can be, and its parts."""

import gc
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from arq.connections import ArqRedis
from redis.asyncio import Redis

from lab.__main__ import command_line
from lab.bench import pgbench
from lab.bench.acquire import acquire_us
from lab.bench.drain import Place, System, drain, preload_noops, start, stop, workers_cpu_s
from lab.bench.latency import idle_latency_ms
from lab.bench.servers import own_databases, session
from settings import load
from tidepool.cli import Context
from tidepool.cli.terminal import CommandError
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from worker import app


async def bench(servers: Any, *words: str) -> int:
    """Run `python -m lab bench` on the session's servers; returns its exit status."""
    async with Redis.from_url(servers.redis_url(15)) as redis:
        await redis.flushdb()  # what a test has left there is nobody's
    settings = load({"DATABASE_URL": servers.database_url("postgres"), "REDIS_URL": servers.redis_url(0)})
    arguments = command_line().parse(("bench", *words, "--repeat", "1", "--json"))
    return await arguments.command.run(arguments, Context(app, settings, settings.urls))


async def test_both_pools_are_measured(database: PoolConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its turn, an acquire and release in microseconds."""
    monkeypatch.setattr("lab.bench.acquire._TURNS", 1)
    us = await acquire_us(database)
    assert ["asyncpg", "tidepool"] == list(us)
    assert all(0 < figure < 1_000_000 for figure in us.values())


@pytest.mark.timeout(180)  # a dozen processes, one after the other
async def test_the_queue_and_the_port_of_the_service_are_not_those_of_what_is_measured(
    servers: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With QUEUE_NAME set the workers waited at another queue for ever; with METRICS_PORT one of two did not start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("METRICS_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("QUEUE_NAME", "of:the:service")
        assert 0 == await bench(servers, "--parts", "create_user", "--jobs", "4000")
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert ["tidepool", "arq-tuned", "arq-default"] == [run["system"] for run in runs]


async def test_an_empty_queue_is_nothing_to_measure(redis: ArqRedis) -> None:
    """It was waited for until fewer than none were left."""
    with pytest.raises(CommandError, match="no job is in arq:queue"):
        await drain(redis, System("nobody", "worker.NoSuchSettings"), Place({}))


def a_pgbench(path: Path, *lines: str) -> Path:
    """Make a program that writes down what it was given, and then does *lines*."""
    program = path / "pgbench"
    program.write_text("\n".join(("#!/bin/sh", f'echo "$PGPASSWORD" "$@" > {path}/given', *lines)), "utf-8")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("url", "password", "given"),
    [
        ("postgresql://a%20b:s%2Fcret@db:5433/x%20y?sslmode=require", "s/cret", "a%20b@db:5433/x%20y?sslmode=require"),
        ("postgresql://postgres@/x?host=/run/a&port=5432", "", "postgres@/x?host=/run/a&port=5432"),
        ("postgresql:///x?password=s%2Fcret&user=me", "s/cret", "/x?user=me"),
    ],
)
async def test_pgbench_gets_the_password_where_nobody_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, password: str, given: str
) -> None:
    """It asked for one at the user's terminal, and took quoted names as they are in the URL."""
    monkeypatch.delenv("PGPASSWORD", raising=False)
    program = a_pgbench(tmp_path, "echo 'tps = 12.5 (without)'")
    assert 12.5 == await pgbench.transactions_per_second(program, url, "SELECT 1", clients=1, seconds=1)
    said = (tmp_path / "given").read_text("utf-8").split()
    assert f"postgresql://{given}" == said[-1]
    assert ([password] if password else ["-n"]) == said[:1]
    assert not any("cret" in word for word in said[1:])


async def test_a_pgbench_that_fails_is_reported_in_one_line(tmp_path: Path) -> None:
    """In its own words."""
    program = a_pgbench(tmp_path, "echo 'pgbench: error:' >&2", "echo 'no such role' >&2", "exit 1")
    with pytest.raises(CommandError, match=r"^pgbench: pgbench: error: no such role$"):
        await pgbench.transactions_per_second(program, "postgresql://db/x", "SELECT 1", clients=1, seconds=1)


async def test_pgbench_takes_the_url(database: PoolConfig) -> None:
    """As libpq reads it."""
    program = pgbench.find()
    assert program is not None
    assert await pgbench.transactions_per_second(program, database.url, "SELECT 1;\n", clients=1, seconds=1) > 0


async def test_other_refusals_of_postgresql_are_reported_in_one_line(database: PoolConfig) -> None:
    """No fault of the server, and no bug of ours: a template that somebody uses, a database that is to be dropped."""
    with pytest.raises(CommandError, match=r"^PostgreSQL at postgresql://postgres@.*: database .* already exists$"):
        async with session(database.url) as connection:
            await connection.execute("CREATE DATABASE postgres")


async def test_a_redis_that_is_not_empty_is_left_alone(servers: Any) -> None:
    """Nothing of it is removed, and the client is closed: one that is not warns when it is collected."""
    urls = Urls(servers.database_url("postgres"), servers.redis_url(15))
    async with Redis.from_url(urls.redis) as theirs:
        await theirs.flushdb()  # what a test has left there is nobody's
        await theirs.set("somebody's", "value")
        try:
            with pytest.raises(CommandError, match="not empty"):
                async with own_databases(urls):
                    pytest.fail("it uses it")
            assert b"value" == await theirs.get("somebody's")
        finally:
            await theirs.flushdb()
    gc.collect()


@dataclass(frozen=True, slots=True)
class Program(System):
    """A program of the test's in place of a worker."""

    text: str = "pass"

    def command(self) -> list[str]:
        """Run it."""
        return [sys.executable, "-c", self.text]


PATIENT = "import signal; signal.pause()"
HASTY = "import os, redis; redis.Redis.from_url(os.environ['REDIS_URL']).delete('arq:queue'); " + PATIENT


@pytest.mark.parametrize(("text", "why"), [("pass", "ended by itself"), (HASTY, "too few jobs to measure")])
async def test_a_drain_that_measures_nothing(redis: ArqRedis, redis_url: str, text: str, why: str) -> None:
    """The worker ends, or the queue is empty before anybody looks: that was a division by no jobs."""
    await preload_noops(redis, 3)
    with pytest.raises(CommandError, match=why):
        await drain(redis, Program("test", "", text=text), Place({**os.environ, "REDIS_URL": redis_url}))


async def test_a_worker_that_is_gone_before_the_loop_knows() -> None:
    """Its figures are gone already."""
    ended = await start(Program("test", ""), Place(dict(os.environ)))
    await ended.wait()
    unknown: Any = SimpleNamespace(pid=ended.pid, returncode=None)
    for worker in (ended, unknown):
        with pytest.raises(CommandError, match="ended by itself"):
            workers_cpu_s([worker])


@pytest.mark.parametrize(("text", "why"), [("pass", "ended by itself"), (PATIENT, "committed nothing within")])
async def test_a_latency_that_never_comes(
    redis: ArqRedis, connection: Any, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    """A worker that cannot start is an error, not an endless wait."""
    if text == PATIENT:
        monkeypatch.setattr("lab.bench.latency._WAIT_S", 0.1)
    worker = await start(Program("test", "", text=text), Place(dict(os.environ)))
    try:
        with pytest.raises(CommandError, match=why):
            await idle_latency_ms(redis, connection, worker, 1)
    finally:
        await stop([worker])
