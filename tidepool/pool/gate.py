"""A fair semaphore with a bounded queue: callers enter in the order of their requests, up to a limit.

asyncpg's pool has a queue, too, but one without figures, which cannot be bounded or resized. This gate in front of it
lets in no more callers than the pool has connections, so all callers wait here, where the wait is counted.
"""

import asyncio


class GateFull(Exception):
    """The queue is full: as many callers wait as may wait."""


class GateClosed(Exception):
    """The gate is closed: no caller may enter any more."""


class Gate:
    """Lets at most *limit* callers in at a time; at most *most_waiting* more may wait."""

    def __init__(self, limit: int, *, most_waiting: int) -> None:
        self._limit = limit
        self._most_waiting = most_waiting
        self._inside = 0
        self._queue: dict[asyncio.Future[None], None] = {}
        """Who waits, in order; a dictionary, because a caller that gives up may stand anywhere in it."""
        self._closed = False

    @property
    def limit(self) -> int:
        """How many may be inside."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        """Change the number of places. With fewer, callers inside stay, and none enters until enough have left."""
        self._limit = limit
        self._let_in()

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return len(self._queue)

    def try_enter(self) -> bool:
        """Enter if a place is free and no caller waits; return whether this was possible. Call `leave` afterwards."""
        if self._closed or self._queue or self._inside >= self._limit:
            return False
        self._inside += 1
        return True

    async def enter(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* seconds for a place, and enter. Raises `TimeoutError`, `GateFull` or `GateClosed`."""
        if self._closed:
            raise GateClosed
        if self.try_enter():
            return
        if len(self._queue) >= self._most_waiting:
            raise GateFull
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue[turn] = None
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException:
            if turn in self._queue:
                del self._queue[turn]
            elif turn.done() and not turn.cancelled() and not turn.exception():
                self.leave()  # it was let in at the very moment when it gave up
            raise

    def leave(self) -> None:
        """Go out, and let the next one in."""
        self._inside -= 1
        self._let_in()

    def close(self) -> None:
        """Close the gate. Waiting callers get `GateClosed`; callers inside may finish."""
        self._closed = True
        for turn in self._queue:
            if not turn.done():
                turn.set_exception(GateClosed())
        self._queue.clear()

    def _let_in(self) -> None:
        while self._queue and self._inside < self._limit:
            turn = next(iter(self._queue))
            del self._queue[turn]
            if not turn.done():  # else its caller was cancelled, and is about to say so
                self._inside += 1
                turn.set_result(None)
