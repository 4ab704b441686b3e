"""Renews the lease of this worker process in Redis, from a thread.

A worker process claims jobs under a lease: if the process does not renew the lease in time, other workers run its jobs.

A thread renews the lease so that a job that blocks the event loop for some seconds does not cost the process its lease:
all its jobs, the blocking one included, would be run again by other workers, and block them. There is a limit: if the
event loop has been blocked for `LONGEST_BLOCK_S`, the lease is not renewed any more, and other workers run the jobs
when it ends. If this process commits such a job later, its effect is still applied only once.

The lease is renewed four times in its length, with a timeout of half a lease for each reply. So a stall of less than
three quarters of a lease (3.7 of the default 5 seconds) loses no lease, whether this process stalls (garbage
collection, a busy machine) or Redis. If a reply is lost with its connection, there is time to ask again on a new one.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import cast

import redis as sync_redis
import structlog
from redis.asyncio import Redis, SSLConnection, UnixDomainSocketConnection

from tidepool.queue import scripts
from tidepool.queue.faults import RedisFault
from tidepool.queue.keys import QueueKeys
from tidepool.repeating import FailureLog

log = structlog.get_logger(__name__)

LONGEST_BLOCK_S = 30.0
"""Max seconds for which the event loop may be blocked before the lease is no longer renewed.

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
    ) -> None:
        self._keys = QueueKeys(queue_name)
        self._lease_ms = lease_ms
        self._owner = owner
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._loop_seen_s = self._until_s = time.monotonic()
        self._stop = threading.Event()
        self._first_rank = 0
        self._failures = FailureLog("lease renewal")
        self._redis = _sync_client(redis, _PATIENCE * lease_ms / 1000)
        self._renew = scripts.load(self._redis, "renew")
        self._thread = threading.Thread(target=self._run, name="lease renewal", daemon=True)
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
        self._stop.set()
        await asyncio.to_thread(self._thread.join)
        self._redis.close()

    def _run(self) -> None:
        period_s = self._lease_ms / 1000 / _ROUNDS
        began_s = time.monotonic()
        while not self._stop.wait(max(0.0, began_s + period_s - time.monotonic())):
            began_s = time.monotonic()
            self._loop.call_soon_threadsafe(self._see_loop)
            owner = self._owner()
            if owner is not None and time.monotonic() - self._loop_seen_s < LONGEST_BLOCK_S:
                self._renew_safely(owner)

    def _renew_safely(self, owner: str) -> None:
        """Renew the lease once, and log any error, so that the thread goes on."""
        try:
            self._renew_once(owner)
        except Exception as error:  # noqa: BLE001  (this thread may not end)
            self._failures.log(error)

    def _renew_once(self, owner: str) -> None:
        until_s = self._until_s
        if self._is_kept(owner) or self._stop.wait(_ON_THE_WAY_S):
            return
        # Or Redis has forgotten an owner whose last job it has just acknowledged: then the worker knows by now, and
        # may have begun another lease.
        if self._owner() == owner and self._until_s == until_s and not self._is_kept(owner):
            self._loop.call_soon_threadsafe(self._lost, owner)

    def _is_kept(self, owner: str) -> bool:
        """Renew the lease; return whether it is kept: False if Redis no longer knows *owner*.

        If Redis does not answer, the result is True, and the next round tries again.
        """
        keys = [self._keys.queue, self._keys.owners, self._keys.held(owner)]
        asked_s = time.monotonic()
        try:
            args = [owner, self._lease_ms, self._first_rank, _JOBS_A_ROUND]
            renewed, self._first_rank = cast("tuple[int, int]", self._renew(keys=keys, args=args))
        except Exception as error:
            if not RedisFault.of(error).is_outage:
                raise
            return True  # the event loop meets the same outage, and logs it; the next round is soon
        if renewed:
            self.begin(asked_s)
        return bool(renewed)

    def _see_loop(self) -> None:
        self._loop_seen_s = time.monotonic()


def _sync_client(redis: Redis, patience_s: float) -> sync_redis.Redis:
    """Return a synchronous client of the same server as *redis*, with timeouts of max *patience_s* seconds."""
    pool = redis.connection_pool
    options = {name: value for name, value in pool.connection_kwargs.items() if name not in ("retry", "parser_class")}
    kinds = {
        UnixDomainSocketConnection: sync_redis.UnixDomainSocketConnection,
        SSLConnection: sync_redis.SSLConnection,
    }
    kind = next((ours for theirs, ours in kinds.items() if issubclass(pool.connection_class, theirs)), None)
    for name in ("socket_timeout", "socket_connect_timeout"):
        options[name] = min(options.get(name) or patience_s, patience_s)
    connection_class = cast("type[sync_redis.Connection]", kind or sync_redis.Connection)  # as redis-py annotates it
    return sync_redis.Redis(connection_pool=sync_redis.ConnectionPool(connection_class, **options))
