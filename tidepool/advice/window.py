"""What pools did over a stretch of time, out of stored snapshots: gains between a process's rows, and their sums.

Counters are cumulative per start of a process, so rows may be missing, doubled or out of order, and a
process may start again: nothing is counted twice, and nothing becomes negative. Durations are microseconds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from itertools import groupby, pairwise
from typing import Any

from tidepool.pool.figures import BOUNDS_US, quantile_us

Row = Mapping[str, Any]
"""A row of `pool_snapshots`; a figure that a worker of an older version did not have is None."""


@dataclass(frozen=True, slots=True)
class Tick:
    """One process between two of its rows; *before* is None for the first one since its start."""

    before: Row | None
    now: Row

    @property
    def began_at(self) -> datetime:
        """When it began."""
        return self.before["captured_at"] if self.before else self.now["started_at"]

    @property
    def us(self) -> float:
        """How long it is."""
        return (self.now["captured_at"] - self.began_at).total_seconds() * 1e6

    def gain(self, name: str) -> int:
        """Return what a counter, or a gauge, gained."""
        return _count(self.now, name) - _count(self.before, name)

    def histogram(self, name: str) -> list[int]:
        """Return what each bucket of a histogram gained."""
        now, before = _buckets(self.now, name), _buckets(self.before, name)
        return [n - b for n, b in zip(now, before, strict=True)]

    @property
    def busy(self) -> float:
        """The share of the connections it was allowed that were in use, on average."""
        return self.gain("in_use_us") / (self.us * self.now["pool_limit"])


class Window:
    """Ticks of processes that are set up alike, summed up."""

    def __init__(self, ticks: Iterable[Tick]) -> None:
        self.ticks = list(ticks)
        self.us = sum(tick.us for tick in self.ticks)
        """Time of all processes together."""

    def only(self, which: Callable[[Tick], bool]) -> "Window":
        """Return some of it."""
        return Window(tick for tick in self.ticks if which(tick))

    def total(self, *names: str) -> int:
        """Return what these counters gained together."""
        return sum(tick.gain(name) for tick in self.ticks for name in names)

    def histogram(self, name: str) -> list[int]:
        """Return a histogram of the window alone."""
        return reduce(_added, (tick.histogram(name) for tick in self.ticks), [0] * (len(BOUNDS_US) + 1))

    def parts(self, count: int) -> list["Window"]:
        """Cut it by time into so many parts of as many ticks, where there are enough."""
        times = sorted({tick.now["captured_at"] for tick in self.ticks})
        place = {at: n * count // len(times) for n, at in enumerate(times)}
        return [self.only(lambda tick, n=n: place[tick.now["captured_at"]] == n) for n in range(count)]

    def quantile_ms(self, name: str, share: float) -> float | None:
        """Return a quantile of such a histogram, None of an empty one."""
        us = quantile_us(self.histogram(name), share)
        return None if us is None else us / 1000

    def peak(self, name: str) -> int:
        """Return the highest reading of a gauge or peak."""
        return max((tick.now[name] or 0 for tick in self.ticks), default=0)

    @property
    def newest(self) -> list[Row]:
        """The last row of each process."""
        return list({tick.now["instance_id"]: tick.now for tick in self.ticks}.values())

    @property
    def served(self) -> int:
        """How often a connection was lent."""
        return self.total("acquire_ok")

    @property
    def in_use(self) -> float:
        """Connections in use, on average for one process."""
        return self.total("in_use_us") / self.us

    @property
    def hold_ms(self) -> float | None:
        """How long a connection was held, on average."""
        return self.total("in_use_us") / self.served / 1000 if self.served else None

    @property
    def batch_wait_ms(self) -> float | None:
        """How long a job waited for its batch to leave the batcher, on average; None where no batch left."""
        jobs = self.total("batch_jobs")
        return self.total("batch_wait_us_sum") / jobs / 1000 if jobs else None

    @property
    def query_ms(self) -> float | None:
        """How long a query took, on average."""
        queries = self.total("queries")
        return self.total("query_us_sum") / queries / 1000 if queries else None

    @property
    def limit(self) -> int:
        """What a process may have in use now: the least of what the processes may."""
        return min(row["pool_limit"] for row in self.newest)


def ticks_of(rows: Iterable[Row], *, since: datetime) -> list[Tick]:
    """Pair the rows of each process, in whatever order they come.

    A process's first row has no tick of its own, but is where the next one begins; unless the process
    started after *since*, so that all that it has counted belongs here. Rows of the first version, which
    lack most figures, are left out.
    """
    unique = {(str(row["instance_id"]), row["tick"]): row for row in rows if row["pool_limit"] is not None}
    ticks: list[Tick] = []
    for _, of_one in groupby((unique[key] for key in sorted(unique)), key=lambda row: row["instance_id"]):
        own: Sequence[Row] = list(of_one)
        if own[0]["started_at"] >= since:
            ticks.append(Tick(None, own[0]))
        ticks.extend(Tick(before, now) for before, now in pairwise(own))
    return [tick for tick in ticks if tick.us > 0]


def groups_of(ticks: Iterable[Tick]) -> list[Window]:
    """Sort ticks by how their pools are set up: only processes that are alike can be summed up."""
    groups: dict[Any, list[Tick]] = {}
    for tick in ticks:
        groups.setdefault((tick.now["max_size"], tick.now["callers"]), []).append(tick)
    return [Window(groups[key]) for key in sorted(groups, key=str)]


def _count(row: Row | None, name: str) -> int:
    return (row[name] or 0) if row else 0


def _buckets(row: Row | None, name: str) -> list[int]:
    """Return a row's histogram; one with other bounds, of another version, counts as none."""
    buckets: list[int] = (row[name] if row else None) or []
    return buckets if len(buckets) == len(BOUNDS_US) + 1 else [0] * (len(BOUNDS_US) + 1)


def _added(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]
