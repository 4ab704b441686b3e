"""The part of an asyncpg connection that repositories use, typed by hand: asyncpg comes without types."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, LiteralString, Protocol


class Row(Protocol):
    """One row: columns by name or position."""

    def __getitem__(self, key: str | int, /) -> Any: ...
    def items(self) -> Iterator[tuple[str, Any]]: ...  # noqa: D102


class Connection(Protocol):
    """A connection. Query text is literal: nothing that a caller sent ever becomes SQL."""

    async def execute(self, query: LiteralString, *args: Any) -> str: ...  # noqa: D102
    async def fetch(self, query: LiteralString, *args: Any) -> list[Row]: ...  # noqa: D102
    async def fetchrow(self, query: LiteralString, *args: Any) -> Row | None: ...  # noqa: D102
    async def fetchval(self, query: LiteralString, *args: Any) -> Any: ...  # noqa: D102
    def transaction(self) -> AbstractAsyncContextManager[Any]: ...  # noqa: D102


class DirectConnection(Connection, Protocol):
    """A connection of one's own, outside the pool: its user ends it."""

    async def execute(  # noqa: D102
        self,
        query: LiteralString,
        *args: Any,
        timeout: float | None = None,  # noqa: ASYNC109  (the driver's own)
    ) -> str: ...
    def transaction(self, *, isolation: str | None = None) -> AbstractAsyncContextManager[Any]: ...  # noqa: D102
    def is_closed(self) -> bool: ...  # noqa: D102
    def terminate(self) -> None:
        """Cut it, without waiting for the server."""
        ...

    async def close(self) -> None:
        """Close it in the way that the protocol asks for."""
        ...
