"""An answer that is kept for a short time, and made once for however many ask."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """What *make* returned, for *life_s* seconds; then it is made anew, once for all who ask meanwhile.

    For *stale_s* seconds longer whoever asks gets the old one at once, while a new one is being made.
    """

    def __init__(self, life_s: float, make: Callable[[], Awaitable[T]], *, stale_s: float = 0.0) -> None:
        self._life_s = life_s
        self._stale_s = stale_s
        self._make = make
        self._making: asyncio.Task[T] | None = None
        self._made: tuple[float, T] | None = None

    @property
    def left_s(self) -> float:
        """For how long it is still fresh."""
        return max(0.0, self._made[0] + self._life_s - time.monotonic()) if self._made else 0.0

    def at_once(self) -> T | None:
        """Return what is kept, without waiting; None where there is nothing. What is not fresh is made anew."""
        if not self.left_s:
            self._begin()
        if self._made is not None and time.monotonic() - self._made[0] < self._life_s + self._stale_s:
            return self._made[1]
        return None

    async def get(self) -> T:
        """Return it. Raises what *make* raises, which is kept for nobody. To stop waiting stops nobody else's."""
        kept = self.at_once()
        return await asyncio.shield(self._begin()) if kept is None else kept

    def _begin(self) -> asyncio.Task[T]:
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._run(), name="answer that is kept")
            self._making.add_done_callback(_seen)
        return self._making

    async def _run(self) -> T:
        began_s = time.monotonic()
        made = await self._make()
        self._made = (began_s, made)
        return made


def _seen(task: asyncio.Task[T]) -> None:
    """Look at the error: of a new answer nobody may have waited for."""
    if not task.cancelled():
        task.exception()
