"""The fleet's connection budget: the pools of all workers together never exceed what PostgreSQL can give.

`tidepool.lifecycle` has one for each process. The steps have one order, and each returns what the next one needs:

    member = await Budget(…).enter()         waits until the process may open its first two connections
    member.run()                             a background task from here on: beats once a second
    share = await member.take_share()        how many connections the pool may have to begin with
    share.govern(…)                          the pool follows the share from here on

Workers know of each other by these beats, in Redis (`tidepool.queue.keys.budget_keys`).

    usable = the least limit (server, role, database) - reserved - others - margin
    share  = usable / live workers; what is left of the division, one each to the first of them

*Others* are all connections that do not belong to a live worker: those of a worker that died count until the server has
closed them, and after a loss of Redis's data every worker's do until it has beaten again. A reading counts for less
time than an entry lives, so that it contains the connections that a worker whose entry has ended left behind.

A share is of connections: the pool's and the one beside it. A worker needs two of them, and without a grant it opens
none. What it *holds* is its grant, or what is really open if that is more, so a connection is granted anew only when it
has been closed. A grant goes down to the share at once. It goes up when the fleet is calm, by one a beat, as far as the
others hold less than is usable. While Redis or PostgreSQL is away it stays as it is.

A worker that slept longer than its entry lives may wake up with a grant that was given away meanwhile, until its next
beat; fleets that use different databases of one server see only what the other has open. The margin is for both.

A program that may write to Redis may also write entries of workers that do not exist: they take shares for as long as
they are renewed, and a worker never has less than its two connections.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, NamedTuple

import structlog

from tidepool.cancelling import heed_cancel
from tidepool.fleet.capacity import Capacity
from tidepool.periodic import every
from tidepool.pool.faults import DatabaseFault
from tidepool.queue import scripts
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import Oddities, is_outage
from tidepool.queue.keys import budget_keys
from tidepool.storage.server import ServerConnections

log = structlog.get_logger(__name__)

BEAT_S = 1.0
"""Seconds between two beats, and between two readings of the server."""
LIFE_S = 4.0
"""Seconds: an entry outlives three beats that did not come."""
_CALM_S = 6.0
"""Seconds: a fleet is calm if for so long no worker has come or gone or been given less. That is longer than an entry
lives, so that every worker has been heard of by then, also after a loss of Redis's data."""
_BESIDE_POOL = 1
"""The connection beside the pool, which is not the pool's."""
LEAST = _BESIDE_POOL + 1
"""Connections without which a worker cannot work."""
_ENDED = "0:0"
"""The entry of a worker that has left: its last beat was in 1970."""
_TAKEN = "PostgreSQL's connections are taken: by others, or by workers that have not made room yet"
_NOT_READ = "no worker has been able to read how many connections PostgreSQL can give: see the log of the first one"
_NUMBERS = ("max_connections", "reserved", "role_limit", "database_limit", "others", "margin")
"""The numbers of a reading that a log line has."""
_PATIENCE_BEATS = 3
"""Beats: the others need two to make room for a worker that has just come; one that waits longer logs that."""
_ERROR_LENGTH = 200
"""Characters of Redis's error in a log line."""


class _Reply(NamedTuple):
    """The reply of `budget.lua`."""

    granted: int
    usable: int
    held: int
    is_calm: int
    workers: Sequence[bytes]
    reading: bytes
    unusable: bytes


class _Entries:
    """The workers' entries in Redis, seen by one worker."""

    def __init__(self, redis: RedisClient, database: str, worker_id: str) -> None:
        self._keys = budget_keys(database)
        self._redis: Any = redis
        self._script = scripts.load(redis, "budget")
        self._worker_id = worker_id
        self._unusable = Oddities("budget.entries_unusable")
        self.trouble: dict[str, str] = {}
        """Why Redis did not answer the last beat, for a log line; empty if it did."""

    async def beat(self, holds: int, most: int, most_if_calm: int, reading: str) -> _Reply | None:
        """Renew this worker's entry and ask for connections; returns None if Redis does not answer."""
        lives_ms, calm_ms = int(LIFE_S * 1000), int(_CALM_S * 1000)
        args = [self._worker_id, holds, most, most_if_calm, LEAST, reading, lives_ms, calm_ms]
        try:
            reply = _Reply(*await self._script(keys=self._keys, args=args))
        except Exception as error:
            if not is_outage(error):
                raise
            self.trouble = {"error": f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]}
            return None  # a running engine logs it
        self.trouble = {}
        if reply.unusable:
            self._unusable.skipped(reply.unusable.decode(errors="replace"))
        return reply

    async def end(self) -> None:
        """Mark this worker's entry as ended: the next worker that beats takes it out."""
        leaving = self._redis.pipeline().hset(self._keys[0], self._worker_id, _ENDED)
        try:
            await leaving.pexpire(self._keys[0], int(LIFE_S * 1000)).execute()
        except Exception as error:
            if not is_outage(error):
                raise


