"""What an error of Redis means: trouble that passes, or a bug.

Trouble is a connection that is refused, cut or silent, a server that is loading, read-only, out of
memory or busy, and a key of a wrong type, which somebody has written and can mend. It never ends the worker: whoever
meets it waits, with growing delays and jitter, and goes on. One line is logged when it begins and one when it is over.
Every other error, such as a wrong command in a script, is a bug and is raised: a loop that swallowed it would turn for
ever.

A value that makes no sense is no trouble: data that others can write is data. It is skipped, and `Oddities` logs it.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PASSING = re.compile(r"\b(LOADING|READONLY|OOM|BUSY|MISCONF|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN|WRONGTYPE)\b")
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.05, 1.0
_MOST_LOGGED = 100
"""Different values that one process logs."""
_MOST_SHOWN = 200
"""Characters of a sender's text in a line."""


def is_trouble(error: BaseException) -> bool:
    """Tell trouble that passes from a bug."""
    if isinstance(error, ResponseError):
        return bool(_PASSING.search(str(error))) or type(error).__name__ in ("ReadOnlyError", "OutOfMemoryError")
    return isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError))


def is_wrong_type(error: BaseException) -> bool:
    """Return whether Redis refused a command because its key has another type than the command is for."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


class Oddities:
    """Counts values of Redis that were skipped, and logs *event* once for each of them."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._logged: set[str] = set()
        self.count = 0

    def skipped(self, what: str, **more: Any) -> None:
        """Count one more; log it, cut, unless it was logged before, or so many were that this is a flood."""
        self.count += 1
        shown = shown_text(what)
        if shown not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(shown)
            log.warning(self._event, what=shown, count=self.count, **more)


def shown_text(text: str) -> str:
    """Return a sender's text for a log line: printable, and at most 200 characters of it."""
    start = text[:_MOST_SHOWN]
    return start if start.isprintable() else ascii(start)[1:-1][:_MOST_SHOWN]


class Patience:
    """Waits out trouble. One of it serves a whole process, so that trouble is told once."""

    def __init__(self) -> None:
        self._delay_s = 0.0

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what *call* returns, repeating it while Redis is in trouble: it must be safe to repeat."""
        while True:
            try:
                answer = await call()
            except Exception as error:  # noqa: BLE001  (raised again unless it is trouble)
                await self.pause(error)
            else:
                self.over()
                return answer

    async def pause(self, error: Exception) -> None:
        """Wait a little, longer each time; raises *error* where it is a bug."""
        if not is_trouble(error):
            raise error
        if not self._delay_s:
            log.warning("redis.unavailable", error=f"{type(error).__name__}: {error}"[:200])
        self._delay_s = min(max(self._delay_s * 2, _FIRST_DELAY_S), _LONGEST_DELAY_S)
        await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.0))

    def over(self) -> None:
        """Say that trouble is over, if there was any."""
        if self._delay_s:
            self._delay_s = 0.0
            log.info("redis.back")
