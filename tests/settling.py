"""A ledger that only notes its batches, and jobs that are submitted to a batcher on top of it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from factories import a_job

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, LookAgain, Outcome, RetryLater
from tidepool.ledger.batcher import Batcher, Tally


class Settling:
    """A ledger that notes its batches and, when *held*, waits for `let_go`."""

    def __init__(self, *, held: bool = False) -> None:
        self.tally = Tally()
        self.batches: list[list[str]] = []
        self.functions: list[str] = []
        self.error: BaseException | None = None
        self.called = asyncio.Event()
        self._go = asyncio.Event()
        if not held:
            self._go.set()

    async def settle(self, function: str, batch: Sequence[Job]) -> list[Outcome | RetryLater | LookAgain]:
        """Answer every job with its own id."""
        self.functions.append(function)
        self.batches.append([job.id for job in batch])
        self.called.set()
        await self._go.wait()
        if self.error is not None:
            raise self.error
        return [answer(job.id) for job in batch]

    def let_go(self) -> None:
        """Let everybody through from now on."""
        self._go.set()


def answer(job_id: str) -> Applied:
    """Return what `Settling` answers for this job."""
    return Applied({"id": job_id})


def submit(batcher: Batcher, *job_ids: str, function: str = "create_user") -> list[asyncio.Task[Outcome | RetryLater]]:
    """Submit jobs, each from a task of its own."""
    return [asyncio.create_task(batcher.submit(a_job(job_id=i, function=function))) for i in job_ids]


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(10):
        await asyncio.sleep(0)


@asynccontextmanager
async def busy(slots: int = 1, limit: int = 100) -> AsyncIterator[tuple[Batcher, Settling]]:
    """Give a batcher whose slots are all taken, by jobs `busy-0`, `busy-1`, …; all is let go at the end."""
    settling = Settling(held=True)
    batcher = Batcher(settling, slots=slots, limit=limit)
    holders: list[asyncio.Task[Outcome | RetryLater]] = []
    for n in range(slots):
        holders += submit(batcher, f"busy-{n}", function="holder")
        await turns()
    yield batcher, settling
    settling.let_go()
    await asyncio.gather(*holders, return_exceptions=True)