class _Server:
    """The newest reading of the server's capacity. *margin* connections are left to everybody else."""

    def __init__(self, read: Callable[[], Awaitable[Capacity]], margin: int) -> None:
        self._read = read
        self._margin = margin
        self._read_s = 0.0
        self.capacity: Capacity | None = None

    async def read(self) -> None:
        """Read it anew. Raises as the reading does."""
        asked_s = monotonic()
        self.capacity = await self._read()
        self._read_s = asked_s

    def reading(self) -> str:
        """Return the last reading for the script, or nothing if it is too old: it counts for half an entry's life.

        For the other half it may count as the newest one in Redis.
        """
        is_fresh = monotonic() - self._read_s < LIFE_S / 2
        return _as_json(self.capacity, self._margin) if self.capacity and is_fresh else ""


class _Heartbeat:
    """What a worker does once a second, and what it knows from that.

    *usable* and *granted* are as of the last beat: connections for the fleet (None: not known yet), and for this one.
    """

    def __init__(self, entries: _Entries, server: _Server, *, pool_size: int) -> None:
        self.usable: int | None = None
        self.granted = 0
        self._held = 0
        self._live: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._is_exceeded = False
        self._entries = entries
        self._server = server
        self._wanted = pool_size + _BESIDE_POOL
        self._beating = asyncio.Lock()
        self._governed: tuple[Callable[[], int], Callable[[int], None]] | None = None

    @property
    def limit(self) -> int:
        """Connections that the pool may have."""
        return max(0, self.granted - _BESIDE_POOL)

    @property
    def live(self) -> int:
        """How many workers there are, this one included."""
        return len(self._live)

    async def enter(self) -> None:
        """Wait until this worker may open two connections."""
        await self._beat_until_granted(LEAST)

    async def take_share(self) -> None:
        """Read the capacity, and wait for Redis to grant connections for it; logs if that is less than the pool's size.

        Raises as the reading does.
        """
        await self._server.read()
        await self._beat_until_granted(self._wanted)
        if self.granted < self._wanted:
            log.warning("budget.limited", limit=self.limit, wanted=self._wanted - _BESIDE_POOL, **self._numbers)

    def govern(self, count_open: Callable[[], int], resize: Callable[[int], None]) -> None:
        """Count from now on the connections that the pool has open, and call *resize* now and after each beat."""
        self._governed = count_open, resize
        resize(self.limit)

    async def beat(self, most: int | None = None) -> bool:
        """Ask for max *most* connections, and apply what is granted; returns whether Redis answered.

        None: for those that it has, and one more if the fleet is calm.
        """
        async with self._beating:
            is_open = self._governed[0]() + _BESIDE_POOL if self._governed else 0
            holds = max(self.granted, is_open) if self.granted else 0
            asked = (self.granted, min(self.granted + 1, self._wanted)) if most is None else (most, most)
            reply = await self._entries.beat(holds, *asked, self._server.reading())
            if reply is not None:
                self._apply(reply)
            return reply is not None

    async def look(self) -> None:
        """Read the server's capacity anew, if the server answers: what needs it logs that it does not."""
        with suppress(DatabaseFault):
            await self._server.read()

    def server_connections(self) -> ServerConnections | None:
        """Return what is known of the server's connections; None before the server was read."""
        capacity = self._server.capacity
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
            backends_of_workers=of_live,
            backends_orphaned=sum(by_worker.values()) - of_live,
            workers=self.live,
            granted=self._held,
            usable=self.usable,
        )

    async def _beat_until_granted(self, most: int) -> None:
        """Wait until Redis answers and grants something; logs once what is waited for."""
        beats = 0
        while not (await self.beat(most) and self.granted):
            heed_cancel()
            beats += 1
            if beats == _PATIENCE_BEATS:
                log.warning("budget.waiting", **self._cause(), **self._numbers)
            await asyncio.sleep(BEAT_S)

    def _cause(self) -> dict[str, str]:
        """Return why nothing is granted, for the log: Redis's error, or what the fleet waits for."""
        return self._entries.trouble or {"reason": _TAKEN if self._numbers else _NOT_READ}

    def _apply(self, reply: _Reply) -> None:
        before, self.granted = self.granted, reply.granted
        self._live = {worker.decode(errors="replace") for worker in reply.workers}
        self._held = reply.held
        if reply.reading and (numbers := _numbers(reply.reading, reply.usable, self._live)):
            self.usable, self._numbers = reply.usable, numbers
        if self._governed:
            if reply.granted != before:
                log.info("budget.changed", limit=self.limit, before=max(0, before - _BESIDE_POOL), **self._numbers)
            self._governed[1](self.limit)
        if reply.is_calm:  # for a while after a change more may be held than is usable
            self._log_excess(reply.held)

    def _log_excess(self, held: int) -> None:
        """Log once when the workers that run hold more than is usable, although each has its least."""
        was_exceeded, self._is_exceeded = self._is_exceeded, self.usable is not None and held > self.usable
        if self._is_exceeded and not was_exceeded:
            log.warning("budget.exceeded", held=held, **self._numbers)


