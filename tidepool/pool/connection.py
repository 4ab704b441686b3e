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
