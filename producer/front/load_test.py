"""The room of the load test: a bounded burst of generated jobs, and how fast they were enqueued."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from http import HTTPStatus
from itertools import islice
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from producer import workload
from producer.client import MOST_AT_ONCE, JobClient
from producer.front.problems import PROBLEM_SCHEMA, Problem
from producer.front.services import Using
from producer.submission import Submission

MOST_JOBS = 10_000

router = APIRouter(tags=["load test"])


class Burst(BaseModel):
    """What to generate; see `producer.workload`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    jobs: Annotated[int, Field(ge=1, le=MOST_JOBS)]
    mix: Annotated[dict[str, Annotated[int, Field(ge=0, le=999_999_999)]], Field(max_length=10)] = workload.DEFAULT_MIX
    """Shares of the kinds of jobs."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Generates the same jobs again, which are duplicates then; left out: a new one."""


class Enqueued(BaseModel):
    """What was enqueued, and how fast."""

    seed: int
    enqueued: int
    duplicates: int
    seconds: float
    jobs_per_second: float


@router.post("/load-test", responses={409: {"description": "A load test is under way", **PROBLEM_SCHEMA}})
async def load_test(burst: Burst, services: Using) -> Enqueued:
    """Enqueue a burst of generated jobs as fast as it goes; workers run them as any others. One at a time."""
    if services.load_test.locked():
        raise Problem(HTTPStatus.CONFLICT, "a load test is under way", code="under_way")
    async with services.load_test:
        seed = secrets.randbelow(2**31) if burst.seed is None else burst.seed
        try:
            jobs = workload.generate(burst.jobs, seed=seed, mix=burst.mix)
        except ValueError as error:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"mix: {error}", code="invalid") from None
        begun_s = time.perf_counter()
        enqueued = await _enqueue(services.client, jobs)
        seconds = time.perf_counter() - begun_s
    return Enqueued(
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
