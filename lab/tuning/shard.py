"""One process of a layout: `python -m lab.tuning.shard`, which only `lab.tuning.layouts` starts.

It reads one line of JSON from standard input (the fields of `ShardTask`), opens its pools, prints `ready`, waits for
another line, and runs the tasks that hold connections. At the end it prints the counts as one line of JSON.
"""

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TypedDict

import uvloop

from lab.bench.processes import peak_mb
from lab.tuning.holders import Use, hold
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool

_ACQUIRE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The task of one process: to open *pools* pools of *size* connections, and run *holders* tasks that share them."""

    url: str
    pools: int
    size: int
    holders: int
    hold_ms: float
    think_ms: float
    seconds: float
    seed: int


class ShardFigures(TypedDict):
    """The result of one process: counts, every wait in ms, and its CPU (cores) and peak memory (MB)."""

    succeeded: int
    timed_out: int
    failed: int
    waits_ms: list[float]
    seconds: float
    cpu: float
    memory_mb: float


async def run(task: ShardTask) -> ShardFigures:
    """Open the pools, wait for the signal to start, and run the holders for `task.seconds`.

    Returns what the process prints.
    """
    config = PoolConfig(
        url=task.url,
        application_name="tidepool-lab:layouts",
        min_size=task.size,
        max_size=task.size,
        acquire_timeout_s=_ACQUIRE_TIMEOUT_S,
    )
    pools = [await Pool.open(config) for _ in range(task.pools)]
    print("ready", flush=True)  # noqa: T201  (to the process that waits for it)
    await asyncio.to_thread(sys.stdin.readline)
    use = Use(task.hold_ms, task.think_ms, by_chance=True)
    cpu_s = time.process_time()
    held = await hold(pools, holders=task.holders, use=use, seconds=task.seconds, seed=task.seed)
    used_s = time.process_time() - cpu_s
    for pool in pools:
        await pool.close()
    return {
        "succeeded": held.succeeded,
        "timed_out": held.timed_out,
        "failed": held.failed,
        "waits_ms": [round(ms, 3) for ms in held.waits_ms],
        "seconds": held.seconds,
        "cpu": used_s / held.seconds,
        "memory_mb": peak_mb(os.getpid()),
    }


def main() -> None:
    """Read the task from standard input, run it, and print its results as JSON."""
    task = ShardTask(**json.loads(sys.stdin.readline()))
    print(json.dumps(uvloop.run(run(task))))  # noqa: T201  (the same)


if __name__ == "__main__":
    main()
