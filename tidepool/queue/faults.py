"""Classifies the errors of Redis for the whole program, as `tidepool.pool.faults` does for PostgreSQL.

`RedisFault.of(error)` says what an error means. Of these kinds,

- an *outage* passes by itself: a connection that is refused, cut or silent; a server that is loading, read-only, out of
  memory or busy; and a key of a wrong type, which somebody wrote and can mend. A running worker waits for its end, with
  growing delays and jitter, and goes on; `Outage` logs one line when it begins and one when it ends.
- a *refusal* ends a start at once, since waiting cannot help: a wrong password, a missing right, a server that is set
  up in a way that cannot serve us. For a running worker a connection that is refused is an outage: somebody has just
  changed a password or a certificate.
- every other error, such as a wrong command in a script, is a bug and is raised: a loop that caught it would not end.

Other rooms see errors of Redis's client as `RedisError`. Two of these are ours: `RedisUnavailable`, when a call has
waited in vain for the end of an outage, and `RedisRefused`, when a process starts.

A value that makes no sense is no error: others can write to Redis, too. It is skipped, and `Oddities` logs it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TypeVar

import structlog
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tidepool.logs import printable
from tidepool.repeating import RetryPolicy

__all__ = ["RedisError"]

log = structlog.get_logger(__name__)

T = TypeVar("T")

REDIS_ERRORS = (RedisError, OSError)
"""The errors that any operation on Redis may raise, temporary or not."""
_CONNECTION_ERRORS = (RedisConnectionError, RedisTimeoutError, OSError)
_BUSY_ERRORS = (ReadOnlyError, OutOfMemoryError)
_BUSY_REPLY = re.compile(r"\b(LOADING|READONLY|OOM|BUSY|MISCONF|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN)\b")
"""Matches the other replies, and the errors of scripts, which repeat the reply to one of their commands."""
_OUTAGE_POLICY = RetryPolicy(first_s=0.05, max_s=1.0, jitter=0.5)
"""The first delay is short, because a cut connection is soon back; jitter spreads the retries of many workers."""
_MAX_LOGGED = 100
"""Max different values that one `Oddities` logs."""
_MAX_SHOWN = 200
"""Max characters of a sender's text in a log line."""


class RedisRefused(RedisConnectionError):
    """Redis rejects the connection, or cannot be used because of its configuration or its URL; the text says why."""


class RedisUnavailable(RedisConnectionError):
    """Redis was unavailable for longer than the caller waits; the text is that of the last error."""


class RedisFault(Enum):
    """The meaning of an error of a call to Redis: six kinds of trouble with Redis, and `NONE`, any other error.

    It decides whether the caller waits, gives up, or raises the error.
    """

    UNREACHABLE = "the connection is refused, cut or silent"
    LOGIN = "Redis rejects our login or certificate, or is set up in a way that we cannot use"
    BUSY = "Redis answers that it is loading, read-only, out of memory or busy"
    WRONG_TYPE = "a key holds a value of another type than the command expects"
    PERMISSION = "our user lacks a right that the command needs"
    COMMAND = "Redis rejects the command for another reason, and would reject it again"
    NONE = "the error does not come from Redis or the connection to it"

    @classmethod
    def of(cls, error: BaseException | None) -> "RedisFault":
        """Return the kind of trouble that *error* means; `NONE` if it does not come from Redis."""
        if isinstance(error, (AuthenticationError, RedisRefused)):
            return cls.LOGIN
        if isinstance(error, (NoPermissionError, AuthenticationWrongNumberOfArgsError)):
            return cls.PERMISSION
        if isinstance(error, ResponseError):
            if "WRONGTYPE" in str(error):
                return cls.WRONG_TYPE
            return cls.BUSY if isinstance(error, _BUSY_ERRORS) or _BUSY_REPLY.search(str(error)) else cls.COMMAND
        if isinstance(error, BusyLoadingError):
            return cls.BUSY
        return cls.UNREACHABLE if isinstance(error, _CONNECTION_ERRORS) else cls.NONE

    @property
    def is_outage(self) -> bool:
        """Whether a running worker should wait and try again after this error, because the trouble is temporary."""
        return self.is_passing or self is RedisFault.LOGIN

    @property
    def is_passing(self) -> bool:
        """Whether a process that starts should wait and try again after this error.

        A rejected login is not temporary for a process that starts, though it is for a running worker (`is_outage`).
        """
        return self in (RedisFault.UNREACHABLE, RedisFault.BUSY, RedisFault.WRONG_TYPE)

    @property
    def is_refusal(self) -> bool:
        """Whether Redis rejects our login, denies our user a right, or is set up in a way that cannot be used."""
        return self in (RedisFault.LOGIN, RedisFault.PERMISSION)

    @property
    def is_rejected_command(self) -> bool:
        """Whether Redis rejected the command and will reject it again: a retry cannot help."""
        return self in (RedisFault.PERMISSION, RedisFault.COMMAND)

    @property
    def is_answer(self) -> bool:
        """Whether the error is a reply of Redis itself, which proves that Redis is at the configured address."""
        return self.is_rejected_command or self in (RedisFault.BUSY, RedisFault.WRONG_TYPE)


class Oddities:
    """Logs values in Redis that make no sense to this program and were skipped; other programs may have written them.

    Each different value is logged once, as a warning named *event*. All of them are counted in `count`.
    """

    def __init__(self, event: str) -> None:
        self._event = event
        self._logged: set[str] = set()
        self.count = 0

    def skipped(self, what: str, **more: object) -> None:
        """Count the unusable value *what*, and log it once, shortened. After 100 different values none is logged.

        *more* are further fields of the log line.
        """
        self.count += 1
        shown = printable(what, _MAX_SHOWN)
        if shown not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(shown)
            log.warning(self._event, what=shown, count=self.count, **more)


class Outage:
    """Waits while Redis is unavailable, and logs the beginning and the end of each such outage.

    A process uses one object for all its calls, so that an outage is logged once.
    """

    def __init__(self) -> None:
        self.is_on = False
        """Whether Redis was unavailable at the last call."""
        self._delays = _OUTAGE_POLICY.delays()

    async def outlast(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call *call* repeatedly until it is not stopped by an outage of Redis, and return its result.

        *call* must be safe to repeat. Waits without a limit, and raises errors of *call* that are not outages.
        """
        answer = await _OUTAGE_POLICY.retry(
            call, lambda error: RedisFault.of(error).is_outage, lambda error, _attempt: self._begin(error)
        )
        self.over()
        return answer

    async def pause(self, error: Exception) -> None:
        """Wait before the next attempt at a call: 50 ms at first, then longer each time, up to 1 s, until `over`.

        Logs the first *error* of an outage. Raises *error* if it is not an outage.
        """
        if not RedisFault.of(error).is_outage:
            raise error
        self._begin(error)
        await asyncio.sleep(next(self._delays))

    def over(self) -> None:
        """Record that Redis is available again; log that if it was unavailable before."""
        if self.is_on:
            self.is_on = False
            log.info("redis.back")

    def _begin(self, error: Exception) -> None:
        if not self.is_on:
            self.is_on = True
            self._delays = _OUTAGE_POLICY.delays()
            log.warning("redis.unavailable", error=f"{type(error).__name__}: {error}"[:200])
