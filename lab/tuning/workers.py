"""Runs worker processes while an experiment runs, started as the `arq` command starts them."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from lab.bench.drain import Place, System, start, stop
from lab.bench.servers import Site, measured_environment

_SYSTEM = System("tidepool", "worker.WorkerSettings")


@asynccontextmanager
async def running_workers(site: Site, count: int, **variables: str) -> AsyncGenerator[list[asyncio.subprocess.Process]]:
    """Run *count* workers on the servers of *site* while the block runs, with *variables* as additional settings.

    They are killed at the end, because what they are doing then is not needed.
    """
    place = Place(measured_environment(site.urls.database, site.urls.redis, LOG_LEVEL="WARNING", **variables))
    workers: list[asyncio.subprocess.Process] = []
    try:
        for number in range(count):
            workers.append(await start(_SYSTEM, place, number))  # noqa: PERF401  (each is killed, wherever this ends)
        yield workers
    finally:
        await stop(workers, signal.SIGKILL)
