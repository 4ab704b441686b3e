"""A cache for one result, with a time to live: callers that ask at the same time share one computation."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """Caches the result of calling *make* for *life_s* seconds; concurrent callers share one call (single flight).

    For *stale_s* seconds after that, callers get the expired result at once while a new result is being made.
    """

    def __init__(self, life_s: float, make: Callable[[], Awaitable[T]], *, stale_s: float = 0.0) -> None:
        self._life_s = life_s
        self._stale_s = stale_s
        self._make = make
        self._making: asyncio.Task[T] | None = None
        self._made: tuple[float, T] | None = None

    @property
    def left_s(self) -> float:
        """Seconds until the cached result expires; 0 if it has expired or there is none yet."""
        return max(0.0, self._made[0] + self._life_s - time.monotonic()) if self._made else 0.0

    def at_once(self) -> T | None:
        """Return the cached result without waiting; None if there is none, or it expired more than *stale_s* ago.

        If there is no result or it has expired, a call of *make* is started in the background.
        """
        if not self.left_s:
            self._begin()
        if self._made is not None and time.monotonic() - self._made[0] < self._life_s + self._stale_s:
            return self._made[1]
        return None

    async def get(self) -> T:
        """Return the cached result; if there is none or it has expired for good, wait for a new call of *make*.

        Errors of *make* are raised, not cached. Cancelling one caller does not cancel the call for the others.
        """
        kept = self.at_once()
        return await asyncio.shield(self._begin()) if kept is None else kept

    def _begin(self) -> asyncio.Task[T]:
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._run(), name="cached answer")
            self._making.add_done_callback(_retrieve)
        return self._making

    async def _run(self) -> T:
        began_s = time.monotonic()
        made = await self._make()
        self._made = (began_s, made)
        return made


def _retrieve(task: asyncio.Task[T]) -> None:
    """Retrieve the task's error, so that asyncio does not log it: perhaps no caller waited for the result."""
    if not task.cancelled():
        task.exception()
