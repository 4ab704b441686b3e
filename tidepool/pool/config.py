"""The configuration of a pool, and how its connections are opened."""

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, cast

import asyncpg

from tidepool.pool.connection import DirectConnection, Row
from tidepool.pool.faults import Refused, ServerError, Unavailable, translated
from tidepool.protocols import POSTGRESQL, other_than
from tidepool.repeating import RetryPolicy
from tidepool.urls import PostgresUrl, without_password

T = TypeVar("T")

_NAME_BYTES = 63
"""Max bytes of an application name. PostgreSQL cuts a longer one, and warns."""
_CONFLICTS = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_MAX_ATTEMPTS = 8
"""How often a statement is tried that conflicts each time. The delays between the tries add up to about a second."""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """The configuration of a connection pool. Durations are seconds; each field is the setting of the same name.

    No search_path is set: SQL of an application runs with that of its role or database, and SQL of the library names
    the schema.
    """

    url: str = field(repr=False)
    application_name: str
    schema: str = "tidepool"
    """The schema of the library's tables (DB_SCHEMA)."""
    min_size: int = 1
    max_size: int = 4
    max_queries: int = 50_000
    max_inactive_time_s: float = 300.0
    acquire_timeout_s: float = 10.0
    command_timeout_s: float = 10.0
    connect_timeout_s: float = 5.0
    transaction_timeout_s: float = 20.0
    max_waiting: int = 10_000

    async def connect(self, purpose: str) -> DirectConnection:
        """Open a connection outside the pool, which the caller has to close. Raises `Unavailable` and `Refused`.

        The connection's application name in PostgreSQL is the pool's, with a colon and the *purpose* behind it.
        """
        options = self._connect_options(f"{self.application_name}:{purpose}")
        async with translated(connecting=True):
            return cast("DirectConnection", await asyncpg.connect(**options))

    async def until_available(self, attempt: Callable[[], Awaitable[T]], patience_s: float | None) -> T:
        """Call *attempt*, which uses this PostgreSQL server, and return its result; retry while it is unavailable.

        Raises the last `Unavailable` after *patience_s* seconds; None waits for ever. Raises `Refused` at once, also if
        another kind of server answers at `url`.
        """

        async def tried() -> T:
            try:
                return await attempt()
            except Unavailable as error:
                if not isinstance(error.__cause__, ServerError):
                    await self._require_postgresql()
                raise

        return await RetryPolicy.for_start(patience_s).reach(
            "postgresql", without_password(self.url), tried, lambda error: isinstance(error, Unavailable)
        )

    async def _require_postgresql(self) -> None:
        """Raise `Refused` if `url` has a single host and the server there speaks another protocol than PostgreSQL's."""
        parsed = PostgresUrl.parse(self.url)
        if len(parsed.hosts) != 1:
            return
        host, port = parsed.hosts[0], (parsed.ports or (5432,))[0]
        address = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        if said := await other_than(POSTGRESQL, address):
            raise Refused(said)

    def driver_options(self, limit: int) -> dict[str, Any]:
        """Return the keyword arguments for `asyncpg.create_pool`, so that it opens max *limit* connections at first."""
        return {
            "min_size": min(self.min_size, 1),  # what asyncpg opens anew whatever the limit is
            "init_size": min(self.min_size, limit),
            "max_size": self.max_size,
            "max_queries": self.max_queries,
            "max_inactive_connection_lifetime": self.max_inactive_time_s,
            "reset": _nothing_to_reset,
            **self._connect_options(self.application_name),
        }

    def _connect_options(self, application_name: str) -> dict[str, Any]:
        """Return the keyword arguments that every connection is opened with.

        The server's statement timeout is 90 % of the driver's command timeout. So the server cancels a slow statement,
        and the driver's timeout means that the server does not answer at all.
        """
        statement_timeout_ms = int(self.command_timeout_s * 900)
        return {
            "connection_class": _Session.in_schema(self.schema),
            "timeout": self.connect_timeout_s,
            **PostgresUrl.parse(self.url).driver_arguments(),
            "command_timeout": self.command_timeout_s,
            "server_settings": {
                "application_name": application_name[:_NAME_BYTES],
                "timezone": "UTC",
                "statement_timeout": str(statement_timeout_ms),
                "idle_in_transaction_session_timeout": str(statement_timeout_ms),
                "jit": "off",  # never pays for statements this short, and slows the first one of a connection
            },
        }


async def _nothing_to_reset(_connection: object) -> None:
    """Do nothing when a connection is given back, which saves a round trip per checkout.

    No session state is set that would have to be reset, and asyncpg rolls back by itself.
    """


class _Session(asyncpg.Connection):
    """asyncpg's connection class, which also retries a conflicting statement if no transaction is open.

    A conflict is a serialization failure or a deadlock with another transaction. A statement without an open
    transaction is a transaction of its own, which the conflict has rolled back. In a database whose default isolation
    level is `serializable`, any read may conflict. After eight tries the last error is raised. A COMMIT that conflicts
    is never retried: the transaction is over then, and the second COMMIT would succeed without it.
    """

    schema: str
    """The schema of the library's tables. `in_schema` sets it."""

    @classmethod
    @functools.cache
    def in_schema(cls, schema: str) -> type[Self]:
        """Return this class for connections whose `schema` is *schema*; the same class for equal names."""
        return cast("type[Self]", type(cls.__name__, (cls,), {"schema": schema}))

    async def execute(self, query: str, *args: object, **options: object) -> str:
        """Run *query* and return its command tag, such as `UPDATE 1`, as asyncpg does. Retries conflicts."""
        return await self._repeated(super().execute, query, *args, **options)

    async def fetch(self, query: str, *args: object, **options: object) -> list[Row]:
        """Run *query* and return its rows, as asyncpg does. Retries conflicts."""
        return await self._repeated(super().fetch, query, *args, **options)

    async def fetchrow(self, query: str, *args: object, **options: object) -> Row | None:
        """Run *query* and return its first row or None, as asyncpg does. Retries conflicts."""
        return await self._repeated(super().fetchrow, query, *args, **options)

    async def fetchval(self, query: str, *args: object, **options: object) -> Any:
        """Run *query* and return the first column of its first row, as asyncpg does. Retries conflicts."""
        return await self._repeated(super().fetchval, query, *args, **options)

    async def _repeated(self, statement: Callable[..., Awaitable[T]], *args: object, **options: object) -> T:
        if self.is_in_transaction():
            return await statement(*args, **options)
        for conflicts in range(1, _MAX_ATTEMPTS):
            try:
                return await statement(*args, **options)
            except _CONFLICTS:
                await asyncio.sleep(random.uniform(0, 0.01 * 2**conflicts))
        return await statement(*args, **options)
