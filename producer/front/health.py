"""The health room: whether the front lives and is ready, its figures, and those of the fleet's pools."""

import os
from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from pydantic_core import to_json

from producer.front.services import Using
from worker.db.figures import quantile_us
from worker.db.pool import Pool

router = APIRouter(tags=["health"])

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_HISTOGRAMS = ("wait_hist", "hold_hist", "query_hist")


class Alive(BaseModel):
    """Who answers at all is alive."""

    alive: bool = True


class Fact(BaseModel):
    """One fact, and the words to it."""

    ok: bool
    reason: str
    warning: str = ""


class Ready(BaseModel):
    """Whether all that the front needs is there."""

    ready: bool
    checks: dict[str, Fact]


class PoolStats(BaseModel):
    """The pools: of this process, since it started; and of the workers, out of their snapshots.

    `fleet` has `processes` and `minutes` (rows of the views `pool_health` and `fleet_health`), `budget` (of
    `db_snapshots`) and `groups`: what `python -m worker why` and `advise` say; null until they have been judged once.
    """

    process: dict[str, Any]
    fleet: dict[str, Any]


@router.get("/health/live")
async def live() -> Alive:
    """Answer while the front lives, whatever has become of its servers."""
    return Alive()


@router.get("/health/ready", responses={503: {"model": Ready, "description": "Not ready: the checks say why"}})
async def ready(services: Using) -> Ready:
    """Say whether PostgreSQL, Redis, the migrations and the pool are as they should be."""
    report = await services.readiness.look()
    status = HTTPStatus.OK if report.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse(report.document(), status)  # pyright: ignore[reportReturnType]  (FastAPI takes both)


@router.get("/pool/stats", response_model=PoolStats)
async def pool_stats(services: Using) -> Response:
    """Return the figures of this process's pool, and the fleet as it was within the last second."""
    stats = {"process": _figures(services.pool), "fleet": await services.fleet.get()}
    return Response(to_json(stats, inf_nan_mode="null"), media_type="application/json")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
)
async def metrics(services: Using, accept: Annotated[str, Header()] = "") -> Response:
    """Return this process's figures for Prometheus: its pool's, and the requests by route and status."""
    text, content_type = services.metrics.recent(accept)
    return Response(text, headers={"Content-Type": content_type})


def _figures(pool: Pool) -> dict[str, Any]:
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
