"""One checkout of a connection: which task has it, since when, and which line of code asked for it."""

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
    """Who has a connection now: the task, the function and line that asked for it, and the connection's backend."""

    since_ns: int
    """When the connection was checked out (`time.perf_counter_ns`)."""
    task: asyncio.Task[object] | None
    where: str
    """The caller, as `function:line`."""
    server_pid: int
    """The process id of the connection's PostgreSQL backend."""

    @property
    def task_name(self) -> str:
        """The name of the task that has the connection; empty if it was checked out outside any task."""
        return self.task.get_name() if self.task else ""

    @property
    def us(self) -> int:
        """How long the connection has been checked out, in microseconds."""
        return (time.perf_counter_ns() - self.since_ns) // 1000


class Checkout:
    """The context manager that `Pool.acquire` returns. It can be entered once.

    Entering it awaits *check_out*, which returns a connection; leaving it awaits *check_in*, which takes that back.
    Errors of the driver become those of `tidepool.pool.faults`. It is a class because a generator would cost 4 us more.
    It keeps the caller's code and line instead of its frame, which would keep the caller's variables alive.
    """

    __slots__ = ("_check_in", "_check_out", "code", "connection", "line", "server_pid", "since_ns", "task")

    connection: DirectConnection
    server_pid: int
    since_ns: int
    task: asyncio.Task[object] | None

    def __init__(
        self, check_out: Callable[[Self], Awaitable[DirectConnection]], check_in: Callable[[Self], Awaitable[None]]
    ) -> None:
        self._check_out = check_out
        self._check_in = check_in
        self.code, self.line = _caller()

    async def __aenter__(self) -> DirectConnection:
        try:
            return await self._check_out(self)
        except Exception as error:
            raise_fault(error)
            raise

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            await self._check_in(self)
        except Exception as failure:
            raise_fault(failure)
            raise
        if isinstance(error, Exception):
            raise_fault(error)

    def holder(self) -> Holder:
        """Return who holds the connection, for reports. Call it only while the connection is checked out."""
        return Holder(self.since_ns, self.task, f"{self.code.co_qualname}:{self.line}", self.server_pid)


def _caller() -> tuple[CodeType, int]:
    """Return the code object and line number of the caller, outside the pool, that asked for a connection."""
    # from the checkout's construction upwards; `inspect` would begin here, and a traceback would cost 20 us
    frame = sys._getframe(2)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    while frame.f_code.co_filename in _OF_THE_POOL and frame.f_back:
        frame = frame.f_back
    return frame.f_code, frame.f_lineno
