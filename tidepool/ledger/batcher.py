"""Gathers jobs into batches: jobs of one function that arrive while the connections are busy share a transaction.

A job joins the pending batch of its function. A slot is the permission to run one batch at a time; there is one for
each connection that the pool may have. A batch starts (it *leaves* the batcher) as soon as a slot is free. There is no
timer: on an idle worker a lone job starts at once, and on a busy one the next batch fills while the last ones are being
committed.

A function can be limited to a share of the slots, as a bulkhead: other functions then find a slot even if the
transactions of this one take long.
"""

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Protocol

from tidepool.jobs.job import Job, JobKey
from tidepool.jobs.outcomes import Applied, Failed, LookAgain, Outcome, Rejected, RetryLater, outcome_of_plain
from tidepool.pool.figures import BOUNDS_US, empty_histogram

_OTHERS = "(others)"
"""The name under which all functions are counted that are no job type of this process: clients can invent many."""


@dataclass(slots=True)
class Tally:
    """Counts the jobs of one process by outcome, attempts that are to be repeated, and batches.

    The counters only grow, so the figures of a period are the difference of two readings.
    """

    applied: int = 0
    rejected: int = 0
    failed: int = 0
    retried: int = 0
    functions: dict[str, list[int]] = field(default_factory=dict[str, list[int]], compare=False)
    """The four counts above by function: applied, rejected, failed, retried."""
    known: Collection[str] = field(default=(), compare=False)
    """The functions that are counted under their own names; others are counted together."""
    batches: int = 0
    batch_jobs: int = 0
    batch_wait_us_sum: int = 0
    """Microseconds that jobs waited in the batcher until their batch started."""
    batch_wait_us_max: int = 0
    """The longest such wait since the last call of `take_figures`."""
    batch_wait_hist: list[int] = field(default_factory=empty_histogram)

    def name_of(self, function: str) -> str:
        """Return the name under which jobs of *function* are counted: *function* if it is known, else `(others)`."""
        return function if function in self.known else _OTHERS

    def add(self, outcomes: Sequence[Outcome], function: str = _OTHERS, *, retried: int = 0) -> None:
        """Count the *outcomes* of a batch of *function*, and the number *retried* of its jobs that are run again."""
        applied = sum(isinstance(outcome, Applied) for outcome in outcomes)
        rejected = sum(isinstance(outcome, Rejected) for outcome in outcomes)
        failed = sum(isinstance(outcome, Failed) for outcome in outcomes)
        self.applied += applied
        self.rejected += rejected
        self.failed += failed
        self.retried += retried
        counts = self.functions.setdefault(self.name_of(function), [0, 0, 0, 0])
        counts[0] += applied
        counts[1] += rejected
        counts[2] += failed
        counts[3] += retried

    def add_plain(self, job: Job) -> None:
        """Count a job of a plain function that has ended, and the attempts before its last one."""
        outcome = outcome_of_plain(job.error, "", is_aborted=job.is_aborted)
        self.add([outcome], job.function, retried=max(0, job.attempt - 1))

    def add_batch(self, batch: Sequence[Job]) -> None:
        """Count a batch that starts now, and the waits of its jobs; set `left_ns` of each job to the present time."""
        now_ns = time.perf_counter_ns()
        hist = self.batch_wait_hist
        total_us = longest_us = 0
        for job in batch:
            job.left_ns = now_ns
            us = (now_ns - job.started_ns) // 1000
            hist[bisect_left(BOUNDS_US, us)] += 1
            total_us += us
            longest_us = max(longest_us, us)
        self.batches += 1
        self.batch_jobs += len(batch)
        self.batch_wait_us_sum += total_us
        self.batch_wait_us_max = max(self.batch_wait_us_max, longest_us)

    def take_figures(self) -> dict[str, object]:
        """Return the figures as columns of the table `pool_snapshots`, and reset the peak `batch_wait_us_max`."""
        figures: dict[str, object] = {
            "jobs_applied": self.applied,
            "jobs_rejected": self.rejected,
            "jobs_failed": self.failed,
            "jobs_retried": self.retried,
            "functions": {name: list(counts) for name, counts in self.functions.items()},
            "batches": self.batches,
            "batch_jobs": self.batch_jobs,
            "batch_wait_us_sum": self.batch_wait_us_sum,
            "batch_wait_us_max": self.batch_wait_us_max,
            "batch_wait_hist": list(self.batch_wait_hist),
        }
        self.batch_wait_us_max = 0
        return figures


class _Ledger(Protocol):
    tally: Tally

    async def settle(self, function: str, batch: Sequence[Job]) -> Sequence[Outcome | RetryLater | LookAgain]: ...


