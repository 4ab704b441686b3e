"""Faults of workers that `lab.drill.launcher` starts: a wrong clock, a blocked event loop, a log that nobody reads."""

import asyncio
import random
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from lab.drill.arena import PLAIN, Arena, DrillWorker
from lab.drill.faults.breaking import AWAY_S, Fault
from lab.drill.launcher import launched

_AN_HOUR_S = 3600.0


async def _clock_ahead(arena: Arena, chance: random.Random) -> None:
    await _with_clock(arena, chance, _AN_HOUR_S)


async def _clock_behind(arena: Arena, chance: random.Random) -> None:
    await _with_clock(arena, chance, -_AN_HOUR_S)


async def _with_clock(arena: Arena, chance: random.Random, skew_s: float) -> None:
    async with _relaunched(arena, chance, launched(clock_s=skew_s)):
        await asyncio.sleep(AWAY_S)


async def _loop_blocked(arena: Arena, chance: random.Random) -> None:
    async with _relaunched(arena, chance, launched(block_s=AWAY_S)) as worker:
        worker.signal(signal.SIGUSR2)
        await asyncio.sleep(AWAY_S)


async def _log_unread(arena: Arena, chance: random.Random) -> None:
    async with _relaunched(arena, chance, launched(unread=True)) as worker:
        await asyncio.sleep(AWAY_S)
        await arena.until(lambda: arena.held_by(worker))  # it works all the same


@asynccontextmanager
async def _relaunched(arena: Arena, chance: random.Random, words: tuple[str, ...]) -> AsyncGenerator[DrillWorker]:
    """Restart a random worker with *words* as arguments of `python -m`, and wait until it holds jobs.

    After the block it is restarted without a defect.
    """
    worker = chance.choice(arena.workers)
    await arena.restart(worker, words)
    await arena.until(lambda: arena.held_by(worker))
    yield worker
    await arena.restart(worker, PLAIN)


FAULTS = (
    Fault("clock-ahead", "A worker's clock is an hour ahead, for a while.", _clock_ahead),
    Fault("clock-behind", "A worker's clock is an hour behind, for a while.", _clock_behind),
    Fault(
        "loop-blocked",
        "A worker's event loop stands still for longer than its lease, which is renewed beside it.",
        _loop_blocked,
    ),
    Fault(
        "log-unread",
        "A worker logs into a pipe that is full and that nobody reads, works, and is stopped like that.",
        _log_unread,
    ),
)
