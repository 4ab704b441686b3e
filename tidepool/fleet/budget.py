"""The fleet's connection budget: the pools of all workers together never exceed what PostgreSQL can give.

`tidepool.lifecycle` has one for each process: it enters before the process opens its first connection, takes its
share, and beats once a second from then on. Workers know of each other by these beats, in Redis
(`tidepool.queue.keys.budget_keys`).

    usable = the least limit (server, role, database) - reserved - others - margin
    share  = usable / live workers; what is left of the division, one each to the first of them

*Others* are all connections that are not of a live worker: those of a worker that died count until the server has
closed them, and after a loss of Redis's data everybody's do until they have beaten again. A reading counts for less
than an entry lives, so that a worker whose entry has ended is in it with what it left behind.

A share is of connections: the pool's and the one beside it. A worker needs two of them, and without a grant it opens
none. What it *holds* is its grant, or what is really open where that is more, so a connection is granted anew only
when it has been closed. A grant goes down to the share at once. It goes up when the fleet is calm, by one a beat, as
far as the others hold less than is usable. While Redis or PostgreSQL is away it stays as it is.

A worker that slept longer than its entry lives may wake up with a grant that was given away meanwhile, until its next
beat; fleets that use different databases of one server see only what the other has open. The margin is for both.

Whoever may write to Redis may also write entries of workers that do not exist: they take shares for as long as they are
renewed, and a worker never has less than its two connections.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

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
LIFE_S = 4.0
"""An entry outlives three beats that did not come."""
CALM_S = 6.0
"""A fleet is calm when for so long nobody has come or gone or been given less: longer than an entry lives, so that
everybody has been heard of by then, also after a loss of Redis's data."""
BESIDE_POOL = 1
LEAST = BESIDE_POOL + 1
_ENDED = "0:0"
_TAKEN = "PostgreSQL's connections are taken: by others, or by workers that have not made room yet"
_NOT_READ = "no worker has been able to read how many connections PostgreSQL can give: see the log of the first one"
_NUMBERS = ("max_connections", "reserved", "role_limit", "database_limit", "others", "margin")
"""Of a reading, those that a log line has."""
_PATIENCE_BEATS = 3
"""Others need two to make room for a worker that has just come; one that waits longer says so."""


