"""Each kind of Redis client that stock arq works with: its worker, the thread that renews its lease, its wake-up."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any
from unittest.mock import AsyncMock, patch
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.worker import func
from engines import stop
from fakeredis import FakeAsyncRedis, FakeServer
from leasing import QUEUE, claim, done, enqueue
from proxies import tls_redis
from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.asyncio.connection import UnixDomainSocketConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sentinels import NAME, Sentinel, a_sentinel
from waiting import until

from tidepool.engine.worker import Worker
from tidepool.queue.connection import RedisClient
from tidepool.queue.leases import Leases
from tidepool.queue.renewal import Renewal, _own_client
from tidepool.urls import RedisUrl


async def add(_ctx: dict[Any, Any], first: int, second: int) -> int:
    """Return the sum."""
    return first + second


class Kinds:
    """Makes a client of each kind, and what it connects to."""

    def __init__(self, url: str, home: Path, stack: AsyncExitStack) -> None:
        parts = urlsplit(url)
        self._home, self._stack, self._socket = home, stack, parts.path
        self._number = int(parse_qs(parts.query)["db"][0])

    async def unix_socket(self) -> ArqRedis:
        """Connect to a Unix socket."""
        return await create_pool(RedisSettings(unix_socket_path=self._socket, database=self._number))

    async def tcp_with_retries(self) -> ArqRedis:
        """Connect over TCP with the settings of retries and of the pool's size that applications have."""
        return await create_pool(
            RedisSettings(
                host="127.0.0.1",
                port=await self._stack.enter_async_context(tls_redis(self._socket, None)),
                database=self._number,
                max_connections=4,
                retry=Retry(ConstantBackoff(0.01), 3),
                retry_on_timeout=True,
                retry_on_error=[RedisConnectionError, RedisTimeoutError],
            )
        )

    async def tls(self) -> ArqRedis:
        """Connect over TLS, and check the certificate and its name."""
        return await self._tls(ssl_ca_certs=str(self._home / "ca.pem"), ssl_check_hostname=True)

    async def tls_unchecked(self) -> ArqRedis:
        """Connect over TLS without a check, as to a hosted Redis with a certificate of its own."""
        return await self._tls(ssl_cert_reqs="none")

    async def blocking_pool(self) -> ArqRedis:
        """Use a pool of another class, which waits for a connection."""
        options = {"path": self._socket, "db": self._number}
        return ArqRedis(
            BlockingConnectionPool(max_connections=3, connection_class=UnixDomainSocketConnection, **options)
        )

    async def connections_from_a_function(self) -> ArqRedis:
        """Use a function in place of a connection class, as tests do that wrap one."""

        def connect(**options: Any) -> UnixDomainSocketConnection:
            return UnixDomainSocketConnection(path=self._socket, **options)

        return ArqRedis(ConnectionPool(connection_class=connect, db=self._number))  # type: ignore[arg-type]

    async def sentinel(self) -> ArqRedis:
        """Connect to the primary that a Sentinel names."""
        return await a_client_of(await self._stack.enter_async_context(a_sentinel(self._home)), self._stack)

    async def _tls(self, **options: Any) -> ArqRedis:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(self._home / "ca.pem"))
        context = SSLContext(PROTOCOL_TLS_SERVER)
        ca.issue_cert("localhost").configure_cert(context)
        port = await self._stack.enter_async_context(tls_redis(self._socket, context))
        return await create_pool(RedisSettings(host="localhost", port=port, database=self._number, ssl=True, **options))


async def a_client_of(sentinel: Sentinel, stack: AsyncExitStack) -> ArqRedis:
    """Return arq's client of the primary that *sentinel* names; *stack* closes what arq leaves open."""
    settings = RedisSettings(sentinel=True, host=[("127.0.0.1", sentinel.port)], sentinel_master=NAME, conn_retries=0)
    client = await create_pool(settings)
    for one in client.connection_pool.sentinel_manager.sentinels:
        stack.push_async_callback(one.aclose)
    return client


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Give a stack that ends with the test."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=[name for name in vars(Kinds) if not name.startswith("_")])
async def odd(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, stack: AsyncExitStack) -> ArqRedis:
    """Give a client of one kind."""
    client = await getattr(Kinds(redis_url, tmp_path, stack), request.param)()
    stack.push_async_callback(client.aclose, close_connection_pool=True)
    return client


@pytest.fixture
def fake() -> Iterator[FakeAsyncRedis]:
    """Give a fake Redis. It has no INFO, so applications' tests patch what logs that at a worker's start."""
    with patch("arq.worker.log_redis_info", AsyncMock()):
        yield FakeAsyncRedis(server=FakeServer())


@pytest.fixture
def fake_arq(fake: FakeAsyncRedis) -> ArqRedis:
    """Give arq's client of it, as applications' tests make it."""
    return ArqRedis(fake.connection_pool)


def a_worker(pool: ArqRedis, **options: Any) -> Worker:
    """Return a worker of ours on *pool* that runs `add`."""
    return Worker(functions=[func(add, name="add")], redis_pool=pool, handle_signals=False, **options)


async def start(worker: Worker, stack: AsyncExitStack) -> None:
    """Run *worker* until the test ends."""
    worker.main_task = asyncio.create_task(worker.main())
    stack.push_async_callback(stop, worker)


async def test_a_worker_with_this_client_is_woken_and_runs_jobs(odd: ArqRedis, stack: AsyncExitStack) -> None:
    """It would sleep for half a minute: the second connection of its wake-up is like the others."""
    await start(a_worker(odd, poll_delay=30), stack)

    async def listens() -> bool:
        return (await odd.pubsub_numsub("__redis__:invalidate"))[0][1] == 1

    await until(listens)
    job = await odd.enqueue_job("add", 1, 2)
    assert job is not None
    assert 3 == await job.result(10, poll_delay=0.02)


