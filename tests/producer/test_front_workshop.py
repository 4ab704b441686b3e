"""The commands of the asyncpg pooling workshop, as its text prints them, typed at a front and a worker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from arq.connections import ArqRedis
from front import a_front
from planting import a_worker
from waiting import until

from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool

USER = '{"username": "john", "email": "john@example.com", "full_name": "John Doe"}'
PRODUCT = '{"name": "Wireless Headphones", "description": "Good ones", "price": 99.99, "category": "electronics"}'
ORDER = '{"user_id": 1, "product_id": 1, "quantity": 1, "total_price": 99.99}'
POSTS = (("/users/", USER), ("/products/", PRODUCT), ("/orders/", ORDER))


@pytest.fixture
async def front(database: PoolConfig, redis_url: str, redis: ArqRedis, pool: Pool) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a front whose jobs a worker runs, on an empty database."""
    async with a_worker(redis, pool), a_front(database.url, redis_url) as http:
        yield http


async def get(http: httpx.AsyncClient, path: str) -> Any:
    """Return what a path answers."""
    answer = await http.get(path)
    assert 200 == answer.status_code, answer.text
    return answer.json()


@pytest.mark.parametrize("headers", [{}, {"Prefer": "wait=10"}], ids=["at once", "waited"])
async def test_the_workshops_rows_are_created_and_read(front: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """With the wish 201 and the row's address; without it 202 and the job's. Then every list has them."""
    for path, body in POSTS:
        answer = await front.post(path, content=body, headers={"Content-Type": "application/json", **headers})
        assert (201 if headers else 202) == answer.status_code, answer.text
        job = answer.json()["url"]

        async def applied(job: str = job) -> bool:
            return (await get(front, job))["status"] == "applied"

        await until(applied)

    assert ["john"] == [user["username"] for user in (await get(front, "/users/"))["users"]]
    assert "john" == (await get(front, "/users/1"))["username"]
    for path in ("/products/", "/products/?category=electronics", "/products/category/electronics"):
        assert ["99.99"] == [product["price"] for product in (await get(front, path))["products"]]
    assert [] == (await get(front, "/products/?category=Electronics"))["products"]
    for path in ("/orders/", "/users/1/orders"):
        assert [(1, "99.99")] == [(order["id"], order["total_price"]) for order in (await get(front, path))["orders"]]


async def test_the_workshops_health(front: httpx.AsyncClient) -> None:
    """Healthy, with the database's response time and the pool's figures."""
    health = await get(front, "/health")
    assert ("healthy", "healthy", {}) == (health["status"], health["database"]["status"], health["reasons"])
    assert 0 < health["database"]["response_time_ms"] < 2000
    assert health["pool"]["idle"] + health["pool"]["in_use"] == health["pool"]["size"]
    assert datetime.fromisoformat(health["timestamp"]).tzinfo is not None


async def test_the_workshops_health_without_a_server(database: PoolConfig) -> None:
    """503 and unhealthy, as `/health/ready` is not ready; a token is not needed."""
    async with a_front(database.url, "redis://127.0.0.1:1", FRONT_TOKEN="c3f1a90b7e5d2846f09ab17c5de38264") as http:
        answer = await http.get("/health")
    assert (503, "unhealthy", ["redis"]) == (
        answer.status_code,
        answer.json()["status"],
        list(answer.json()["reasons"]),
    )
    assert "healthy" == answer.json()["database"]["status"]


async def test_the_workshops_load_test_and_pool_figures(front: httpx.AsyncClient) -> None:
    """So many queries succeed, and the pool's totals have them."""
    before = await get(front, "/pool/stats")
    for iterations in (1, 100):
        load = await get(front, f"/load-test?iterations={iterations}")
        assert (iterations, iterations, 0) == (load["iterations"], load["successful"], load["failed"])
        assert load["queries_per_second"] == pytest.approx(iterations / load["duration"], rel=0.05)
        assert load["pool_stats"]["in_use"] <= 1  # by what the front itself reads beside it
    stats = await get(front, "/pool/stats")
    assert stats["queries_executed"] - before["queries_executed"] >= 101
    assert stats["connections_acquired"] == stats["connections_released"] == stats["process"]["acquire_ok"]
    assert 1 <= stats["connections_created"] <= stats["process"]["max_size"]
    assert stats["queries_per_second"] == pytest.approx(stats["queries_executed"] / stats["runtime_seconds"], rel=0.05)
    assert (0, 0) == (stats["errors"], stats["error_rate"])


class Relay:
    """A way to the PostgreSQL of the tests that can go: it then closes every connection, or answers on none."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        self._socket = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._parts = parts
        self._writers: set[asyncio.StreamWriter] = set()
        self._may_pass = asyncio.Event()
        self._may_pass.set()
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Listen on a port of the loopback address."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = self._parts.netloc.partition("@")[0]
        self.url = f"postgresql://{user}@127.0.0.1:{port}{self._parts.path}?sslmode=disable"
        try:
            yield self
        finally:
            self.stop()
            self._may_pass.set()

    def stop(self) -> None:
        """Refuse connections, and cut those that there are."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Pass nothing on any more."""
        self._may_pass.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_unix_connection(self._socket)
        self._writers |= {writer, behind_writer}
        await asyncio.gather(self._copy(reader, behind_writer), self._copy(behind_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._may_pass.wait()
                writer.write(data)
        writer.close()


@pytest.mark.parametrize("how", ["stop", "freeze"])
async def test_the_workshops_calls_while_postgresql_is_away(database: PoolConfig, redis_url: str, how: str) -> None:
    """503 with the cause, and queries that are counted as failed: soon, and without a traceback."""
    bounds = {"CONNECT_TIMEOUT": "1", "COMMAND_TIMEOUT": "1", "ACQUIRE_TIMEOUT": "1", "POOL_MIN_SIZE": "0"}
    async with Relay(database.url).open() as relay, a_front(relay.url, redis_url, **bounds) as http:
        assert 200 == (await http.get("/health")).status_code
        getattr(relay, how)()
        async with asyncio.timeout(15):
            while (health := await http.get("/health")).is_success:
                await asyncio.sleep(0.05)  # it may be half a second old
            load = await http.get("/load-test?iterations=20")
    assert (503, "unhealthy", "unhealthy") == (
        health.status_code,
        health.json()["status"],
        health.json()["database"]["status"],
    )
    assert health.json()["reasons"]["postgresql"]
    assert (200, 20, 0, 20, 0.0) == (
        load.status_code,
        *(load.json()[name] for name in ("iterations", "successful", "failed", "queries_per_second")),
    )
    assert "Traceback" not in health.text + load.text


@pytest.mark.parametrize("iterations", ["0", "101", "-1", "x", "1.5", ""])
async def test_the_workshops_load_test_has_bounds(front: httpx.AsyncClient, iterations: str) -> None:
    """422 with the parameter."""
    answer = await front.get(f"/load-test?iterations={iterations}")
    assert (422, "invalid") == (answer.status_code, answer.json()["code"])
    assert "iterations" in answer.json()["detail"]
