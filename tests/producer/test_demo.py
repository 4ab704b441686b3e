"""`python -m producer serve --demo`: one command, and a service that works; one signal, and nothing of it is left."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import Service, until

ROOT = Path(__file__).parents[2]
OURS = "SELECT count(*) AS connections FROM pg_stat_activity WHERE application_name LIKE 'tidepool%'"


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def demo(service: Service) -> Iterator[subprocess.Popen[str]]:
    """Start it; if the test fails it is asked to stop, not killed, because its workers would stay."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "producer", "serve", "--demo", "--json", "--port", str(free_port())],
        env=service.environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield demo
    demo.terminate()
    demo.communicate(timeout=30)


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, *(pytest.param(other, marks=pytest.mark.slow) for other in (signal.SIGTERM, signal.SIGHUP))],
)
async def test_the_demo_works_until_it_is_stopped(
    demo: subprocess.Popen[str], rows: Any, number: signal.Signals
) -> None:
    """Two workers settle a steady load; afterwards no process holds a connection."""
    assert demo.stdout is not None
    url = json.loads(demo.stdout.readline())["url"]

    async def two_workers_have_settled_jobs() -> bool:
        try:
            picture = (await http.get(f"{url}picture")).json()
        except httpx.ConnectError:
            return False  # it says its address a moment before it listens
        return picture["history"]["live"] == 2 and bool(picture["tallies"]["functions"])

    async def nobody_is_left() -> bool:
        return await rows(OURS) == [{"connections": 0}]

    async with httpx.AsyncClient() as http:
        await until(two_workers_have_settled_jobs)
    demo.send_signal(number)
    _, said = demo.communicate(timeout=30)
    assert (128 + number, "") == (demo.returncode, said)
    await until(nobody_is_left, 2)
