"""Faults of workers: they are killed, suspended or stopped."""

import asyncio
import random
import signal

from lab.drill.arena import PLAIN, Arena, DrillWorker
from lab.drill.faults.breaking import LONG_S, SHORT_S, Fault, pause


async def _kill(arena: Arena, chance: random.Random) -> list[str]:
    worker, held = await _at_work(arena, chance)
    worker.signal(signal.SIGKILL)
    return held


async def _kill_supervised(arena: Arena, chance: random.Random) -> list[str]:
    worker, held = await _at_work(arena, chance)
    pid = worker.pid
    worker.signal(signal.SIGKILL)
    await arena.bury(pid)
    return held


async def _pause_short(arena: Arena, chance: random.Random) -> None:
    await pause(chance.choice(arena.workers).pid, SHORT_S)


async def _pause_long(arena: Arena, chance: random.Random) -> None:
    await pause(chance.choice(arena.workers).pid, LONG_S)


async def _stop_twice(arena: Arena, chance: random.Random) -> None:
    worker, _ = await _at_work(arena, chance)
    process = worker.process
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGCONT)
    await asyncio.sleep(0.1)
    worker.signal(signal.SIGTERM)
    await arena.until_another(worker, process)


async def _rolling_restart(arena: Arena, _chance: random.Random) -> None:
    for worker in arena.workers:
        await arena.restart(worker, PLAIN)
        await asyncio.sleep(1)


async def _at_work(arena: Arena, chance: random.Random) -> tuple[DrillWorker, list[str]]:
    """Suspend a random worker with SIGSTOP while it runs jobs; return it with the ids of these jobs."""
    while True:
        worker = chance.choice(arena.workers)
        worker.signal(signal.SIGSTOP)
        if held := await arena.held_by(worker):
            return worker, held
        worker.signal(signal.SIGCONT)
        await asyncio.sleep(chance.uniform(0.001, 0.02))


FAULTS = (
    Fault("kill", "A worker is killed without notice: its leases have to expire first.", _kill),
    Fault(
        "kill-supervised",
        "A worker is killed, and its parent gives its jobs back, as `--workers` does.",
        _kill_supervised,
    ),
    Fault("pause-short", "A worker is stopped for less than its lease.", _pause_short),
    Fault("pause-long", "A worker is stopped for longer than its lease; others do its jobs meanwhile.", _pause_long),
    Fault("stop-twice", "A worker gets SIGTERM twice in a row, in the middle of a batch.", _stop_twice),
    Fault("rolling-restart", "All workers are restarted under load, one after the other.", _rolling_restart),
)
