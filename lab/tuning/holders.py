"""Tasks that acquire and hold connections of the service's own pools, in a loop, for `pool-test` and `layouts`."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from lab.percentiles import percentiles
from tidepool.pool.faults import DatabaseFault, PoolTimeout
from tidepool.pool.pool import Pool
from tidepool.storage import queries

_SQL = queries.load("holders", "lab.tuning")


@dataclass
class HolderCounts:
    """Counts of how often holders used a connection. Holders are tasks that take and give back connections in a loop.

    *seconds* is how long they ran.
    """

    succeeded: int = 0
    timed_out: int = 0
    """Uses that got no connection: not within the acquire timeout, or because too many callers were waiting already."""
    failed: int = 0
    """Uses that failed with any other database error."""
    waits_ms: list[float] = field(default_factory=list)
    """For each use that got a connection: milliseconds from asking for it to having it."""
    seconds: float = 0.0


class HeldFigures(TypedDict):
    """The report on tasks that held connections: counts, uses per second, and percentiles of their waits in ms."""

    succeeded: int
    timed_out: int
    failed: int
    per_second: float
    wait_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Use:
    """How a holder uses its pool: it holds a connection for *hold_ms*, then pauses for *think_ms*, and repeats this."""

    hold_ms: float
    think_ms: float = 0.0
    by_chance: bool = False
    """Whether both times are exponentially distributed, with these means, instead of constant."""


async def hold(pools: Sequence[Pool], *, holders: int, use: Use, seconds: float, seed: int = 0) -> HolderCounts:
    """Run *holders* tasks that use the pools for *seconds*, and return the counts. Each task uses one of the pools.

    A use that is under way at the end is finished. Equal seeds give equal random times.
    """
    held = HolderCounts()
    begun_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(holders):
            chance = random.Random(f"{seed}-{number}")
            group.create_task(_holder(pools[number % len(pools)], use, begun_s + seconds, held, chance))
    held.seconds = time.perf_counter() - begun_s
    return held


async def _holder(pool: Pool, use: Use, end_s: float, held: HolderCounts, chance: random.Random) -> None:
    await asyncio.sleep(_seconds(use.think_ms, use, chance))  # else all would come at once
    while (asked_s := time.perf_counter()) < end_s:
        try:
            async with pool.acquire() as connection:
                held.waits_ms.append((time.perf_counter() - asked_s) * 1000)
                await connection.execute(_SQL["hold"], _seconds(use.hold_ms, use, chance))
            held.succeeded += 1
        except PoolTimeout:
            held.timed_out += 1
        except DatabaseFault:
            held.failed += 1
        if use.think_ms:
            await asyncio.sleep(_seconds(use.think_ms, use, chance))


def _seconds(mean_ms: float, use: Use, chance: random.Random) -> float:
    return mean_ms / 1000 * (chance.expovariate(1) if use.by_chance else 1)


def figures(held: HolderCounts) -> HeldFigures:
    """Return the figures of *held* for a report."""
    return {
        "succeeded": held.succeeded,
        "timed_out": held.timed_out,
        "failed": held.failed,
        "per_second": round(held.succeeded / held.seconds, 1) if held.seconds else 0.0,
        "wait_ms": {**percentiles(held.waits_ms), "max": round(max(held.waits_ms, default=0.0), 2)},
    }
