"""Enqueues the jobs of valid requests, and waits for the outcomes that callers wait for."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from tidepool.client import MOST_AT_ONCE, JobClient
from tidepool.jobs.job import IDENTITY_MS
from tidepool.jobs.outcomes import Outcome
from tidepool.jobs.submission import Submission
from tidepool.pool.pool import Pool
from tidepool.queue.connection import RedisClient
from tidepool.storage.repositories import Repositories
from tidepool.web.waiting import Waits

Q = TypeVar("Q")
A = TypeVar("A")

_UNCONFIRMED_S = 0.5
"""Seconds between two questions to the ledger about a result in Redis that it does not confirm."""


class Accepting:
    """Enqueues jobs and looks up their outcomes, for all HTTP requests of this process.

    Concurrent requests share round trips to Redis and PostgreSQL. If Redis is unavailable, a request goes on trying to
    reach it for *patience_s* seconds.
    """

    def __init__(self, redis: RedisClient, pool: Pool, *, patience_s: float) -> None:
        self._pool = pool
        self._client = JobClient(redis, patience_s=patience_s)
        self._enqueue = Shared(self._client.enqueue_many, MOST_AT_ONCE)
        self._lookup = Shared(self._lookup_many, MOST_AT_ONCE)
        self.waits = Waits(redis)

    async def accept(self, submission: Submission) -> Outcome | None:
        """Enqueue a job and return None; if the job has an outcome already, return this outcome instead.

        If Redis knows the job's id, the ledger (the table of outcomes) is asked. If the ledger does not have the id,
        the job is in the queue, or Redis has a result that no worker of this service wrote; in that case the job is
        enqueued all the same. Raises `RedisUnavailable` if Redis stays unavailable, and the faults of
        `tidepool.pool.faults`.
        """
        if await self._enqueue(submission):
            return None
        outcome = await self.settled(submission.id)
        if outcome is None:
            await self._client.enqueue_many([submission], again=True)
        return outcome

    async def outcome(self, job_id: str, timeout_s: float, *, confirm: bool) -> Outcome | None:
        """Wait up to *timeout_s* seconds for a job's outcome, and return it; None if there is none by then.

        With *confirm* the outcome comes from the ledger. A result in Redis, which anybody who may write there can
        forge, is then only a hint to ask the ledger.
        """
        if not confirm:
            return await self.waits.outcome(job_id, timeout_s)
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + timeout_s
        while await self.waits.outcome(job_id, ends_s - loop.time()) is not None:
            if (outcome := await self.settled(job_id)) is not None:
                return outcome
            await asyncio.sleep(min(_UNCONFIRMED_S, max(0.0, ends_s - loop.time())))
        return None

    async def settled(self, job_id: str) -> Outcome | None:
        """Return the outcome that the ledger has for a job whose id is its identity, or None.

        Raises the faults of `tidepool.pool.faults`.
        """
        return await self._lookup(job_id)

    async def _lookup_many(self, job_ids: Sequence[str]) -> Sequence[Outcome | None]:
        async with self._pool.acquire() as connection:
            found = await Repositories(connection).results.lookup([(job_id, IDENTITY_MS) for job_id in job_ids])
        return [found.get((job_id, IDENTITY_MS)) for job_id in job_ids]


class Shared(Generic[Q, A]):
    """Combines the questions of concurrent callers into few calls: each call answers up to *most* questions.

    While one call is in progress, the questions of further callers are collected for the next one. There is no timer,
    so a lone caller is not delayed, and two hundred cost a handful of round trips.

    *call* gets a list of questions, and returns the answers in the same order. An error of a call is raised to each of
    its callers.
    """

    def __init__(self, call: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], most: int) -> None:
        self._call = call
        self._most = most
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._calling: asyncio.Task[None] | None = None

    async def __call__(self, question: Q) -> A:
        """Return the answer to *question*, which is asked together with the questions of other callers.

        Cancelling a caller does not withdraw its question.
        """
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._calling is None:
            self._calling = asyncio.create_task(self._run(), name="shared calls")
        return await future

    async def _run(self) -> None:
        await asyncio.sleep(0)  # other callers of this turn of the event loop come along
        try:
            while self._waiting:
                await self._call_once([self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))])
        finally:
            self._calling = None

    async def _call_once(self, asked: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        try:
            answers = await self._call([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001  (its callers get it)
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(asked, answers, strict=True):
            if not future.done():
                future.set_result(answer)
