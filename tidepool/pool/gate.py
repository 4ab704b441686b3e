"""A fair semaphore: at most *limit* callers are inside, and others enter in the order in which they came.

asyncpg's pool has a queue of its own, which reports nothing and cannot be bounded or resized. This gate in front of it
lets no more callers in than the pool has connections, so that all waiting happens here, where it is counted.
"""

import asyncio


class GateFull(Exception):
    """A caller cannot enter the gate, because the max number of callers wait already."""


class GateClosed(Exception):
    """A caller cannot enter the gate, because it has been closed."""


class Gate:
    """Lets at most *limit* callers in at a time; at most *max_waiting* others wait for their turn."""

    def __init__(self, limit: int, *, max_waiting: int) -> None:
        self._limit = limit
        self._max_waiting = max_waiting
        self._inside = 0
        self._queue: dict[asyncio.Future[None], None] = {}
        """The waiting callers in order; a dictionary, because a caller that gives up can be anywhere in it."""
        self._closed = False

    @property
    def limit(self) -> int:
        """The max number of callers that may be inside at a time."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        """Change the limit. A higher one lets callers in at once; a lower one lets none in until enough have left."""
        self._limit = limit
        self._let_in()

    @property
    def waiting(self) -> int:
        """The number of callers that wait."""
        return len(self._queue)

    def try_enter(self) -> bool:
        """Enter if there is room and no caller waits; returns whether it has. After that, `leave` must be called."""
        if self._closed or self._queue or self._inside >= self._limit:
            return False
        self._inside += 1
        return True

    async def enter(self, timeout_s: float) -> None:
        """Wait for the caller's turn and enter. After that, `leave` must be called.

        Raises `TimeoutError` after *timeout_s* seconds, `GateFull` at once if the max number of callers wait already,
        and `GateClosed` if the gate is closed before or meanwhile.
        """
        if self._closed:
            raise GateClosed
        if self.try_enter():
            return
        if len(self._queue) >= self._max_waiting:
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
        """Leave, and let the next waiting caller in. To be called once after each successful entry."""
        self._inside -= 1
        self._let_in()

    def close(self) -> None:
        """Close the gate for good. Callers that wait or come later get `GateClosed`; those inside can finish."""
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
