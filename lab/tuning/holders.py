"""Tasks that hold connections of the product's own pools, in a loop: what `pool-test` and `layouts` measure."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.percentiles import percentiles
from tidepool.pool.faults import DatabaseFault, PoolTimeout
from tidepool.pool.pool import Pool
from tidepool.storage import queries

_SQL = queries.load("holders", "lab.tuning")


@dataclass
class Held:
    """What came of it; counts are of uses of a connection."""

    succeeded: int = 0
    timed_out: int = 0
    """No connection within the acquire timeout, or too many waited already."""
    failed: int = 0
    """Any other error of the database."""
    waits_ms: list[float] = field(default_factory=list)
    """Of each that got a connection: from asking to having it."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Use:
    """How a holder uses its pool: for how long it holds a connection, and does without one before the next."""

    hold_ms: float
    think_ms: float = 0.0
    by_chance: bool = False
    """Whether both are exponentially distributed about these means, or always the same."""


async def hold(pools: Sequence[Pool], *, holders: int, use: Use, seconds: float, seed: int = 0) -> Held:
    """Let so many holders use the pools for so long, each always the same pool; uses under way are ended first."""
    held = Held()
    begun_s = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(holders):
            chance = random.Random(f"{seed}-{number}")
            group.create_task(_holder(pools[number % len(pools)], use, begun_s + seconds, held, chance))
    held.seconds = time.perf_counter() - begun_s
    return held


async def _holder(pool: Pool, use: Use, end_s: float, held: Held, chance: random.Random) -> None:
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


def figures(held: Held) -> dict[str, Any]:
    """Return what came of it as a document."""
    return {
        "succeeded": held.succeeded,
        "timed_out": held.timed_out,
        "failed": held.failed,
        "per_second": round(held.succeeded / held.seconds, 1) if held.seconds else 0.0,
        "wait_ms": {**percentiles(held.waits_ms), "max": round(max(held.waits_ms, default=0.0), 2)},
    }
