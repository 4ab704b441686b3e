"""Whether anything waits: jobs in the queue, jobs in the batcher, callers at the pool's gate.

A verdict asks this before it names a bottleneck: where nothing waits, nothing is one.
"""

from dataclasses import dataclass

from tidepool.advice.window import Tick, Window

BUSY = 0.8
"""The share of the connections in use from which a pool counts as busy."""
_SATURATED, _WAITING = 0.01, 0.1
_BATCH_WAIT_MS, _BATCH_WAIT_OF_HOLD = 10.0, 0.25
"""Some wait is natural: a batch that cannot leave yet grows meanwhile. On average it is half of what a batch takes,
divided by the number of connections."""
_QUEUED_US = 1_000_000
_TICKS_WAITED = 0.5
_TICK_SATURATED = 0.05


@dataclass(frozen=True, slots=True)
class Evidence:
    """One figure and the limit it is held against."""

    name: str
    value: float | None
    unit: str
    limit: float | None
    """None: told for information only."""
    exceeds: str = "above"
    """On which side of the limit it counts: `above` (or at it), or `below`."""

    @property
    def counts(self) -> bool:
        """Whether it is on that side."""
        if self.value is None or self.limit is None:
            return False
        return self.value < self.limit if self.exceeds == "below" else self.value >= self.limit


def ratio(one: float | None, other: float | None) -> float | None:
    """Return *one* divided by *other*; None where either is not known, or nothing."""
    return None if one is None or not other else one / other


def busy(window: Window) -> float | None:
    """Return the share of the connections that may be in use that were, on average."""
    return ratio(window.total("in_use_us"), sum(tick.us * tick.now["pool_limit"] for tick in window.ticks))


def crowding(window: Window) -> list[Evidence]:
    """Return the figures of a pool that is waited for: two of its gate, two of the batcher."""
    waiting = window.total("waiting_us")
    limit_ms = max(_BATCH_WAIT_MS, _BATCH_WAIT_OF_HOLD * (window.hold_ms or 0.0))
    return [
        Evidence("time with a queue", window.total("saturated_us") / max(window.us, 1), "share", _SATURATED),
        Evidence(
            "waiting, of waiting and holding", ratio(waiting, waiting + window.total("in_use_us")), "share", _WAITING
        ),
        Evidence("wait in the batcher, mean", window.batch_wait_ms, "ms", limit_ms),
        Evidence("connections in use", busy(window), "share", BUSY),
    ]


def is_crowded(evidence: list[Evidence]) -> bool:
    """Return whether the first four of these, those of `crowding`, say so: of the gate or of the batcher."""
    queue, waiting, batch_wait, in_use = (one.counts for one in evidence[:4])
    return (queue and waiting) or (batch_wait and in_use)


def is_batcher_crowded(window: Window) -> bool:
    """Return whether jobs wait for connections in the batcher."""
    return all(one.counts for one in crowding(window)[2:])


def waited_for(window: Window) -> Evidence:
    """Return in which share of the ticks something waited."""
    waits = sum(_waits(tick) for tick in window.ticks)
    return Evidence("ticks in which jobs or callers waited", ratio(waits, len(window.ticks)), "share", _TICKS_WAITED)


def _waits(tick: Tick) -> bool:
    queued = (tick.now["queue_oldest_us"] or 0) >= _QUEUED_US
    return queued or tick.gain("saturated_us") >= _TICK_SATURATED * tick.us or is_batcher_crowded(Window([tick]))
