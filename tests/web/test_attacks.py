"""A front and a worker's port under attack, as their processes; and the many that may be connected at a time."""

import asyncio
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from attacks import CALLERS, Attack, half_request
from commands import Service

from tests.bench.attacked import attacking, measured, victim
from tidepool import embedded


@pytest.fixture
def urls(service: Service) -> embedded.Urls:
    """Give the test's servers."""
    return embedded.Urls(service.environment["DATABASE_URL"], service.environment["REDIS_URL"])


def test_a_measurement_begins_when_the_attack_has_connected() -> None:
    """Before that it would measure the imports of the attacker's process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0)
        with attacking(half_request, listening.getsockname()[1]):
            listening.accept()[0].close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["front", "worker"])
@pytest.mark.parametrize("attack", CALLERS)
async def test_an_attack_costs_little(urls: embedded.Urls, kind: str, attack: Attack) -> None:
    """Memory grows by 20 MB at most, and who asks whether the process lives is answered in 100 ms."""
    with victim(kind, urls) as (process, port):
        seen = await measured(attack, process.pid, port, seconds=5)
    assert seen["memory_grew_mb"] <= 20
    assert seen["live_p95_ms"] <= 100


@pytest.mark.slow
async def test_a_front_with_few_file_descriptors_answers_between_half_requests(service: Service) -> None:
    """Three hundred of them at `ulimit -n 256`."""
    command = f"ulimit -n 256; exec {sys.executable} -m producer serve --port 8799"
    front = subprocess.Popen(["bash", "-c", command], env=service.environment)
    try:
        seen = await measured(half_request, front.pid, 8799, seconds=5)
    finally:
        front.terminate()
        front.wait()
    assert seen["live_p95_ms"] <= 100


@pytest.mark.slow
async def test_two_hundred_streams_and_thousands_of_idle_connections(urls: embedded.Urls) -> None:
    """The streams go on, and a new caller is answered beside them."""
    with victim("front", urls) as (process, port):
        await measured(half_request, process.pid, port, seconds=1)
        async with AsyncExitStack() as open_ones:
            url = f"http://127.0.0.1:{port}"
            limits = httpx.Limits(max_connections=None)
            http = await open_ones.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30, limits=limits))
            streams = [await open_ones.enter_async_context(http.stream("GET", "/events")) for _ in range(200)]
            lines = [stream.aiter_lines() for stream in streams]
            idle = [await open_ones.enter_async_context(_connected(port)) for _ in range(_idle_count())]
            assert (await http.get("/health/live")).elapsed.total_seconds() < 1
            for of_one in lines:
                while "event: picture" != await anext(of_one):
                    pass
            assert len(idle) == _idle_count()


def _idle_count() -> int:
    return min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)


@asynccontextmanager
async def _connected(port: int) -> AsyncIterator[asyncio.StreamReader]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield reader
    writer.transport.abort()
