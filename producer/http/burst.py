"""Load tests over HTTP: enqueue up to 10,000 generated jobs, or run up to 100 concurrent queries."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from itertools import islice
from typing import Annotated

from fastapi import Query
from pydantic import ConfigDict, Field

from producer.workload import DEFAULT_MIX, Workload
from tidepool import MOST_AT_ONCE, DatabaseFault, JobClient, Submission
from tidepool.web import PROBLEM_SCHEMA, Body, Problem, Router, Services, Using

MOST_JOBS = 10_000
MAX_ITERATIONS = 100

router = Router(tags=["load test"])


class _Burst(Body):
    """The body of `POST /load-test`: which jobs `producer.workload` generates."""

    model_config = ConfigDict(extra="forbid", strict=True)

    jobs: Annotated[int, Field(ge=1, le=MOST_JOBS)]
    mix: Annotated[dict[str, Annotated[int, Field(ge=0, le=999_999_999)]], Field(max_length=10)] = DEFAULT_MIX
    """The share of each job type among the jobs."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Seed of the generated jobs (default random). A seed that was used before gives the same jobs: duplicates."""


class _Enqueued(Body):
    """The response of `POST /load-test`: the number of jobs enqueued, and how fast. *seconds* is the time it took."""

    seed: int
    enqueued: int
    duplicates: int
    seconds: float
    jobs_per_second: float


class _Queried(Body):
    """The response of `GET /load-test`: the number of database queries that succeeded, and how fast.

    *failed* counts queries that got no connection or no answer; *duration* is in seconds.
    """

    iterations: int
    successful: int
    failed: int
    duration: float
    queries_per_second: float
    pool_stats: dict[str, int]


_UNDER_WAY: dict[int | str, dict[str, object]] = {409: {"description": "A load test is under way", **PROBLEM_SCHEMA}}


@router.get("/load-test", responses=_UNDER_WAY)
async def _query_load_test(
    services: Using,
    iterations: Annotated[int, Query(ge=1, le=MAX_ITERATIONS, description="Queries to run at the same time.")] = 10,
) -> _Queried:
    """Run *iterations* concurrent `SELECT 1` queries through the connection pool of this HTTP front.

    Only one load test runs at a time; a second request gets status 409.
    """
    async with _alone(services):
        began_s = time.perf_counter()
        results = await asyncio.gather(*(_query(services) for _ in range(iterations)))
        seconds = time.perf_counter() - began_s
    return _Queried(
        iterations=iterations,
        successful=sum(results),
        failed=iterations - sum(results),
        duration=round(seconds, 6),
        queries_per_second=round(sum(results) / seconds, 1),
        pool_stats=services.pool_gauges(),
    )


async def _query(services: Services) -> bool:
    """Run `SELECT 1` through the pool; return whether it succeeded."""
    try:
        await services.pool.check()
    except DatabaseFault:
        return False
    return True


@asynccontextmanager
async def _alone(services: Services) -> AsyncGenerator[None]:
    """Hold the lock that allows only one load test at a time. Raises `Problem` (status 409) if one is under way."""
    if services.load_test.locked():
        raise Problem(HTTPStatus.CONFLICT, "a load test is under way", code="under_way")
    async with services.load_test:
        yield


@router.post("/load-test", responses=_UNDER_WAY)
async def _load_test(burst: _Burst, services: Using) -> _Enqueued:
    """Enqueue generated jobs as fast as possible. Workers run them like any other jobs.

    Only one load test runs at a time; a second request gets status 409.
    """
    async with _alone(services):
        seed = secrets.randbelow(2**31) if burst.seed is None else burst.seed
        try:
            jobs = islice(Workload(seed, burst.mix), burst.jobs)
        except ValueError as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"mix: {error}", code="invalid") from None
        begun_s = time.perf_counter()
        enqueued = await _enqueue(services.client, jobs)
        seconds = time.perf_counter() - begun_s
    return _Enqueued(
        seed=seed,
        enqueued=enqueued,
        duplicates=burst.jobs - enqueued,
        seconds=round(seconds, 3),
        jobs_per_second=round(enqueued / seconds, 1),
    )


async def _enqueue(client: JobClient, jobs: Iterator[Submission]) -> int:
    enqueued = 0
    while chunk := list(islice(jobs, MOST_AT_ONCE)):
        enqueued += sum(await client.enqueue_many(chunk))
        await asyncio.sleep(0)  # other requests have their turn
    return enqueued
