"""Counts the outcomes of the last five minutes by function, from the counters in every worker's snapshots.

The counters are complete whatever the rate, and to read them costs the same at twenty jobs a second and at twenty
thousand. They are as new as the last snapshot; what a killed process did after that is in the ledger only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tidepool.advice.window import Tick

SPAN = timedelta(minutes=5)
STRETCH = timedelta(seconds=5)
STATUSES = ("applied", "rejected", "failed")
COUNTS = (*STATUSES, "retried")
"""As each function's counters stand in a snapshot."""

_EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass
class _Counted:
    """The counts of one function: jobs by outcome, and jobs a second at each time."""

    jobs: list[int] = field(default_factory=lambda: [0] * len(COUNTS))
    rates: list[list[float]] = field(default_factory=lambda: [[0.0] * int(SPAN / STRETCH) for _ in STATUSES])


def tallies(ticks: Sequence[Tick], *, now: datetime | None = None) -> dict[str, object]:
    """Return the jobs of the last five minutes by function, as a dict.

    - `functions`  a list of dicts, one for each `function`: `jobs` are the numbers of jobs by outcome, and of retries;
      `rates` are jobs a second by outcome at each of `times`
    - `times`      Unix seconds, five seconds apart
    - `since`, `until`  the period, in Unix seconds; it ends with the newest tick, or at *now* if that is later

    Without any tick, the lists are empty and `since` and `until` are None.
    """
    if not ticks:
        return {"since": None, "until": None, "times": [], "functions": []}
    until = max(tick.now.tick for tick in ticks)
    until = max(until, now) if now else until
    since = until - SPAN
    counted: dict[str, _Counted] = {}
    for tick in ticks:
        if tick.now.tick > since:
            for name, gains in _gains(tick).items():
                _count(counted.setdefault(name, _Counted()), gains, *_places(tick, since))
    return {
        "since": since.timestamp(),
        "until": until.timestamp(),
        "times": [(since + n * STRETCH).timestamp() for n in range(int(SPAN / STRETCH))],
        "functions": [_function(name, counted[name]) for name in sorted(counted)],
    }


def floor(at: datetime, stretch: timedelta) -> datetime:
    """Return the start of the period that *at* is in; periods have the length *stretch*, and count from 1970."""
    return _EPOCH + (at - _EPOCH) // stretch * stretch


def _gains(tick: Tick) -> dict[str, list[int]]:
    """Return how much each function's counters grew, without functions whose counters did not.

    Counters of a newer version that this one does not know are ignored.
    """
    now = tick.now.functions
    before = tick.before.functions if tick.before else {}
    none = [0] * len(COUNTS)
    gains = {name: [n - b for n, b in zip(now[name], before.get(name, none), strict=False)] for name in now}
    gains = {name: [*gain, *none][: len(COUNTS)] for name, gain in gains.items()}
    return {name: gain for name, gain in gains.items() if any(gain)}


def _places(tick: Tick, since: datetime) -> tuple[int, int]:
    """Return the first and last stretch that a tick is spread over."""
    last = _place(tick.now.tick, since)
    began = tick.before.tick if tick.before else tick.began_at
    return min(last, max(0, _place(began, since) + 1)), last


def _place(at: datetime, since: datetime) -> int:
    """Return the stretch that ends at *at*, or after it."""
    return -((since - at) // STRETCH) - 1


def _count(counted: _Counted, gains: list[int], first: int, last: int) -> None:
    seconds = (last - first + 1) * STRETCH.total_seconds()
    for n, gain in enumerate(gains):
        counted.jobs[n] += gain
    for rates, gain in zip(counted.rates, gains, strict=False):  # retries have none
        for place in range(first, last + 1):
            rates[place] += gain / seconds


def _function(name: str, counted: _Counted) -> dict[str, object]:
    return {
        "function": name,
        "jobs": dict(zip(COUNTS, counted.jobs, strict=True)),
        "rates": dict(zip(STATUSES, counted.rates, strict=True)),
    }