async def test_the_lease_of_this_client_is_renewed(odd: ArqRedis) -> None:
    """Three times: its thread has a connection of the same kind, which it keeps, and closes at the end."""
    await the_lease_is_renewed(odd)


async def the_lease_is_renewed(redis: ArqRedis) -> None:
    """Claim a job, and wait until its lease has been renewed three times."""
    leases, lost = Leases(redis, QUEUE, lease_ms=400), list[str]()
    await enqueue(redis, "a")
    assert ["a"] == await claim(leases, "me")
    renewal = Renewal(redis, QUEUE, lease_ms=400, owner=lambda: "me", lost=lost.append)
    for _ in range(3):
        end_ms = await lease_end_ms(redis)
        await until(lambda end_ms=end_ms: is_later(redis, end_ms))  # type: ignore[misc]
    await renewal.close()
    assert [True] == await leases.finish("me", [done("a")])
    assert [] == lost


async def lease_end_ms(redis: ArqRedis) -> float:
    """Return when the lease of the only owner ends."""
    return await redis.zscore(f"{QUEUE}:owners", "me") or 0.0


async def is_later(redis: ArqRedis, end_ms: float) -> bool:
    """Return whether the lease ends later than that."""
    return await lease_end_ms(redis) > end_ms


async def test_a_failover_ends_neither_the_worker_nor_its_renewals(
    tmp_path: Path, stack: AsyncExitStack, logs: list[Any]
) -> None:
    """The primary is killed: both ask the Sentinel for the new one, and the worker is woken by that one's clients."""
    sentinel = await stack.enter_async_context(a_sentinel(tmp_path))
    await start(a_worker(await a_client_of(sentinel, stack), poll_delay=30), stack)
    client = await a_client_of(sentinel, stack)
    stack.push_async_callback(client.aclose, close_connection_pool=True)
    lease = Renewal(client, "other", lease_ms=1000, owner=lambda: "me", lost=lambda _owner: None)
    stack.push_async_callback(lease.close)

    async def is_at_the_replica() -> bool:
        try:
            info = await client.info("server")
        except RedisConnectionError:
            return False
        return info["tcp_port"] == sentinel.replica_port

    sentinel.primary.kill()
    await until(is_at_the_replica)
    await client.zadd("other:owners", {"me": 1})
    await until(lambda: is_renewed(client))
    job = await client.enqueue_job("add", 1, 2)
    assert job is not None
    assert 3 == await job.result(10, poll_delay=0.02)
    assert not [line for line in logs if line["event"] == "task.failed"]


async def is_renewed(redis: ArqRedis) -> bool:
    """Return whether the lease that began as long ended has been renewed."""
    return (await redis.zscore("other:owners", "me") or 0) > 1


async def test_the_thread_that_renews_leases_checks_certificates(
    redis_url: str, tmp_path: Path, stack: AsyncExitStack
) -> None:
    """As the worker's own connections do."""
    context, ca = SSLContext(PROTOCOL_TLS_SERVER), trustme.CA()
    ca.issue_cert("localhost").configure_cert(context)
    for name, authority in (("ca", ca), ("other", trustme.CA())):
        authority.cert_pem.write_to_path(str(tmp_path / f"{name}.pem"))
    port = await stack.enter_async_context(tls_redis(urlsplit(redis_url).path, context))
    trusting, distrusting = (
        _own_client(RedisClient.open(f"rediss://localhost:{port}?ssl_ca_certs={path}", queue_name="q"), stack)
        for path in (tmp_path / "ca.pem", tmp_path / "other.pem")
    )
    assert await trusting.ping()
    with pytest.raises(AuthenticationError, match="certificate is not trusted"):
        await distrusting.ping()


async def test_the_lease_of_a_fake_redis_is_renewed(fake_arq: ArqRedis) -> None:
    """From the thread, on the same fake server."""
    await the_lease_is_renewed(fake_arq)


async def test_a_worker_polls_a_fake_redis(fake_arq: ArqRedis, stack: AsyncExitStack, logs: list[Any]) -> None:
    """It reports no changes of a key."""
    await start(a_worker(fake_arq, poll_delay=0.01), stack)

    async def polls() -> bool:
        return "wakeup.unsupported" in [line["event"] for line in logs]

    await until(polls)
    job = await fake_arq.enqueue_job("add", 1, 2)
    assert job is not None
    assert 3 == await job.result(10, poll_delay=0.02)


async def test_a_burst_worker_runs_on_a_fake_redis(fake: FakeAsyncRedis, fake_arq: ArqRedis) -> None:
    """With `main`, and again and again with `run_check` on one worker, as applications' tests do; the pool stays open.

    The worker takes a fake that is not wrapped in arq's client as well.
    """
    burst = Worker(functions=[func(add, name="add")], redis_pool=fake, queue_name=QUEUE, burst=True, poll_delay=0)  # type: ignore[arg-type]
    for number in range(3):
        job = await fake_arq.enqueue_job("add", number, 1)
        await burst.main()
        assert job is not None
        assert number + 1 == await job.result(1)
    for number in range(3):
        await fake_arq.enqueue_job("add", number, 1)
        assert 4 + number == await burst.run_check()
    await burst.close()


def test_the_url_of_a_unix_socket_quotes_its_path() -> None:
    """A path may have blanks and signs that end a URL's path."""
    path = "/run/my redis/a?b#c.sock"
    url = RedisClient.url_of(RedisSettings(unix_socket_path=path, database=3))
    assert url is not None
    RedisUrl.parse(url)
    assert {"path": path, "db": 3} == {key: parse_url(url)[key] for key in ("path", "db")}
