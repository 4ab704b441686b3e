"""Workers that share one server's connections: their budgets are real, on a Redis of the process's own."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import fakeredis

from tidepool.fleet.budget import Budget
from tidepool.fleet.capacity import Capacity

KEY = "tidepool:budget:db"
MARGIN = 5


@dataclass
class FakeWorker:
    """A worker process: its budget, and a pool of which it says how many are open."""

    id: str
    budget: Budget
    limits: list[int] = field(default_factory=list)
    """Those that its pool had, one after the other."""
    open: int = 0

    async def start(self, *, open_all: bool = False) -> int:
        """Enter, take the share, open the pool; returns its limit."""
        await self.budget.enter()
        limit = await self.budget.take_share()
        self.open = limit if open_all else 1
        self.budget.govern(lambda: self.open, self.resize)
        return limit

    def resize(self, limit: int) -> None:
        """Take note of a new limit."""
        if self.limits[-1:] != [limit]:
            self.limits.append(limit)

    @property
    def backends(self) -> int:
        """Its connections on the server."""
        return self.open + 1 if self.budget.granted else 0


class Fleet:
    """Workers on one Redis and one server, which gives *usable* connections to them."""

    def __init__(self, usable: int) -> None:
        self.usable = usable
        self.redis: Any = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        self.workers: dict[str, FakeWorker] = {}
        self.left_behind: dict[str, int] = {}
        """Connections that the server still has for workers that are no more."""
        self.others = 1
        self.read_error: Exception | None = None

    def worker(self, name: str, pool_size: int = 10) -> FakeWorker:
        """Make a worker that has not started yet."""
        budget = Budget(self.redis, "db", name, pool_size=pool_size, margin=MARGIN, read=self.read)
        self.workers[name] = FakeWorker(name, budget)
        return self.workers[name]

    async def read(self) -> Capacity:
        """Return what the server would tell now."""
        if self.read_error:
            raise self.read_error
        counts = {worker.id: worker.backends for worker in self.workers.values()} | self.left_behind
        return a_capacity(self.usable + MARGIN + 3 + 1, counts, others=self.others)

    async def rounds(self, count: int = 1) -> None:
        """Let all that have started look and beat so many times; between the beats pools close what is too many."""
        for _ in range(count):
            for worker in [worker for worker in self.workers.values() if worker.limits]:
                await worker.budget.look()
                await worker.budget.beat()
                worker.open = min(worker.open, worker.budget.limit)

    async def calm_rounds(self, count: int) -> None:
        """Let everybody beat once, so that all know of each other, and then so many times with time in between."""
        await self.rounds()
        for _ in range(count):
            await self.redis.delete(f"{KEY}:restless")
            await self.rounds()

    async def until_started(self, starting: asyncio.Task[int]) -> int:
        """Let everybody else beat until a worker has started; returns its limit."""
        while not starting.done():
            await asyncio.sleep(0.001)
            await self.rounds()
        return await starting

    async def bury(self, name: str) -> None:
        """Let the time pass after which nobody counts on a worker that does not beat any more, and old readings end."""
        await self.redis.hset(KEY, name, "0:1000")
        await self.redis.delete(f"{KEY}:capacity")
        for worker in self.workers.values():
            if worker.limits:
                await worker.budget.look()

    async def die(self, name: str, *, left: bool = False) -> None:
        """Kill a worker, whose connections the server keeps if they are *left*, and let its entry end."""
        worker = self.workers.pop(name)
        if left:
            self.left_behind[name] = worker.backends
        await self.bury(name)

    def limits(self) -> list[int]:
        """Return each worker's limit."""
        return [worker.budget.limit for worker in self.workers.values()]

    def granted(self) -> int:
        """Return what all workers may have, together."""
        return sum(worker.budget.granted for worker in self.workers.values())

    async def held(self) -> int:
        """Return what is held, as Redis has it."""
        return sum(int(value.split(b":")[1]) for value in (await self.redis.hgetall(KEY)).values())


def a_capacity(max_connections: int, by_worker: dict[str, int], *, others: int = 0) -> Capacity:
    """Return a reading of a server that keeps three connections for superusers; others use one role and database."""
    return Capacity(
        max_connections=max_connections,
        reserved=3,
        role_limit=-1,
        database_limit=-1,
        by_worker=by_worker,
        others=others,
        others_of_role=others,
        others_of_database=others,
    )


async def a_fleet(usable: int, *names: str, pool_size: int = 10) -> Fleet:
    """Return a fleet of workers that have started one after the other, each making room for the next."""
    fleet = Fleet(usable)
    for name in names:
        await fleet.until_started(asyncio.create_task(fleet.worker(name, pool_size).start()))
    return fleet
