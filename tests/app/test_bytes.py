"""Bytes are bounded, not only jobs: what a worker and Redis need for jobs of a megabyte, and for larger ones."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from commands import Service
from factories import product_fields, user_fields
from own_servers import OwnServers
from planting import ENVELOPE, QUEUE
from waiting import until

from tidepool.queue.wire import MAX_PAYLOAD_BYTES, serialize

MB = 10**6
WORKER_LIMIT_MB = 384
"""Of a worker's container in docker-compose.yml."""


def large_and_valid(number: int) -> bytes:
    """Return a product whose description fills the limit."""
    job = {**ENVELOPE, "f": "create_product", "k": product_fields(f"sku-{number}", description="")}
    return serialize({**job, "k": {**job["k"], "description": "é" * ((MAX_PAYLOAD_BYTES - len(serialize(job))) // 2)}})


def brackets(_: int) -> bytes:
    """Return a job whose content takes 25 times its bytes when it is decoded."""
    return serialize({**ENVELOPE, "k": {**user_fields("x"), "full_name": [[]] * 340_000}})


def small(number: int) -> bytes:
    """Return an innocent job."""
    return serialize({**ENVELOPE, "k": user_fields(f"user-{number}")})


async def enqueue(redis: ArqRedis, *kinds: tuple[int, Any]) -> None:
    """Enqueue so many jobs of each kind, mixed, one at a time, so that Redis needs no memory but for them."""
    jobs = [(f"{make.__name__}-{n}", n, make) for count, make in kinds for n in range(count)]
    for job_id, number, make in sorted(jobs, key=lambda job: (job[1] * 7919 % 1000, job[0])):
        await redis.set(f"arq:job:{job_id}", make(number))
        await redis.zadd(QUEUE, {job_id: ENVELOPE["et"]})


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has had so far."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / MB


async def drain(service: Service, redis: ArqRedis, wait_s: float) -> float:
    """Let a worker do everything that is in the queue; returns the most memory that it had, in MB."""
    worker = await asyncio.to_thread(service.start_worker)

    async def is_empty() -> bool:
        assert worker.poll() is None
        return not await redis.zcard(QUEUE)

    await until(is_empty, wait_s=wait_s)
    return peak_mb(worker.pid)


async def memory_mb(redis: ArqRedis, figure: str) -> float:
    """Return a figure of Redis's memory."""
    return int((await redis.info("memory"))[figure]) / MB


async def outcomes(rows: Any) -> dict[str, int]:
    """Return how many jobs of each kind have each outcome."""
    found = await rows(
        "SELECT regexp_replace(job_id, '-[0-9]+$', '') || ' ' || status AS what, count(*) AS n,"
        " max(length(args::text)) AS longest FROM job_results GROUP BY 1"
    )
    assert all((row["longest"] or 0) <= 65_536 for row in found)
    return {row["what"]: row["n"] for row in found}


@pytest.mark.parametrize(
    "scale", [pytest.param(1), pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
async def test_a_worker_of_384_mb_does_jobs_of_a_megabyte(
    scale: int, service: Service, redis: ArqRedis, rows: Any
) -> None:
    """Valid ones, ones that expand when they are decoded, and innocent ones among them."""
    await enqueue(redis, (35 * scale, large_and_valid), (15 * scale, brackets), (10 * scale, small))
    peak = await drain(service, redis, 500)
    print(f"worker: {peak:.0f} MB")  # noqa: T201  (shown by -s)
    assert peak < WORKER_LIMIT_MB
    assert {
        "large_and_valid applied": 35 * scale,
        "brackets rejected": 15 * scale,
        "small applied": 10 * scale,
    } == await outcomes(rows)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_redis_needs_no_memory_for_claims_but_64_mb(own_servers: OwnServers) -> None:
    """Of jobs beyond the limit only the length is read; of those within it a few at a time."""
    redis: Any = own_servers.redis
    await redis.config_set("maxmemory", "512mb")
    for number in range(21):
        await redis.setrange(f"arq:job:huge-{number}", 20 * MB - 1, b"x")  # made in place
        await redis.zadd(QUEUE, {f"huge-{number}": ENVELOPE["et"]})
    await enqueue(redis, (50, large_and_valid), (50, small))
    data = await memory_mb(redis, "used_memory")
    before = await memory_mb(redis, "used_memory_peak")
    assert before < data + 8
    peak = await drain(own_servers.service, redis, 300)
    redis_peak = await memory_mb(redis, "used_memory_peak")
    print(f"worker: {peak:.0f} MB; Redis: {redis_peak:.0f} MB, of which {data:.0f} MB are data")  # noqa: T201
    assert redis_peak <= data + 64
    assert peak < WORKER_LIMIT_MB
    found = {
        row["status"]: row["n"]
        for row in await own_servers.fetch("SELECT status, count(*) AS n FROM job_results GROUP BY 1")
    }
    assert {"rejected": 21, "applied": 100} == found