class Budget:
    """One worker's part of it. *read* reads the server's capacity; *margin* connections are left to everybody else.

    *usable*, *granted* and *live* are as of the last beat: connections for the fleet (None: not known yet),
    connections for this worker, and workers. *capacity* is the last reading.
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
        self.granted = 0
        self.capacity: Capacity | None = None
        self._read_s = 0.0
        self._redis: Any = redis
        self._keys = budget_keys(database)
        self._script = scripts.load(redis, "budget")
        self._unusable = Oddities("budget.entries_unusable")
        self._worker_id = worker_id
        self._wanted = pool_size + BESIDE_POOL
        self._margin = margin
        self._read = read
        self._beating = asyncio.Lock()
        self._is_exceeded = False
        self._live: set[str] = set()
        self._held = 0
        self._numbers: dict[str, int] = {}
        self._open: Callable[[], int] = lambda: 0
        self._trouble: dict[str, str] = {}
        self._resize: Callable[[int], None] | None = None

    @property
    def limit(self) -> int:
        """Connections that the pool may have."""
        return max(0, self.granted - BESIDE_POOL)

    @property
    def live(self) -> int:
        """How many workers there are, this one included."""
        return len(self._live)

    def server_connections(self) -> ServerConnections | None:
        """Return what is known of the server's connections; None before the server was read."""
        if self.capacity is None or self.usable is None:
            return None
        capacity, by_worker = self.capacity, self.capacity.by_worker
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

    async def enter(self) -> None:
        """Wait until this worker may open two connections, for as long as the others leave no room for them."""
        await self._beat_until_granted(LEAST)

    async def take_share(self) -> int:
        """Read the capacity, and return what the pool may have to begin with: at least 1. Raises as the reading does.

        Waits for Redis, and says so where it is less than the pool's size.
        """
        await self._read_capacity()
        await self._beat_until_granted(self._wanted)
        if self.granted < self._wanted:
            log.warning("budget.limited", limit=self.limit, wanted=self._wanted - BESIDE_POOL, **self._numbers)
        return self.limit

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
        return self._trouble or {"reason": _TAKEN if self._numbers else _NOT_READ}

    def govern(self, count_open: Callable[[], int], resize: Callable[[int], None]) -> None:
        """From now on count what the pool has really open, and call *resize* with its limit now and at every beat."""
        self._open, self._resize = count_open, resize
        resize(self.limit)

    async def run(self) -> None:
        """Beat, and look at the server, each once a second until cancelled. A slow server delays no beat."""
        looking = asyncio.create_task(every(BEAT_S, self.look, "capacity reader"), name="capacity reader")
        try:
            await every(BEAT_S, self.beat, "budget", waits_first=True)
        finally:
            looking.cancel()

    async def beat(self, most: int | None = None) -> bool:
        """Ask for at most *most* connections, and apply what is granted; returns whether Redis answered.

        None: for those it has, and one more if the fleet is calm.
        """
        async with self._beating:
            holds = max(self.granted, self._open() + BESIDE_POOL) if self.granted else 0
            asked = (self.granted, min(self.granted + 1, self._wanted)) if most is None else (most, most)
            args = [self._worker_id, holds, *asked, LEAST, self._reading(), int(LIFE_S * 1000), int(CALM_S * 1000)]
            try:
                reply = await self._script(keys=self._keys, args=args)
            except Exception as error:
                if not is_outage(error):
                    raise
                self._trouble = {"error": f"{type(error).__name__}: {error}"[:200]}
                return False  # a running engine logs it
            self._trouble = {}
            self._take(*reply)
            return True

    async def look(self) -> None:
        """Read the capacity anew, if the server answers."""
        with suppress(DatabaseFault):  # whoever has work to do there logs it
            await self._read_capacity()

    async def leave(self) -> None:
        """Leave the fleet, after the last connection was closed: whoever beats next takes the entry out."""
        leaving = self._redis.pipeline().hset(self._keys[0], self._worker_id, _ENDED)
        try:
            await leaving.pexpire(self._keys[0], int(LIFE_S * 1000)).execute()
        except Exception as error:
            if not is_outage(error):
                raise

    async def _read_capacity(self) -> None:
        asked_s = time.monotonic()
        self.capacity = await self._read()
        self._read_s = asked_s

    def _reading(self) -> str:
        """Return the last reading for the script, or nothing where it is too old: it counts for half an entry's life.

        For the other half it may count as the newest one in Redis.
        """
        is_fresh = time.monotonic() - self._read_s < LIFE_S / 2
        return _as_json(self.capacity, self._margin) if self.capacity and is_fresh else ""

    def _take(
        self, granted: int, usable: int, held: int, calm: int, workers: Sequence[bytes], reading: bytes, unusable: bytes
    ) -> None:
        before, self.granted = self.granted, granted
        self._live, self._held = {worker.decode(errors="replace") for worker in workers}, held
        if unusable:
            self._unusable.skipped(unusable.decode(errors="replace"))
        if reading and (numbers := _numbers(reading, usable, self._live)):
            self.usable, self._numbers = usable, numbers
        if self._resize:
            if granted != before:
                log.info("budget.changed", limit=self.limit, before=max(0, before - BESIDE_POOL), **self._numbers)
            self._resize(self.limit)
        if calm:  # for a while after a change more may be held than is usable
            self._tell_excess(held)

    def _tell_excess(self, held: int) -> None:
        """Say once when the workers that run hold more than is usable, although each has its least."""
        was_exceeded, self._is_exceeded = self._is_exceeded, self.usable is not None and held > self.usable
        if self._is_exceeded and not was_exceeded:
            log.warning("budget.exceeded", held=held, **self._numbers)


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
