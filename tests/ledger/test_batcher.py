"""Natural batching: who shares a batch with whom, and who is told what."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from factories import a_job

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, LookAgain, Outcome, RetryLater
from tidepool.ledger.batcher import Batcher, Tally

pytestmark = pytest.mark.timeout(10)


class Settling:
    """A ledger that tells its batches and, when *held*, waits for `let_go`."""

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


async def test_a_lone_job_leaves_at_once() -> None:
    """No timer delays it: two turns of the event loop are enough."""
    settling = Settling()
    (task,) = submit(Batcher(settling, slots=1, limit=10), "a")
    await turns()
    assert task.done()
    assert answer("a") == task.result()


async def test_jobs_of_one_turn_share_a_batch() -> None:
    """In the order in which they came."""
    settling = Settling()
    tasks = submit(Batcher(settling, slots=4, limit=10), "a", "b", "c")
    assert [answer("a"), answer("b"), answer("c")] == await asyncio.gather(*tasks)
    assert [["a", "b", "c"]] == settling.batches


async def test_a_batch_fills_while_the_connections_are_busy() -> None:
    """Jobs of many turns leave together when the slot is free."""
    async with busy() as (batcher, settling):
        tasks = [*submit(batcher, "a")]
        await turns()
        tasks += submit(batcher, "b")
        await turns()
        assert [["busy-0"]] == settling.batches
        settling.let_go()
        await asyncio.gather(*tasks)
    assert [["busy-0"], ["a", "b"]] == settling.batches


async def test_the_slots_can_be_changed_while_batches_are_under_way() -> None:
    """One more: what waits leaves at once. Fewer: nothing leaves until enough have been settled."""
    async with busy(slots=1) as (batcher, settling):
        submit(batcher, "a")
        await turns()
        batcher.slots = 2
        await turns()
        assert [["busy-0"], ["a"]] == settling.batches
        batcher.slots = 1
        (waiting,) = submit(batcher, "b")
        await turns()
        assert [["busy-0"], ["a"]] == settling.batches
        settling.let_go()
        await waiting
    assert [["busy-0"], ["a"], ["b"]] == settling.batches
    assert 1 == batcher.slots


async def test_there_are_never_more_batches_under_way_than_slots() -> None:
    """Two connections, two batches; the third waits."""
    async with busy(slots=2) as (batcher, settling):
        tasks = submit(batcher, "a")
        await turns()
        assert [["busy-0"], ["busy-1"]] == settling.batches
        settling.let_go()
        await asyncio.gather(*tasks)


async def test_a_batch_has_at_most_the_limit() -> None:
    """The rest comes with the next ones, and in order."""
    settling = Settling()
    await asyncio.gather(*submit(Batcher(settling, slots=1, limit=2), *"abcde"))
    assert [["a", "b"], ["c", "d"], ["e"]] == settling.batches


async def test_functions_take_turns() -> None:
    """What is left of a long queue goes behind the other functions."""
    async with busy(limit=2) as (batcher, settling):
        tasks = submit(batcher, *"abcd", function="many") + submit(batcher, "x", function="few")
        await turns()
        settling.let_go()
        await asyncio.gather(*tasks)
    assert [["busy-0"], ["a", "b"], ["x"], ["c", "d"]] == settling.batches
    assert ["holder", "many", "few", "many"] == settling.functions


@pytest.mark.parametrize(("share", "slots", "may_have"), [(0.5, 4, 2), (0.3, 3, 1), (0.1, 2, 1), (1.0, 2, 2)])
async def test_a_function_has_no_more_than_its_share(share: float, slots: int, may_have: int) -> None:
    """Rounded down, and one at the least; the other slots are there for the others."""
    settling = Settling(held=True)
    batcher = Batcher(settling, slots=slots, limit=1, shares={"slow": share})
    tasks = submit(batcher, *"abcdef", function="slow")
    await turns()
    assert may_have * ["slow"] == settling.functions
    tasks += submit(batcher, *"uvwxyz", function="quick")
    await turns()
    assert (slots - may_have) * ["quick"] == settling.functions[may_have:]
    settling.let_go()
    await asyncio.gather(*tasks)
    assert 12 == len(settling.batches)


async def test_a_job_that_came_back_is_not_run_twice() -> None:
    """Its lease was lost while it waited: both callers get the one answer."""
    async with busy() as (batcher, settling):
        tasks = submit(batcher, "a", "a")
        await turns()
        settling.let_go()
        assert [answer("a"), answer("a")] == await asyncio.gather(*tasks)
    assert [["busy-0"], ["a"]] == settling.batches


async def test_a_job_that_came_back_under_way_is_not_run_twice() -> None:
    """The same after its batch has left."""
    async with busy() as (batcher, settling):
        (task,) = submit(batcher, "busy-0", function="holder")
        await turns()
        settling.let_go()
        assert answer("busy-0") == await task
    assert [["busy-0"]] == settling.batches


async def test_an_id_is_free_again_after_its_answer() -> None:
    """A retry of the same process runs."""
    settling = Settling()
    batcher = Batcher(settling, slots=1, limit=10)
    await asyncio.gather(*submit(batcher, "a"))
    await asyncio.gather(*submit(batcher, "a"))
    assert [["a"], ["a"]] == settling.batches


async def test_a_caller_cancelled_before_departure_takes_the_job_out() -> None:
    """It goes back to the queue, so it must not be applied here."""
    async with busy() as (batcher, settling):
        first, second = submit(batcher, "a", "b")
        await turns()
        first.cancel()
        await asyncio.wait([first])
        settling.let_go()
        assert answer("b") == await second
    assert first.cancelled()
    assert [["busy-0"], ["b"]] == settling.batches


async def test_the_last_caller_that_is_cancelled_leaves_no_empty_batch() -> None:
    """And the slot stays free for others."""
    async with busy() as (batcher, settling):
        (task,) = submit(batcher, "a")
        await turns()
        task.cancel()
        await asyncio.wait([task])
        settling.let_go()
        (later,) = submit(batcher, "b", function="other")
        assert answer("b") == await later
    assert [["busy-0"], ["b"]] == settling.batches


async def test_a_caller_cancelled_after_departure_gets_the_answer() -> None:
    """The batch cannot be called back, so the outcome is not thrown away."""
    settling = Settling(held=True)
    (task,) = submit(Batcher(settling, slots=1, limit=10), "a")
    await settling.called.wait()
    task.cancel()
    await turns()
    assert not task.done()
    settling.let_go()
    assert answer("a") == await task


async def test_a_caller_cancelled_twice_harms_nobody_else() -> None:
    """Our time limit and then arq's: the others of the batch are committed, and must be told so."""
    settling = Settling(held=True)
    twice, other = submit(Batcher(settling, slots=1, limit=10), "a", "b")
    await settling.called.wait()
    for _ in range(2):
        twice.cancel()
        await turns()
    settling.let_go()
    await asyncio.wait([twice, other])
    assert answer("b") == other.result()


