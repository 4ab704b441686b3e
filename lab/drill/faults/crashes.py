"""Bursts of crashes: workers are killed just as they commit or acknowledge jobs, again and again.

A job that has lost three workers fails, as it should. The next worker is killed only when no job can come to that.
"""

import asyncio
import functools
import operator
import random
import signal
from collections.abc import Callable

from lab.bench.servers import QUEUE
from lab.drill.arena import Arena, DrillWorker
from lab.drill.faults.breaking import Fault
from lab.drill.proxy import Proxy
from tidepool.queue import scripts
from tidepool.queue.leases import MOST_LAPSES
from tidepool.queue.wire import QueueKeys

_KEYS = QueueKeys(QUEUE)
_FEW = 100
_SHOT_WAIT_S = 60.0

_Way = Callable[[DrillWorker], Proxy]
_TO_POSTGRES: _Way = operator.attrgetter("postgres")
_TO_REDIS: _Way = operator.attrgetter("redis")


async def _before_commit(arena: Arena, _chance: random.Random) -> None:
    await _burst(arena, _TO_POSTGRES, b"COMMIT", passes_on=False)


async def _after_commit(arena: Arena, _chance: random.Random) -> None:
    await _burst(arena, _TO_POSTGRES, b"COMMIT", passes_on=True)


async def _before_finish(arena: Arena, _chance: random.Random) -> None:
    await _burst(arena, _TO_REDIS, _finish_script(arena), passes_on=False)


async def _after_finish(arena: Arena, _chance: random.Random) -> None:
    await _burst(arena, _TO_REDIS, _finish_script(arena), passes_on=True)


def _finish_script(arena: Arena) -> bytes:
    """Return the bytes by which to recognize a request that acknowledges jobs: the digest of its Lua script."""
    return scripts.load(arena.redis, "finish").sha.encode()


async def _burst(arena: Arena, way: _Way, words: bytes, *, passes_on: bool) -> None:
    for _ in range(arena.shots):
        await arena.until(lambda: _none_would_fail(arena))
        await _crash(arena, way, words, passes_on=passes_on)


async def _none_would_fail(arena: Arena) -> bool:
    """Return whether another crash can make no job fail: a job fails when it has lost three workers.

    This is so if the jobs of dead workers are back in the queue, if fewer than 100 jobs that lost a worker have no
    outcome yet, and if none of these has lost two.
    """
    redis = arena.redis
    if await redis.zcount(_KEYS.owners, "-inf", 0):
        return False
    lapses = [int(count) for count in await redis.execute_command("HVALS", _KEYS.lapses) or ()]
    return len(lapses) < _FEW and max(lapses, default=0) < MOST_LAPSES - 1


async def _crash(arena: Arena, way: _Way, words: bytes, *, passes_on: bool) -> None:
    """Kill the worker that is the next to send *words* through its proxy, and end the leases of its jobs.

    *passes_on* says whether the request still reaches the server.
    """
    killed: asyncio.Future[asyncio.subprocess.Process] = asyncio.get_running_loop().create_future()

    def disarm() -> None:
        for worker in arena.workers:
            way(worker).disarm()

    def crash(worker: DrillWorker) -> None:
        disarm()
        assert worker.process is not None
        worker.signal(signal.SIGKILL)
        killed.set_result(worker.process)

    for worker in arena.workers:
        way(worker).trap(words, passes_on=passes_on, bite=functools.partial(crash, worker))
    try:
        async with asyncio.timeout(_SHOT_WAIT_S):
            process = await killed
    finally:
        disarm()
    await process.wait()
    await arena.bury(process.pid)


FAULTS = (
    Fault(
        "kill-before-commit",
        "A worker is killed at the very moment when it sends COMMIT, which does not arrive.",
        _before_commit,
        is_burst=True,
    ),
    Fault(
        "kill-after-commit",
        "A worker is killed when its COMMIT has gone out, before it can acknowledge anything.",
        _after_commit,
        is_burst=True,
    ),
    Fault(
        "kill-before-finish",
        "A worker is killed as it acknowledges committed jobs, before Redis gets the acknowledgement.",
        _before_finish,
        is_burst=True,
    ),
    Fault(
        "kill-after-finish",
        "A worker is killed when its acknowledgement has gone out.",
        _after_finish,
        is_burst=True,
    ),
)
