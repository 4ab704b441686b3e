"""Wakes an idle worker within a millisecond or two when a job is enqueued, by any client.

Before it sleeps, a worker reads the head of the queue on a connection with client-side-caching support
switched on (`CLIENT TRACKING`, Redis 6): the server then sends one message to a second connection when
any client changes that key. The client that enqueues needs no support for this: stock arq's wakes the worker, too. The
same read returns when the next deferred job is due, and another read when the next lease ends: the next claim then puts
the jobs of the lost worker back.

A message can be lost with its connection, so the worker also polls the queue from time to time.
If the server has no tracking (a proxy, a cluster), `wait` sleeps for the poll delay instead.
"""

import asyncio
import math
from collections.abc import Collection
from contextlib import suppress
from typing import cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from tidepool.queue.faults import RedisFault
from tidepool.queue.wire import QueueKeys

log = structlog.get_logger(__name__)


_LEAST_TO_LEASE_MS = 20.0
"""Min milliseconds until the next claim if a lease has ended, as putting its jobs back may take several claims."""
_FIRST_PAUSE_S = 0.01
"""First delay before the next look if the first job of the queue is due and no claim gets it; doubled each time."""


class Wakeup:
    """Lets an idle worker sleep until the queue in Redis changes.

    If Redis has no client tracking, which reports changes of a key, the worker wakes every *poll_delay_s* seconds
    instead.
    """

    def __init__(self, redis: Redis, queue_name: str, *, poll_delay_s: float) -> None:
        self._redis = redis
        self._pool = redis.connection_pool
        self._keys = QueueKeys(queue_name)
        self._poll_delay_s = poll_delay_s
        self._supported = True
        self._pause_s = 0.0
        self._changed = asyncio.Event()
        self._asking: AbstractConnection | None = None
        self._listening: AbstractConnection | None = None
        self._listener: asyncio.Task[None] | None = None

    async def wait(self, timeout_s: float, *, skipped: Collection[bytes] = ()) -> None:
        """Wait until the queue changes, its first job is due, or a worker's lease ends, but max *timeout_s* seconds.

        If the first job stays due and `set` is not called, another worker has that job, such as a worker of stock arq:
        then each wait for it is twice as long as the one before. Jobs with the ids *skipped* do not count as the first.

        Raises the errors of Redis's client; the next call connects anew.
        """
        if not self._supported:
            await asyncio.sleep(min(self._poll_delay_s, timeout_s))
            return
        try:
            if self._listener is not None and self._listener.done():
                await self.close()  # its connection was lost, while the other one lives on
            asking = self._asking or await self._connect()
            self._changed.clear()
            due_in_s = self._paused(await self._due_in_s(asking, await self._lease_end_ms(), skipped))
            if due_in_s > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(due_in_s, timeout_s)):
                        await self._changed.wait()
        except Exception as error:
            await self.close()
            if not RedisFault.of(error).is_rejected_command:
                raise  # if the queue has a wrong type, the next claim logs its name
            log.info("wakeup.unsupported", poll_delay_s=self._poll_delay_s)
            self._supported = False

    def _paused(self, due_in_s: float) -> float:
        if due_in_s > 0:
            self._pause_s = 0.0
            return due_in_s
        pause_s, self._pause_s = self._pause_s, max(2 * self._pause_s, _FIRST_PAUSE_S)
        return pause_s

    def set(self) -> None:
        """Make a `wait` that is running return at once, because this worker has ended jobs and may claim others."""
        self._pause_s = 0.0
        self._changed.set()

    async def close(self) -> None:
        """Close both connections to Redis, that for reading and that for notifications; `wait` opens new ones."""
        if self._listener is not None:
            self._listener.cancel()
        for connection in (self._asking, self._listening):
            if connection is not None:
                await connection.disconnect(nowait=True)
        self._asking = self._listening = self._listener = None

    async def _connect(self) -> AbstractConnection:
        self._asking, self._listening = asking, listening = self._new_connection(), self._new_connection()
        listening.socket_timeout = None  # no message comes for as long as nothing changes
        await listening.connect()
        listener_id = await _ask(listening, "CLIENT", "ID")
        await _ask(listening, "SUBSCRIBE", "__redis__:invalidate")
        await asking.connect()
        await _ask(asking, "CLIENT", "TRACKING", "ON", "REDIRECT", str(listener_id))
        self._listener = asyncio.create_task(self._listen(listening), name="wake-up listener")
        return asking

    def _new_connection(self) -> AbstractConnection:
        return cast("AbstractConnection", self._pool.make_connection())

    async def _listen(self, connection: AbstractConnection) -> None:
        with suppress(Exception):  # whatever it is: the next wait makes another connection
            while True:
                await connection.read_response()
                self._changed.set()

    async def _lease_end_ms(self) -> float:
        """Return when the next lease ends, in Unix ms, or infinity if there is none.

        Read on a connection without tracking: otherwise each renewal of a lease would wake the worker.
        """
        try:
            first: list[tuple[bytes, float]] = await self._redis.zrange(self._keys.owners, 0, 0, withscores=True)
        except Exception as error:
            if RedisFault.of(error) is not RedisFault.WRONG_TYPE:
                raise
            return -math.inf  # look at once: a claim deletes it
        return first[0][1] if first else math.inf

    async def _due_in_s(self, asking: AbstractConnection, lease_end_ms: float, skipped: Collection[bytes]) -> float:
        """Return in how many seconds to look at the queue again; the read makes the server report the next change.

        Uses the server's clock, as claims do: a local clock that is ahead would make the worker look again and again.
        """
        await asking.send_command("TIME")
        await asking.send_command("ZRANGE", self._keys.queue, 0, len(skipped), "WITHSCORES")
        seconds, micros = cast("tuple[bytes, bytes]", await asking.read_response())
        head = cast("list[bytes]", await asking.read_response())
        now_ms = int(seconds) * 1000 + int(micros) / 1000
        dues = (float(due) for job_id, due in zip(head[::2], head[1::2], strict=True) if job_id not in skipped)
        job_in_ms = next(dues, math.inf) - now_ms
        return min(job_in_ms, max(lease_end_ms - now_ms, _LEAST_TO_LEASE_MS)) / 1000


async def _ask(connection: AbstractConnection, *command: str | int) -> object:
    await connection.send_command(*command)
    return await connection.read_response()
