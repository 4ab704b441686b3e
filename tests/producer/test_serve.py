"""`python -m producer serve`, over a socket: it serves, and stops at once when it is asked to."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from http import HTTPStatus

import httpx
import pytest
import uvicorn
from arq.connections import ArqRedis
from commands import Service
from factories import user_fields
from waiting import until

from producer.http import create_front
from settings import load
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.web.server import WebServer


@pytest.fixture
def port() -> int:
    """Give a port that nobody uses."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_ipv6() -> bool:
    """Return whether this machine has ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture
def served(service: Service, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run the front on that port."""
    command = [sys.executable, "-m", "producer", "serve", "--port", str(port)]
    front = subprocess.Popen(command, env=service.environment, stdout=subprocess.PIPE, text=True)
    yield front
    front.kill()
    front.communicate()


async def test_it_serves_and_stops_while_a_caller_waits(
    served: subprocess.Popen[str], redis: ArqRedis, port: int
) -> None:
    """The caller is answered, and the process ends as after any Ctrl-C, long before its time would be up."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=40) as http:

        async def answers() -> bool:
            try:
                return (await http.get("/openapi.json")).status_code == HTTPStatus.OK
            except httpx.TransportError:
                return False

        await until(answers)
        for address in ("127.0.0.1", "[::1]") if has_ipv6() else ("127.0.0.1",):
            assert {"alive": True} == (await http.get(f"http://{address}:{port}/health/live")).json()
        waiting = asyncio.create_task(http.post("/users/", json=user_fields(), headers={"Prefer": "wait=30"}))
        await until(lambda: redis.zcard("arq:queue"))
        served.send_signal(signal.SIGINT)
        assert 202 == (await waiting).status_code
    assert 130 == await asyncio.to_thread(served.wait, 4)
    assert served.stdout is not None
    assert f"serving on http://localhost:{port}/\n" == served.stdout.read()


def test_an_address_in_use_is_reported_in_one_line(service: Service, port: int) -> None:
    """Exit status 2."""
    with socket.create_server(("127.0.0.1", port)):
        ended = service.run("producer", "serve", "--port", str(port))
    assert (2, "") == (ended.status, ended.stdout)
    assert [f"error: cannot serve on 127.0.0.1, port {port}: Address already in use"] == ended.stderr.splitlines()


async def test_an_open_stream_holds_nobody_up(database: PoolConfig, redis_url: str) -> None:
    """The feed ends before the server waits for its requests."""
    settings = load({"DATABASE_URL": database.url, "REDIS_URL": redis_url})
    app = create_front(settings, Urls(database.url, redis_url))
    server = WebServer(app, uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=30))
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listening]))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/events"
    async with httpx.AsyncClient(timeout=20) as http, http.stream("GET", url) as answer:
        lines = answer.aiter_lines()
        while "event: picture" != await anext(lines):
            pass
        server.should_exit = True
        async with asyncio.timeout(5):
            await serving
        assert [line async for line in lines]