class Budget:
    """One worker's part of the server's connections, before it has any. *read* reads the server's capacity."""

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
        self._entries = _Entries(redis, database, worker_id)
        self.heartbeat = _Heartbeat(self._entries, _Server(read, margin), pool_size=pool_size)

    async def enter(self) -> "Member":
        """Wait until this worker may open two connections, for as long as the others leave no room for them."""
        await self.heartbeat.enter()
        return Member(self.heartbeat)

    async def leave(self) -> None:
        """Leave the fleet, after the last connection was closed. If Redis does not answer the entry ends by itself."""
        await self._entries.end()


class Member:
    """A worker that has entered the fleet: it may open two connections, for as long as `run` runs."""

    def __init__(self, heartbeat: _Heartbeat) -> None:
        self._heartbeat = heartbeat

    async def run(self) -> None:
        """Send a heartbeat and read the server, each once a second, until cancelled. Neither delays the other."""
        looking = asyncio.create_task(every(BEAT_S, self._heartbeat.look, "capacity reader"), name="capacity reader")
        try:
            await every(BEAT_S, self._heartbeat.beat, "budget", waits_first=True)
        finally:
            looking.cancel()

    async def take_share(self) -> "Share":
        """Read the server's capacity and wait for Redis; returns the share of this worker, which is at least 1.

        Raises as the reading does, and can then be called again.
        """
        await self._heartbeat.take_share()
        return Share(self._heartbeat)


class Share:
    """A worker's share of the server's connections, which changes with the fleet."""

    def __init__(self, heartbeat: _Heartbeat) -> None:
        self._heartbeat = heartbeat

    @property
    def limit(self) -> int:
        """Connections that the pool may have now."""
        return self._heartbeat.limit

    def govern(self, count_open: Callable[[], int], resize: Callable[[int], None]) -> None:
        """From now on count the connections that the pool has open, and call *resize* now and after each beat."""
        self._heartbeat.govern(count_open, resize)

    def server_connections(self) -> ServerConnections | None:
        """Return what is known of the server's connections; None before the server was read."""
        return self._heartbeat.server_connections()


def _as_json(capacity: Capacity, margin: int) -> str:
    """Return a reading as `budget.lua` takes it, with the numbers that a log line explains a share by."""
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


def _numbers(text: bytes, usable: int, live: set[str]) -> dict[str, int] | None:
    """Return what a share is computed from, as a log line has it; None for a reading that no worker has written."""
    try:
        reading: Any = json.loads(text)
        dead = sum(int(count) for worker, count in reading["workers"].items() if worker not in live)
        numbers = {name: int(reading[name]) for name in _NUMBERS}
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None
    return {**numbers, "others": numbers["others"] + dead, "usable": usable, "workers": len(live)}
