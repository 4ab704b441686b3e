"""Compares measured figures with limits, and decides whether work waits for the connections of a pool."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from tidepool.advice.window import Window, ratio


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured figure and the limit that the figure is compared with: the reason why a check holds or not."""

    name: str
    value: float | None
    """None: not known."""
    unit: str
    limit: float | None
    """None: the figure is shown for information only."""
    exceeds: Literal["above", "below"] = "above"
    """On which side of the limit the figure counts: at or `above` it, or `below` it."""
    counts: bool = False
    """Whether the figure is on that side."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a check: the name and unit of the figure, the value, and why it is that value."""

    figure: str
    unit: str
    """`share` (1 is all), `ms`, `x` (times as much), or empty for a count."""
    value: float
    why: str
    below: bool = False
    """Whether the figure counts if it is below the limit; otherwise it counts if it is at or above it."""
    derived: str = ""
    """How the limit follows from other figures, if it does; *value* is then its least value."""

    def against(self, value: float | None, *, limit: float | None = None) -> Evidence:
        """Compare *value* with this limit, or with another *limit* that the check derives; return both as evidence."""
        limit = self.value if limit is None else limit
        counts = value is not None and (value < limit if self.below else value >= limit)
        return Evidence(self.figure, value, self.unit, limit, "below" if self.below else "above", counts)

    def __str__(self) -> str:
        """Return the value with its unit for use in a sentence, such as `50 %`, `20 ms` or `2 times`."""
        if self.unit == "share":
            return f"{self.value * 100:g} %"
        return f"{self.value:g} {'times' if self.unit == 'x' else self.unit}".strip()


BUSY = Limit(
    "connections in use", "share", 0.8, "a batcher always waits a little; it lacks connections only if few are free"
)
_QUEUED = Limit("time with a queue", "share", 0.01, "rarer queues are random")
_WAITING = Limit(
    "waiting, of waiting and holding", "share", 0.1, "a caller that waits for a tenth of its time is slowed noticeably"
)
_BATCH_WAIT = Limit(
    "wait in the batcher, mean", "ms", 10.0, "shorter waits are small compared with the way through Redis",
    derived="10 ms, or a quarter of the mean hold if that is longer",
)  # fmt: skip
_BATCH_WAIT_OF_HOLD = 0.25
"""Share of a mean hold: some wait is natural, as a batch that cannot leave yet grows meanwhile. On average that is half
of what a batch takes, divided by the number of connections."""
CROWDED_LIMITS = (_QUEUED, _WAITING, _BATCH_WAIT, BUSY)


class Crowding(NamedTuple):
    """Four figures that show whether work waits for the connections of a pool.

    Two are about callers that wait for the pool to lend a connection, two about jobs in the batcher, which gathers jobs
    for one transaction.
    """

    queued: Evidence
    waiting: Evidence
    batch_wait: Evidence
    busy: Evidence

    @classmethod
    def of(cls, window: Window) -> Self:
        """Return the four figures for *window*, a period of one group of worker processes."""
        gained = window.gained
        limit_ms = max(_BATCH_WAIT.value, _BATCH_WAIT_OF_HOLD * (window.hold_ms or 0.0))
        return cls(
            _QUEUED.against(gained.saturated_us / max(window.us, 1)),
            _WAITING.against(ratio(gained.waiting_us, gained.waiting_us + gained.in_use_us)),
            _BATCH_WAIT.against(window.batch_wait_ms, limit=limit_ms),
            BUSY.against(window.utilisation),
        )

    @property
    def is_of_batcher(self) -> bool:
        """Whether jobs wait in the batcher, which gathers them for a transaction, since the connections are busy."""
        return self.batch_wait.counts and self.busy.counts

    @property
    def is_crowded(self) -> bool:
        """Whether jobs wait in the batcher or callers wait at the pool, because the pool has no connection to lend."""
        return (self.queued.counts and self.waiting.counts) or self.is_of_batcher
