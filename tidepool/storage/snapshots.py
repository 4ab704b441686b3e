"""The records of a process: the row of `pool_snapshots` that it writes at each tick, and its events."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Self
from uuid import UUID

from tidepool.pool.figures import empty_histogram

Histogram = list[int]
"""How many durations there were in each bucket; `tidepool.pool.figures.BOUNDS_US` are the buckets' bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Cumulative figures of one process: they only grow, so what happened in between is a subtraction.

    Durations are microseconds. These are the counters that verdicts and the page read; `Snapshot` has the others.
    """

    in_use_us: int
    """Time integral: two connections in use for a second are 2,000,000. So are the next two."""
    waiting_us: int
    saturated_us: int
    """The time in which at least one caller waited for a connection."""
    acquire_ok: int
    wait_us_sum: int
    wait_hist: Histogram
    hold_us_sum: int
    holding_us: int
    """A gauge: how long the present holders have had their connections, together. Its change is used as a counter's."""
    hold_hist: Histogram
    connections_opened: int
    connect_us_sum: int
    connect_refused: int
    connect_starting: int
    connect_too_many: int
    connect_timeouts: int
    connect_errors: int
    closed_lost_idle: int
    closed_lost_in_use: int
    database_restarts: int
    queries: int
    query_us_sum: int
    commits: int
    commit_us_sum: int
    batches: int
    batch_jobs: int
    batch_wait_us_sum: int
    cpu_us: int
    """CPU time of the process, user and system."""
    cpu_wait_us: int
    """Time in which the process was ready to run and waited for a CPU."""
    loop_block_hist: Histogram
    """The lags of the event loop, without the time in which the process waited for a CPU."""
    jobs_applied: int
    jobs_rejected: int
    jobs_failed: int

    def since(self, before: "Counters | None") -> "Counters":
        """Return what was added since *before*, or everything if there is no *before*."""
        if before is None:
            return self
        counts = [now - then for now, then in zip(_counts(self), _counts(before), strict=True)]
        histograms = [
            [now - then for now, then in zip(ours, theirs, strict=True)]
            for ours, theirs in zip(_histograms(self), _histograms(before), strict=True)
        ]
        return _counters(counts, histograms)

    @staticmethod
    def total(parts: Iterable["Counters"]) -> "Counters":
        """Return the sums of all counters and histograms of *parts*; zeros if there are no parts."""
        parts = list(parts)
        counts = [sum(column) for column in zip(_NO_COUNTS, *map(_counts, parts), strict=True)]
        histograms = [
            [sum(bucket) for bucket in zip(empty_histogram(), *column, strict=True)]
            for column in zip(_NO_HISTOGRAMS, *map(_histograms, parts), strict=True)
        ]
        return _counters(counts, histograms)


_COUNT_NAMES = tuple(one.name for one in fields(Counters) if one.type is int)
_HISTOGRAM_NAMES = tuple(one.name for one in fields(Counters) if one.type is Histogram)
_NO_COUNTS = [0] * len(_COUNT_NAMES)
_NO_HISTOGRAMS = [empty_histogram()] * len(_HISTOGRAM_NAMES)
_counts = attrgetter(*_COUNT_NAMES)
_histograms = attrgetter(*_HISTOGRAM_NAMES)


def _counters(counts: Iterable[int], histograms: Iterable[Histogram]) -> Counters:
    values: dict[str, Any] = {
        **dict(zip(_COUNT_NAMES, counts, strict=True)),
        **dict(zip(_HISTOGRAM_NAMES, histograms, strict=True)),
    }
    return Counters(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Counters):
    """The part of a snapshot that verdicts and the page read. A field is a column of the same name.

    Gauges are one moment's reading and need not add up.
    """

    instance_id: UUID
    """One start of one process."""
    tick: datetime
    """The multiple of the interval, by PostgreSQL's clock, that this row belongs to."""
    worker_id: str
    started_at: datetime
    captured_at: datetime
    max_size: int
    pool_limit: int
    """The connections that may be in use now: `max_size`, or the process's share of the server's connections."""
    callers: int
    """Max tasks that use the pool at a time; 0 if that is not known."""
    in_use: int
    waiting: int
    oldest_hold_us: int
    overdue_holders: int
    """Connections that have been held for longer than a transaction may take."""
    batch_pending: int
    """Jobs whose batch has not left the batcher."""
    queue_oldest_us: int | None
    """How long the oldest job has been due in Redis; None if Redis did not answer."""
    rss_bytes: int
    """The process's resident memory."""
    functions: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """By function: jobs applied, rejected, failed, and attempts to be retried. Empty if the query does not read it."""

    @classmethod
    def of(cls, row: Iterable[tuple[str, object]]) -> Self:
        """Return the reading of a row whose columns are exactly the fields; raises TypeError for others.

        A null is of a process of another version, which does not have that figure: it counts as 0, or as an empty
        histogram. So does a histogram with other buckets.
        """
        return cls(**{name: _value(name, value) for name, value in row})  # pyright: ignore[reportArgumentType]


_NULLABLE = ("queue_oldest_us",)


def _value(name: str, value: object) -> object:
    if name.endswith("_hist"):
        empty = empty_histogram()
        return value if isinstance(value, list) and len(value) == len(empty) else empty  # pyright: ignore[reportUnknownArgumentType]
    if name == "functions":
        return json.loads(value) if isinstance(value, str) else {}
    return 0 if value is None and name not in _NULLABLE else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Reading):
    """One process's figures at one tick: a row of `pool_snapshots`, whose columns are exactly these fields.

    The `_max` fields are peaks since the snapshot before; gauges and counters are as in `Reading`.
    """

    host: str
    pid: int
    written_at: datetime
    late: bool
    """Whether PostgreSQL was away when it should have been written."""
    min_size: int
    size: int
    idle: int
    in_use_max: int
    waiting_max: int
    acquire_requests: int
    acquire_waited: int
    acquire_timeouts: int
    acquire_cancelled: int
    acquire_rejected: int
    """Refused at once, because as many waited as may wait."""
    acquire_errors: int
    wait_us_max: int
    hold_us_max: int
    return_us_sum: int
    connect_us_max: int
    connections_closed: int
    closed_idle: int
    closed_used_up: int
    closed_surplus: int
    closed_shutdown: int
    query_errors: int
    query_hist: Histogram
    commit_us_max: int
    commit_hist: Histogram
    batch_wait_us_max: int
    batch_wait_hist: Histogram
    loop_lag_us_sum: int
    loop_lag_us_max: int
    loop_lag_count: int
    loop_lag_hist: Histogram
    queue_waiting: int | None
    """Jobs in Redis that no worker has claimed; None if Redis did not answer."""
    jobs_retried: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a process or its pool; *detail* is ready for JSON."""

    instance_id: UUID
    worker_id: str
    at: datetime
    kind: str
    detail: Mapping[str, object]
