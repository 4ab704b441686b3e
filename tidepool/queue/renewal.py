"""Renews the lease of this worker process in Redis, from a thread.

A worker process claims jobs under a lease: if the process does not renew the lease in time, other workers run its jobs.

A thread renews the lease so that a job that blocks the event loop for some seconds does not cost the process its lease:
all its jobs, the blocking one included, would be run again by other workers, and block them. There is a limit: if the
event loop has been blocked for too long, the lease is not renewed any more, and other workers run the jobs
when it ends. If this process commits such a job later, its effect is still applied only once.

The lease is renewed four times in its length, with a timeout of half a lease for each reply. So a stall of less than
three quarters of a lease (3.7 of the default 5 seconds) loses no lease, whether this process stalls (garbage
collection, a busy machine) or Redis. If a reply is lost with its connection, there is time to ask again on a new one.

The thread has an event loop of its own, so that its client can use the same kind of connection as the worker's client:
over TLS, to the primary that Sentinels name, to a fakeredis, or of a class that the application has written.
"""

import asyncio
import copy
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import cast

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from tidepool.queue import scripts
from tidepool.queue.faults import RedisFault
from tidepool.queue.wire import QueueKeys
from tidepool.repeating import FailureLog

log = structlog.get_logger(__name__)

LONGEST_BLOCK_S = 30.0
"""Max seconds for which the event loop may be blocked before the lease is no longer renewed, for declared job types.

By then PostgreSQL has ended the open transaction of the blocked process, so other workers can run its jobs."""
_ROUNDS = 4
"""Number of renewals during one lease."""
_JOBS_A_ROUND = 25_000
"""Max jobs whose marks one renewal checks; if a process holds more, the next renewals check the others."""
_ON_THE_WAY_S = 0.05
_PATIENCE = 0.5
"""Timeout of a reply, as a part of the lease."""


class Renewal:
    """Renews a worker's lease in Redis from a thread, so that other workers leave the jobs of this worker alone.

    While the worker holds jobs, the lease is renewed four times in its length, *lease_ms*. An *owner* is the name under
    which this process holds jobs in Redis. The function *owner* returns the current name, or None while the process
    holds no jobs. *lost* is called in the event loop with the owner name whose lease has ended without being renewed.
    """

    def __init__(
        self,
        redis: Redis,
        queue_name: str,
        *,
        lease_ms: int,
        owner: Callable[[], str | None],
        lost: Callable[[str], None],
        longest_block_s: float = LONGEST_BLOCK_S,
    ) -> None:
        self._keys = QueueKeys(queue_name)
        self._lease_ms = lease_ms
        self._owner = owner
        self._longest_block_s = longest_block_s
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._loop_seen_s = self._until_s = time.monotonic()
        self._stop = asyncio.Event()
        self._first_rank = 0
        self._failures = FailureLog("lease renewal")
        self._clients = AsyncExitStack()
        self._renew = scripts.load(_own_client(redis, self._clients), "renew")
        self._own_loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._work, name="lease renewal", daemon=True)
        self._thread.start()

    def begin(self, asked_s: float) -> None:
        """Record that the lease was begun or renewed by a request sent at *asked_s*, a reading of `time.monotonic`.

        The lease lasts for its length from *asked_s* on.
        """
        self._until_s = asked_s + self._lease_ms / 1000

    def check(self, owner: str) -> None:
        """Call *lost* if the lease of *owner*, a name that holds jobs, has expired by this process's clock.

        A lease expires without renewal if this process stalled, or if Redis was unavailable. Call this before each
        claim of jobs, because a claim would give an expired owner a new lease.
        """
        if self._owner() == owner and time.monotonic() > self._until_s:
            self._lost(owner)

    async def close(self) -> None:
        """Stop the renewal thread and wait until it has ended. The lease is not renewed any more, and then expires."""
        if self._thread.is_alive():
            self._own_loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(self._thread.join)

    # ---------------------------------------------------------------- in the thread

    def _work(self) -> None:
        try:
            self._own_loop.run_until_complete(self._run())
        finally:
            self._own_loop.close()

    async def _run(self) -> None:
        async with self._clients:
            period_s = self._lease_ms / 1000 / _ROUNDS
            began_s = time.monotonic()
            while not await self._is_stopped(began_s + period_s - time.monotonic()):
                began_s = time.monotonic()
                if self._loop.is_closed():
                    return  # nobody closed the worker, as in tests that only run its `main`
                self._loop.call_soon_threadsafe(self._see_loop)
                owner = self._owner()
                if owner is not None and time.monotonic() - self._loop_seen_s < self._longest_block_s:
                    await self._renew_safely(owner)

    async def _is_stopped(self, within_s: float) -> bool:
        """Return whether the thread is to stop; wait max *within_s* seconds for that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._stop.wait()
        return self._stop.is_set()

    async def _renew_safely(self, owner: str) -> None:
        """Renew the lease once, and log any error, so that the thread goes on."""
        try:
            await self._renew_once(owner)
        except Exception as error:  # noqa: BLE001  (this thread may not end)
            self._failures.log(error)

    async def _renew_once(self, owner: str) -> None:
        until_s = self._until_s
        if await self._is_kept(owner) or await self._is_stopped(_ON_THE_WAY_S):
            return
        # Or Redis has forgotten an owner whose last job it has just acknowledged: then the worker knows by now, and
        # may have begun another lease.
        if self._owner() == owner and self._until_s == until_s and not await self._is_kept(owner):
            self._loop.call_soon_threadsafe(self._lost, owner)

    async def _is_kept(self, owner: str) -> bool:
        """Renew the lease; return whether it is kept: False if Redis no longer knows *owner*.

        If Redis does not answer in time, the result is True, and the next round tries again.
        """
        keys = [self._keys.queue, self._keys.owners, self._keys.held(owner)]
        args = [owner, self._lease_ms, self._first_rank, _JOBS_A_ROUND]
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE * self._lease_ms / 1000):
                renewed, self._first_rank = cast("tuple[int, int]", await self._renew(keys=keys, args=args))
        except Exception as error:
            if not RedisFault.of(error).is_outage:
                raise
            return True  # the event loop meets the same outage, and logs it; the next round is soon
        if renewed:
            self.begin(asked_s)
        return bool(renewed)

    def _see_loop(self) -> None:
        self._loop_seen_s = time.monotonic()


class _OwnPool(ConnectionPool):
    """Connections like those of *model*, but kept apart from them, since they belong to another event loop."""

    def __init__(self, model: ConnectionPool) -> None:
        super().__init__(protocol=model.connection_kwargs.get("protocol"))
        self._model = model

    def make_connection(self) -> AbstractConnection:
        """Return a new connection of the class and with the options of *model*."""
        return self._model.make_connection()


def _own_client(redis: Redis, clients: AsyncExitStack) -> Redis:
    """Return a client of the same server as *redis*, for another event loop; *clients* closes it.

    A pool that asks Sentinels for the primary has a client of each Sentinel; these are replaced in the same way.
    """
    pool = cast("ConnectionPool", redis.connection_pool)
    if isinstance(pool, SentinelConnectionPool):
        manager = copy.copy(pool.sentinel_manager)
        manager.sentinels = [_own_client(sentinel, clients) for sentinel in manager.sentinels]
        options = {**pool.connection_kwargs, "connection_class": pool.connection_class}
        options |= {"is_master": pool.is_master, "check_connection": pool.check_connection}
        pool = SentinelConnectionPool(pool.service_name, manager, **options)
    client = Redis.from_pool(_OwnPool(pool))
    clients.push_async_callback(client.aclose)
    return client