async def test_one_of_two_callers_can_give_up() -> None:
    """The old delivery ran into its time limit; the new one still waits for its answer."""
    async with busy() as (batcher, settling):
        old, new = submit(batcher, "a", "a")
        await turns()
        old.cancel()
        await turns()
        settling.let_go()
        await asyncio.wait([old, new])
        assert not new.cancelled()
        assert answer("a") == new.result()


async def test_an_exception_reaches_every_caller_of_the_batch() -> None:
    """And nobody else; the slot is free afterwards."""
    settling = Settling()
    settling.error = RuntimeError("broken")
    batcher = Batcher(settling, slots=1, limit=10)
    results = await asyncio.gather(*submit(batcher, "a", "b"), return_exceptions=True)
    assert ["broken", "broken"] == [str(result) for result in results]
    settling.error = None
    assert [answer("c")] == await asyncio.gather(*submit(batcher, "c"))


async def told_in_time(tasks: Sequence[asyncio.Task[Any]]) -> bool:
    """Return whether everybody was told something; who was not is cancelled, twice, so that the test ends."""
    _, waiting = await asyncio.wait(tasks, timeout=0.5)
    for _ in range(2):
        for task in waiting:
            task.cancel()
        await turns()
    return not waiting


async def test_a_wrong_number_of_outcomes_is_an_error() -> None:
    """Nobody may wait for ever, nor take somebody else's outcome."""

    class Forgetful(Settling):
        async def settle(self, *_: Any) -> list[Outcome | RetryLater | LookAgain]:
            return []

    tasks = submit(Batcher(Forgetful(), slots=1, limit=9), "a")
    assert await told_in_time(tasks)
    assert [ValueError] == [type(task.exception()) for task in tasks]


