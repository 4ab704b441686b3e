"""A worker's pool in virtual time: the real gate, figures, recorder and watcher, over connections that are not there.

An hour passes in as long as its events take to run, and always in the same way. What a task does besides
waiting takes no time at all, unless it says so with `Clock.block`.
"""

import asyncio
import random
import selectors
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tidepool.fleet.identity import Identity
from tidepool.health.loop_lag import LoopLag
from tidepool.health.recorder import Recorder
from tidepool.ledger.batcher import Tally
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.storage.snapshots import Snapshot

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
TICK_S = 1.0


class Clock(selectors.DefaultSelector):
    """Virtual time: where the event loop would sleep, the time has passed already."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Let the time pass instead of waiting."""
        self.now_s += max(0.0, timeout or 0.0)
        return super().select(0)

    def block(self, seconds: float) -> None:
        """Let time pass in which the event loop does nothing else, as code does that blocks it."""
        self.now_s += seconds


class NoConnection:
    """Stands in for an asyncpg connection; each has a process id of its own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.idle_since_s = 0.0

    def get_server_pid(self) -> int:
        """Return a number."""
        return self._pid

    def is_closed(self) -> bool:
        """Return whether it has ended."""
        return False


class InnerPool:
    """Stands in for asyncpg's pool: connections that take no time to open, or *connect_s* after *lifetime_s* idle."""

    def __init__(self, clock: Clock, size: int) -> None:
        self._clock = clock
        self._idle = [NoConnection(1000 + n) for n in range(size)]
        self._size = size
        self.connect_s, self.lifetime_s = 0.0, float("inf")
        self.pool: Any = None

    async def acquire(self, **_options: Any) -> NoConnection:
        """Lend one; the gate sees to it that there is one."""
        connection = self._idle.pop()
        if self._clock.now_s - connection.idle_since_s > self.lifetime_s:
            await asyncio.sleep(self.connect_s)
            self.pool.stats.connected(int(self.connect_s * 1e6))
        return connection

    async def release(self, connection: NoConnection, **_options: Any) -> None:
        """Take it back."""
        connection.idle_since_s = self._clock.now_s
        self._idle.insert(0, connection)

    def get_size(self) -> int:
        """Return how many there are."""
        return self._size

    def get_idle_size(self) -> int:
        """Return how many are not lent."""
        return len(self._idle)


class Rows:
    """Stands in for the journal: keeps snapshots, in virtual time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.identity = Identity(uuid.UUID(int=1), "w", "host", NOON)
        self.snapshots: list[Snapshot] = []

    def now(self) -> datetime:
        """Return the virtual time."""
        return NOON + timedelta(seconds=self._clock.now_s)

    def started_at(self) -> datetime:
        """Return when it began."""
        return NOON

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot."""
        self.snapshots.append(snapshot)

    def add_event(self, kind: str, detail: Mapping[str, object]) -> None:
        """Drop an event."""


class Simulation:
    """A pool of *size* in virtual time, with a recorder; what uses it is started with `add`."""

    def __init__(self, clock: Clock, *, size: int, callers: int, seed: int = 1, overdue_s: float = 60.0) -> None:
        self.clock = clock
        self.chance = random.Random(seed)
        config = PoolConfig(
            url="postgresql://nowhere/none",
            application_name="simulation",
            max_size=size,
            acquire_timeout_s=600,
            transaction_timeout_s=overdue_s,
        )
        self.pool = Pool(config)
        self.inner = InnerPool(clock, size)
        self.inner.pool = self.pool
        self.pool._pool = self.inner
        self.written = Rows(clock)
        journal: Any = self.written
        self._recorder = Recorder(
            journal,
            pool=self.pool,
            tally=Tally(),
            callers=lambda: callers,
            interval_s=TICK_S,
            lag=LoopLag(cpu_wait=lambda: 0),
        )
        self._tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._recorder._lag.run())]

    def add(self, task: Coroutine[Any, Any, Any]) -> None:
        """Let a task run to the end of the simulation."""
        self._tasks.append(asyncio.create_task(task))

    async def use(self, hold_s: float, *, working: float = 1.0) -> None:
        """Hold a connection for so long, and query for the share *working* of it."""
        async with self.pool.acquire():
            since_s = self.clock.now_s
            await asyncio.sleep(hold_s)
            self.pool.stats.queried(int((self.clock.now_s - since_s) * working * 1e6), failed=False)

    async def caller(self, *, think_s: float, hold_s: Callable[[], float] | float, working: float = 1.0) -> None:
        """Think and use the pool over and over, each for an exponential time of that mean."""
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / think_s))
            mean_s = hold_s() if callable(hold_s) else hold_s
            await self.use(self.chance.expovariate(1 / mean_s), working=working)

    async def run(self, seconds: int) -> None:
        """Let *seconds* ticks pass, with a snapshot at each."""
        for _ in range(seconds):
            await asyncio.sleep(TICK_S)
            self._recorder.take_snapshot(self.written.now())

    async def end(self) -> None:
        """End all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def run_virtually(monkeypatch: pytest.MonkeyPatch, main: Callable[[Clock], Coroutine[Any, Any, Any]]) -> Any:
    """Run *main* on an event loop whose time is virtual, as is that of the code's own stop-watch."""
    clock = Clock()
    loop = asyncio.SelectorEventLoop(clock)
    monkeypatch.setattr(loop, "time", lambda: clock.now_s)
    monkeypatch.setattr(loop, "_clock_resolution", 1e-9)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: int(clock.now_s * 1e9))
    try:
        return loop.run_until_complete(main(clock))
    finally:
        monkeypatch.undo()
        loop.close()
