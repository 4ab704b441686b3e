"""The pooling workshop's commands as a reader types them: curl at a front that runs, and the laboratory's exercises."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from commands import Service
from waiting import until

pytestmark = pytest.mark.timeout(120)

JSON = ("-H", "Content-Type: application/json")
ROWS = {
    "users": '{"username": "john", "email": "john@example.com", "full_name": "John Doe"}',
    "products": '{"name": "Headphones", "description": "Good ones", "price": 99.99, "category": "electronics"}',
    "orders": '{"user_id": 1, "product_id": 1, "quantity": 1, "total_price": 99.99}',
}


@pytest.fixture
def front(service: Service) -> Iterator[str]:
    """Run a front and a worker; gives the front's base path, of a name as the workshop's."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    service.start_worker()
    command = [sys.executable, "-m", "producer", "serve", "--port", str(port)]
    with subprocess.Popen(command, env=service.environment, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        base = serving.stdout.readline().removeprefix("serving on ").rstrip("/\n")
        try:
            yield base
        finally:
            serving.kill()


def curl(*words: str) -> tuple[int, Any]:
    """Return the status and the document of what curl gets."""
    command = ("curl", "-sS", "--noproxy", "*", "--max-time", "20", "-w", "\n%{http_code}", *words)
    body, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("prefer", [(), ("-H", "Prefer: wait=10")], ids=["at once", "waited"])
async def test_the_workshops_calls_are_typed_at_a_running_front(front: str, prefer: tuple[str, ...]) -> None:
    """Each call gets what the workshop promises, or 202 and where the outcome will be."""
    for kind, row in ROWS.items():
        status, created = curl("-X", "POST", f"{front}/{kind}/", *JSON, *prefer, "-d", row)
        assert (201 if prefer else 202) == status, created

        async def applied(url: str = created["url"]) -> bool:
            return "applied" == curl(f"{front}{url}")[1]["status"]

        await until(applied)
    paths = ("/users/1/orders", "/products/category/electronics", "/products/", "/orders/", "/users/", "/users/1")
    assert [200] * len(paths) == [curl(front + path)[0] for path in paths]
    status, health = curl(f"{front}/health")
    assert (200, "healthy", "healthy") == (status, health["status"], health["database"]["status"])
    status, load = curl(f"{front}/load-test?iterations=100")
    assert (200, 100, 0) == (status, load["successful"], load["failed"])
    status, stats = curl(f"{front}/pool/stats")
    assert (200, True) == (status, stats["queries_executed"] > 100)


@pytest.mark.parametrize(
    ("users", "requests", "pool"),
    [
        (5, 4, {"POOL_MIN_SIZE": "2", "POOL_MAX_SIZE": "10"}),
        pytest.param(5, 20, {}, marks=pytest.mark.slow),
        pytest.param(10, 30, {"POOL_MIN_SIZE": "2", "POOL_MAX_SIZE": "10"}, marks=pytest.mark.slow),
        pytest.param(20, 50, {}, marks=pytest.mark.slow),
        pytest.param(50, 20, {}, marks=pytest.mark.slow),
    ],
)
def test_the_workshops_load_tests(service: Service, users: int, requests: int, pool: dict[str, str]) -> None:
    """Every request has its outcome."""
    words = ("load-test", "--users", str(users), "--requests", str(requests), "--json")
    ended = service.run("worker", *words, **pool)
    assert 0 == ended.status, ended.stderr
    assert (users * requests, 1.0) == (ended.document["requests"], ended.document["success_rate"])


@pytest.mark.parametrize(
    "words",
    [("--max-concurrent", "5", "--seconds", "0.1"), pytest.param((), marks=pytest.mark.slow)],
    ids=["small", "as printed"],
)
def test_the_workshops_pool_test(service: Service, words: tuple[str, ...]) -> None:
    """As a table, without an argument and with some."""
    ended = service.run("lab", "pool-test", *words)
    assert 0 == ended.status, ended.stderr
    assert "timed out" in ended.stdout
