"""Waits for the outcomes of jobs by polling Redis, in one loop for all waiting requests of the process.

A worker writes a job's result to Redis when its transaction has committed. The loop polls the results of all jobs that
are waited for, in one command, every one to three milliseconds; it ends when no request waits.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Outcome, Rejected
from tidepool.queue import wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import REDIS_ERRORS
from tidepool.queue.state import QueueState
from tidepool.repeating import FailureLog

_LEAST_PACE_S, _MOST_PACE_S, _PACE_PER_JOB_S = 0.001, 0.003, 0.000002
_MOST_AT_A_TURN = 16
"""Waits that are resolved in one turn of the event loop."""
_TROUBLE_DELAY_S = 0.2
"""After an error of Redis. Who waits may wait on: their jobs are in the queue, and time is up in any case."""


class Waits:
    """Waits for the outcomes of jobs in Redis, for all HTTP requests of this process that want to wait."""

    def __init__(self, redis: RedisClient) -> None:
        self._queue = QueueState(redis)
        self._failures = FailureLog("outcomes")
        self._waiting: dict[str, list[asyncio.Future[Outcome | None]]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def close(self) -> None:
        """End all waits as if their time were up, and any later one at once. Called when the server stops."""
        self._closed = True
        for futures in self._waiting.values():
            for future in futures:
                _resolve(future, None)

    async def outcome(self, job_id: str, timeout_s: float) -> Outcome | None:
        """Wait until Redis has the outcome of a job, and return it; return None after *timeout_s* seconds.

        The wait may be cancelled.
        """
        if self._closed:
            return None
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome | None] = loop.create_future()
        futures = self._waiting.setdefault(job_id, [])
        futures.append(future)
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="outcomes")
        alarm = loop.call_later(timeout_s, _resolve, future, None)
        try:
            return await future
        finally:
            alarm.cancel()
            futures.remove(future)
            if not futures:
                self._waiting.pop(job_id, None)

    async def _look(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(min(_MOST_PACE_S, _LEAST_PACE_S + _PACE_PER_JOB_S * len(self._waiting)))
                try:
                    await self._look_once()
                except Exception as error:  # noqa: BLE001  (requests that wait get an answer when their time is up)
                    self._failures.log(error)
                    await asyncio.sleep(_TROUBLE_DELAY_S)
        finally:
            self._looking = None

    async def _look_once(self) -> None:
        """Read the results of all jobs that are waited for now, and end the waits for those that have one."""
        job_ids = list(self._waiting)
        for start in range(0, len(job_ids), QueueState.MAX_RESULTS):
            try:
                found = await self._queue.results(job_ids[start : start + QueueState.MAX_RESULTS])
            except REDIS_ERRORS:
                await asyncio.sleep(_TROUBLE_DELAY_S)
                return
            await self._resolve_all(found)

    async def _resolve_all(self, results: Sequence[tuple[str, bytes]]) -> None:
        """Resolve a few waits at a time, so that callers who have their outcome ask anew while the others are answered.

        Else all callers would go in step: the worker would have nothing to do while they are answered, and they
        nothing while it works.
        """
        for number, (job_id, result) in enumerate(results, 1):
            outcome = _outcome_of(result)
            for future in self._waiting.get(job_id, ()):
                _resolve(future, outcome)
            if number % _MOST_AT_A_TURN == 0:
                await asyncio.sleep(0)


def _outcome_of(result: bytes) -> Outcome:
    """Return the outcome that a job's result in Redis stands for; see `Applied.as_result`.

    A result that this service did not write is returned as `Failed`.
    """
    try:
        answer: Any = wire.deserialize(result).get("r")
    except ValueError:
        answer = None
    match answer:
        case {"status": "applied", "result": dict()}:
            return Applied(answer["result"])
        case {"status": "rejected", "reason": str(), "error": str()}:
            return Rejected(answer["reason"], answer["error"] or "was rejected")
        case asyncio.CancelledError():
            return Rejected(CommonReason.ABORTED)
        case Exception():
            return Failed(str(answer))
        case _:
            return Failed("the job ended with a result that this service did not write")


def _resolve(future: asyncio.Future[Outcome | None], outcome: Outcome | None) -> None:
    if not future.done():
        future.set_result(outcome)
