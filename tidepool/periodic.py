"""Repeats work in the background for as long as the process lives. A failed round is logged, and the next one follows.

Nobody awaits such a task. If an error ended it, its work would be missing until the process is restarted.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from tidepool.cancelling import heed_cancel

log = structlog.get_logger(__name__)

_MIN_FAILED_DELAY_S = 1.0
"""Min seconds between a failed round and the next one, so that work that fails at once does not loop without a pause.
"""
_LOG_EVERY_S = 60.0
"""Min seconds between two log lines about failures of one task."""


class FailureLog:
    """Logs the failures of one task, max one a minute, with its traceback and the number of failures so far.

    Thread-safe.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._count = 0
        self._next_s = 0.0

    def log(self, error: Exception) -> None:
        """Count *error*, and log it unless another one was logged less than a minute ago."""
        self._count += 1
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LOG_EVERY_S
            log.error("task.failed", task=self._task, failures=self._count, exc_info=error)


async def every(
    period_s: float, run_once: Callable[[], Awaitable[object]], name: str, *, waits_first: bool = False
) -> None:
    """Call *run_once*, wait *period_s*, and repeat until the task is cancelled; *waits_first* puts the wait first.

    If a round raises an error, it is logged under *name*, and the next round begins a second or *period_s* later,
    whichever is longer. Use a period of 0 if *run_once* itself sleeps until its time.
    """
    failures = FailureLog(name)
    delay_s = period_s if waits_first else 0.0
    while True:
        await asyncio.sleep(delay_s)
        heed_cancel()
        try:
            await run_once()
            delay_s = period_s
        except Exception as error:  # noqa: BLE001  (whatever it is, the next round comes)
            failures.log(error)
            delay_s = max(period_s, _MIN_FAILED_DELAY_S)
