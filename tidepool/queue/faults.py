"""Classifies the errors of Redis for the whole program, as `tidepool.pool.faults` does for PostgreSQL.

- An *outage* passes by itself (`is_outage`): a connection that is refused, cut or silent; a server that is loading,
  read-only, out of memory or busy; and a key of a wrong type, which somebody wrote and can mend. A running worker waits
  for its end, with growing delays and jitter, and goes on; `Outage` logs one line when it begins and one when it ends.
- A *refusal* (`is_refusal`) ends a start at once, since waiting cannot help: a wrong password, a missing right, a
  server that is set up in a way that cannot serve us. For a running worker a connection that is refused is an outage:
  somebody has just changed a password or a certificate.
- Every other error, such as a wrong command in a script, is a bug and is raised: a loop that caught it would not end.

Other rooms see errors of Redis's client as `RedisError`. Two of these are ours: `RedisUnavailable`, when a call has
waited in vain for the end of an outage, and `RedisRefused`, when a process starts.

A value that makes no sense is no error: others can write to Redis, too. It is skipped, and `Oddities` logs it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tidepool.retry import RetryPolicy, retry

__all__ = ["RedisError"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

REDIS_ERRORS = (RedisError, OSError)
"""The errors that any operation on Redis may raise, temporary or not."""
_PASSING = re.compile(r"\b(LOADING|READONLY|OOM|BUSY|MISCONF|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN|WRONGTYPE)\b")
_OUTAGE_DELAYS = RetryPolicy(first_s=0.05, max_s=1.0, jitter=0.5)
"""The first delay is short, because a cut connection is soon back; jitter spreads the retries of many workers."""
_MAX_LOGGED = 100
"""Max different values that one `Oddities` logs."""
_MAX_SHOWN = 200
"""Max characters of a sender's text in a log line."""


class RedisRefused(RedisConnectionError):
    """Redis rejects the connection, or cannot be used because of its configuration or its URL; the text says why."""


class RedisUnavailable(RedisConnectionError):
    """Redis was unavailable for longer than the caller waits; the text is that of the last error."""


def is_outage(error: BaseException) -> bool:
    """Return whether *error* is temporary for a running worker, which waits and tries again."""
    if isinstance(error, ResponseError):
        return bool(_PASSING.search(str(error))) or type(error).__name__ in ("ReadOnlyError", "OutOfMemoryError")
    return isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError))


def is_refusal(error: BaseException | None) -> bool:
    """Return whether Redis rejects the login or lacks a right for the user, or is set up in a way that we cannot use.

    False for None.
    """
    refusals = (AuthenticationError, AuthenticationWrongNumberOfArgsError, NoPermissionError, RedisRefused)
    return isinstance(error, refusals)


def is_passing(error: BaseException) -> bool:
    """Return whether a process that starts should wait and retry: *error* is an outage and not a refusal."""
    return is_outage(error) and not is_refusal(error)


def is_answer(error: BaseException) -> bool:
    """Return whether *error* is a reply of Redis itself, which proves that the address is right."""
    return isinstance(error, (ResponseError, BusyLoadingError))


def is_refused_command(error: BaseException) -> bool:
    """Return whether Redis rejected the command with *error* and will reject it again: a retry cannot help."""
    return isinstance(error, ResponseError) and not is_outage(error)


def is_wrong_type(error: BaseException) -> bool:
    """Return whether Redis rejected a command because its key holds a value of another type (WRONGTYPE)."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


class Oddities:
    """Counts unusable values in Redis that were skipped, and logs a warning named *event* once for each of them."""

    def __init__(self, event: str) -> None:
        self._event = event
        self._logged: set[str] = set()
        self.count = 0

    def skipped(self, what: str, **more: object) -> None:
        """Count the unusable value *what*, and log it once, shortened. After 100 different values none is logged."""
        self.count += 1
        shown = shown_text(what)
        if shown not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(shown)
            log.warning(self._event, what=shown, count=self.count, **more)


def shown_text(text: str) -> str:
    """Return a sender's text in a form for a log line: cut to 200 characters, other than printable ones escaped."""
    start = text[:_MAX_SHOWN]
    return start if start.isprintable() else ascii(start)[1:-1][:_MAX_SHOWN]


class Outage:
    """Waits while Redis is unavailable, and logs the beginning and the end of each outage.

    A process uses one object for all its calls, so that an outage is logged once.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._delays = _OUTAGE_DELAYS.delays()

    async def outlast(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call *call* until Redis is available, and return its result. *call* must be safe to repeat.

        Waits without a limit, and raises errors of *call* that are not outages.
        """
        answer = await retry(call, _OUTAGE_DELAYS, is_outage, lambda error, _attempt: self._begin(error))
        self.over()
        return answer

    async def pause(self, error: Exception) -> None:
        """Wait before the next attempt: 50 ms at first, then longer each time, up to 1 s, until `over` is called.

        Raises *error* if it is not an outage.
        """
        if not is_outage(error):
            raise error
        self._begin(error)
        await asyncio.sleep(next(self._delays))

    def over(self) -> None:
        """Record that Redis is available; log that if it was unavailable before."""
        if self._is_on:
            self._is_on = False
            log.info("redis.back")

    def _begin(self, error: Exception) -> None:
        if not self._is_on:
            self._is_on = True
            self._delays = _OUTAGE_DELAYS.delays()
            log.warning("redis.unavailable", error=f"{type(error).__name__}: {error}"[:200])
