"""Reads the status and the results of jobs from Redis, which keeps results for a limited time."""

from typing import Any

from arq.jobs import Job

from tidepool.queue import keys, scripts, wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.leases import MOST_BYTES_AT_ONCE

_POLL_S = 0.02
"""Seconds between two polls for one result."""


class Results:
    """Reads the status and the results of jobs from Redis."""

    MAX_AT_ONCE = 500
    """Max jobs in one call of `read`: more would block Redis for longer than a millisecond or two."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._read = scripts.load(redis, "results")

    async def status(self, job_id: str) -> str:
        """Return a job's status in Redis: deferred, queued, in_progress, complete or not_found."""
        return (await self._job(job_id).status()).value

    async def wait(self, job_id: str, timeout_s: float | None) -> dict[str, Any]:
        """Wait for a job's result and return it.

        Raises `TimeoutError` after *timeout_s* seconds, the error of a failed job, and `arq.jobs.ResultNotFound` if
        Redis knows neither the job nor a result of it.
        """
        return await self._job(job_id).result(timeout_s, poll_delay=_POLL_S)

    async def read(self, job_ids: list[str]) -> list[tuple[str, bytes]]:
        """Return (id, encoded result) for those of up to `MAX_AT_ONCE` jobs that have a result, in one round trip.

        The results have up to 4 MiB together; the others are left out. Raises the errors of Redis's client.
        """
        found = await self._read(
            keys=[keys.RESULT + job_id for job_id in job_ids], args=[wire.MAX_PAYLOAD_BYTES, MOST_BYTES_AT_ONCE]
        )
        numbers: list[int] = found[::2]
        results: list[bytes] = found[1::2]
        return [(job_ids[number - 1], result) for number, result in zip(numbers, results, strict=True)]

    def _job(self, job_id: str) -> Job:
        return Job(job_id, self._redis, self._redis.default_queue_name, wire.deserialize)
