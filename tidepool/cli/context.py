"""What a command works with: its settings, and PostgreSQL and Redis, for which it waits a while."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from tidepool import servers
from tidepool.app import App
from tidepool.cli.terminal import CommandError
from tidepool.client import JobClient
from tidepool.embedded import Urls
from tidepool.pool.connection import Connection
from tidepool.pool.faults import words
from tidepool.pool.pool import Pool, PoolConfig
from tidepool.queue.connection import RedisClient, open_redis, wait_for_redis
from tidepool.queue.faults import REDIS_ERRORS, RedisRefused
from tidepool.settings import Settings
from tidepool.storage import requirements
from tidepool.storage.migrator import Migration
from tidepool.storage.repositories import Repositories
from tidepool.storage.results import Finished
from tidepool.urls import without_password

S_co = TypeVar("S_co", bound=Settings, covariant=True)
T = TypeVar("T")

FinishedJobs = Callable[[Sequence[str]], Awaitable[list[Finished]]]
"""Given job ids, returns those jobs that have an outcome in the ledger."""


@dataclass(frozen=True, slots=True)
class Context(Generic[S_co]):
    """What a command is called with, beside its arguments.

    Its methods wait for a server that is away as long as commands do (`patience_s`), and then raise its error, which
    ends the command with one line and status 2.
    """

    app: App
    settings: S_co
    urls: Urls

    @property
    def patience_s(self) -> float:
        """For how many seconds a command tries to reach a server before it gives up: three connects."""
        return 3 * self.settings.connect_timeout

    @asynccontextmanager
    async def pool(self, name: str) -> AsyncGenerator[Pool]:
        """Open a small pool, called *name* in PostgreSQL, on a database whose tables are there.

        Applies missing migrations first, unless MIGRATE_ON_START is off.
        """
        config = self._pool_config(name)
        if self.settings.migrate_on_start:
            await self.migrate(config)
        await self._patiently(lambda: requirements.check(config, tables=True))
        pool = await self._patiently(lambda: Pool.open(config))
        try:
            yield pool
        finally:
            await pool.close()

    @asynccontextmanager
    async def connection(self, name: str) -> AsyncGenerator[Connection]:
        """Give one connection of a `pool`."""
        async with self.pool(name) as pool, pool.acquire() as connection:
            yield connection

    @asynccontextmanager
    async def finished_jobs(self, name: str) -> AsyncGenerator[FinishedJobs]:
        """Give a function that looks up in the ledger which of some jobs have their outcome."""
        async with self.pool(name) as pool:

            async def finished(job_ids: Sequence[str]) -> list[Finished]:
                async def look() -> list[Finished]:
                    async with pool.acquire() as connection:
                        return await Repositories(connection).results.finished(job_ids)

                return await self._patiently(look)

            yield finished

    @asynccontextmanager
    async def client(self, finished: FinishedJobs | None = None) -> AsyncGenerator[JobClient]:
        """Open a client of the queue, once Redis answers. With *finished* it asks the ledger for duplicates, too."""

        async def settled(job_ids: Sequence[str]) -> Collection[str]:
            assert finished is not None
            return {job.job_id for job in await finished(job_ids)}

        redis = self._redis()
        try:
            await wait_for_redis(redis, self.urls.redis, patience_s=self.patience_s)
            yield JobClient(redis, settled=settled if finished else None, patience_s=self.patience_s)
        finally:
            await redis.aclose(close_connection_pool=True)

    async def require_servers(self, name: str) -> None:
        """Wait for PostgreSQL, and check that Redis can serve us if it answers; it may be away.

        Raises `CommandError` if Redis refuses us.
        """
        async with self.pool(name):
            pass
        redis = self._redis()
        try:
            await wait_for_redis(redis, self.urls.redis, patience_s=0)
        except RedisRefused as error:
            raise CommandError(f"Redis at {without_password(self.urls.redis)}: {words(error)}") from None
        except REDIS_ERRORS:
            pass  # it may come later: a front answers 503 until then
        finally:
            await redis.aclose(close_connection_pool=True)

    async def migrate(self, config: PoolConfig | None = None) -> list[Migration]:
        """Apply the missing migrations if the database can be written and holds any text; returns those applied."""
        config = config or self._pool_config("migrate")
        await self._patiently(lambda: requirements.check(config, writing=True))
        return await self._patiently(lambda: self.app.migrations.migrate(config))

    def _pool_config(self, name: str) -> PoolConfig:
        return PoolConfig(
            url=self.urls.database,
            application_name=f"tidepool-{name}",
            min_size=0,
            max_size=2,
            command_timeout_s=self.settings.command_timeout,
            connect_timeout_s=self.settings.connect_timeout,
        )

    def _redis(self) -> RedisClient:
        return open_redis(
            self.urls.redis, queue_name=self.settings.queue_name, connect_timeout_s=self.settings.connect_timeout
        )

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what *attempt*, a use of PostgreSQL, returns; repeats it while the server is away."""
        return await servers.wait_for_postgresql(attempt, self.urls.database, self.patience_s)
