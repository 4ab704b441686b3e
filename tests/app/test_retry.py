"""Retries: which errors are retried, how long the delays are, and when it is given up."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

import pytest

from tidepool.repeating import RetryPolicy

FAST = RetryPolicy(first_s=0.001, max_s=0.001)


def answering(*answers: Exception | str) -> tuple[Callable[[], Awaitable[str]], list[int]]:
    """Return a call that gives these answers one after the other, and the list that it puts its number into."""
    calls: list[int] = []
    coming = iter(answers)

    async def call() -> str:
        calls.append(len(calls))
        answer = next(coming)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call, calls


def is_away(error: Exception) -> bool:
    """Return whether an error is one that passes here."""
    return isinstance(error, ConnectionError)


def test_delays_grow_up_to_their_limit() -> None:
    """Each is the one before times the factor; without jitter they are exact."""
    policy = RetryPolicy(first_s=0.2, factor=3.0, max_s=1.0)
    assert [0.2, pytest.approx(0.6), 1.0, 1.0] == list(islice(policy.delays(), 4))


def test_jitter_shortens_a_delay_by_up_to_its_share() -> None:
    """So that a fleet that lost its server does not come back all at once."""
    policy = RetryPolicy(first_s=1.0, max_s=1.0, jitter=0.5)
    delays = list(islice(policy.delays(), 200))
    assert 0.5 <= min(delays) < 0.6
    assert 0.9 < max(delays) <= 1.0


async def test_an_error_that_passes_is_retried_and_reported() -> None:
    """With the number of the attempt."""
    call, calls = answering(ConnectionError("1"), ConnectionError("2"), "answer")
    failures: list[tuple[str, int]] = []
    assert "answer" == await FAST.retry(call, is_away, lambda error, n: failures.append((str(error), n)))
    assert [("1", 1), ("2", 2)] == failures
    assert 3 == len(calls)


async def test_another_error_is_raised_at_once() -> None:
    """Some servers lock out who tries a wrong password too often."""
    call, calls = answering(ConnectionError(), PermissionError("no"), "answer")
    with pytest.raises(PermissionError):
        await FAST.retry(call, is_away)
    assert 2 == len(calls)


async def test_the_deadline_ends_it_with_the_last_error() -> None:
    """An attempt that would begin after it is not made: nobody waits for nothing."""
    call, calls = answering(ConnectionError("first"), ConnectionError("last"), "answer")
    with pytest.raises(ConnectionError, match="first"):
        async with asyncio.timeout(1):
            await RetryPolicy(first_s=60.0, max_s=60.0, deadline_s=30.0).retry(call, is_away)
    assert 1 == len(calls)


async def test_a_cancel_that_a_call_swallowed_ends_it() -> None:
    """On Python 3.11 `asyncio.wait_for` can lose one."""
    calls = 0

    async def swallow() -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ConnectionError from None

    task = asyncio.create_task(RetryPolicy(first_s=0.0, max_s=0.0).retry(swallow, is_away))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 1 == calls


async def test_a_server_that_is_away_is_waited_for_and_logged_once(logs: list[Any]) -> None:
    """With its address, which has no password any more."""
    call, _ = answering(ConnectionError("refused"), ConnectionError("refused"), "PONG")
    assert "PONG" == await RetryPolicy.for_start(10).reach("redis", "redis://r", call, is_away)
    assert [("server.waited_for", "redis", "redis://r")] == [(x["event"], x["server"], x["address"]) for x in logs]
