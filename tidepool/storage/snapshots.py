"""Types for the figures that a process records every few seconds, of itself and of the database server, and for events.

A snapshot of a process is a row of `pool_snapshots`, one of the server is a row of `db_snapshots`. A tick is the time
that a snapshot is for: a multiple of the snapshot interval (default 5 s) by PostgreSQL's clock.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter
from typing import Any, Self
from uuid import UUID

from tidepool.pool.figures import empty_histogram

Histogram = list[int]
"""A histogram of durations: their number in each bucket. `tidepool.pool.figures.BOUNDS_US` has the buckets' bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Counters of one process since its start, such as queries and commits.

    They only grow, so what happened between two readings is their difference. Durations are microseconds. These are the
    counters that the advice about pools and the operators' page use; `Snapshot` has the others.
    """

    in_use_us: int
    """Time integral of `in_use`: two connections in use for one second add 2,000,000."""
    waiting_us: int
    """Time integral of `waiting`: two callers that wait for one second add 2,000,000."""
    saturated_us: int
    """The time in which at least one caller waited for a connection."""
    acquire_ok: int
    wait_us_sum: int
    wait_hist: Histogram
    hold_us_sum: int
    holding_us: int
    """How long the present holders have had their connections, added up: a gauge, whose change is used, too."""
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
    """Histogram of the event loop's lags, without the time in which the process waited for a CPU."""
    jobs_applied: int
    jobs_rejected: int
    jobs_failed: int

    def since(self, before: "Counters | None") -> "Counters":
        """Return how much each counter has grown since the earlier reading *before*.

        If *before* is None, the counters themselves are returned.
        """
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
        """Return the sum of the readings *parts*, counter by counter and bucket by bucket; zeros if there are none."""
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
    """The figures of a process at one time, as read from a row of `pool_snapshots`, for judging pools and for the page.

    Fields are the columns of the same name; other columns are left out. Gauges, such as `in_use`, are one moment's
    readings and need not add up.
    """

    instance_id: UUID
    """Identifies one start of one process; each start has a new id."""
    tick: datetime
    """The time that this row stands for: a multiple of the snapshot interval by PostgreSQL's clock."""
    worker_id: str
    started_at: datetime
    captured_at: datetime
    max_size: int
    pool_limit: int
    """Max connections of the pool now: `max_size`, or the process's share of the server's if that is less."""
    callers: int
    """Max number of tasks that use the pool at a time; 0 if that is not known."""
    in_use: int
    waiting: int
    oldest_hold_us: int
    overdue_holders: int
    """Number of connections that have been checked out for longer than a transaction may take."""
    batch_pending: int
    """Number of jobs that wait in the batcher for their batch to start."""
    queue_oldest_us: int | None
    """How long the oldest waiting job in Redis has been due; None if Redis did not answer."""
    rss_bytes: int
    """The process's resident memory."""
    functions: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """By function: jobs applied, rejected, failed, and attempts to be retried. Empty if the query does not read it."""

    @classmethod
    def of(cls, row: Iterable[tuple[str, object]]) -> Self:
        """Make an object from a row of `pool_snapshots`, given as pairs of column and value.

        A null comes from a process of another version, which does not have that figure: it becomes 0 or an empty
        histogram. A histogram with other buckets becomes an empty one. Raises `TypeError` if a column is missing or is
        no field.
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
    """All figures of one process at one time: a row of `pool_snapshots`, whose columns are exactly these fields.

    The `_max` fields are peaks since the snapshot before; gauges and counters are as in `Reading`.
    """

    host: str
    pid: int
    written_at: datetime
    late: bool
    """Whether the row was written later than its tick, because PostgreSQL was away."""
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
    """Requests that were refused at once, because the max number of callers waited already."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConnections:
    """The connection limits of the PostgreSQL server, and how many connections workers and other programs have.

    Only one process stores them at each tick (time of a snapshot), as a part of a row of `db_snapshots`.
    """

    max_connections: int
    reserved_connections: int
    role_limit: int | None
    """The connection limit of this process's role; None if it has none of its own."""
    database_limit: int | None
    backends: int
    """The number of client connections, in all databases."""
    backends_of_workers: int
    backends_orphaned: int
    """The number of connections of workers that are not live any more."""
    workers: int
    granted: int
    """The number of connections that all workers together have been granted or have open."""
    usable: int
    """The max number of connections that all workers together may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReading(ServerConnections):
    """The state of the PostgreSQL server at one time: the columns of a row of `db_snapshots` that advice and page use.

    *active* and *waiting_lock* count sessions of this database: those that run a statement, and of these the ones that
    wait for a lock.
    """

    tick: datetime
    active: int
    waiting_lock: int


@dataclass(frozen=True, slots=True)
class Event:
    """A noteworthy event in a process or its pool, such as a leaked connection: a row of the table `pool_events`.

    *kind* names the event, and *detail* has values that can become JSON.
    """

    instance_id: UUID
    worker_id: str
    at: datetime
    kind: str
    detail: Mapping[str, object]