class Batcher:
    """Gathers jobs into batches of up to *limit* jobs, and lets *ledger* run up to *slots* batches at a time.

    A slot is the permission to run one batch at a time. *shares* maps a function's name to the fraction of the slots (0
    to 1) that its batches may use, which is always at least one slot; *limits* maps it to a limit of its own. Must be
    created while an event loop runs.
    """

    def __init__(
        self,
        ledger: _Ledger,
        *,
        slots: int,
        limit: int,
        shares: Mapping[str, float] = MappingProxyType({}),
        limits: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._ledger = ledger
        self._tally = ledger.tally
        self._slots = slots
        self._shares = shares
        self._settling: Counter[str] = Counter()
        """The number of batches that are running, by function."""
        self._limit = limit
        self._limits = limits
        self._pending: dict[str, dict[JobKey, Job]] = {}
        """The jobs that wait for a slot, by function and then by key."""
        self._loop = asyncio.get_running_loop()
        self._answers: dict[JobKey, list[asyncio.Future[Outcome | RetryLater]]] = {}
        """The callers that wait for each job, by its key: several if the job was claimed again meanwhile."""
        self._under_way: set[asyncio.Task[None]] = set()
        self._looking_again: set[asyncio.Task[None]] = set()
        self._departing = False

    @property
    def pending(self) -> int:
        """The number of jobs that have been submitted and wait for their batch to start."""
        return sum(map(len, self._pending.values()))

    @property
    def slots(self) -> int:
        """The max number of batches that may run at a time; each takes a connection of the pool."""
        return self._slots

    @slots.setter
    def slots(self, slots: int) -> None:
        """Change how many batches may run at a time. If it is reduced, no batch starts until enough have ended."""
        self._slots = slots
        self._depart_soon()

    async def submit(self, job: Job) -> Outcome | RetryLater:
        """Run the job in a batch, and return its outcome, or the delay after which the job is to be run again.

        A job may be submitted again before the first call has returned: its lease (the time for which this worker holds
        it) was lost, and the job was claimed again. It is not run twice: both callers get the same answer. If a caller
        is cancelled, its job is taken out of the pending batch; if the batch runs already, the cancellation is ignored
        and the answer returned. Raises the ledger's errors.
        """
        answer = self._promise(job.key)
        if len(self._answers[job.key]) == 1:
            self._add(job)
        try:
            return await answer
        except asyncio.CancelledError:
            if self._withdraw(job) or job.key not in self._answers:
                raise
            return await self._promise(job.key)

    async def close(self, patience_s: float = 5.0) -> None:
        """Stop: wait for the batches that are running, and cancel the callers of all jobs whose batch has not started.

        A batch that takes longer than *patience_s* seconds is cancelled, because it might wait for PostgreSQL for ever.
        """
        for pending in self._pending.values():
            for key in pending:
                _answer(self._answers.pop(key), asyncio.CancelledError())
        self._pending.clear()
        while busy := self._under_way | self._looking_again:
            _, late = await asyncio.wait(busy, timeout=patience_s)
            for task in late:
                task.cancel()

    def _promise(self, key: JobKey) -> asyncio.Future[Outcome | RetryLater]:
        answer: asyncio.Future[Outcome | RetryLater] = self._loop.create_future()
        self._answers.setdefault(key, []).append(answer)
        return answer

    def _add(self, job: Job) -> None:
        self._pending.setdefault(job.function, {})[job.key] = job
        self._depart_soon()

    def _withdraw(self, job: Job) -> bool:
        """Take a job out of the pending batch unless another caller waits for it; returns whether it was taken out."""
        waiting = [answer for answer in self._answers.get(job.key, ()) if not answer.done()]
        if waiting or self._pending.get(job.function, {}).pop(job.key, None) is None:
            return False
        del self._answers[job.key]
        return True

    def _depart_soon(self) -> None:
        """Start batches in the next iteration of the event loop, so that jobs that arrive in this one can join."""
        if not self._departing:
            self._departing = True
            self._loop.call_soon(self._depart)

    def _depart(self) -> None:
        self._departing = False
        while self._settling.total() < self._slots and (function := self._next_function()):
            batch = self._take(function)
            if batch:
                self._tally.add_batch(batch)
                self._settling[function] += 1
                task = asyncio.create_task(self._run(function, batch), name=f"batch of {function}")
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    def _next_function(self) -> str | None:
        """Return the first function that has waiting jobs and has not used up its share of slots, or None."""
        return next((function for function in self._pending if self._has_room(function)), None)

    def _has_room(self, function: str) -> bool:
        share = self._shares.get(function)
        return share is None or self._settling[function] < max(1, int(share * self._slots))

    def _take(self, function: str) -> list[Job]:
        """Take a batch from the waiting jobs of *function*. Jobs over the limit queue up behind the other functions."""
        pending = self._pending.pop(function)
        keys = list(islice(pending, self._limits.get(function, self._limit)))
        batch = [pending.pop(key) for key in keys]
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
                _answer(self._answers.pop(job.key), answer)
        if again:
            self._look_again(again)
        self._depart()

    def _look_again(self, jobs: list[Job]) -> None:
        """Put jobs into a batch once more, as soon as all other batches that are running now have ended."""
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
    """Return *answer* to all *callers* that wait for a job; an exception is raised in them."""
    for caller in callers:
        if caller.done():
            continue
        if isinstance(answer, asyncio.CancelledError):
            caller.cancel()
        elif isinstance(answer, BaseException):
            caller.set_exception(answer)
        else:
            caller.set_result(answer)
