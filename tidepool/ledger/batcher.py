"""Natural batching: jobs of one function that arrive while the connections are busy share a transaction.

A job joins the pending batch of its function. A batch leaves as soon as a slot is free. There is a slot for each
connection that the pool may have. There is no timer: on an idle worker a lone job leaves at once, and on a busy one the
next batch fills while the last ones are being committed.

A function may have a limited share of the slots, as a bulkhead: the other functions find a slot even if its
transactions take long.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import LookAgain, Outcome, RetryLater
from tidepool.ledger.tally import BatchFigures


class _Ledger(Protocol):
    async def settle(self, function: str, batch: Sequence[Job]) -> Sequence[Outcome | RetryLater | LookAgain]: ...


class Batcher:
    """Gathers jobs into batches of up to *limit*, and lets *ledger* settle up to *slots* batches at a time.

    *shares* limits functions to a part of the slots, between 0 and 1, but to one slot at least.
    """

    def __init__(
        self, ledger: _Ledger, *, slots: int, limit: int, shares: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self.figures = BatchFigures()
        self._ledger = ledger
        self._slots = slots
        self._shares = shares
        self._settling: Counter[str] = Counter()
        """Batches under way, by function."""
        self._limit = limit
        self._pending: dict[str, dict[str, Job]] = {}
        """Jobs that wait for a slot, by function and id."""
        self._loop = asyncio.get_running_loop()
        self._answers: dict[str, list[asyncio.Future[Outcome | RetryLater]]] = {}
        """The callers that wait for each job, by its id: several if the job was claimed again meanwhile."""
        self._under_way: set[asyncio.Task[None]] = set()
        self._looking_again: set[asyncio.Task[None]] = set()
        self._departing = False

    def take_figures(self) -> dict[str, object]:
        """Return the figures for a row of `pool_snapshots`, and reset the peaks."""
        return self.figures.take_figures(sum(map(len, self._pending.values())))

    @property
    def slots(self) -> int:
        """How many batches may be settled at a time."""
        return self._slots

    @slots.setter
    def slots(self, slots: int) -> None:
        """Change how many batches may run at a time. With fewer, no batch leaves until enough have ended."""
        self._slots = slots
        self._depart_soon()

    async def submit(self, job: Job) -> Outcome | RetryLater:
        """Return the job's outcome, or in how many seconds to run it again.

        A job that is here already, because its lease was lost and it was claimed again, is not run twice: both callers
        get the one answer. A cancelled caller takes its job out of the pending batch. If the batch has left, the cancel
        is ignored, and the caller gets the answer. Raises what the ledger raises.
        """
        answer = self._promise(job.id)
        if len(self._answers[job.id]) == 1:
            self._add(job)
        try:
            return await answer
        except asyncio.CancelledError:
            if self._withdraw(job) or job.id not in self._answers:
                raise
            return await self._promise(job.id)

    async def close(self, patience_s: float = 5.0) -> None:
        """Wait for the batches that are running, and cancel the callers of all other jobs.

        A batch that takes longer than *patience_s* seconds is cancelled, because it would wait for PostgreSQL for ever.
        """
        for pending in self._pending.values():
            for job_id in pending:
                _answer(self._answers.pop(job_id), asyncio.CancelledError())
        self._pending.clear()
        while busy := self._under_way | self._looking_again:
            _, late = await asyncio.wait(busy, timeout=patience_s)
            for task in late:
                task.cancel()

    def _promise(self, job_id: str) -> asyncio.Future[Outcome | RetryLater]:
        answer: asyncio.Future[Outcome | RetryLater] = self._loop.create_future()
        self._answers.setdefault(job_id, []).append(answer)
        return answer

    def _add(self, job: Job) -> None:
        self._pending.setdefault(job.function, {})[job.id] = job
        self._depart_soon()

    def _withdraw(self, job: Job) -> bool:
        """Take a job out of the pending batch, unless another caller waits for it, too."""
        waiting = [answer for answer in self._answers.get(job.id, ()) if not answer.done()]
        if waiting or self._pending.get(job.function, {}).pop(job.id, None) is None:
            return False
        del self._answers[job.id]
        return True

    def _depart_soon(self) -> None:
        """Start batches at the end of this turn of the event loop, with all jobs that arrive in it."""
        if not self._departing:
            self._departing = True
            self._loop.call_soon(self._depart)

    def _depart(self) -> None:
        self._departing = False
        while self._settling.total() < self._slots and (function := self._next_function()):
            batch = self._take(function)
            if batch:
                self.figures.left(batch)
                self._settling[function] += 1
                task = asyncio.create_task(self._run(function, batch), name=f"batch of {function}")
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    def _next_function(self) -> str | None:
        """Return the first function that has waiting jobs and does not use all of its share; None if there is none."""
        return next((function for function in self._pending if self._has_room(function)), None)

    def _has_room(self, function: str) -> bool:
        share = self._shares.get(function)
        return share is None or self._settling[function] < max(1, int(share * self._slots))

    def _take(self, function: str) -> list[Job]:
        """Take a batch of *function*. Its jobs over the limit queue up behind the other functions."""
        pending = self._pending.pop(function)
        ids = list(pending)[: self._limit]
        batch = [pending.pop(job_id) for job_id in ids]
        if pending:
            self._pending[function] = pending
        return batch

    async def _run(self, function: str, batch: list[Job]) -> None:
        answers: Sequence[Outcome | RetryLater | LookAgain | BaseException]
        try:
            answers = await self._ledger.settle(function, batch)
            if len(answers) != len(batch):
                raise ValueError(f"{len(answers)} answers for {len(batch)} jobs")  # noqa: TRY301  (for all callers)
        except BaseException as error:  # noqa: BLE001  (it is the answer to every caller)
            answers = [error] * len(batch)
        self._settling -= Counter([function])  # removes a count of zero: clients may invent any number of names
        again: list[Job] = []
        for job, answer in zip(batch, answers, strict=True):
            if isinstance(answer, LookAgain):
                again.append(job)
            else:
                _answer(self._answers.pop(job.id), answer)
        if again:
            self._look_again(again)
        self._depart()

    def _look_again(self, jobs: list[Job]) -> None:
        """Let jobs join a batch once more, when all batches that are under way now have ended."""
        others = self._under_way - {asyncio.current_task()}

        async def rejoin() -> None:
            if others:
                await asyncio.wait(others)
            for job in jobs:
                job.has_looked_again = True
                self._add(job)

        task = asyncio.create_task(rejoin(), name="looking again")
        self._looking_again.add(task)
        task.add_done_callback(self._looking_again.discard)


def _answer(
    callers: Sequence[asyncio.Future[Outcome | RetryLater]], answer: Outcome | RetryLater | BaseException
) -> None:
    """Give every caller that waits for a job the answer."""
    for caller in callers:
        if caller.done():
            continue
        if isinstance(answer, asyncio.CancelledError):
            caller.cancel()
        elif isinstance(answer, BaseException):
            caller.set_exception(answer)
        else:
            caller.set_result(answer)
