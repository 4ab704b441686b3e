"""Exports the process's metrics to Prometheus: current values, and counters since the process started.

The counters are those of the snapshots; reading them resets nothing. A metric that OpenTelemetry's semantic conventions
name (`db.client`) has that name; the others begin with `tidepool`. Names are translated as OpenTelemetry's own exporter
does: `_` for a dot, then the unit, `_total` for a counter. CPU, memory and open files have the names that all
Prometheus clients use.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tidepool.health.loop_lag import LoopLag
from tidepool.ledger.batcher import Tally
from tidepool.pool.figures import BOUNDS_US, PoolStats
from tidepool.pool.watched import WatchedPool

_POOL_LABEL = "db.client.connection.pool.name"
_POOL_NAME = "tidepool"
_CACHED_S = 1.0
"""Seconds for which a rendered text is cached: rendering takes a few milliseconds of the event loop."""
_BOUNDS_S = (*(floatToGoString(us / 1e6) for us in BOUNDS_US), "+Inf")


class Metrics(Collector):
    """Collects the Prometheus metrics of one process. Call its methods in the thread of the event loop.

    *pool* is None in a process whose pool is not known. *tally* counts jobs and batches; it is None in a process that
    runs no jobs. *beside* are further collectors, whose metrics are added.
    """

    def __init__(
        self,
        pool: WatchedPool | None,
        tally: Tally | None,
        lag: LoopLag,
        *,
        beside: Sequence[Collector] = (),
    ) -> None:
        self._pool = pool
        self._tally = tally
        self._lag = lag
        self._recent: dict[str, tuple[float, bytes]] = {}
        self._registry = CollectorRegistry()
        for collector in (self, *beside):
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics as encoded text for a response, and the content type of this text.

        The format is OpenMetrics if the Accept header *accept* asks for that, else Prometheus's text format.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def recent(self, accept: str = "") -> tuple[bytes, str]:
        """Return the text and content type of `render`, cached for one second for each content type."""
        _, content_type = choose_encoder(accept)
        made_s, text = self._recent.get(content_type, (-_CACHED_S, b""))
        if time.monotonic() - made_s >= _CACHED_S:
            text, _ = self.render(accept)
            self._recent[content_type] = (time.monotonic(), text)
        return text, content_type

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its current value. Peaks that the next snapshot reports are not reset by this."""
        if self._pool is not None:
            self._pool.stats.move()
            yield from _connections(self._pool)
            yield from _durations(self._pool.stats)
            yield from _acquires(self._pool)
            yield from _trouble(self._pool.stats)
        if self._tally is not None:
            yield _jobs(self._tally)
            yield _retries(self._tally)
            yield _batch_waits(self._tally)
        lag = HistogramMetricFamily(
            "tidepool_loop_lag", "By how much the event loop ran a probe too late, ten times a second.", unit="seconds"
        )
        lag.add_metric([], _buckets(self._lag.histogram), self._lag.us_sum / 1e6)
        yield lag


def _jobs(tally: Tally) -> Metric:
    jobs = CounterMetricFamily("tidepool_jobs", "Jobs that ended in this process.", labels=["outcome"])
    for outcome in ("applied", "rejected", "failed"):
        jobs.add_metric([outcome], getattr(tally, outcome))
    return jobs


def _batch_waits(tally: Tally) -> Metric:
    waits = HistogramMetricFamily(
        "tidepool_batch_wait", "Jobs, from being taken until their batch left the batcher.", unit="seconds"
    )
    waits.add_metric([], _buckets(tally.batch_wait_hist), tally.batch_wait_us_sum / 1e6)
    return waits


def _retries(tally: Tally) -> Metric:
    """Return the attempts that did not end a job, by function; functions without a job type are counted together."""
    retries = CounterMetricFamily("tidepool_job_retries", "Tries that are to be repeated.", labels=["function"])
    for function in sorted({*tally.known, *tally.functions}):
        *_, retried = tally.functions.get(function, (0,))
        retries.add_metric([function], retried)
    return retries


def _connections(pool: WatchedPool) -> Iterator[Metric]:
    states = {"idle": pool.idle, "used": pool.size - pool.idle}
    yield _gauge("db.client.connection.count", "Open connections.", states, by="db.client.connection.state")
    yield _gauge("db.client.connection.idle.min", "Connections kept open.", pool.min_size)
    yield _gauge("db.client.connection.idle.max", "Connections that may be open and idle.", pool.max_size)
    yield _gauge("db.client.connection.max", "Connections that may be open.", pool.max_size)
    yield _gauge("tidepool.pool.limit", "Connections that may be in use at a time.", pool.limit)
    yield _gauge("db.client.connection.pending_requests", "Who waits for a connection.", pool.stats.waiting)


