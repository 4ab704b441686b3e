"""Background tasks: an error is logged, once a minute, and the task goes on."""

import asyncio
from typing import Any

import pytest

from tidepool import periodic
from tidepool.periodic import FailureLog, keep_running


@pytest.mark.parametrize("error", [ValueError("odd"), OSError("away"), RecursionError(), KeyError("x"), None])
async def test_a_task_that_fails_or_returns_goes_on(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    """Whatever it raises; all of its failures are one line in a minute."""
    monkeypatch.setattr(periodic, "_RESTART_DELAY_S", 0.0)
    rounds = 0
    enough = asyncio.Event()

    async def work() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 5:
            enough.set()
            await asyncio.Event().wait()
        if error:
            raise error

    task = asyncio.create_task(keep_running(work, "the task"))
    await enough.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    told = [(line["event"], line["task"], line["failures"]) for line in logs]
    assert told == ([("task.failed", "the task", 1)] if error else [])


def test_the_next_minute_has_its_line(monkeypatch: pytest.MonkeyPatch, logs: list[Any]) -> None:
    """It says how many failures there have been."""
    now_s = 100.0
    monkeypatch.setattr(periodic.time, "monotonic", lambda: now_s)
    failures = FailureLog("the task")
    for seconds in (0.0, 1.0, 30.0, 60.0):
        now_s = 100.0 + seconds
        failures.log(ValueError())
    assert [1, 4] == [line["failures"] for line in logs]
