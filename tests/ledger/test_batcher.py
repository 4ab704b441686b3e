"""Natural batching: which jobs share a batch, and when it leaves."""

import asyncio
from collections.abc import Sequence

import pytest
from factories import a_job
from settling import Settling, answer, busy, submit, turns

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import LookAgain, Outcome, RetryLater
from tidepool.ledger.batcher import Batcher

pytestmark = pytest.mark.timeout(10)


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
    """It joins the next batch; the others of its own get their answers at once."""
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


async def test_a_function_that_has_nothing_under_way_is_forgotten() -> None:
    """Senders can make up any number of function names."""
    batcher = Batcher(Settling(), slots=2, limit=10)
    for number in range(3):
        await batcher.submit(a_job(job_id=str(number), function=f"made-up-{number}"))
    await turns()
    assert not batcher._settling
    await batcher.close()
