"""What is worth an event: found by comparing one sample of a process with the one before.

A leak is a connection that somebody has had for longer than any transaction may last. It is told once, with
where it was asked for and where its holder is now, and once more when it comes back after all.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tidepool.pool.loan import Holder

Event = tuple[str, dict[str, Any]]
"""Kind and details, ready for JSON."""

_BEGINS, _ENDS = 0.5, 0.1
"""Share of a tick with a queue from which saturation is told to begin, and below which to have ended."""
_BLOCKED_US = 250_000
_DEEPEST = 30


class Watcher:
    """Looks at each sample of one process. A connection held longer than *overdue_us* counts as leaked."""

    def __init__(self, overdue_us: int) -> None:
        self._overdue_us = overdue_us
        self._last: Mapping[str, Any] = {}
        self._saturated_since: str | None = None
        self._leaks: dict[tuple[int, int], Holder] = {}

    def overdue(self, holders: Sequence[Holder]) -> list[Holder]:
        """Return those of *holders* that should have given back by now."""
        return [holder for holder in holders if holder.us > self._overdue_us]

    def look(self, sample: Mapping[str, Any], holders: Sequence[Holder], *, passed_us: int) -> list[Event]:
        """Return what has happened since the sample before, *passed_us* ago."""
        events = [*self._of_leaks(self.overdue(holders)), *self._of_saturation(sample, passed_us)]
        if restarts := self._gain(sample, "database_restarts"):
            events.append(("database_restarted", {"times": restarts}))
        if sample["loop_lag_us_max"] >= _BLOCKED_US:
            events.append(("loop_blocked", {"lag_us": sample["loop_lag_us_max"]}))
        if refused := self._gain(sample, "connect_too_many"):
            events.append(("budget_exceeded", {"refused": refused}))
        self._last = sample
        return events

    def _of_leaks(self, overdue: Sequence[Holder]) -> list[Event]:
        now = {(holder.server_pid, holder.since_ns): holder for holder in overdue}
        returned = [holder for key, holder in self._leaks.items() if key not in now]
        suspected = [holder for key, holder in now.items() if key not in self._leaks]
        self._leaks = now
        return [
            *(("leak_suspected", {**_who(holder), "stack": stack(holder.task)}) for holder in suspected),
            *(("leak_returned", _who(holder)) for holder in returned),
        ]

    def _of_saturation(self, sample: Mapping[str, Any], passed_us: int) -> list[Event]:
        share = self._gain(sample, "saturated_us") / max(passed_us, 1)
        if self._saturated_since is None and share >= _BEGINS:
            self._saturated_since = sample["captured_at"]
            return [("saturation_began", {"share": round(share, 3), "limit": sample["pool_limit"]})]
        if self._saturated_since is not None and share < _ENDS:
            since, self._saturated_since = self._saturated_since, None
            return [("saturation_ended", {"since": since})]
        return []

    def _gain(self, sample: Mapping[str, Any], name: str) -> int:
        return sample[name] - self._last.get(name, 0)


def stack(task: asyncio.Task[Any] | None) -> list[str]:
    """Return where a task stands, the outermost call first: asyncio's own `get_stack` stops at the first await."""
    lines: list[str] = []
    awaited: Any = task.get_coro() if task else None
    while awaited is not None and len(lines) < _DEEPEST:
        frame = _first_of(awaited, "cr_frame", "ag_frame", "gi_frame")
        if frame is None:
            break
        lines.append(f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})")
        awaited = _first_of(awaited, "cr_await", "ag_await", "gi_yieldfrom")
    return lines


def _first_of(awaited: object, *names: str) -> Any:
    return next((getattr(awaited, name) for name in names if hasattr(awaited, name)), None)


def _who(holder: Holder) -> dict[str, Any]:
    return {
        "held_us": holder.us,
        "task": holder.task_name,
        "where": holder.where,
        "server_pid": holder.server_pid,
    }
