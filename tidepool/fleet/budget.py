"""Divides PostgreSQL's connections among all workers, the *fleet*, so that their pools never exceed its limits.

`tidepool.lifecycle` has one `Budget` for each process, and takes these steps in this order:

    await budget.enter()                     waits until the process may open its first two connections
    budget.run()                             a background task from here on: sends a heartbeat once a second
    limit = await budget.take_share()        how many connections the pool may have to begin with
    budget.govern(…)                         the pool's limit follows the share from here on
    await budget.leave()                     after the last connection was closed

With a heartbeat a worker renews its *entry* in Redis (`tidepool.queue.wire.FLEET`). By these entries workers know
of each other: an entry that is not renewed expires after a few seconds, and its worker no longer counts as live.

    usable = the least limit (server, role, database) - reserved - others - margin
    share  = usable / live workers; what is left of the division, one each to the first of them

*Others* are all connections that do not belong to a live worker. Those of a worker that died count until the server has
closed them, and after a loss of Redis's data every worker's count until its next heartbeat. A *reading* is what one
worker has read of the server's limits and connections. It is used for less time than an entry lives, so that it
contains the connections that a worker whose entry has expired left behind.

A share counts the connections of the pool and the side connection, the one outside the pool. A worker needs one of
each, and opens none without a *grant*: the number of connections that Redis allows it at present. What it *holds* is
its grant, or what is really open if that is more, so a connection is granted again only when it has been closed. A
grant is reduced to the share at once. It is raised only when the fleet is calm, by one for each heartbeat, as far as
the others hold less than is usable. While Redis or PostgreSQL is away it stays as it is.

The pool of an adopted application cannot be limited. Its worker holds the max size of that pool from the beginning and
needs no grant (`claim`): the others get no more than it leaves, and a warning is logged if all could open more than is
usable. PostgreSQL does not list the connections of such a pool by the worker's name. They are *unnamed*: the worker
reports how many are open, so that they do not count among the others. That they are on this server is assumed.

A fleet is the workers with one Redis and one database URL, whichever schema they use: two applications that have
schemas of their own in one database divide its connections.

Two cases are not covered, and the margin is for them: a worker that slept longer than its entry lives may use a grant
that was given away meanwhile, until its next heartbeat; and fleets that use different databases of one server, or other
Redis servers, see only the connections that the other has open.

A program that may write to Redis can also write entries of workers that do not exist. They take shares for as long as
they are renewed, but a worker never has less than its two connections.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

import structlog

from tidepool.fleet.capacity import Capacity
from tidepool.pool.faults import DatabaseFault
from tidepool.queue import scripts
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import Oddities, RedisFault
from tidepool.queue.wire import FLEET
from tidepool.repeating import every, heed_cancel
from tidepool.storage.snapshots import ServerConnections

log = structlog.get_logger(__name__)

BEAT_S = 1.0
"""Seconds between two heartbeats, and between two readings of the server."""
LIFE_S = 4.0
"""TTL in seconds of a worker's entry: it outlives three missing heartbeats."""
_CALM_S = 6.0
"""A fleet is calm if for so many seconds no worker has come or gone or been given less. That is longer than an entry's
TTL, so that every worker has sent a heartbeat by then, also after a loss of Redis's data."""
_BESIDE_POOL = 1
"""The number of connections that a worker has outside its pool: the side connection."""
LEAST = _BESIDE_POOL + 1
"""The min number of connections with which a worker can work: one in the pool, and the side connection."""
_ENDED = "0:0"
"""The entry of a worker that has left the fleet: its last heartbeat was in 1970, and it holds no connections."""
_TAKEN = "PostgreSQL's connections are taken: by others, or by workers that have not made room yet"
_NOT_READ = "no worker has been able to read how many connections PostgreSQL can give: see the log of the first one"
_NUMBERS = ("max_connections", "reserved", "role_limit", "database_limit", "others", "margin")
"""The numbers of a reading of the server that log lines include."""
_PATIENCE_BEATS = 3
"""Heartbeats after which a worker that still waits for its grant logs that. The others need two to make room for it."""
_ERROR_LENGTH = 200
"""Max characters of Redis's error in a log line."""


