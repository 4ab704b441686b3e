"""The figures in Prometheus's two text formats, read back by Prometheus's own parsers."""

from itertools import accumulate
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from tidepool.health.loop_lag import LoopLag
from tidepool.health.metrics import Metrics
from tidepool.ledger.batcher import Tally
from tidepool.pool.config import PoolConfig
from tidepool.pool.figures import BOUNDS_US
from tidepool.pool.pool import Pool

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
POOL = {"db_client_connection_pool_name": "tidepool"}
KINDS = {
    "db_client_connection_count": "gauge",
    "db_client_connection_idle_min": "gauge",
    "db_client_connection_idle_max": "gauge",
    "db_client_connection_max": "gauge",
    "db_client_connection_pending_requests": "gauge",
    "db_client_connection_timeouts": "counter",
    "db_client_connection_create_time_seconds": "summary",
    "db_client_connection_wait_time_seconds": "histogram",
    "db_client_connection_use_time_seconds": "histogram",
    "tidepool_pool_query_time_seconds": "histogram",
    "tidepool_pool_limit": "gauge",
    "tidepool_pool_acquires": "counter",
    "tidepool_pool_in_use_time_seconds": "counter",
    "tidepool_pool_waiting_time_seconds": "counter",
    "tidepool_pool_saturated_time_seconds": "counter",
    "tidepool_pool_oldest_hold_seconds": "gauge",
    "tidepool_pool_connect_errors": "counter",
    "tidepool_pool_connections_closed": "counter",
    "tidepool_pool_query_errors": "counter",
    "tidepool_pool_database_restarts": "counter",
    "tidepool_jobs": "counter",
    "tidepool_job_retries": "counter",
    "tidepool_pool_commit_time_seconds": "histogram",
    "tidepool_batch_wait_seconds": "histogram",
    "tidepool_loop_lag_seconds": "histogram",
}


@pytest.fixture
async def pool() -> Pool:
    """Give a pool that was never opened: its figures are what a test makes them."""
    return Pool(PoolConfig(url="postgresql://nowhere", application_name="t", min_size=1, max_size=4))


def families(metrics: Metrics, accept: str = "") -> dict[str, Metric]:
    """Return what a reader finds, by name."""
    text, _ = metrics.render(accept)
    parse = parse_openmetrics if accept else parse_prometheus
    return {family.name: family for family in parse(text.decode())}


def values(metrics: Metrics, sample: str, label: str | None = None) -> dict[str | None, float]:
    """Return a sample's values by that label, or by None the only one."""
    found = [s for family in families(metrics).values() for s in family.samples if s.name == sample]
    return {s.labels[label] if label else None: s.value for s in found}


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
async def test_the_names_and_kinds_are_pinned(pool: Pool, accept: str) -> None:
    """Dashboards and alerts are made of them. The process's own are those of every Prometheus client."""
    found = {name: family.type for name, family in families(Metrics(pool, Tally(), LoopLag()), accept).items()}
    assert KINDS == {name: kind for name, kind in found.items() if not name.startswith("process_")}
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_start_time_seconds"} < set(found)


async def test_durations_are_seconds_and_say_so(pool: Pool) -> None:
    """In the name, and where the format has a place for a unit, there."""
    units = {name: family.unit for name, family in families(Metrics(pool, Tally(), LoopLag()), OPENMETRICS).items()}
    assert all(units[name] == ("seconds" if name.endswith("_seconds") else "") for name in KINDS)


