"""What Redis knows of a job: its status, and its result for as long as that is kept."""

from typing import Any

from arq.jobs import Job

from tidepool.queue import keys, scripts, wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.leases import MOST_BYTES_AT_ONCE

MAX_RESULTS_AT_ONCE = 500
"""Results that one call asks for: more would hold Redis up for longer than a millisecond or two."""
_POLL_S = 0.02
"""Seconds between two looks for one result."""


async def job_status(redis: RedisClient, job_id: str) -> str:
    """Return what Redis knows of a job: deferred, queued, in_progress, complete or not_found."""
    return (await Job(job_id, redis, redis.default_queue_name).status()).value


async def wait_for_result(redis: RedisClient, job_id: str, timeout_s: float | None) -> dict[str, Any]:
    """Wait for a job's result and return it.

    Raises `TimeoutError` after *timeout_s* seconds, the error of a failed job, and `arq.jobs.ResultNotFound` if Redis
    knows neither the job nor a result of it.
    """
    job = Job(job_id, redis, redis.default_queue_name, wire.deserialize)
    return await job.result(timeout_s, poll_delay=_POLL_S)


class ResultReader:
    """Reads the results of many jobs in one round trip."""

    def __init__(self, redis: RedisClient) -> None:
        self._results = scripts.load(redis, "results")

    async def read(self, job_ids: list[str]) -> list[tuple[str, bytes]]:
        """Return those of up to `MAX_RESULTS_AT_ONCE` jobs that have a result, with it; of more than 4 MiB, not all.

        Raises what Redis's client raises.
        """
        found = await self._results(
            keys=[keys.RESULT + job_id for job_id in job_ids], args=[wire.MAX_PAYLOAD_BYTES, MOST_BYTES_AT_ONCE]
        )
        numbers: list[int] = found[::2]
        results: list[bytes] = found[1::2]
        return [(job_ids[number - 1], result) for number, result in zip(numbers, results, strict=True)]
