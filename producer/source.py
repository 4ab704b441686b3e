"""The sources of a run's commands: an iterator that never blocks, or a reader of a file or pipe.

`Run.enqueue` takes commands from either. A pipe may block at any line, so it is read in a thread: meanwhile the run
sends the commands that have come, and can be cancelled.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice

from producer.commands_file import Refusal
from tidepool import MOST_AT_ONCE, Submission

Item = Submission | Refusal
Take = Callable[[int], Awaitable[list[Item]]]
"""A function that returns the next items in order: those available, max as many as its argument.

It waits until there is at least one; an empty list means that the source has ended.
"""


def at_hand(items: Iterator[Item]) -> Take:
    """Return a source that takes from *items*, an iterator that never blocks."""

    async def take(most: int) -> list[Item]:
        return list(islice(items, most))

    return take


class Reader:
    """A source that reads *items*, an iterator that may block, in a thread. It reads at most 500 items ahead.

    The thread is a daemon and is never joined, so the process can end while it waits for input. Only the thread uses
    *items*.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._there = deque[Item]()
        self._room = threading.Event()
        self._news = asyncio.Event()
        self._notified = False
        """Whether the event loop was notified since it last looked. One notification costs more than reading a line."""
        self._ended = False
        self._fault: Exception | None = None
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="commands", daemon=True).start()

    async def take(self, most: int) -> list[Item]:
        """Wait until items are available and return up to *most* of them; an empty list at the end.

        Raises the error that reading *items* raised, after the items before it.
        """
        while True:
            self._notified = False  # before looking: what comes after that notifies again
            self._news.clear()
            ended = self._ended
            taken = [self._there.popleft() for _ in range(min(most, len(self._there)))]
            self._room.set()
            if taken or ended:
                break
            await self._news.wait()
        if not taken and self._fault is not None:
            raise self._fault
        return taken

    def _read(self) -> None:
        try:
            for item in self._items:
                self._there.append(item)
                self._notify()
                self._wait_for_room()
        except Exception as error:  # noqa: BLE001  (`take` raises it)
            self._fault = error
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        if not self._notified:
            self._notified = True
            with suppress(RuntimeError):  # the loop is closed: nothing is taken any more
                self._loop.call_soon_threadsafe(self._news.set)

    def _wait_for_room(self) -> None:
        while len(self._there) >= MOST_AT_ONCE:
            self._room.clear()
            if len(self._there) >= MOST_AT_ONCE:
                self._room.wait()