async def test_the_format_is_the_one_that_the_reader_names(pool: Pool) -> None:
    """Prometheus asks for OpenMetrics first; a reader that asks for nothing gets the older format."""
    metrics = Metrics(pool, Tally(), LoopLag())
    assert "text/plain" in metrics.render()[1]
    text, content_type = metrics.render(f"{OPENMETRICS};q=0.8,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


async def test_every_figure_of_the_pool_has_its_label(pool: Pool) -> None:
    """OpenTelemetry's; the same on ours, so that one can be divided by the other."""
    found = families(Metrics(pool, Tally(), LoopLag()))
    of_the_pool = [family for name, family in found.items() if name.startswith(("db_client", "tidepool_pool"))]
    assert all(POOL.items() <= sample.labels.items() for family in of_the_pool for sample in family.samples)


@pytest.mark.parametrize(
    ("name", "count", "hist", "sum_us"),
    [
        ("db_client_connection_wait_time_seconds", "waited", "wait_hist", "wait_us_sum"),
        ("db_client_connection_use_time_seconds", "held", "hold_hist", "hold_us_sum"),
        ("tidepool_pool_query_time_seconds", "queried", "query_hist", "query_us_sum"),
    ],
)
async def test_a_histogram_has_our_bounds_in_seconds(pool: Pool, name: str, count: str, hist: str, sum_us: str) -> None:
    """Buckets add up from the left, the last one is the count, and the sum is ours."""
    for us in (0, 100, 101, 40_000, 30_000_001):
        getattr(pool.stats, count)(us, **({"failed": False} if count == "queried" else {}))
    metrics = Metrics(pool, Tally(), LoopLag())
    buckets: dict[Any, float] = values(metrics, f"{name}_bucket", "le")
    assert [*(us / 1e6 for us in BOUNDS_US), float("inf")] == [float(bound) for bound in buckets]
    assert list(accumulate(getattr(pool.stats, hist))) == list(buckets.values())
    assert ({None: 5}, {None: getattr(pool.stats, sum_us) / 1e6}) == (
        values(metrics, f"{name}_count"),
        values(metrics, f"{name}_sum"),
    )


async def test_sums_and_counters_are_those_of_the_stats(pool: Pool) -> None:
    """By outcome and reason; microseconds become seconds."""
    stats = pool.stats
    stats.connected(1_500_000)
    stats.connected(500_000)
    stats.acquire_ok, stats.acquire_timeouts, stats.acquire_cancelled = 7, 3, 2
    stats.connect_refused, stats.closed_idle, stats.closed_lost_in_use = 4, 5, 6
    stats.query_errors, stats.database_restarts = 8, 9
    lag = LoopLag()
    for _ in range(5):
        lag._add(50_000)
    metrics = Metrics(pool, Tally(applied=11, rejected=12, failed=13), lag)
    create_time = "db_client_connection_create_time_seconds"
    assert ({None: 2}, {None: 2.0}) == (values(metrics, f"{create_time}_count"), values(metrics, f"{create_time}_sum"))
    assert {None: 3} == values(metrics, "db_client_connection_timeouts_total")
    assert {"ok": 7, "timeout": 3, "cancelled": 2, "rejected": 0, "error": 0} == values(
        metrics, "tidepool_pool_acquires_total", "outcome"
    )
    refused = {"refused": 4, "starting": 0, "too_many": 0, "timeouts": 0, "errors": 0}
    assert refused == values(metrics, "tidepool_pool_connect_errors_total", "reason")
    closed = values(metrics, "tidepool_pool_connections_closed_total", "reason")
    assert {"idle": 5, "lost_in_use": 6, "used_up": 0, "lost_idle": 0, "shutdown": 0}.items() <= closed.items()
    assert {None: 8} == values(metrics, "tidepool_pool_query_errors_total")
    assert {None: 9} == values(metrics, "tidepool_pool_database_restarts_total")
    assert {"applied": 11, "rejected": 12, "failed": 13} == values(metrics, "tidepool_jobs_total", "outcome")
    assert {None: 0.25} == values(metrics, "tidepool_loop_lag_seconds_sum")
    assert {None: 5} == values(metrics, "tidepool_loop_lag_seconds_count")


async def test_gauges_are_the_present_readings(pool: Pool) -> None:
    """What the pool has, may have, and who waits."""
    pool.limit = 3
    pool.stats.move(waiting=6)
    metrics = Metrics(pool, Tally(), LoopLag())
    assert {"idle": 0, "used": 0} == values(metrics, "db_client_connection_count", "db_client_connection_state")
    read = ("db_client_connection_idle_min", "db_client_connection_max", "db_client_connection_pending_requests")
    assert [1, 4, 6] == [values(metrics, name)[None] for name in read]
    assert {None: 3} == values(metrics, "tidepool_pool_limit")


async def test_integrals_go_on_until_now(pool: Pool) -> None:
    """A jam of a minute is seen while it lasts, not when it ends."""
    stats = pool.stats
    stats.move(in_use=4, waiting=2)
    stats._changed_ns -= 60_000_000_000
    metrics = Metrics(pool, Tally(), LoopLag())
    for name, least_s in (("saturated", 60), ("waiting", 120), ("in_use", 240)):
        assert values(metrics, f"tidepool_pool_{name}_time_seconds_total")[None] >= least_s


async def test_reading_leaves_the_peaks_to_the_snapshots(pool: Pool) -> None:
    """They are of the time since the last row; another reader must not take them."""
    stats, lag = pool.stats, LoopLag()
    stats.move(in_use=4, waiting=9)
    stats.move(in_use=-4, waiting=-9)
    stats.waited(5)
    stats.held(6)
    stats.connected(7)
    lag._add(8)
    Metrics(pool, Tally(), lag).render()
    peaks = ("in_use_max", "waiting_max", "wait_us_max", "hold_us_max", "connect_us_max")
    assert [4, 9, 5, 6, 7, 8] == [*(getattr(stats, name) for name in peaks), lag.us_max]
