"""Callers that share a call: who comes along, who gets which answer, and what becomes of an error."""

import asyncio
from collections.abc import Sequence

import pytest

from tidepool.web.accepting import Shared


class Line:
    """A call that is under way until it is let through; it doubles numbers, and fails for -1."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.open = asyncio.Event()

    async def __call__(self, questions: Sequence[int]) -> list[int]:
        """Answer when the line is open."""
        self.calls.append(list(questions))
        await self.open.wait()
        if -1 in questions:
            raise ConnectionError("away")
        return [2 * question for question in questions]


async def turns(count: int = 5) -> None:
    """Let everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_comes_while_a_call_is_under_way_shares_the_next() -> None:
    """The first do not wait for others, beyond those of their own turn."""
    line = Line()
    shared = Shared(line, 3)
    first = [asyncio.create_task(shared(number)) for number in (1, 2)]
    await turns()
    later = [asyncio.create_task(shared(number)) for number in (3, 4, 5, 6)]
    await turns()
    assert [[1, 2]] == line.calls

    line.open.set()
    assert [2, 4, 6, 8, 10, 12] == await asyncio.gather(*first, *later)
    assert [[1, 2], [3, 4, 5], [6]] == line.calls
    assert 14 == await shared(7)


async def test_an_error_is_for_those_who_asked_in_the_call() -> None:
    """The next call is another matter."""
    line = Line()
    line.open.set()
    shared = Shared(line, 2)
    answers = await asyncio.gather(*(shared(number) for number in (1, -1, 3)), return_exceptions=True)
    assert ["away", "away", "6"] == [str(answer) for answer in answers]


@pytest.mark.parametrize("question", [1, -1])
async def test_who_stops_waiting_holds_nobody_up(question: int) -> None:
    """Neither with an answer that nobody wants, nor with an error."""
    line = Line()
    shared = Shared(line, 2)
    gone = asyncio.create_task(shared(question))
    await turns()
    gone.cancel()
    line.open.set()
    assert 4 == await shared(2)
    assert gone.cancelled()
