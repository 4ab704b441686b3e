"""Defines the routes for the front's health, its Prometheus metrics, and the pools' statistics."""

import os
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import Header, Response
from fastapi.responses import JSONResponse
from pydantic_core import to_json

from tidepool.health.readiness import Condition
from tidepool.pool.figures import quantile_us
from tidepool.pool.pool import Pool
from tidepool.web.routing import Body, Router
from tidepool.web.services import Using

router = Router(tags=["health"])

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_HISTOGRAMS = ("wait_hist", "hold_hist", "query_hist", "commit_hist")


class _Ready(Body):
    """The response of `GET /health/ready`: whether all readiness checks passed, and the result of each."""

    ready: bool
    checks: dict[str, Condition]


HealthStatus = Literal["healthy", "unhealthy"]


class _DatabaseHealth(Body):
    """Whether PostgreSQL answers, and how fast.

    *response_time_ms* is how many milliseconds it took to get a connection of the pool and run one query.
    """

    status: HealthStatus
    response_time_ms: float


class _Health(Body):
    """The response of `GET /health`: `healthy` if all readiness checks pass.

    *reasons* has the failed checks, by name.
    """

    status: HealthStatus
    timestamp: datetime
    database: _DatabaseHealth
    pool: dict[str, int]
    reasons: dict[str, str]


class _PoolStatsResponse(Body):
    """The response of `GET /pool/stats`: figures of this process's pool since it started, and of the workers' pools.

    *error_rate* is the share of the queries that failed, from 0 to 1.

    `fleet` is about the workers, from their snapshots. It has `processes` and `minutes` (rows of the views
    `pool_health` and `fleet_health`), `budget` (of `db_snapshots`) and `groups`: what `python -m worker why` and
    `advise` say; null until they have been judged once.
    """

    runtime_seconds: float
    queries_executed: int
    queries_per_second: float
    errors: int
    error_rate: float
    connections_created: int
    connections_acquired: int
    connections_released: int
    process: dict[str, object]
    fleet: dict[str, object]


@router.get("/health", responses={503: {"model": _Health, "description": "Unhealthy; `reasons` has the failed checks"}})
async def _health(services: Using) -> _Health:
    """Return whether the front is healthy, how long PostgreSQL took to answer, and how full the pool is."""
    report = await services.readiness.look()
    postgresql = report.checks.get("postgresql")
    answer = _Health(
        status=_status(ok=report.ready),
        timestamp=datetime.now(UTC),
        database=_DatabaseHealth(
            status=_status(ok=postgresql is not None and postgresql.ok), response_time_ms=report.database_ms
        ),
        pool=services.pool_gauges(),
        reasons={name: check.reason for name, check in report.checks.items() if not check.ok},
    )
    status = HTTPStatus.OK if report.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(answer.model_dump(mode="json"), status)  # pyright: ignore[reportReturnType]


@router.get("/health/live")
async def _live() -> dict[str, bool]:
    """Return `{"alive": true}` as long as the process runs, also if PostgreSQL or Redis is away."""
    return {"alive": True}


@router.get("/health/ready", responses={503: {"model": _Ready, "description": "Not ready; `checks` says why"}})
async def _ready(services: Using) -> _Ready:
    """Return whether PostgreSQL, Redis, the migrations and the pool are as they should be."""
    report = await services.readiness.look()
    status = HTTPStatus.OK if report.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(report.document(), status)  # pyright: ignore[reportReturnType]  (FastAPI takes both)


@router.get("/pool/stats", response_model=_PoolStatsResponse)
async def _pool_stats(services: Using) -> Response:
    """Return the figures of this process's pool, and the fleet as it was within the last second."""
    fleet = await services.fleet.get()
    stats = {**services.totals(), "process": _figures(services.pool), "fleet": fleet}
    return Response(to_json(stats, inf_nan_mode="null"), media_type="application/json")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
)
async def _metrics(services: Using, accept: Annotated[str, Header()] = "") -> Response:
    """Return this process's figures for Prometheus: its pool's, and the requests by route and status."""
    text, content_type = services.metrics.recent(accept)
    return Response(text, headers={"Content-Type": content_type})


def _status(*, ok: bool) -> HealthStatus:
    return "healthy" if ok else "unhealthy"


def _figures(pool: Pool) -> dict[str, object]:
    """Return a pool's gauges, counters and sums by the names of `pool_snapshots`, and quantiles of its histograms."""
    pool.stats.move()
    figures = asdict(pool.stats)
    del figures["_changed_ns"]
    histograms = {name: figures.pop(name) for name in _HISTOGRAMS}
    holders = pool.holders()
    return {
        "pid": os.getpid(),
        "max_size": pool.config.max_size,
        "pool_limit": pool.limit,
        "size": pool.size,
        "idle": pool.idle,
        "oldest_hold_us": holders[0].us if holders else 0,
        **figures,
        **{name.replace("hist", "us"): _quantiles(histogram) for name, histogram in histograms.items()},
    }


def _quantiles(histogram: list[int]) -> dict[str, float | None]:
    return {name: quantile_us(histogram, share) for name, share in _QUANTILES.items()}
