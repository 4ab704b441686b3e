"""What Redis knows of jobs: their status, and their results for as long as those are kept."""

from typing import Any

from arq.jobs import Job

from tidepool.queue import keys, scripts, wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.leases import MOST_BYTES_AT_ONCE

_POLL_S = 0.02
"""Seconds between two looks for one result."""


class Results:
    """Reads the status and the results of jobs."""

    MAX_AT_ONCE = 500
    """Results that one call of `read` asks for: more would hold Redis up for longer than a millisecond or two."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._read = scripts.load(redis, "results")

    async def status(self, job_id: str) -> str:
        """Return what Redis knows of a job: deferred, queued, in_progress, complete or not_found."""
        return (await self._job(job_id).status()).value

    async def wait(self, job_id: str, timeout_s: float | None) -> dict[str, Any]:
        """Wait for a job's result and return it.

        Raises `TimeoutError` after *timeout_s* seconds, the error of a failed job, and `arq.jobs.ResultNotFound` if
        Redis knows neither the job nor a result of it.
        """
        return await self._job(job_id).result(timeout_s, poll_delay=_POLL_S)

    async def read(self, job_ids: list[str]) -> list[tuple[str, bytes]]:
        """Return those of up to `MAX_AT_ONCE` jobs that have a result, with it, in one round trip; in all up to 4 MiB.

        Raises what Redis's client raises.
        """
        found = await self._read(
            keys=[keys.RESULT + job_id for job_id in job_ids], args=[wire.MAX_PAYLOAD_BYTES, MOST_BYTES_AT_ONCE]
        )
        numbers: list[int] = found[::2]
        results: list[bytes] = found[1::2]
        return [(job_ids[number - 1], result) for number, result in zip(numbers, results, strict=True)]

    def _job(self, job_id: str) -> Job:
        return Job(job_id, self._redis, self._redis.default_queue_name, wire.deserialize)
