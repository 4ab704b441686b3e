"""Repeats calls: until one succeeds, with the delays of a `RetryPolicy`, or for as long as the process lives (`every`).

    await RetryPolicy(first_s=0.2, max_s=1.0, deadline_s=30.0).retry(call, passes=is_temporary)

Nobody awaits a task that runs `every`. If an error ended such a task, its work would be missing until the process is
restarted, so a failed round is logged, and the next one follows.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Self, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

_START_FIRST_S, _START_MAX_S = 0.2, 1.0
"""First and max delay in seconds between attempts to reach a server: it is noticed within a second of its start."""
_MIN_FAILED_DELAY_S = 1.0
"""Min seconds between a failed round and the next one, so that work that fails at once does not loop without a pause.
"""
_LOG_EVERY_S = 60.0
"""Min seconds between two log lines about failures of one task."""


def heed_cancel() -> None:
    """Raise `CancelledError` if this task was cancelled but a library has swallowed the exception.

    A loop that retries or polls calls this in each round. On Python 3.11 `asyncio.wait_for` can lose a cancel that
    arrives in the moment its own wait ends, and libraries use it: the call returns as if there had been no
    cancellation, and the loop would go on for ever. Python remembers the cancellation.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed call is tried again: how long to wait between two attempts, in seconds, and when to give up.

    The delays are *first_s*, then each *factor* times the one before, up to *max_s* (exponential backoff). Each is
    shortened by a random part of it, at most the share *jitter* (0 to 1). No attempt begins later than *deadline_s*
    after the call of `retry`.
    """

    first_s: float
    max_s: float
    factor: float = 2.0
    jitter: float = 0.0
    deadline_s: float = math.inf

    @classmethod
    def for_start(cls, patience_s: float | None) -> Self:
        """Return the policy for a process that starts and waits *patience_s* seconds for a server; None: for ever."""
        return cls(_START_FIRST_S, _START_MAX_S, deadline_s=math.inf if patience_s is None else patience_s)

    def delay_s(self, attempt: int) -> float:
        """Return the seconds to wait after *attempt*, counted from 1, before the next one."""
        with suppress(OverflowError):
            return min(self.first_s * self.factor ** (attempt - 1), self.max_s) * random.uniform(1.0 - self.jitter, 1.0)
        return self.max_s

    def delays(self) -> Iterator[float]:
        """Yield the delays in seconds before the second attempt, the third, and so on; the iterator never ends."""
        for delay_s in accumulate(repeat(self.factor), lambda d, f: min(d * f, self.max_s), initial=self.first_s):
            yield delay_s * random.uniform(1.0 - self.jitter, 1.0)

    async def retry(
        self,
        call: Callable[[], Awaitable[T]],
        passes: Callable[[Exception], bool],
        on_failure: Callable[[Exception, int], None] = lambda _error, _attempt: None,
    ) -> T:
        """Call *call* until it succeeds, and return its result.

        *call* must be safe to repeat. *passes* returns whether an error is temporary, so that a retry can help.
        *on_failure* is called before each delay, with the error and the number of the attempt, counted from 1. Raises
        the last error if it is not temporary, or when the policy's deadline is over.
        """
        loop = asyncio.get_running_loop()
        gives_up_s = loop.time() + self.deadline_s
        for attempt, delay_s in enumerate(self.delays(), 1):
            heed_cancel()
            try:
                return await call()
            except Exception as error:
                if not passes(error) or loop.time() + delay_s > gives_up_s:
                    raise
                on_failure(error, attempt)
            await asyncio.sleep(delay_s)
        raise AssertionError("the delays have no end")

    async def reach(
        self, server: str, address: str, call: Callable[[], Awaitable[T]], passes: Callable[[Exception], bool]
    ) -> T:
        """Call *call*, which uses a server, until it succeeds, and return its result; log only the first error.

        *server* and *address* are shown in the log line. *passes* and the errors raised are those of `retry`.
        """

        def log_first(error: Exception, attempt: int) -> None:
            if attempt == 1:
                log.warning("server.waited_for", server=server, address=address, error=str(error))

        return await self.retry(call, passes, log_first)


class FailureLog:
    """Logs the errors of one repeated task, at most one a minute, with its traceback and the number of errors so far.

    Thread-safe.
    """

    def __init__(self, task: str) -> None:
        self._task = task
        self._count = 0
        self._next_s = 0.0

    def log(self, error: Exception) -> None:
        """Count *error*, and log it unless an error of this task was logged less than a minute ago."""
        self._count += 1
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _LOG_EVERY_S
            log.error("task.failed", task=self._task, failures=self._count, exc_info=error)


async def every(
    period_s: float, run_once: Callable[[], Awaitable[object]], name: str, *, waits_first: bool = False
) -> None:
    """Call *run_once*, wait *period_s* seconds, and repeat until the task is cancelled; *waits_first*: wait first.

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
