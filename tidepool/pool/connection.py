"""Types of the parts of an asyncpg connection that are used here, since asyncpg comes without types."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, LiteralString, Protocol


class Row(Protocol):
    """A row of a query's result. Its columns are read by name or by position."""

    def __getitem__(self, key: str | int, /) -> Any: ...
    def items(self) -> Iterator[tuple[str, Any]]: ...  # noqa: D102


class Connection(Protocol):
    """A connection to PostgreSQL. Queries are literal strings, so input never becomes SQL text."""

    @property
    def schema(self) -> str:
        """The schema of the library's tables in this connection's database (DB_SCHEMA)."""
        ...

    async def execute(self, query: LiteralString, *args: object) -> str: ...  # noqa: D102
    async def fetch(self, query: LiteralString, *args: object) -> list[Row]: ...  # noqa: D102
    async def fetchrow(self, query: LiteralString, *args: object) -> Row | None: ...  # noqa: D102
    async def fetchval(self, query: LiteralString, *args: object) -> Any: ...  # noqa: D102
    def transaction(self) -> AbstractAsyncContextManager[object]: ...  # noqa: D102


class DirectConnection(Connection, Protocol):
    """A connection that its user has opened outside the pool, and must close with `close` or `terminate`.

    The pool uses this type for its own connections, too.
    """

    async def execute(  # noqa: D102
        self,
        query: LiteralString,
        *args: object,
        timeout: float | None = None,  # noqa: ASYNC109  (the driver's own)
    ) -> str: ...
    def transaction(self, *, isolation: str | None = None) -> AbstractAsyncContextManager[object]: ...  # noqa: D102
    def is_closed(self) -> bool: ...  # noqa: D102
    def get_server_pid(self) -> int: ...  # noqa: D102
    def get_server_version(self) -> tuple[int, ...]: ...  # noqa: D102
    def terminate(self) -> None:
        """Close the connection at once, without waiting for the server."""
        ...

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  (the driver's own)
        """Close the connection gracefully, and wait for that for up to *timeout* seconds (None: without limit)."""
        ...
