"""What an error of Redis means: trouble that passes, or a bug.

Trouble is a connection that is refused, cut or silent, and a server that is loading, read-only, out of
memory or busy. It never ends the worker: whoever meets it waits, with growing delays and jitter, and
goes on. One line is logged when it begins and one when it is over. Everything else, a wrong command
in a script among it, is a bug and is raised: a loop that swallowed it would turn for ever.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PASSING = re.compile(r"\b(LOADING|READONLY|OOM|BUSY|MISCONF|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN)\b")
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.05, 1.0


def is_trouble(error: BaseException) -> bool:
    """Tell trouble that passes from a bug."""
    if isinstance(error, ResponseError):
        return bool(_PASSING.search(str(error))) or type(error).__name__ in ("ReadOnlyError", "OutOfMemoryError")
    return isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError))


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
