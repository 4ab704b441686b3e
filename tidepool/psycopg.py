"""Executes statements in the transaction of a psycopg connection. Imported only where an application uses psycopg."""

import re
from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus

_NUMBERED = re.compile(r"\$(\d)")


async def execute(holder: object, statement: str, values: Sequence[object]) -> None:
    """Execute *statement*, whose parameters are `$1` to `$9`, with *values* on *holder*, an `AsyncConnection`.

    Raises `RuntimeError` if it is in no transaction and begins none by itself, `TypeError` if it is something else.
    """
    if not isinstance(holder, AsyncConnection):
        raise TypeError(f"needs a psycopg.AsyncConnection, not {type(holder).__name__}")
    await holder.execute(*_prepared(holder, statement, values))


def execute_now(holder: object, statement: str, values: Sequence[object]) -> None:
    """Do as `execute` for a `Connection`, without asyncio."""
    if not isinstance(holder, Connection):
        raise TypeError(f"needs a psycopg.Connection, not {type(holder).__name__}")
    holder.execute(*_prepared(holder, statement, values))


def _prepared(
    connection: Connection[Any] | AsyncConnection[Any], statement: str, values: Sequence[object]
) -> tuple[bytes, dict[str, object]]:
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise RuntimeError(
            "the connection is in no transaction, so the job would be enqueued whatever happens next: "
            "use `with connection.transaction():`, or turn autocommit off"
        )
    named = _NUMBERED.sub(r"%(p\1)s", statement.replace("%", "%%"))
    return named.encode(), {f"p{number}": value for number, value in enumerate(values, 1)}
