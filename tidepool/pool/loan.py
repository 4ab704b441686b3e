"""One use of a connection: who has it, since when, and from where in the code it was asked for."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, TracebackType
from typing import Self

from tidepool.pool.connection import DirectConnection
from tidepool.pool.faults import raise_fault

_OF_THE_POOL = (__file__, str(Path(__file__).with_name("pool.py")), contextlib.__file__)


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who has a connection now: the task, where it asked for the connection, and the server's process."""

    since_ns: int
    task: asyncio.Task[object] | None
    where: str
    server_pid: int

    @property
    def task_name(self) -> str:
        """The task's name, empty outside any task."""
        return self.task.get_name() if self.task else ""

    @property
    def us(self) -> int:
        """For how long."""
        return (time.perf_counter_ns() - self.since_ns) // 1000


class Loan:
    """What `Pool.acquire` returns, to be entered once: *lend* gives it a connection, and *take_back* takes that back.

    A class, as generators would cost 4 us more. Of the place that asks it keeps the code and the line, which cost
    little, and not the frame, which would keep alive all that is in it.
    """

    __slots__ = ("_lend", "_take_back", "code", "connection", "line", "server_pid", "since_ns", "task")

    connection: DirectConnection
    server_pid: int
    since_ns: int
    task: asyncio.Task[object] | None

    def __init__(
        self, lend: Callable[[Self], Awaitable[DirectConnection]], take_back: Callable[[Self], Awaitable[None]]
    ) -> None:
        self._lend = lend
        self._take_back = take_back
        self.code, self.line = _caller()

    async def __aenter__(self) -> DirectConnection:
        try:
            return await self._lend(self)
        except Exception as error:
            raise_fault(error)
            raise

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            await self._take_back(self)
        except Exception as failure:
            raise_fault(failure)
            raise
        if isinstance(error, Exception):
            raise_fault(error)

    def holder(self) -> Holder:
        """Return who has the connection."""
        return Holder(self.since_ns, self.task, f"{self.code.co_qualname}:{self.line}", self.server_pid)


def _caller() -> tuple[CodeType, int]:
    """Return the place outside the pool that asks for a connection: its code, and the line."""
    # from the loan's construction upwards; `inspect` would begin here, and a traceback would cost 20 us
    frame = sys._getframe(2)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    while frame.f_code.co_filename in _OF_THE_POOL and frame.f_back:
        frame = frame.f_back
    return frame.f_code, frame.f_lineno
