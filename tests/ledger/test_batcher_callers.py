"""Natural batching, seen by the callers: each gets its answer, its error or its cancellation, and no other's."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from settling import Settling, answer, busy, submit, turns

from tidepool.jobs.outcomes import LookAgain, Outcome, RetryLater
from tidepool.ledger.batcher import Batcher

pytestmark = pytest.mark.timeout(10)


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
    """The slot stays free for others."""
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
    """Our time limit and then arq's: the others of the batch are committed, and must get that answer."""
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
    """Callers of other batches are not affected, and the slot is free afterwards."""
    settling = Settling()
    settling.error = RuntimeError("broken")
    batcher = Batcher(settling, slots=1, limit=10)
    results = await asyncio.gather(*submit(batcher, "a", "b"), return_exceptions=True)
    assert ["broken", "broken"] == [str(result) for result in results]
    settling.error = None
    assert [answer("c")] == await asyncio.gather(*submit(batcher, "c"))


async def ended_in_time(tasks: Sequence[asyncio.Task[Any]]) -> bool:
    """Return whether every caller got an end; one that did not is cancelled, twice, so that the test ends."""
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
    assert await ended_in_time(tasks)
    assert [ValueError] == [type(task.exception()) for task in tasks]


async def test_a_cancelled_batch_cancels_its_callers() -> None:
    """As when the event loop is being closed: their jobs go back to the queue."""
    settling = Settling()
    settling.error = asyncio.CancelledError()
    tasks = submit(Batcher(settling, slots=1, limit=9), "a", "b")
    assert await ended_in_time(tasks)
    assert all(task.cancelled() for task in tasks)


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
