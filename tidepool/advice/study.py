"""Reads from the database what a verdict is made of."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from tidepool.advice.verdict import Study
from tidepool.advice.window import Row, groups_of, ticks_of
from tidepool.pool.connection import Connection
from tidepool.storage.repositories import Repositories

MOST_ROWS = 360
"""Of one process, in a window and the same time before it: a longer one is read at a lower resolution."""
_PEAK_OF = timedelta(days=7)


async def read_studies(
    connection: Connection, *, since: datetime, until: datetime, most_rows: int = MOST_ROWS
) -> list[Study]:
    """Return a study for each group of processes that are set up alike, of those that are live at its end.

    With fewer than *most_rows* of each process it costs less, and sees less of what is short.
    """
    repositories = Repositories(connection)
    before = since - (until - since)
    rows = await repositories.snapshots.window(before, (until - before) / most_rows, until=until)
    peak = await repositories.snapshots.peak(until - _PEAK_OF)
    server = await repositories.server.window(since)
    return studies_of(rows, server, since=since, until=until, peak=peak)


def studies_of(
    rows: Sequence[Row], server: Sequence[Row], *, since: datetime, until: datetime, peak: int
) -> list[Study]:
    """Return a study for each group of processes out of the rows of both tables."""
    before = since - (until - since)
    studies: list[Study] = []
    for group in groups_of(ticks_of((row for row in rows if row["tick"] <= until), since=before)):
        window = group.only(lambda tick: tick.began_at >= since)
        if window.ticks:
            studies.append(
                Study(
                    window=window,
                    before=group.only(lambda tick: tick.now["captured_at"] <= since),
                    database=server,
                    since=since,
                    until=until,
                    peak=min(peak, window.newest[0]["max_size"]),
                    budget=_budget(server),
                )
            )
    return studies


def _budget(server: Sequence[Row]) -> int | None:
    """Return the pool size that the server can give to each worker: its share without the connection beside."""
    if not server:
        return None
    newest = server[-1]
    return max(1, newest["usable"] // max(newest["workers"], 1) - 1)