class _Reply(NamedTuple):
    """The reply of the Lua script `budget.lua`, whose header describes each field."""

    granted: int
    usable: int
    held: int
    is_calm: int
    workers: Sequence[bytes]
    reading: bytes
    unusable: bytes
    unnamed: int


class _Demand(NamedTuple):
    """What a heartbeat reports and asks for; the header of `budget.lua` describes each field."""

    holds: int
    most: int
    most_if_calm: int
    least: int = LEAST
    unnamed: int = 0


class _Entries:
    """Gives one worker access to the entries of all workers in Redis."""

    def __init__(self, redis: RedisClient, database: str, worker_id: str) -> None:
        self._keys = [key.format(database=database) for key in FLEET]
        self._redis: Any = redis
        self._script = scripts.load(redis, "budget")
        self._worker_id = worker_id
        self._unusable = Oddities("budget.entries_unusable")
        self.trouble: dict[str, str] = {}
        """Why Redis did not answer the last heartbeat, as fields of a log line; empty if it did."""

    async def beat(self, demand: _Demand, reading: str) -> _Reply | None:
        """Send a heartbeat: renew this worker's entry and ask for connections. Returns None if Redis does not answer.

        *reading* is what `_CapacityCache.reading` returns.
        """
        *asked, unnamed = demand
        args = [self._worker_id, *asked, reading, int(LIFE_S * 1000), int(_CALM_S * 1000), unnamed]
        try:
            reply = _Reply(*await self._script(keys=self._keys, args=args))
        except Exception as error:
            if not RedisFault.of(error).is_outage:
                raise
            self.trouble = {"error": f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]}
            return None  # a running engine logs it
        self.trouble = {}
        if reply.unusable:
            self._unusable.skipped(reply.unusable.decode(errors="replace"))
        return reply

    async def end(self) -> None:
        """Mark this worker's entry as expired: the next heartbeat of any worker removes it."""
        leaving = self._redis.pipeline().hset(self._keys[0], self._worker_id, _ENDED)
        try:
            await leaving.pexpire(self._keys[0], int(LIFE_S * 1000)).execute()
        except Exception as error:
            if not RedisFault.of(error).is_outage:
                raise


class _CapacityCache:
    """Keeps the newest reading of the server's capacity. *margin* connections are left to everybody else."""

    def __init__(self, read: Callable[[], Awaitable[Capacity]], margin: int) -> None:
        self._read = read
        self._margin = margin
        self._read_s = 0.0
        self.capacity: Capacity | None = None

    async def read(self) -> None:
        """Read the capacity from the server. Raises the errors of the function *read*."""
        asked_s = monotonic()
        self.capacity = await self._read()
        self._read_s = asked_s

    def reading(self) -> str:
        """Return the last reading as JSON for `budget.lua`, or an empty string if it is older than half an entry's TTL.

        For the other half of the TTL, Redis may keep it as the newest reading.
        """
        is_fresh = monotonic() - self._read_s < LIFE_S / 2
        return _as_json(self.capacity, self._margin) if self.capacity and is_fresh else ""


