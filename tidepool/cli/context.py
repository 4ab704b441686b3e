"""Gives a command its settings, and access to PostgreSQL and Redis.

If a server is unavailable, the command waits for it for a limited time.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from tidepool.app import App
from tidepool.cli.terminal import CommandError
from tidepool.client import JobClient
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.pool.connection import Connection
from tidepool.pool.faults import words
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import REDIS_ERRORS, RedisRefused
from tidepool.settings import Settings
from tidepool.storage.migrator import Migration
from tidepool.urls import without_password

S_co = TypeVar("S_co", bound=Settings, covariant=True)


@dataclass(frozen=True, slots=True)
class Context(Generic[S_co]):
    """What a command gets beside its arguments: the application, its settings, and access to PostgreSQL and Redis.

    Its methods wait up to `patience_s` seconds for a server that is unavailable, and then raise its error, which ends
    the command with one line and exit status 2.
    """

    app: App
    settings: S_co
    urls: Urls

    @property
    def patience_s(self) -> float:
        """Seconds for which a command tries to reach a server before it gives up: three times CONNECT_TIMEOUT."""
        return 3 * self.settings.connect_timeout

    @asynccontextmanager
    async def pool(self, name: str) -> AsyncGenerator[Pool]:
        """Open a pool of up to two connections for an `async with` block, once PostgreSQL answers.

        *name* is part of its application name in PostgreSQL. Applies missing migrations first, unless MIGRATE_ON_START
        is off, and checks that the tables exist.
        """
        config = self._pool_config(name)
        if self.settings.migrate_on_start:
            await self.migrate(config)
        await self._require(config, tables=True)
        pool = await config.until_available(lambda: Pool.open(config), self.patience_s)
        try:
            yield pool
        finally:
            await pool.close()

    @asynccontextmanager
    async def connection(self, name: str) -> AsyncGenerator[Connection]:
        """Open one PostgreSQL connection for an `async with` block, once PostgreSQL answers.

        It belongs to a pool that is opened as by `pool`: missing migrations are applied, and the tables checked. *name*
        is as in `pool`.
        """
        async with self.pool(name) as pool, pool.acquire() as connection:
            yield connection

    @asynccontextmanager
    async def client(self, ledger: Pool | None = None) -> AsyncGenerator[JobClient]:
        """Open a client of the job queue for an `async with` block, once Redis answers.

        *ledger* is a connection pool, such as that of `pool`, over which the client looks up outcomes in the ledger
        (the table of outcomes).
        """
        redis = self._redis()
        try:
            await redis.wait_until_usable(self.urls.redis, patience_s=self.patience_s)
            yield JobClient(redis, ledger=ledger, patience_s=self.patience_s)
        finally:
            await redis.aclose(close_connection_pool=True)

    async def require_servers(self, name: str) -> None:
        """Wait until PostgreSQL answers, then check that Redis, if it answers, accepts this program.

        Redis need not answer yet. *name* is as in `pool`. Raises `CommandError` if Redis refuses the connection or is
        set up in a way that cannot be used.
        """
        async with self.pool(name):
            pass
        redis = self._redis()
        try:
            await redis.wait_until_usable(self.urls.redis, patience_s=0)
        except RedisRefused as error:
            raise CommandError(f"Redis at {without_password(self.urls.redis)}: {words(error)}") from None
        except REDIS_ERRORS:
            pass  # it may come later: a front answers 503 until then
        finally:
            await redis.aclose(close_connection_pool=True)

    async def migrate(self, config: PoolConfig | None = None) -> list[Migration]:
        """Apply the database migrations that are missing, and return them.

        First checks that the database can be written and can store any text. *config* says how to connect; by default
        the database of the settings is used.
        """
        config = config or self._pool_config("migrate")
        await self._require(config, writing=True)
        return await config.until_available(lambda: self.app.migrations.migrate(config), self.patience_s)

    async def _require(self, config: PoolConfig, *, tables: bool = False, writing: bool = False) -> None:
        side = SideConnection(config, "start")
        try:
            await config.until_available(
                lambda: self.app.migrations.require(side, tables=tables, writing=writing), self.patience_s
            )
        finally:
            await side.close()

    def _pool_config(self, name: str) -> PoolConfig:
        return PoolConfig(
            url=self.urls.database,
            application_name=f"tidepool-{name}",
            schema=self.settings.db_schema,
            min_size=0,
            max_size=2,
            command_timeout_s=self.settings.command_timeout,
            connect_timeout_s=self.settings.connect_timeout,
        )

    def _redis(self) -> RedisClient:
        return RedisClient.open(
            self.urls.redis, queue_name=self.settings.queue_name, connect_timeout_s=self.settings.connect_timeout
        )
