"""Background tasks that last as long as their process: an error is logged, and the task goes on.

Nobody awaits such a task. Were it to end by an error, what it does would be missing until the process is restarted.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from tidepool.cancelling import heed_cancel

log = structlog.get_logger(__name__)

_RESTART_DELAY_S = 1.0
_LOG_EVERY_S = 60.0


class FailureLog:
    """Logs the failures of one task, at most one a minute, with its traceback and how many there were. Thread-safe."""

    def __init__(self, task: str) -> None:
        self._task = task
        self._count = 0
        self._next_s = 0.0

    def log(self, error: Exception) -> None:
        """Count *error*, and log it if it is time."""
        self._count += 1
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LOG_EVERY_S
            log.error("task.failed", task=self._task, failures=self._count, exc_info=error)


async def keep_running(work: Callable[[], Awaitable[None]], name: str) -> None:
    """Call *work*, which runs until it is cancelled, again a second after each error of it or when it returns."""
    failures = FailureLog(name)
    while True:
        heed_cancel()
        try:
            await work()
        except Exception as error:  # noqa: BLE001  (whatever it is, the task goes on)
            failures.log(error)
        await asyncio.sleep(_RESTART_DELAY_S)