async def test_a_cancelled_batch_cancels_its_callers() -> None:
    """As when the event loop is being closed: their jobs go back to the queue."""
    settling = Settling()
    settling.error = asyncio.CancelledError()
    tasks = submit(Batcher(settling, slots=1, limit=9), "a", "b")
    assert await told_in_time(tasks)
    assert all(task.cancelled() for task in tasks)


class LooksAgain(Settling):
    """Finds jobs called early unresolved until they have looked again; holds batches of the function slow."""

    async def settle(self, function: str, batch: Sequence[Job]) -> list[Outcome | RetryLater | LookAgain]:
        """Answer every job with its own id, or with a second look."""
        if function == "slow":
            return list(await super().settle(function, batch))
        self.batches.append([job.id for job in batch])
        return [
            LookAgain() if job.id.startswith("early") and not job.has_looked_again else answer(job.id) for job in batch
        ]


def early(batcher: Batcher) -> asyncio.Task[Outcome | RetryLater]:
    """Submit a job that has not looked again yet."""
    return asyncio.create_task(batcher.submit(a_job(job_id="early", has_looked_again=False)))


async def test_a_job_that_looks_again_does_not_go_through_the_queue() -> None:
    """It joins the next batch; the others of its own are told at once."""
    settling = LooksAgain()
    batcher = Batcher(settling, slots=1, limit=9)
    tasks = [early(batcher), *submit(batcher, "other")]
    assert [answer("early"), answer("other")] == await asyncio.gather(*tasks)
    assert [["early", "other"], ["early"]] == settling.batches


async def test_a_job_that_looks_again_waits_for_the_batches_under_way() -> None:
    """What it needs may be in one of them."""
    settling = LooksAgain(held=True)
    batcher = Batcher(settling, slots=2, limit=9)
    (slow,) = submit(batcher, "slow", function="slow")
    await settling.called.wait()
    looking = early(batcher)
    await turns()
    assert [["slow"], ["early"]] == settling.batches
    assert not looking.done()
    settling.let_go()
    assert [answer("slow"), answer("early")] == [await slow, await looking]
    assert [["slow"], ["early"], ["early"]] == settling.batches


async def test_a_job_that_looks_again_can_be_given_up() -> None:
    """A caller that is cancelled twice is not held, and the batcher goes on."""
    settling = LooksAgain(held=True)
    batcher = Batcher(settling, slots=2, limit=9)
    (slow,) = submit(batcher, "slow", function="slow")
    await settling.called.wait()
    looking = early(batcher)
    await turns()
    for _ in range(2):
        looking.cancel()
        await turns()
    assert looking.cancelled()
    settling.let_go()
    assert answer("slow") == await slow
    assert [answer("later")] == await asyncio.gather(*submit(batcher, "later"))


async def test_closing_waits_for_what_has_left_and_cancels_the_rest() -> None:
    """What has not left goes back to the queue."""
    settling = Settling(held=True)
    batcher = Batcher(settling, slots=1, limit=10)
    (gone,) = submit(batcher, "gone")
    await settling.called.wait()
    (waiting,) = submit(batcher, "waiting")
    await turns()
    closing = asyncio.create_task(batcher.close())
    await turns()
    assert not closing.done()
    assert waiting.cancelled()
    settling.let_go()
    await closing
    assert answer("gone") == await gone
    assert [["gone"]] == settling.batches


async def test_closing_does_not_wait_for_ever() -> None:
    """While PostgreSQL is away a batch goes on until it is cancelled."""
    settling = Settling(held=True)
    batcher = Batcher(settling, slots=1, limit=10)
    (caller,) = submit(batcher, "a")
    await settling.called.wait()
    await batcher.close(patience_s=0.01)
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_function_that_has_nothing_under_way_is_forgotten() -> None:
    """Senders can make up any number of function names."""
    batcher = Batcher(Settling(), slots=2, limit=10)
    for number in range(3):
        await batcher.submit(a_job(job_id=str(number), function=f"made-up-{number}"))
    await turns()
    assert not batcher._settling
    await batcher.close()
