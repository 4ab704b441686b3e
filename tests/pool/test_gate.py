"""The gate: who is let in, in which order, and that no place is ever lost."""

import asyncio
import random

import pytest

from tidepool.pool.faults import PoolClosed
from tidepool.pool.pool import Gate


async def turns() -> None:
    """Let everything that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


def come(gate: Gate, name: str, seen: list[str], timeout_s: float = 60.0) -> "asyncio.Task[None]":
    """Go through the gate in a task, noting the name when inside; the place is kept."""

    async def enter() -> None:
        await gate.enter(timeout_s)
        seen.append(name)

    return asyncio.create_task(enter())


async def test_who_came_first_goes_first() -> None:
    """Also before a caller who comes at the moment when a place is free."""
    gate, seen = Gate(1, max_waiting=10), list[str]()
    await gate.enter(1)
    assert not gate.try_enter()
    for name in "abc":
        come(gate, name, seen)
    await turns()
    assert (3, []) == (gate.waiting, seen)
    gate.leave()
    late = come(gate, "late", seen)
    await turns()
    assert ["a"] == seen
    for _ in range(3):
        gate.leave()
        await turns()
    assert ["a", "b", "c", "late"] == seen
    assert late.done()


async def test_waiting_has_an_end() -> None:
    """Who gave up is in nobody's way."""
    gate, seen = Gate(1, max_waiting=10), list[str]()
    await gate.enter(1)
    with pytest.raises(TimeoutError):
        await gate.enter(0)
    come(gate, "next", seen)
    gate.leave()
    await turns()
    assert ["next"] == seen


async def test_so_many_wait_and_no_more() -> None:
    """The next one is refused at once."""
    gate = Gate(1, max_waiting=1)
    await gate.enter(1)
    waiter = come(gate, "a", [])
    await turns()
    with pytest.raises(asyncio.QueueFull):
        await gate.enter(1)
    waiter.cancel()


async def test_a_place_is_not_lost_with_a_caller_who_is_cancelled_as_he_gets_it() -> None:
    """Before or after his turn: the next one has it."""
    for cancel_first in (True, False):
        gate, seen = Gate(1, max_waiting=10), list[str]()
        await gate.enter(1)
        unlucky, _ = come(gate, "unlucky", seen), come(gate, "lucky", seen)
        await turns()
        if cancel_first:
            unlucky.cancel()
            gate.leave()
        else:
            gate.leave()
            unlucky.cancel()
        await turns()
        assert ["lucky"] == seen


async def test_the_limit_changes_while_callers_wait() -> None:
    """After a raise more callers enter at once; after a cut none enters until enough have left."""
    gate, seen = Gate(1, max_waiting=10), list[str]()
    await gate.enter(1)
    for name in "abcd":
        come(gate, name, seen)
    await turns()
    gate.limit = 3
    await turns()
    assert ["a", "b"] == seen
    gate.limit = 1
    gate.leave()
    gate.leave()
    await turns()
    assert ["a", "b"] == seen
    gate.leave()
    await turns()
    assert (["a", "b", "c"], 1) == (seen, gate.limit)


async def test_closing_sends_the_waiting_away() -> None:
    """Those inside may go out; nobody comes in."""
    gate = Gate(1, max_waiting=10)
    await gate.enter(1)
    waiter = come(gate, "a", [])
    await turns()
    gate.close()
    with pytest.raises(PoolClosed):
        await waiter
    gate.leave()
    with pytest.raises(PoolClosed):
        await gate.enter(1)


@pytest.mark.parametrize("seed", range(20))
async def test_never_more_inside_than_allowed_and_none_lost(seed: int) -> None:
    """Property: whatever the order of coming, leaving, giving up and resizing."""
    chance = random.Random(seed)
    gate, inside, most = Gate(3, max_waiting=1000), 0, 3

    async def visit() -> None:
        nonlocal inside
        await gate.enter(60)
        try:
            inside += 1
            assert inside <= most
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            gate.leave()

    visits: list[asyncio.Task[None]] = []
    for _ in range(300):
        visits.append(asyncio.create_task(visit()))
        if chance.random() < 0.3:
            chance.choice(visits).cancel()
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        if chance.random() < 0.05:
            gate.limit = chance.randrange(1, 6)
            most = max(most, gate.limit)
    results = await asyncio.gather(*visits, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results)
    assert (0, 0) == (inside, gate.waiting)
    for _ in range(gate.limit):
        assert gate.try_enter()
