"""Periodic work: the error of a round is logged, once a minute, and the next round comes."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tidepool import repeating
from tidepool.repeating import FailureLog, every


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task, and see it end by that."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def rounds_until(count: int, enough: asyncio.Event, error: Exception | None = None) -> Callable[[], Awaitable[None]]:
    """Return a round that sets *enough* at its call number *count*, and raises *error*, if any, at each one before."""
    rounds = 0

    async def run_once() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == count:
            enough.set()
        elif error:
            raise error

    return run_once


@pytest.mark.parametrize("error", [ValueError("odd"), OSError("away"), RecursionError(), KeyError("x"), None])
async def test_a_round_that_fails_does_not_end_the_task(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    """Whatever it raises; all of its failures are one line in a minute."""
    monkeypatch.setattr(repeating, "_MIN_FAILED_DELAY_S", 0.0)
    enough = asyncio.Event()
    task = asyncio.create_task(every(0.0, rounds_until(5, enough, error), "the task"))
    await enough.wait()
    await cancelled(task)
    reported = [(line["event"], line["task"], line["failures"]) for line in logs]
    assert reported == ([("task.failed", "the task", 1)] if error else [])


async def test_a_round_that_fails_at_once_does_not_turn_without_a_pause() -> None:
    """Its period is 0, since it waits for its own time, and its error comes before that."""
    enough = asyncio.Event()
    task = asyncio.create_task(every(0.0, rounds_until(2, enough, ValueError()), "the task"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await enough.wait()
    await cancelled(task)


@pytest.mark.parametrize("waits_first", [True, False])
async def test_the_first_round_comes_at_once_or_after_a_period(waits_first: bool) -> None:  # noqa: FBT001
    """As its caller says."""
    enough = asyncio.Event()
    task = asyncio.create_task(every(60.0, rounds_until(1, enough), "the task", waits_first=waits_first))
    for _ in range(5):
        await asyncio.sleep(0)
    assert waits_first != enough.is_set()
    await cancelled(task)


def test_the_next_minute_has_its_line(monkeypatch: pytest.MonkeyPatch, logs: list[Any]) -> None:
    """It says how many failures there have been."""
    now_s = 100.0
    monkeypatch.setattr(repeating.time, "monotonic", lambda: now_s)
    failures = FailureLog("the task")
    for seconds in (0.0, 1.0, 30.0, 60.0):
        now_s = 100.0 + seconds
        failures.log(ValueError())
    assert [1, 4] == [line["failures"] for line in logs]
