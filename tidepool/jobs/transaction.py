"""The open transaction that a job's handler works in."""

import functools
import re
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

from tidepool.jobs.outcomes import HandlerError
from tidepool.pool.connection import Connection, Row
from tidepool.pool.faults import Conflict, DatabaseFault, Unavailable

T = TypeVar("T")

_QUOTED = re.compile(
    r"""--[^\n]*|/\*.*?\*/|\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"[^"]*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$""",
    re.DOTALL,
)
"""Comments and quoted text: what is in them is no statement."""
_STATEMENT = re.compile(
    r"(?:\A|;)\s*(?:"
    r"(?P<ends>commit|end|abort|begin|start\s+transaction|prepare\s+transaction|rollback(?!(?:\s+(?:work|transaction))?\s+to\b))"
    r"|(?P<outlasts>set(?!\s+(?:local|transaction|constraints)\b)|reset|listen|unlisten|discard)"
    r")\b",
    re.IGNORECASE,
)
"""Matches the beginning of a statement that no job may run."""


class Transaction:
    """The open transaction of a job, on an asyncpg connection; the job's ledger row is committed with it.

    The methods are those of asyncpg's connection, except what would end the transaction, change the session or use the
    connection after the job: COMMIT and ROLLBACK, `SET` without LOCAL, LISTEN. They raise `RuntimeError` after the job
    has ended. `async with transaction.transaction():` makes a savepoint. Errors are asyncpg's own.
    """

    __slots__ = ("_connection", "_error", "attempt", "job_id")

    def __init__(self, connection: Connection, job_id: str = "", attempt: int = 1) -> None:
        self._connection: Any = connection
        self._error: Exception | None = None
        """The last error of a statement."""
        self.job_id = job_id
        """The id of the job; empty in a batch, whose jobs have one each."""
        self.attempt = attempt
        """The number of this attempt at the job, from 1; in a batch 1."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Take the connection away. An error of the block that is not one of the transaction becomes `HandlerError`.

        The application may use other servers, whose errors look the same.
        """
        self._connection = None
        if error is self._error or not isinstance(error, Exception) or isinstance(error, (HandlerError, DatabaseFault)):
            return
        if self._error is not None and self._error in chain(error):
            fault = DatabaseFault.of(self._error)
            if isinstance(fault, (Unavailable, Conflict)):
                raise fault from error  # the application's own error says only what follows from it
        raise HandlerError.of(error) from error

    @property
    def schema(self) -> str:
        """The schema of the library's tables in this database."""
        return self._open().schema

    def is_in_transaction(self) -> bool:
        """Return True, as asyncpg's method does for a connection in a transaction; False after the job."""
        return self._connection is not None

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109
        """Run *query*, and return its command tag, such as `UPDATE 1`. *timeout* is in seconds, as in the driver."""
        return await self._noting(self._allowed(query).execute(query, *args, timeout=timeout))

    async def executemany(self, query: str, args: Iterable[Sequence[object]]) -> None:
        """Run *query* once for each element of *args*."""
        await self._noting(self._allowed(query).executemany(query, args))

    async def fetch(self, query: str, *args: object, timeout: float | None = None) -> list[Row]:  # noqa: ASYNC109
        """Run *query*, and return its rows."""
        return await self._noting(self._allowed(query).fetch(query, *args, timeout=timeout))

    async def fetchrow(self, query: str, *args: object, timeout: float | None = None) -> Row | None:  # noqa: ASYNC109
        """Run *query*, and return its first row, or None."""
        return await self._noting(self._allowed(query).fetchrow(query, *args, timeout=timeout))

    async def fetchval(self, query: str, *args: object, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Run *query*, and return the first column of its first row, or None."""
        return await self._noting(self._allowed(query).fetchval(query, *args, timeout=timeout))

    async def copy_records_to_table(self, table: str, *, records: Iterable[Sequence[object]], **options: Any) -> str:
        """Insert *records* into a table with COPY, as asyncpg does; return the command tag."""
        return await self._noting(self._open().copy_records_to_table(table, records=records, **options))

    def cursor(self, query: str, *args: object, **options: Any) -> Any:
        """Return asyncpg's cursor over the rows of *query*."""
        return self._allowed(query).cursor(query, *args, **options)

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Return a context manager for a part that is rolled back alone if it raises an error: a savepoint."""
        return self._open().transaction()

    async def _noting(self, statement: Awaitable[T]) -> T:
        try:
            return await statement
        except Exception as error:
            self._error = error
            raise

    def _open(self) -> Any:
        if self._connection is None:
            raise RuntimeError("the job has ended, and its transaction cannot be used any more")
        return self._connection

    def _allowed(self, query: str) -> Any:
        """Return the connection. Raises `RuntimeError` if the job has ended, or if *query* is not for a job."""
        if (reason := fault_of(query)) is not None:
            raise RuntimeError(reason)
        return self._open()


@functools.lru_cache(maxsize=1024)
def fault_of(query: str) -> str | None:
    """Return why a job may not run *query*; None if it may."""
    found = _STATEMENT.search(_QUOTED.sub(" ", query))
    if found is None:
        return None
    words = " ".join(found[0].lstrip(";").split()).upper()
    if found["ends"]:
        return f"{words}: a job's transaction is committed with its ledger row, or rolled back if it raises an error"
    return f"{words}: the connection is used by other jobs after this one; SET LOCAL holds for the job's transaction"


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors from which *error* was raised."""
    earlier = error.__cause__ or error.__context__
    while earlier is not None:
        yield earlier
        earlier = earlier.__cause__ or earlier.__context__
