"""The servers of a drill, its workers behind proxies, and the producer that enqueues its jobs.

A drill injects faults while workers run jobs.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString, Self

from lab.bench.servers import QUEUE, SCHEMA, connect, measured_environment, redis_info
from lab.drill.addresses import target, through
from lab.drill.log import Log
from lab.drill.proxy import Proxy
from tidepool import embedded
from tidepool.embedded import Urls
from tidepool.embedded.locks import wait_until
from tidepool.embedded.postgres import Postgres
from tidepool.embedded.redis import EmbeddedRedis
from tidepool.embedded.server import Server
from tidepool.fleet.identity import Identity
from tidepool.pool.config import PoolConfig
from tidepool.pool.connection import Row
from tidepool.queue.connection import RedisClient
from tidepool.queue.state import QueueState
from tidepool.queue.wire import QueueKeys
from worker import app

_LOOK_S = 0.05
_WAIT_S = 60.0
_PATIENT_S = "20"
"""Value of CONNECT_TIMEOUT for the producer, in seconds; it gives up after three such timeouts."""
PLAIN = ("arq", "worker.WorkerSettings")
"""The arguments of `python -m` that start a worker without a defect."""


@dataclass
class DrillWorker:
    """A worker process of the drill, with one proxy to each server.

    *words* are the arguments of `python -m` that start it. *ended_on_purpose* is true once the drill has sent it
    SIGTERM or SIGKILL.
    """

    number: int
    postgres: Proxy
    redis: Proxy
    words: tuple[str, ...] = PLAIN
    process: asyncio.subprocess.Process | None = None
    ended_on_purpose: bool = False

    @property
    def pid(self) -> int:
        """The process id of the worker."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the worker; do nothing if the process is gone."""
        self.ended_on_purpose |= number in (signal.SIGKILL, signal.SIGTERM)
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass
class Arena:
    """The servers and *count* workers of a drill, as an asynchronous context manager.

    A worker that ends is started again, and counted in *ended_by_themselves* if the drill did not end it. The servers
    are the *named* ones, or else new ones in the directory *home*, where the workers' logs are in any case. *shots* is
    how often a fault that comes in bursts strikes. *log* makes the jobs of the load.
    """

    home: Path
    count: int
    shots: int
    named: Urls | None = None
    log: Log | None = None
    workers: list[DrillWorker] = field(default_factory=list)
    ended_by_themselves: int = 0
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        """Start the servers, the proxies and the workers.

        If this fails or is cancelled, what was started is stopped again.
        """
        async with AsyncExitStack() as stack:
            if self.named is None:
                stack.enter_context(embedded.join(self.home))
                self.postgres, self.redis_server = Postgres(self.home), EmbeddedRedis(self.home)
            self.urls = self.named or Urls.embedded(self.home)
            await app.migrations.migrate(PoolConfig(url=self.urls.database, application_name="drill", schema=SCHEMA))
            self._clock_difference = (await self.fetch("SELECT clock_timestamp()"))[0][0] - datetime.now(UTC)
            self.redis = RedisClient.open(self.urls.redis, queue_name=QUEUE)
            stack.push_async_callback(self.redis.aclose, close_connection_pool=True)
            self.workers = [await self._behind_proxies(number, stack) for number in range(self.count)]
            stack.push_async_callback(self._stop_workers)
            for worker in self.workers:
                await self._start(worker)
            keeper = asyncio.create_task(self._keep())
            stack.push_async_callback(asyncio.gather, keeper, return_exceptions=True)
            stack.callback(keeper.cancel)
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the workers, the proxies and the drill's own servers."""
        await self._open.aclose()

    async def _behind_proxies(self, number: int, stack: AsyncExitStack) -> DrillWorker:
        """Return a worker that is not started yet, with its two proxies open. *stack* closes the proxies."""
        worker = DrillWorker(number, Proxy(target(self.urls.database)), Proxy(target(self.urls.redis)))
        for proxy in (worker.postgres, worker.redis):
            await proxy.open()
            stack.push_async_callback(proxy.close)
        return worker

    async def _stop_workers(self) -> None:
        """Stop all workers with SIGTERM, also those that a fault has stopped with SIGSTOP.

        A worker that has not ended after 60 s is killed.
        """
        started = [(worker, worker.process) for worker in self.workers if worker.process is not None]
        for worker, _ in started:
            worker.signal(signal.SIGCONT)
            worker.signal(signal.SIGTERM)
        for worker, process in started:
            try:
                await asyncio.wait_for(process.wait(), _WAIT_S)
            except TimeoutError:
                worker.signal(signal.SIGKILL)
                await process.wait()

    async def fetch(self, query: LiteralString, *args: object) -> list[Row]:
        """Run a query over a new connection to PostgreSQL that bypasses the proxies; return the rows."""
        connection = await connect(self.urls.database)
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close()

    def now(self) -> datetime:
        """Return the current time by PostgreSQL's clock. PostgreSQL need not be running."""
        return datetime.now(UTC) + self._clock_difference

    async def outcomes(self) -> int:
        """Return the number of jobs that have an outcome in the ledger."""
        return (await self.fetch("SELECT count(*) FROM public.job_results"))[0][0]

    def last_words(self) -> str:
        """Return the last lines of all workers' logs, without repetitions, for an error message.

        Call this before the end of the drill, when the log files are deleted.
        """
        logs = (self._log_of(worker).read_text("utf-8", "replace").strip() for worker in self.workers)
        return "; ".join(sorted({log.rpartition("\n")[2] for log in logs}))

    async def held_by(self, worker: DrillWorker) -> list[str]:
        """Return the ids of the jobs that *worker* has claimed from the queue and not yet finished."""
        keys = await self.redis.keys(f"{QueueKeys(QUEUE).held_prefix}{Identity.worker_id_prefix(worker.pid)}*")
        return [job.decode() for key in keys for job in await self.redis.zrange(key, 0, -1)]

    async def leases(self) -> list[str]:
        """Return the owners that hold a lease in Redis. An owner is a worker process that claims jobs."""
        return [owner.decode() for owner in await self.redis.zrange(QueueKeys(QUEUE).owners, 0, -1)]

    async def restart(self, worker: DrillWorker, words: tuple[str, ...]) -> None:
        """Stop a worker with SIGTERM, and wait until it is started again with *words* as arguments of `python -m`."""
        worker.words, process = words, worker.process
        worker.signal(signal.SIGTERM)
        await self.until_another(worker, process)

    async def until_another(self, worker: DrillWorker, process: asyncio.subprocess.Process | None) -> None:
        """Wait until *process* has been replaced by another process of *worker*."""

        async def is_another() -> bool:
            return worker.process is not process

        await self.until(is_another)

    async def bury(self, pid: int) -> None:
        """End the leases of the dead worker process *pid*, so that other workers run its jobs.

        The producer does the same for workers of its option `--workers`.
        """
        await QueueState(self.redis).release_owners(Identity.worker_id_prefix(pid))

    async def queued(self) -> int:
        """Return the number of jobs that are queued or running."""
        return int(await self.redis.zcard(QUEUE))

    async def start_producer(self, rate: float) -> asyncio.subprocess.Process:
        """Start the producer, which reads commands from its standard input.

        It enqueues up to twice *rate* jobs per second, and at least 20.
        """
        environment = self._environment(self.urls.database, self.urls.redis, CONNECT_TIMEOUT=_PATIENT_S)
        command = (sys.executable, "-m", "producer", "--file", "-", "--rate", str(max(20.0, 2 * rate)), "--json")
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)

    async def stop_server(self, server: Server, number: signal.Signals) -> None:
        """End one of the drill's own servers with a signal to its main process, and wait until all of it has ended."""
        os.kill(await self.server_pid(server), number)
        await _reached(server.is_down)

    async def start_server(self, server: Server) -> None:
        """Start one of the drill's own servers that is down, and wait until it accepts connections."""
        await asyncio.to_thread(server.start)
        await _reached(server.is_ready)

    async def server_pid(self, server: Server) -> int:
        """Return the id of the main process of one of the drill's own servers."""
        if server is self.postgres:
            return int((server.data / "postmaster.pid").read_text("utf-8").split()[0])
        return (await redis_info(self.redis, "server"))["process_id"]

    async def until(self, condition: Callable[[], Awaitable[object]], wait_s: float = _WAIT_S) -> None:
        """Poll the coroutine function *condition* until it returns a true value.

        Raises `TimeoutError` after *wait_s* seconds.
        """
        async with asyncio.timeout(wait_s):
            while not await condition():  # noqa: ASYNC110  (servers and processes have no event to wait on)
                await asyncio.sleep(_LOOK_S)

    async def _keep(self) -> None:
        """Start workers that have ended again, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for worker in self.workers:
                if worker.process is not None and worker.process.returncode is not None:
                    self.ended_by_themselves += not worker.ended_on_purpose
                    await self._start(worker)

    async def _start(self, worker: DrillWorker) -> None:
        environment = self._environment(
            through(self.urls.database, worker.postgres.port), through(self.urls.redis, worker.redis.port)
        )
        worker.ended_on_purpose = False
        with self._log_of(worker).open("ab") as output:
            worker.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", *worker.words, stdout=output, stderr=output, env=environment
            )

    def _log_of(self, worker: DrillWorker) -> Path:
        return self.home / f"worker-{worker.number}.log"

    def _environment(self, database: str, redis: str, **others: str) -> dict[str, str]:
        return measured_environment(database, redis, STATS_INTERVAL="1", **others)


async def _reached(condition: Callable[[], bool]) -> None:
    if not await asyncio.to_thread(wait_until, condition, _WAIT_S):
        raise TimeoutError


def feed(producer: asyncio.subprocess.Process, lines: Iterable[str]) -> None:
    """Write commands, as lines of a commands file, to the producer's standard input. Does not wait."""
    assert producer.stdin is not None
    producer.stdin.writelines(line.encode() for line in lines)
