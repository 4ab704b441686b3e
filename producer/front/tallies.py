"""Outcomes of the last minutes by function, counted in the ledger as they come.

A look reads the stretches that are over since the last one, and the one before again, as a row becomes visible a
moment after its `finished_at`. So it costs what has happened since, however long the ledger is; and where more has
happened than a look may read, what lies before is left out rather than guessed.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from worker.db.overview import Overview

SPAN = timedelta(minutes=5)
STRETCH = timedelta(seconds=2)
_MOST_ROWS = 40_000
_MOST_FUNCTIONS = 8
_MOST_LETTERS = 60
OTHERS = "(others)"
"""Whoever enqueues may invent functions: those beyond the most frequent are summed up."""
STATUSES = ("applied", "rejected", "failed")

_EPOCH = datetime.fromtimestamp(0, UTC)


class Tallies:
    """The counts; *most_rows* bounds a look."""

    def __init__(self, *, most_rows: int = _MOST_ROWS) -> None:
        self._most_rows = most_rows
        self._counts: dict[datetime, Counter[tuple[str, str]]] = {}
        self._known_from: datetime | None = None
        self._counted_to: datetime | None = None

    async def look(self, overview: Overview, now: datetime) -> None:
        """Count what has come, where a stretch is over since the last look. Raises as the query does."""
        begin, until = floor(now - SPAN, STRETCH), floor(now, STRETCH)
        if self._counted_to is not None and until <= self._counted_to:
            return
        since = begin if self._counted_to is None else max(begin, self._counted_to - STRETCH)
        rows = await overview.tallies(since, until, STRETCH, limit=self._most_rows)
        known_from = max(self._known_from or since, begin)
        if sum(row["jobs"] for row in rows) >= self._most_rows:
            known_from = rows[0]["at"] + STRETCH
        self._counts = {at: counts for at, counts in self._counts.items() if known_from <= at < since}
        for row in rows:
            if row["at"] >= known_from:
                counts = self._counts.setdefault(row["at"], Counter())
                counts[row["function"][:_MOST_LETTERS], row["status"]] += row["jobs"]
        self._counted_to, self._known_from = until, known_from

    def told(self, now: datetime) -> dict[str, Any]:
        """Return `times` (Unix seconds), and `functions`: jobs a second by function and status at each of them.

        Only stretches that are over are told. `jobs` has the counts in all of them.
        """
        end = floor(now, STRETCH)
        begin = self._known_from or end
        times = [begin + n * STRETCH for n in range(int((end - begin) / STRETCH))]
        names = self._names()
        counts: dict[str, dict[str, list[int]]] = {
            name: {status: [0] * len(times) for status in STATUSES} for name in {*names.values()}
        }
        for n, at in enumerate(times):
            for (function, status), jobs in self._counts.get(at, Counter[tuple[str, str]]()).items():
                counts[names[function]][status][n] += jobs
        return {
            "times": [at.timestamp() for at in times],
            "functions": [_function(name, counts[name]) for name in sorted(counts)],
        }

    def _names(self) -> dict[str, str]:
        """Return what each function is called: most of them by their own names."""
        totals = Counter[str]()
        for counts in self._counts.values():
            for (function, _), jobs in counts.items():
                totals[function] += jobs
        own = {function for function, _ in totals.most_common(_MOST_FUNCTIONS)}
        return {function: function if function in own else OTHERS for function in totals}


def _function(name: str, counts: dict[str, list[int]]) -> dict[str, Any]:
    seconds = STRETCH.total_seconds()
    return {
        "function": name,
        "jobs": {status: sum(of_each) for status, of_each in counts.items()},
        "rates": {status: [count / seconds for count in of_each] for status, of_each in counts.items()},
    }


def floor(at: datetime, stretch: timedelta) -> datetime:
    """Return the beginning of the stretch that *at* is in, counted from 1970."""
    return _EPOCH + (at - _EPOCH) // stretch * stretch
