"""A fair gate: at most so many callers inside, and the others let in in the order in which they came.

asyncpg's pool has a queue of its own, which tells nothing about itself and cannot be bounded or resized.
In front of it this gate lets in no more callers than the pool has connections, so that all waiting is
done here, where it is counted.
"""

import asyncio


class GateFull(Exception):
    """As many callers wait as may wait."""


class GateClosed(Exception):
    """The gate has been closed; nobody is let in any more."""


class Gate:
    """Lets at most *limit* callers in at a time; at most *most_waiting* others wait for their turn."""

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
        """Let more in at once; where it is fewer, nobody is sent out, and nobody let in until enough have left."""
        self._limit = limit
        self._let_in()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    def try_enter(self) -> bool:
        """Go in if there is room and nobody waits; returns whether it did. Whoever went in must `leave`."""
        if self._closed or self._queue or self._inside >= self._limit:
            return False
        self._inside += 1
        return True

    async def enter(self, timeout_s: float) -> None:
        """Go in when it is one's turn, waiting at most *timeout_s*. Raises `TimeoutError`, `GateFull`, `GateClosed`."""
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
        """Send away everybody who waits, with `GateClosed`; who is inside may finish."""
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