def _durations(stats: PoolStats) -> Iterator[Metric]:
    yield _histogram("db.client.connection.wait_time", "Waiting for a turn.", stats.wait_hist, stats.wait_us_sum)
    yield _histogram("db.client.connection.use_time", "Borrowed to given back.", stats.hold_hist, stats.hold_us_sum)
    yield _histogram("tidepool.pool.query_time", "Queries.", stats.query_hist, stats.query_us_sum)
    yield _histogram("tidepool.pool.commit_time", "COMMITs.", stats.commit_hist, stats.commit_us_sum)
    yield _summary("db.client.connection.create_time", "Opening one.", stats.connections_opened, stats.connect_us_sum)


def _acquires(pool: WatchedPool) -> Iterator[Metric]:
    stats = pool.stats
    outcomes = {
        "ok": stats.acquire_ok,
        "timeout": stats.acquire_timeouts,
        "cancelled": stats.acquire_cancelled,
        "rejected": stats.acquire_rejected,
        "error": stats.acquire_errors,
    }
    yield _counter("tidepool.pool.acquires", "Requests for a connection that have ended.", outcomes, by="outcome")
    yield _counter("db.client.connection.timeouts", "Requests that waited too long.", stats.acquire_timeouts)
    yield _seconds("tidepool.pool.in_use_time", "Connections in use, over time.", stats.in_use_us)
    yield _seconds("tidepool.pool.waiting_time", "Requests waiting, over time.", stats.waiting_us)
    yield _seconds("tidepool.pool.saturated_time", "Time in which a request waited.", stats.saturated_us)
    oldest_us = max((holder.us for holder in pool.holders()), default=0)
    yield _gauge("tidepool.pool.oldest_hold", "The longest present use.", oldest_us / 1e6, unit="seconds")


def _trouble(stats: PoolStats) -> Iterator[Metric]:
    failed = _by_reason(stats, "connect_")
    yield _counter("tidepool.pool.connect_errors", "Connections not opened.", failed, by="reason")
    closed = _by_reason(stats, "closed_")
    yield _counter("tidepool.pool.connections_closed", "Connections that ended.", closed, by="reason")
    yield _counter("tidepool.pool.query_errors", "Queries that failed.", stats.query_errors)
    yield _counter("tidepool.pool.database_restarts", "Starts of the server, seen.", stats.database_restarts)


def _by_reason(stats: PoolStats, prefix: str) -> dict[str, int]:
    """Return the counters whose names begin with *prefix*, except durations. The keys are the rest of the name."""
    names = [field.name for field in fields(stats) if field.name.startswith(prefix) and "_us_" not in field.name]
    return {name.removeprefix(prefix): getattr(stats, name) for name in names}


def _gauge(
    name: str, text: str, values: float | Mapping[str, float], *, by: str | None = None, unit: str = ""
) -> Metric:
    return _filled(GaugeMetricFamily(_translated(name), text, labels=_labels(by), unit=unit), values)


def _counter(
    name: str, text: str, values: float | Mapping[str, float], *, by: str | None = None, unit: str = ""
) -> Metric:
    return _filled(CounterMetricFamily(_translated(name), text, labels=_labels(by), unit=unit), values)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, values: float | Mapping[str, float]) -> Metric:
    """Add the one value, or each value with its label."""
    if isinstance(values, Mapping):
        for label, value in values.items():
            family.add_metric([_POOL_NAME, label], value)
    else:
        family.add_metric([_POOL_NAME], values)
    return family


def _seconds(name: str, text: str, us: int) -> Metric:
    return _counter(name, text, us / 1e6, unit="seconds")


def _histogram(name: str, text: str, counts: Sequence[int], us_sum: int) -> Metric:
    family = HistogramMetricFamily(_translated(name), text, labels=_labels(), unit="seconds")
    family.add_metric([_POOL_NAME], _buckets(counts), us_sum / 1e6)
    return family


def _buckets(counts: Sequence[int]) -> list[tuple[str, int]]:
    """Return cumulative buckets, as Prometheus counts: each duration also in all larger buckets."""
    return list(zip(_BOUNDS_S, accumulate(counts), strict=True))


def _summary(name: str, text: str, count: int, us_sum: int) -> Metric:
    family = SummaryMetricFamily(_translated(name), text, labels=_labels(), unit="seconds")
    family.add_metric([_POOL_NAME], count, us_sum / 1e6)
    return family


def _labels(by: str | None = None) -> list[str]:
    return [_translated(label) for label in (_POOL_LABEL, by) if label]


def _translated(name: str) -> str:
    return name.replace(".", "_")
