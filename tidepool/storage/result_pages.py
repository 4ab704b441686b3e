"""The ledger's rows a page at a time, the newest first: for readers that go back through a million of them."""

from collections.abc import Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple, TypedDict, Unpack

from tidepool.pool.connection import Connection, Row
from tidepool.storage import queries
from tidepool.storage.results import row_as_dict

_SQL = queries.load("result_pages")
_MOST_LOOKED_AT = 100_000
"""Rows that one page looks through, where no index finds those that are meant: 30 to 60 ms. One on the function would
cost every job 3 us, of the 110 that it takes."""
_MOST_NOT_APPLIED = 10_000
"""The same of the rejected and failed ones, which lie far apart."""


MAX_PAGE_BYTES = 1024 * 1024
"""Max bytes of the results and errors of one page: it ends with the row that reaches them."""


class Key(NamedTuple):
    """Where a row stands in the order of the pages."""

    finished_at: datetime
    job_id: str


class Page(NamedTuple):
    """Rows, and the key before which the next page begins; None where there is none.

    A row has the columns of job_results but its arguments; `requeueable` says whether it has some to run again with. A
    result of more than 4 kB is null, and an error is cut after 2,000 characters.
    """

    rows: list[dict[str, Any]]
    next: Key | None


class Conditions(TypedDict, total=False):
    """Which rows are meant; what is left out, or None, is no condition."""

    status: str | None
    function: str | None
    since: datetime | None


class ResultPages:
    """Pages of the ledger, over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def page(self, *, before: Key | None, limit: int, **conditions: Unpack[Conditions]) -> Page:
        """Return up to *limit* rows from before a key.

        It may have fewer, or none, and yet have a next page: only so many rows are looked through in one go.
        """
        edge = await self._edge(before, conditions) if _has_any(conditions) else None
        values = (*_values(conditions, before, edge), limit + 1)
        return _page(await self._connection.fetch(_SQL["page"], *values), limit, edge)

    async def search(self, text: str, *, before: Key | None, limit: int, **conditions: Unpack[Conditions]) -> Page:
        """Return those of the rows whose id begins with *text*, or whose reason or error has it, in whatever case.

        The same goes for its length. Of ids that begin alike the first thousand are found.
        """
        edge = await self._edge(before, conditions, of_not_applied=True)
        values = (*_values(conditions, before, edge), limit + 1, text)
        by_id = await self._connection.fetch(_SQL["by_id"], *values)
        by_text = await self._connection.fetch(_SQL["by_text"], *values)
        found = {_key(row): row for row in (*by_id, *by_text)}
        return _page([found[key] for key in sorted(found, reverse=True)], limit, edge)

    async def _edge(
        self, before: Key | None, conditions: Conditions, *, of_not_applied: bool = False
    ) -> datetime | None:
        """Return how far back one page looks; None: as far as is asked for."""
        finished_at = before.finished_at if before else None
        if of_not_applied or conditions.get("status") in ("rejected", "failed"):
            edge = await self._connection.fetchval(_SQL["edge_of_not_applied"], finished_at, _MOST_NOT_APPLIED)
        else:
            edge = await self._connection.fetchval(_SQL["edge"], finished_at, _MOST_LOOKED_AT)
        since = conditions.get("since")
        return None if edge and since and edge <= since else edge


def _has_any(conditions: Conditions) -> bool:
    """Return whether there is a condition that may leave most rows out."""
    return any(conditions.get(name) is not None for name in ("status", "function"))


def _values(conditions: Conditions, before: Key | None, edge: datetime | None) -> tuple[Any, ...]:
    """Return what the queries have in common: $1 to $5."""
    since = edge or conditions.get("since")
    return conditions.get("status"), conditions.get("function"), since, *(before or (None, None))


def _page(found: Sequence[Row], limit: int, edge: datetime | None) -> Page:
    """Make a page of rows in their order, of which there is one too many if it is full."""
    fitting = min(limit, _fitting(found))
    rows = [row_as_dict(row) for row in found[:fitting]]
    if len(found) > fitting:
        return Page(rows, _key(found[fitting - 1]))
    return Page(rows, None if edge is None else Key(edge, ""))


def _fitting(found: Sequence[Row]) -> int:
    """Return how many rows one page has room for."""
    sizes = accumulate(len((row["result"] or "").encode()) + len((row["error"] or "").encode()) for row in found)
    return next((number for number, size in enumerate(sizes, 1) if size >= MAX_PAGE_BYTES), len(found))


def _key(row: Row) -> Key:
    return Key(row["finished_at"], row["job_id"])
