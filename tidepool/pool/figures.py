"""The figures of one process's pool since it was opened.

Counters, sums and histograms only grow, so that any window is a subtraction and a lost row loses nothing;
histograms of several processes can be added. Durations are microseconds. Gauges are one moment's reading
and need not add up. The `_max` peaks are of the time since `PoolStats.figures` was last called.
"""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

BOUNDS_US = tuple(
    int(ms * 1000) for ms in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
)
"""The upper bounds of a histogram's buckets, which include them; one more bucket is for everything longer."""


def quantile_us(histogram: Sequence[int], share: float) -> float | None:
    """Return the *share* quantile of a histogram, read along a straight line within its bucket; None of an empty one.

    What is beyond the last bound counts as that bound. The SQL function `histogram_quantile_ms` reads as this does.
    """
    wanted, up_to = share * sum(histogram), 0
    for count, low, high in zip(histogram, (0, *BOUNDS_US), (*BOUNDS_US, BOUNDS_US[-1]), strict=True):
        up_to += count
        if count and up_to >= wanted:
            return low + (high - low) * (wanted - (up_to - count)) / count
    return None


def empty_histogram() -> list[int]:
    """Return a histogram without entries."""
    return [0] * (len(BOUNDS_US) + 1)


@dataclass(slots=True)
class PoolStats:
    """The figures; each is a column of `pool_snapshots`."""

    in_use: int = 0
    in_use_max: int = 0
    waiting: int = 0
    waiting_max: int = 0
    in_use_us: int = 0
    """Time integral: two connections in use for a second are 2,000,000. So are the next two."""
    waiting_us: int = 0
    saturated_us: int = 0
    """How long somebody waited, and so every connection was taken."""
    acquire_requests: int = 0
    acquire_waited: int = 0
    acquire_ok: int = 0
    acquire_timeouts: int = 0
    acquire_cancelled: int = 0
    acquire_rejected: int = 0
    """Refused at once, because as many waited as may wait."""
    acquire_errors: int = 0
    wait_us_sum: int = 0
    """Of waiting for one's turn only; connecting is apart."""
    wait_us_max: int = 0
    wait_hist: list[int] = field(default_factory=empty_histogram)
    hold_us_sum: int = 0
    hold_us_max: int = 0
    hold_hist: list[int] = field(default_factory=empty_histogram)
    return_us_sum: int = 0
    connections_opened: int = 0
    connect_us_sum: int = 0
    connect_us_max: int = 0
    connect_refused: int = 0
    connect_starting: int = 0
    connect_too_many: int = 0
    connect_timeouts: int = 0
    connect_errors: int = 0
    """Errors of any other kind."""
    connections_closed: int = 0
    closed_idle: int = 0
    """Not used for as long as the setting says."""
    closed_used_up: int = 0
    """After as many queries as the setting says."""
    closed_lost_idle: int = 0
    """By the server or the network, while nobody used it."""
    closed_lost_in_use: int = 0
    closed_surplus: int = 0
    """One too many, since the limit was lowered."""
    closed_shutdown: int = 0
    database_restarts: int = 0
    """Seen: a new connection told of another start of the server."""
    queries: int = 0
    query_errors: int = 0
    query_us_sum: int = 0
    query_hist: list[int] = field(default_factory=empty_histogram)
    commits: int = 0
    """Of transactions; queries, too."""
    commit_us_sum: int = 0
    commit_us_max: int = 0
    commit_hist: list[int] = field(default_factory=empty_histogram)
    _changed_ns: int = field(default_factory=time.perf_counter_ns, repr=False, compare=False)

    def move(self, *, in_use: int = 0, waiting: int = 0, now_ns: int | None = None) -> None:
        """Add to the gauges `in_use` and `waiting`, and the time since their last change to the integrals.

        *now_ns* is the clock's reading, of a caller that has just read it. Without a change the integrals are
        brought up to now, and no peak begins anew: for a reader beside `figures`.
        """
        now_ns = now_ns or time.perf_counter_ns()
        passed_us = (now_ns - self._changed_ns) // 1000
        self._changed_ns += passed_us * 1000  # what is left of a microsecond counts the next time
        self.in_use_us += self.in_use * passed_us
        if self.waiting:
            self.waiting_us += self.waiting * passed_us
            self.saturated_us += passed_us
        self.in_use += in_use
        self.waiting += waiting
        if in_use > 0:
            self.in_use_max = max(self.in_use_max, self.in_use)
        if waiting > 0:
            self.waiting_max = max(self.waiting_max, self.waiting)

    def waited(self, us: int) -> None:
        """Count a successful wait for a connection, in microseconds; 0 if there was no wait."""
        self.wait_us_sum += us
        self.wait_us_max = max(self.wait_us_max, us)
        self.wait_hist[bisect_left(BOUNDS_US, us)] += 1

    def held(self, us: int) -> None:
        """Count a connection's use that has ended."""
        self.hold_us_sum += us
        self.hold_us_max = max(self.hold_us_max, us)
        self.hold_hist[bisect_left(BOUNDS_US, us)] += 1

    def connected(self, us: int) -> None:
        """Count a connection that was opened."""
        self.connections_opened += 1
        self.connect_us_sum += us
        self.connect_us_max = max(self.connect_us_max, us)

    def queried(self, us: int, *, failed: bool) -> None:
        """Count a query and its duration in microseconds."""
        self.queries += 1
        self.query_errors += failed
        self.query_us_sum += us
        self.query_hist[bisect_left(BOUNDS_US, us)] += 1

    def committed(self, us: int) -> None:
        """Count a successful COMMIT and its duration in microseconds."""
        self.commits += 1
        self.commit_us_sum += us
        self.commit_us_max = max(self.commit_us_max, us)
        self.commit_hist[bisect_left(BOUNDS_US, us)] += 1

    def figures(self) -> dict[str, Any]:
        """Return every figure by name, and begin new peaks at the present readings."""
        self.move()
        figures = asdict(self)
        del figures["_changed_ns"]
        self.in_use_max, self.waiting_max = self.in_use, self.waiting
        self.wait_us_max = self.hold_us_max = self.connect_us_max = self.commit_us_max = 0
        return figures
