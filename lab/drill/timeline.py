"""The timeline of a drill: rate, latencies and errors over time, with each fault marked, as a plot or as JSON."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypedDict

from lab.drill.arena import Arena
from lab.drill.run import Injected
from lab.tuning import plot
from tidepool.cli.terminal import CommandError
from tidepool.pool.connection import Row
from tidepool.storage import queries

SUFFIXES = (".png", ".svg", ".json")
_SQL = queries.load("timeline", "lab.drill")
_SLOT_S = 0.5
_BEFORE_S, _AFTER_S = 5.0, 5.0


class Slot(TypedDict):
    """What happened in one time slot, which begins *at_s* seconds after the timeline's beginning."""

    at_s: float
    per_second: float
    """Jobs that ended, per second."""
    latency_ms: float | None
    wait_ms: float | None
    failed: int
    errors: int


@dataclass(frozen=True, slots=True)
class Mark:
    """One fault on the timeline. Times are in seconds since the timeline's beginning.

    *jobs* is the number of jobs that ended from the beginning of the fault until 5 s after the recovery.
    """

    fault: str
    began_s: float
    mended_s: float
    recovered_s: float
    dark_s: float
    """Seconds between the beginning of the fault and the recovery in which no job ended."""
    jobs: int
    success_rate: float
    """The share of *jobs* that did not fail."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The figures of a drill, counted in time slots of *slot_s* seconds, and the faults that were injected."""

    slot_s: float
    slots: list[Slot]
    marks: list[Mark]


def require(path: Path) -> None:
    """Raise `CommandError` if a timeline cannot be written to *path*. Call it before the drill rather than after."""
    if path.suffix != ".json" and plot.new_figure(1) is None:
        raise CommandError(f"{plot.MISSING}; a timeline's figures go to a .json file without it")
    if not path.resolve().parent.is_dir():
        raise CommandError(f"{path}: there is no such directory")


async def write(arena: Arena, injected: list[Injected], path: Path) -> Timeline | None:
    """Write the timeline of the faults *injected* to *path* and return it; None if there are no faults.

    The suffix of *path* decides on a plot (.png, .svg) or JSON.
    """
    if not injected:
        return None
    since = datetime.fromisoformat(injected[0].began) - timedelta(seconds=_BEFORE_S)
    until_s = (datetime.fromisoformat(injected[-1].began) - since).total_seconds() + _length_s(injected[-1]) + _AFTER_S
    slots = await _slots(arena, since, int(until_s / _SLOT_S))
    timeline = Timeline(_SLOT_S, slots, [await _mark(arena, one, since, slots) for one in injected])
    await asyncio.to_thread(_keep, timeline, path)
    return timeline


async def _slots(arena: Arena, since: datetime, count: int) -> list[Slot]:
    """Return the figures of *count* time slots from *since* on, also of slots in which no job ended."""
    ended = {row["slot"]: row for row in await arena.fetch(_SQL["slots"], since, _SLOT_S)}
    errors = {row["slot"]: int(row["errors"]) for row in await arena.fetch(_SQL["errors"], since, _SLOT_S)}
    return [_slot(number, ended.get(number), errors.get(number, 0)) for number in range(count)]


def _slot(number: int, row: Row | None, errors: int) -> Slot:
    return {
        "at_s": number * _SLOT_S,
        "per_second": row["outcomes"] / _SLOT_S if row else 0.0,
        "latency_ms": round(row["latency_ms"], 1) if row else None,
        "wait_ms": round(row["wait_ms"], 1) if row else None,
        "failed": row["failed"] if row else 0,
        "errors": errors,
    }


async def _mark(arena: Arena, one: Injected, since: datetime, slots: Sequence[Slot]) -> Mark:
    began = datetime.fromisoformat(one.began)
    [row] = await arena.fetch(_SQL["around"], began, began + timedelta(seconds=_length_s(one) + _AFTER_S))
    began_s = (began - since).total_seconds()
    recovered_s = began_s + _length_s(one)
    dark = [slot for slot in slots if began_s <= slot["at_s"] < recovered_s - _SLOT_S and not slot["per_second"]]
    return Mark(
        fault=one.fault,
        began_s=round(began_s, 2),
        mended_s=round(began_s + one.lasted_s, 2),
        recovered_s=round(recovered_s, 2),
        dark_s=_SLOT_S * len(dark),
        jobs=row["jobs"],
        success_rate=round(row["succeeded"] / row["jobs"], 4) if row["jobs"] else 1.0,
    )


def _length_s(one: Injected) -> float:
    return one.lasted_s + one.recovery_s


def _keep(timeline: Timeline, path: Path) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(asdict(timeline), indent=2) + "\n", "utf-8")
    else:
        _draw(timeline, path)


def _draw(timeline: Timeline, path: Path) -> None:
    figure = plot.new_figure(3)
    rates, times, errors = figure.axes
    at_s = [slot["at_s"] for slot in timeline.slots]
    rates.step(at_s, [slot["per_second"] for slot in timeline.slots], where="post")
    rates.set_ylabel("outcomes a second")
    times.plot(at_s, [slot["latency_ms"] for slot in timeline.slots], ".-", label="job, p95")
    times.plot(at_s, [slot["wait_ms"] for slot in timeline.slots], ".-", label="wait for a connection, p95")
    times.set_ylabel("ms")
    times.set_yscale("log")
    times.legend(fontsize="small")
    errors.bar(at_s, [slot["errors"] for slot in timeline.slots], _SLOT_S, align="edge", label="errors of the pools")
    errors.bar(at_s, [slot["failed"] for slot in timeline.slots], _SLOT_S, align="edge", label="jobs failed")
    errors.set_ylim(bottom=0, top=max(1.0, errors.get_ylim()[1]))
    errors.legend(fontsize="small")
    errors.set_xlabel("seconds")
    for axes in figure.axes:
        for mark in timeline.marks:
            axes.axvspan(mark.began_s, mark.mended_s, color="tab:red", alpha=0.2, linewidth=0)
            axes.axvline(mark.began_s, color="tab:red", linewidth=1)  # a kill is too short for an area
            axes.axvline(mark.recovered_s, color="tab:green", linestyle="--", linewidth=1)
    rates.set_title("\n".join(map(said, timeline.marks)), fontsize="small")
    figure.savefig(path, dpi=110)


def said(mark: Mark) -> str:
    """Return a description of a fault's effect in one line."""
    lasted_s, recovery_s = mark.mended_s - mark.began_s, mark.recovered_s - mark.mended_s
    return (
        f"{mark.fault}: {lasted_s:.1f} s, recovered {recovery_s:.1f} s after the mend, {mark.dark_s:.1f} s without an "
        f"outcome; {mark.success_rate:.1%} of {mark.jobs:,} jobs succeeded"
    )