class Budget:
    """Limits how many PostgreSQL connections a worker process opens, so that all workers share what the server has.

    The share of a worker is an equal part of the connections that are free for workers; all workers together are the
    fleet. *database* identifies the fleet. *pool_size* is the max size of this worker's pool, without its side
    connection (the one outside the pool); *margin* is the number of connections that are left to other programs. *read*
    reads the server's capacity. The methods are called in the order in which the module's docstring names them.
    """

    def __init__(
        self,
        redis: RedisClient,
        database: str,
        worker_id: str,
        *,
        pool_size: int,
        margin: int,
        read: Callable[[], Awaitable[Capacity]],
    ) -> None:
        self.usable: int | None = None
        """The number of connections for the whole fleet, as of the last heartbeat; None if it is not known yet."""
        self.granted = 0
        """The number of connections for this worker, as of the last heartbeat."""
        self._held = 0
        self._unnamed = 0
        self._live: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._is_exceeded = False
        self._entries = _Entries(redis, database, worker_id)
        self._capacity_cache = _CapacityCache(read, margin)
        self._wanted = pool_size + _BESIDE_POOL
        self._beating = asyncio.Lock()
        self._governed: tuple[Callable[[], int], Callable[[int], None]] | None = None
        self._claimed: tuple[Callable[[], int], Callable[[], int]] | None = None

    @property
    def limit(self) -> int:
        """The max number of connections that this worker's pool may have open now."""
        return max(0, self.granted - _BESIDE_POOL)

    @property
    def live(self) -> int:
        """The number of live workers, this one included."""
        return len(self._live)

    async def enter(self) -> None:
        """Register this worker in the fleet, and wait, without a limit, until it may open its first two connections."""
        await self._beat_until_granted(LEAST)

    async def run(self) -> None:
        """Send a heartbeat to Redis, and read the server's capacity, each once a second, until cancelled.

        The heartbeat shows that this worker lives, and asks for connections. Neither task delays the other.
        """
        looking = asyncio.create_task(every(BEAT_S, self.look, "capacity reader"), name="capacity reader")
        try:
            await every(BEAT_S, self.beat, "budget", waits_first=True)
        finally:
            looking.cancel()

    async def take_share(self) -> int:
        """Wait for this worker's share of the server's connections; return how many the pool may open, at least 1.

        Reads how many connections the PostgreSQL server has, and waits until Redis grants the share. Logs a warning if
        the pool gets fewer connections than its configured size. Raises the errors of reading the server, and can then
        be called again.
        """
        await self._capacity_cache.read()
        await self._beat_until_granted(self._wanted)
        if self.granted < self._wanted:
            log.warning("budget.limited", limit=self.limit, wanted=self._wanted - _BESIDE_POOL, **self._numbers)
        return self.limit

    async def leave(self) -> None:
        """Deregister this worker, so that others can use its connections. Call it after the last one was closed.

        If Redis does not answer, the worker's registration expires by itself, after four seconds.
        """
        await self._entries.end()

    def govern(self, count_open: Callable[[], int], resize: Callable[[int], None]) -> None:
        """Keep the pool within this worker's share: call *resize* with `limit` now, and after each answered heartbeat.

        *count_open* returns how many connections the pool has open, so that heartbeats can report it.
        """
        self._governed = count_open, resize
        resize(self.limit)

    def claim(self, most: Callable[[], int], unnamed: Callable[[], int]) -> None:
        """Take part in the fleet with a pool that cannot be limited, instead of all other steps but `run` and `leave`.

        *most* returns how many connections this worker may open, of that pool and beside it; *unnamed* how many of them
        are open that do not have this worker's name.
        """
        self._claimed = most, unnamed

    async def beat(self, most: int | None = None) -> bool:
        """Send a heartbeat that asks Redis for up to *most* connections, and apply the reply.

        Returns whether Redis answered. If *most* is None, the heartbeat asks for as many connections as this worker
        has, or for one more if the fleet is calm: no worker has come, gone or had to give up connections lately.
        """
        async with self._beating:
            reply = await self._entries.beat(self._demand(most), self._capacity_cache.reading())
            if reply is not None:
                self._apply(reply)
            return reply is not None

    def _demand(self, most: int | None) -> _Demand:
        if self._claimed is not None:
            claim = self._claimed[0]()
            return _Demand(claim, claim, claim, least=claim, unnamed=self._claimed[1]())
        is_open = self._governed[0]() + _BESIDE_POOL if self._governed else 0
        holds = max(self.granted, is_open) if self.granted else 0
        if most is None:
            return _Demand(holds, self.granted, min(self.granted + 1, self._wanted))
        return _Demand(holds, most, most)

    async def look(self) -> None:
        """Read again how many connections the server has, and who uses them. Does nothing if it does not answer."""
        with suppress(DatabaseFault):
            await self._capacity_cache.read()

    def server_connections(self) -> ServerConnections | None:
        """Return the server's connection limits and how many connections workers and others have, for snapshots.

        Returns None before the server was first read.
        """
        capacity = self._capacity_cache.capacity
        if capacity is None or self.usable is None:
            return None
        by_worker = capacity.by_worker
        of_live = sum(count for worker, count in by_worker.items() if worker in self._live)
        return ServerConnections(
            max_connections=capacity.max_connections,
            reserved_connections=capacity.reserved,
            role_limit=None if capacity.role_limit < 0 else capacity.role_limit,
            database_limit=None if capacity.database_limit < 0 else capacity.database_limit,
            backends=capacity.others + sum(by_worker.values()),
            backends_of_workers=of_live + self._unnamed,
            backends_orphaned=sum(by_worker.values()) - of_live,
            workers=self.live,
            granted=self._held,
            usable=self.usable,
        )

    async def _beat_until_granted(self, most: int) -> None:
        """Send heartbeats that ask for up to *most* connections until some are granted; logs once if it takes long."""
        beats = 0
        while not (await self.beat(most) and self.granted):
            heed_cancel()
            beats += 1
            if beats == _PATIENCE_BEATS:
                log.warning("budget.waiting", **self._cause(), **self._numbers)
            await asyncio.sleep(BEAT_S)

    def _cause(self) -> dict[str, str]:
        """Return why no connection is granted, as fields of a log line: Redis's error, or another reason."""
        return self._entries.trouble or {"reason": _TAKEN if self._numbers else _NOT_READ}

    def _apply(self, reply: _Reply) -> None:
        before, self.granted = self.granted, reply.granted
        self._live = {worker.decode(errors="replace") for worker in reply.workers}
        self._held, self._unnamed = reply.held, reply.unnamed
        if reply.reading and (numbers := _numbers(reply, self._live)):
            self.usable, self._numbers = reply.usable, numbers
        if self._governed:
            if reply.granted != before:
                log.info("budget.changed", limit=self.limit, before=max(0, before - _BESIDE_POOL), **self._numbers)
            self._governed[1](self.limit)
        if reply.is_calm:  # for a while after a change more may be held than is usable
            self._log_excess(reply.held)

    def _log_excess(self, held: int) -> None:
        """Log once when the live workers begin to hold more connections than are usable, with the fleet calm."""
        was_exceeded, self._is_exceeded = self._is_exceeded, self.usable is not None and held > self.usable
        if self._is_exceeded and not was_exceeded:
            log.warning("budget.exceeded", held=held, **self._numbers)


def _as_json(capacity: Capacity, margin: int) -> str:
    """Return a reading of the server as JSON for `budget.lua`, with the numbers that log lines explain a share with."""
    reading = {
        "room": capacity.room(margin),
        "workers": capacity.by_worker,
        "max_connections": capacity.max_connections,
        "reserved": capacity.reserved,
        "role_limit": capacity.role_limit,
        "database_limit": capacity.database_limit,
        "others": capacity.others,
        "margin": margin,
    }
    return json.dumps(reading)


def _numbers(reply: _Reply, live: set[str]) -> dict[str, int] | None:
    """Return the numbers from which a share is computed, as fields of a log line.

    Those of the server are from the reply's reading, in JSON. Returns None if no worker can have written it.
    """
    try:
        reading: Any = json.loads(reply.reading)
        dead = sum(int(count) for worker, count in reading["workers"].items() if worker not in live)
        numbers = {name: int(reading[name]) for name in _NUMBERS}
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None
    others = max(0, numbers["others"] + dead - reply.unnamed)
    return {**numbers, "others": others, "usable": reply.usable, "workers": len(live)}
