"""How long one job takes on an idle worker: from before its enqueue until another session sees it committed."""

import asyncio
import random
import time
from typing import Any

from arq.connections import ArqRedis

from lab.bench.drain import require_running
from tidepool.cli.terminal import CommandError

_FIRST_LOOK_S, _LOOK_S = 0.002, 0.0002
_WAIT_S = 60.0
_COMMITTED = "SELECT true FROM job_results WHERE job_id = $1"


async def idle_latency_ms(
    redis: ArqRedis, connection: Any, worker: asyncio.subprocess.Process, jobs: int
) -> list[float]:
    """Return the latency of each of *jobs* jobs, some 30 ms apart, enqueued by arq's own client.

    Raises `CommandError` where *worker* ends, or commits nothing for 60 s.

    The commit is seen by asking for the ledger row over and over, from 2 ms on, so each figure is too large by
    up to one such look (about 0.3 ms), and the looking itself takes a share of the CPU.
    """
    latencies: list[float] = []
    for number in range(jobs):
        await asyncio.sleep(random.uniform(0.015, 0.040))
        job_id, name = f"latency-{number}", f"latency.{number}"
        begun_s = time.perf_counter()
        await redis.enqueue_job(
            "create_user", username=name, email=f"{name}@example.org", full_name="Idle Latency", _job_id=job_id
        )
        await asyncio.sleep(_FIRST_LOOK_S)
        while not await connection.fetchval(_COMMITTED, job_id):
            require_running([worker])
            if time.perf_counter() - begun_s > _WAIT_S:
                raise CommandError(f"the worker committed nothing within {_WAIT_S:.0f} s")
            await asyncio.sleep(_LOOK_S)
        latencies.append((time.perf_counter() - begun_s) * 1000)
    return latencies
