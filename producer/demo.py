"""The demo of `python -m producer serve --demo`: workers, and a steady load of jobs, to try the service out."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import islice

from producer import workload
from producer.fleet import Fleet
from settings import Settings
from tidepool import JobClient
from tidepool.cli import Context

_WORKERS = 2
_JOBS_PER_SECOND = 50
_EVERY_S = 0.1
_AT_ONCE = int(_JOBS_PER_SECOND * _EVERY_S)
_ENDLESS = 2**62


@asynccontextmanager
async def working_service(context: Context[Settings]) -> AsyncGenerator[None]:
    """Run two workers and enqueue 50 jobs a second while the block runs.

    If the workers or the load fail, the block is cancelled and their error is raised.
    """
    log_dir = context.settings.data_dir / "logs"
    async with context.client() as client:
        with Fleet(_WORKERS, log_dir, client.bury) as fleet:
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(fleet.watch()), tasks.create_task(_load(client))]
                yield
                for task in background:
                    task.cancel()


async def _load(client: JobClient) -> None:
    """Enqueue generated jobs at a steady 50 a second until cancelled. Some of them are made to be rejected."""
    jobs = workload.generate(_ENDLESS, seed=secrets.randbelow(2**31))
    due_s = time.monotonic()
    while True:
        await client.enqueue_many(list(islice(jobs, _AT_ONCE)))
        due_s = max(due_s + _EVERY_S, time.monotonic() - _EVERY_S)  # what was missed is not made up for
        await asyncio.sleep(due_s - time.monotonic())
