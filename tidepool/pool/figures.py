"""Counters, gauges and histograms of one process's connection pool since the pool was opened.

Counters, sums and histograms only grow. So what happened between two readings is their difference, and a lost reading
loses nothing; histograms of several processes can be added. Durations are microseconds. Gauges are one moment's
readings and need not add up. Names that end with `_max` are peaks since the last call of `PoolStats.figures`.
"""

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

BOUNDS_US = tuple(
    int(ms * 1000) for ms in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)
)
"""The upper bounds of a histogram's buckets, inclusive, in microseconds. One more bucket counts everything longer."""


def quantile_us(histogram: Sequence[int], share: float) -> float | None:
    """Return a quantile of a histogram in microseconds; with a *share* of 0.95 it is the 95th percentile.

    It is interpolated linearly within its bucket. Durations beyond the last bound count as that bound. Returns None for
    an empty histogram. The SQL function `histogram_quantile_ms` computes the same in milliseconds.
    """
    wanted, up_to = share * sum(histogram), 0
    for count, low, high in zip(histogram, (0, *BOUNDS_US), (*BOUNDS_US, BOUNDS_US[-1]), strict=True):
        up_to += count
        if count and up_to >= wanted:
            return low + (high - low) * (wanted - (up_to - count)) / count
    return None


def empty_histogram() -> list[int]:
    """Return a new histogram of durations: a list of counts, one for each bucket, all zero."""
    return [0] * (len(BOUNDS_US) + 1)


@dataclass(slots=True)
class PoolStats:
    """The counters, gauges and histograms of a pool; each field is a column of the table `pool_snapshots`."""

    in_use: int = 0
    in_use_max: int = 0
    waiting: int = 0
    waiting_max: int = 0
    in_use_us: int = 0
    """Time integral of `in_use`, in microseconds: two connections in use for one second add 2,000,000."""
    waiting_us: int = 0
    """Time integral of `waiting`, in microseconds: two callers that wait for one second add 2,000,000."""
    saturated_us: int = 0
    """Microseconds in which at least one caller waited for a connection."""
    acquire_requests: int = 0
    acquire_waited: int = 0
    acquire_ok: int = 0
    acquire_timeouts: int = 0
    acquire_cancelled: int = 0
    acquire_rejected: int = 0
    """Requests that were refused at once, because the max number of callers waited already."""
    acquire_errors: int = 0
    wait_us_sum: int = 0
    """Microseconds that callers waited until it was their turn; the time to open a connection is not included."""
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
    """Failed attempts to open a connection that none of the four counters above counts."""
    connections_closed: int = 0
    closed_idle: int = 0
    """Connections closed because they were idle for the configured max time."""
    closed_used_up: int = 0
    """Connections closed after the configured max number of queries."""
    closed_lost_idle: int = 0
    """Connections that the server or the network ended while they were idle."""
    closed_lost_in_use: int = 0
    closed_surplus: int = 0
    """Connections closed because the pool's limit was lowered."""
    closed_shutdown: int = 0
    database_restarts: int = 0
    """Restarts of the server that were noticed, because a new connection reported a new start time."""
    queries: int = 0
    query_errors: int = 0
    query_us_sum: int = 0
    query_hist: list[int] = field(default_factory=empty_histogram)
    commits: int = 0
    """Successful COMMITs of transactions. They are counted in `queries`, too."""
    commit_us_sum: int = 0
    commit_us_max: int = 0
    commit_hist: list[int] = field(default_factory=empty_histogram)
    _changed_ns: int = field(default_factory=time.perf_counter_ns, repr=False, compare=False)

    def move(self, *, in_use: int = 0, waiting: int = 0, now_ns: int | None = None) -> None:
        """Change the gauges `in_use` and `waiting` (connections in use, waiting callers) by the given differences.

        Before that, the time integrals of the two gauges are brought up to date. A caller that has just read
        `time.perf_counter_ns` passes its value as *now_ns*. A call without arguments only updates the integrals; use it
        before reading single fields. (`figures` updates them itself, but also resets the peaks.)
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
        """Count a successful wait of *us* microseconds for a connection; 0 if there was no wait."""
        self.wait_us_sum += us
        self.wait_us_max = max(self.wait_us_max, us)
        self.wait_hist[bisect_left(BOUNDS_US, us)] += 1

    def held(self, us: int) -> None:
        """Count a connection that is given back after it was checked out for *us* microseconds."""
        self.hold_us_sum += us
        self.hold_us_max = max(self.hold_us_max, us)
        self.hold_hist[bisect_left(BOUNDS_US, us)] += 1

    def connected(self, us: int) -> None:
        """Count a connection that was opened, which took *us* microseconds."""
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
        """Return every figure by name, and reset the peaks: a gauge's peak to its present value, other peaks to 0."""
        self.move()
        figures = asdict(self)
        del figures["_changed_ns"]
        self.in_use_max, self.waiting_max = self.in_use, self.waiting
        self.wait_us_max = self.hold_us_max = self.connect_us_max = self.commit_us_max = 0
        return figures
