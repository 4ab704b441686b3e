"""Detects events in a process by comparing each snapshot with the one before: leaked connections, a full pool, others.

A leak is a connection that a task has held for longer than any transaction may last. It is reported once, with the
place where it was acquired and the place where its holder is now, and once more if it is given back after all.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple, cast

from tidepool.pool.watched import Holder
from tidepool.storage.snapshots import Snapshot

_BEGINS, _ENDS = 0.5, 0.1
"""Share of a tick with a queue from which saturation is reported to begin, and below which to have ended."""
_BLOCKED_US = 250_000
"""Microseconds: the event loop was blocked for long enough to be noticed by a caller."""
_MAX_DEPTH = 30
"""Calls of a task that are reported: more are a recursion."""


class _Happening(NamedTuple):
    """An event without its process and time, which the caller adds; *detail* is ready for JSON."""

    kind: str
    detail: Mapping[str, object]


class Watcher:
    """Detects what happened to a process between two snapshots, by comparing each snapshot with the one before.

    The events are: a leaked connection, its return, the beginning and end of saturation (callers wait for the pool), a
    restart of the database, a blocked event loop, and connections that the server refused as too many. A connection
    that is held for longer than *overdue_us* microseconds counts as leaked.
    """

    def __init__(self, overdue_us: int) -> None:
        self._overdue_us = overdue_us
        self._last: Snapshot | None = None
        self._saturated_since: datetime | None = None
        self._leaks: dict[tuple[int, int], Holder] = {}

    def overdue(self, holders: Sequence[Holder]) -> list[Holder]:
        """Return those of *holders*, tasks that hold a connection, that have held it for longer than *overdue_us*."""
        return [holder for holder in holders if holder.us > self._overdue_us]

    def look(self, snapshot: Snapshot, holders: Sequence[Holder], *, passed_us: int) -> list[_Happening]:
        """Compare *snapshot* with the one before, taken *passed_us* microseconds ago, and return what has happened.

        *holders* are the tasks that hold a connection of the pool now.
        """
        before, self._last = self._last, snapshot
        gained = snapshot.since(before)
        happened = [*self._of_leaks(self.overdue(holders))]
        happened += self._of_saturation(snapshot, gained.saturated_us / max(passed_us, 1))
        if gained.database_restarts:
            happened.append(_Happening("database_restarted", {"times": gained.database_restarts}))
        if snapshot.loop_lag_us_max >= _BLOCKED_US:
            happened.append(_Happening("loop_blocked", {"lag_us": snapshot.loop_lag_us_max}))
        if gained.connect_too_many:
            happened.append(_Happening("budget_exceeded", {"refused": gained.connect_too_many}))
        return happened

    def _of_leaks(self, overdue: Sequence[Holder]) -> list[_Happening]:
        now = {(holder.server_pid, holder.since_ns): holder for holder in overdue}
        returned = [holder for key, holder in self._leaks.items() if key not in now]
        suspected = [holder for key, holder in now.items() if key not in self._leaks]
        self._leaks = now
        return [
            *(_Happening("leak_suspected", {**_about(one), "stack": _stack(one.task)}) for one in suspected),
            *(_Happening("leak_returned", _about(one)) for one in returned),
        ]

    def _of_saturation(self, snapshot: Snapshot, share: float) -> list[_Happening]:
        if self._saturated_since is None and share >= _BEGINS:
            self._saturated_since = snapshot.captured_at
            return [_Happening("saturation_began", {"share": round(share, 3), "limit": snapshot.pool_limit})]
        if self._saturated_since is not None and share < _ENDS:
            since, self._saturated_since = self._saturated_since, None
            return [_Happening("saturation_ended", {"since": since.isoformat()})]
        return []


def _stack(task: "asyncio.Task[object] | None") -> list[str]:
    """Return the call stack of a task as one line per call, the outermost first.

    asyncio's own `get_stack` stops at the first await.
    """
    lines: list[str] = []
    awaited: object = task.get_coro() if task else None
    while awaited is not None and len(lines) < _MAX_DEPTH:
        frame = cast("FrameType | None", _first_of(awaited, "cr_frame", "ag_frame", "gi_frame"))
        if frame is None:
            break
        code: CodeType = frame.f_code
        lines.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        awaited = _first_of(awaited, "cr_await", "ag_await", "gi_yieldfrom")
    return lines


def _first_of(awaited: object, *names: str) -> object:
    return next((getattr(awaited, name) for name in names if hasattr(awaited, name)), None)


def _about(holder: Holder) -> dict[str, object]:
    return {
        "held_us": holder.us,
        "task": holder.task_name,
        "where": holder.where,
        "server_pid": holder.server_pid,
    }
