"""The benchmark, as small as it can be, and its parts."""

import json
import socket
from typing import Any, cast

import pytest
from arq.connections import ArqRedis
from redis import Redis

from settings import load
from worker.__main__ import parser
from worker.bench.acquire import acquire_us
from worker.bench.drain import Place, System, drain
from worker.db.pool import PoolConfig
from worker.servers import addresses
from worker.terminal import CommandError


async def bench(servers: Any, *words: str) -> int:
    """Run `python -m worker bench` on the session's servers; returns its exit status."""
    with Redis.from_url(servers.redis_url(15)) as redis:
        cast("Any", redis).flushdb()  # what a test has left there is nobody's
    settings = load({"DATABASE_URL": servers.database_url("postgres"), "REDIS_URL": servers.redis_url(0)})
    arguments = parser().parse_args(("bench", *words, "--repeat", "1", "--json"))
    return await arguments.command(arguments, settings, addresses(settings))


async def test_both_pools_are_measured(database: PoolConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in its turn, an acquire and release in microseconds."""
    monkeypatch.setattr("worker.bench.acquire._TURNS", 1)
    us = await acquire_us(database)
    assert ["asyncpg", "tidepool"] == list(us)
    assert all(0 < figure < 1_000_000 for figure in us.values())


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
