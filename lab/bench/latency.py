"""Measures the latency of a job on an idle worker: from before its enqueue until another session sees it committed."""

import asyncio
import random
import time

from lab.bench.drain import require_running
from tidepool.cli.terminal import CommandError
from tidepool.pool.connection import Connection
from tidepool.queue.connection import RedisClient

_FIRST_LOOK_S, _LOOK_S = 0.002, 0.0002
_WAIT_S = 60.0
_COMMITTED = "SELECT true FROM public.job_results WHERE job_id = $1"


async def idle_latency_ms(
    redis: RedisClient, connection: Connection, worker: asyncio.subprocess.Process, jobs: int
) -> list[float]:
    """Return the latencies in milliseconds of *jobs* jobs, enqueued one at a time, about 30 ms apart, by arq's client.

    To see the commit, *connection* polls for the job's row in the ledger, from 2 ms after the enqueue on. So each
    latency is too large by up to one poll (about 0.3 ms), and the polling itself takes some of the CPU. Raises
    `CommandError` if *worker* ends, or does not commit a job within 60 s.
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
