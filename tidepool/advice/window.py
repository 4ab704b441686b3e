"""Computes what connection pools did in a period, from stored snapshots: differences between them, and sums.

A process's counters are cumulative since it started, so rows may be missing, doubled or out of order, and a process may
start again: nothing is counted twice, and nothing becomes negative. Durations are microseconds unless a name says
otherwise.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby, pairwise
from typing import NamedTuple, Self

from tidepool.pool.figures import quantile_us
from tidepool.storage.snapshots import Counters, Reading


@dataclass(frozen=True)
class Tick:
    """The interval between two successive snapshots of one process, *before* and *now*, and what happened in it.

    *before* is None if *now* is the first snapshot since the process started.
    """

    before: Reading | None
    now: Reading

    @classmethod
    def pair(cls, readings: Iterable[Reading], *, since: datetime) -> list[Self]:
        """Return the intervals (ticks) between successive snapshots of each process; *readings* may be in any order.

        A process that started after *since* also gets an interval from its start to its first snapshot. For other
        processes the first snapshot is only the beginning of an interval.
        """
        unique = {(str(one.instance_id), one.tick): one for one in readings}
        ticks: list[Self] = []
        for _, of_one in groupby((unique[key] for key in sorted(unique)), key=lambda one: one.instance_id):
            own = list(of_one)
            if own[0].started_at >= since:
                ticks.append(cls(None, own[0]))
            ticks.extend(cls(before, now) for before, now in pairwise(own))
        return [tick for tick in ticks if tick.us > 0]

    @property
    def began_at(self) -> datetime:
        """When the interval began: the time of the snapshot before, or else the start of the process."""
        return self.before.captured_at if self.before else self.now.started_at

    @property
    def us(self) -> float:
        """The length of the interval between the two snapshots, in microseconds."""
        return (self.now.captured_at - self.began_at).total_seconds() * 1e6

    @cached_property
    def gained(self) -> Counters:
        """How much each counter of the process grew in the interval between the two snapshots."""
        return self.now.since(self.before)

    @property
    def utilisation(self) -> float:
        """Mean share (0 to 1) of the pool's allowed connections that were in use; 0 if none was allowed."""
        return ratio(self.gained.in_use_us, self.us * self.now.pool_limit) or 0.0

    @property
    def wait_p95_ms(self) -> float | None:
        """95th percentile, in milliseconds, of the waits for a connection of the pool; None if none was lent."""
        return _quantile_ms(self.gained.wait_hist, 0.95)


class _Setup(NamedTuple):
    """What processes must have in common for their figures to be added up."""

    max_size: int
    callers: int


class Window:
    """What a group of processes did in a period: the ticks of all of them, and sums and means over these ticks.

    A tick is the interval between two snapshots of one process. The processes have the same pool size and the same
    number of callers.
    """

    def __init__(self, ticks: Iterable[Tick]) -> None:
        self.ticks = list(ticks)
        self.us = sum(tick.us for tick in self.ticks)
        """The lengths of all ticks of all processes, added up, in microseconds."""

    @classmethod
    def groups(cls, ticks: Iterable[Tick]) -> list[Self]:
        """Group *ticks* by the setup of their processes, and return a window for each group.

        The setup is the max size of the pool and the number of callers. Figures of processes with different setups
        cannot be added up.
        """
        groups: dict[_Setup, list[Tick]] = {}
        for tick in ticks:
            groups.setdefault(_Setup(tick.now.max_size, tick.now.callers), []).append(tick)
        return [cls(groups[setup]) for setup in sorted(groups)]

    def only(self, predicate: Callable[[Tick], bool]) -> "Window":
        """Return a window with only those ticks (intervals between two snapshots) for which *predicate* is true."""
        return Window(tick for tick in self.ticks if predicate(tick))

    def parts(self, count: int) -> list["Window"]:
        """Split the window by time into *count* windows with about the same number of ticks.

        A tick is an interval between two snapshots. With fewer than *count* of them, some windows are empty.
        """
        times = sorted({tick.now.captured_at for tick in self.ticks})
        place = {at: n * count // len(times) for n, at in enumerate(times)}
        return [self.only(lambda tick, n=n: place[tick.now.captured_at] == n) for n in range(count)]

    @cached_property
    def gained(self) -> Counters:
        """How much each counter grew in the period, added up over all processes."""
        return Counters.total(tick.gained for tick in self.ticks)

    @property
    def newest(self) -> list[Reading]:
        """The last snapshot of each process."""
        return list({tick.now.instance_id: tick.now for tick in self.ticks}.values())

    @property
    def limit(self) -> int:
        """How many pool connections each process may use now: the lowest limit among the processes; 0 without ticks."""
        return min((reading.pool_limit for reading in self.newest), default=0)

    @property
    def utilisation(self) -> float | None:
        """Mean share (0 to 1) of the pools' allowed connections that were in use; None without any tick."""
        return ratio(self.gained.in_use_us, sum(tick.us * tick.now.pool_limit for tick in self.ticks))

    @property
    def in_use(self) -> float:
        """Mean number of connections that one process had in use."""
        return self.gained.in_use_us / max(self.us, 1)

    @property
    def hold_ms(self) -> float | None:
        """Mean time for which a connection was held, in milliseconds; None if none was lent."""
        return _ms(self.gained.in_use_us, self.gained.acquire_ok)

    @property
    def hold_p50_ms(self) -> float | None:
        """Median time for which a connection was held, in milliseconds; None if none was given back."""
        return _quantile_ms(self.gained.hold_hist, 0.5)

    @property
    def wait_p95_ms(self) -> float | None:
        """95th percentile of the waits for a connection, in milliseconds; None if none was lent."""
        return _quantile_ms(self.gained.wait_hist, 0.95)

    @property
    def loop_block_p99_ms(self) -> float | None:
        """99th percentile, in milliseconds, of how late the event loop ran because of the process's own code."""
        return _quantile_ms(self.gained.loop_block_hist, 0.99)

    @property
    def batch_wait_ms(self) -> float | None:
        """Mean time, in milliseconds, that a job waited for its batch to start; None if no batch started."""
        return _ms(self.gained.batch_wait_us_sum, self.gained.batch_jobs)

    @property
    def query_ms(self) -> float | None:
        """Mean duration of a query in milliseconds; None if there was none."""
        return _ms(self.gained.query_us_sum, self.gained.queries)

    @property
    def commit_ms(self) -> float | None:
        """Mean duration of a COMMIT in milliseconds; None if there was none."""
        return _ms(self.gained.commit_us_sum, self.gained.commits)


def _quantile_ms(histogram: list[int], share: float) -> float | None:
    """Return a quantile of a histogram in milliseconds: 0.95 for *share* returns the 95th percentile.

    None if the histogram is empty.
    """
    us = quantile_us(histogram, share)
    return None if us is None else us / 1000


def ratio(one: float | None, other: float | None) -> float | None:
    """Return *one* divided by *other*; None if either is not known, or *other* is 0."""
    return None if one is None or not other else one / other


def _ms(us: int, count: int) -> float | None:
    mean_us = ratio(us, count)
    return None if mean_us is None else mean_us / 1000
