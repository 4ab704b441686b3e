"""An answer that is kept: made once for all who ask, and anew when it is old."""

import asyncio
from collections.abc import Callable

import pytest

from tidepool.health.cached import Cached


class Maker:
    """Counts; each answer waits until it is let go."""

    def __init__(self) -> None:
        self.made = 0
        self.go = asyncio.Event()
        self.fails = False

    async def __call__(self) -> int:
        """Return how many times this was called."""
        await self.go.wait()
        if self.fails:
            raise OSError("away")
        self.made += 1
        return self.made


@pytest.fixture
async def maker() -> Maker:
    """Give a maker that waits for nothing."""
    maker = Maker()
    maker.go.set()
    return maker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give a function that sets the clock."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def turn(to_s: float) -> None:
        now[0] = to_s

    return turn


async def test_it_is_made_once_for_all_who_ask(maker: Maker) -> None:
    """However many, as long as it is young."""
    kept = Cached(60, maker)
    assert [1] * 20 == await asyncio.gather(*(kept.get() for _ in range(20)))
    assert 1 == await kept.get()


async def test_an_old_one_is_made_anew(maker: Maker, clock: Callable[[float], None]) -> None:
    """The caller waits for the new value."""
    kept = Cached(1, maker)
    answers = []
    for at_s in (0.0, 0.9, 1.0, 1.9, 2.5):
        clock(at_s)
        answers.append(await kept.get())
    assert [1, 1, 2, 2, 3] == answers


async def test_a_stale_one_is_answered_while_a_new_one_is_made(maker: Maker, clock: Callable[[float], None]) -> None:
    """No caller waits; but not for ever."""
    kept = Cached(1, maker, stale_s=10)
    first = await kept.get()
    clock(5)
    stale = await kept.get()
    assert kept._making is not None
    await kept._making
    fresh = await kept.get()
    clock(100)
    assert (1, 1, 2, 3) == (first, stale, fresh, await kept.get())


async def test_a_caller_that_does_not_wait_gets_what_there_is(maker: Maker, clock: Callable[[float], None]) -> None:
    """Nothing at first, nothing that is too old; asking is what has it made."""
    kept = Cached(1, maker, stale_s=10)
    answers = []
    for at_s in (0.0, 0.0, 5.0, 5.0, 100.0):
        clock(at_s)
        answers.append(kept.at_once())
        assert kept._making is not None
        await kept._making
    assert [None, 1, 1, 2, None] == answers


async def test_an_error_is_kept_for_nobody(maker: Maker) -> None:
    """Who waits gets it, and the next one asks anew."""
    kept = Cached(60, maker)
    maker.fails = True
    with pytest.raises(OSError, match="away"):
        await kept.get()
    maker.fails = False
    assert 1 == await kept.get()


async def test_who_stops_waiting_stops_nobody_else(maker: Maker) -> None:
    """The answer comes all the same."""
    maker.go.clear()
    kept = Cached(60, maker)
    impatient, patient = asyncio.create_task(kept.get()), asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    maker.go.set()
    assert (True, 1) == (impatient.cancelled(), await patient)
