"""The size that a pool needs: the smallest whose callers wait, by the models of `queueing`, no longer than they should.

The number of tasks that use a pool, how long they hold a connection and how long they do something else in
between can be measured however crowded the pool is; the rate at which it serves cannot be told from the demand
there. So the size follows from these three, and a pool that is far too small gets the same advice as one that
is large enough. A process of an older version does not say how many tasks use its pool; then the open model
takes the rate for the demand, and is right only while few wait.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tidepool.advice.crowding import is_batcher_crowded
from tidepool.advice.queueing import Prediction, closed, opened
from tidepool.advice.window import Tick, Window

SHARE = 0.95
"""The quantile of waits that the target is about; also the tick that the demand is taken from, in order of load."""
LEAST_SIZE = 2
_TARGET_MS = 10.0
_TARGET_OF_HOLD = 0.1
_OF_CEILING = 0.99
"""The share of the rate without any waiting that the recommended size reaches."""
_OF_BATCHES = 0.9
"""The same where jobs wait in the batcher: a batch that is far from full is not worth a connection."""
_LEAST_USES = 20
"""A tick with fewer says too little about a load of its own."""
_WORTH_IT = 0.2
"""A change of less than this, or of less than one, is not worth making."""
_GROWTH, _SHRINKAGE = 2.0, 0.75
"""One step at the most: the time for which a connection is held may change with the size."""
_RESAMPLES = 60
_NARROW, _WIDE = 0.25, 0.75
"""Width of the range, as a share of the size, up to which the confidence is high, and medium."""


@dataclass(frozen=True, slots=True)
class Load:
    """What uses a pool. Times in milliseconds."""

    callers: int | None
    """None: from outside, at a rate."""
    hold_ms: float
    between_ms: float
    """With callers: from giving a connection back to asking for the next. Without: from one use to the next."""

    @property
    def connections(self) -> float:
        """How many would be in use on average if nobody ever waited."""
        if self.callers is None:
            return self.hold_ms / self.between_ms
        return self.callers * self.hold_ms / (self.hold_ms + self.between_ms)

    @property
    def target_ms(self) -> float:
        """The longest that the 95th of a hundred callers should wait: 10 ms, or a tenth of a longer hold."""
        return max(_TARGET_MS, _TARGET_OF_HOLD * self.hold_ms)

    def at(self, size: int) -> Prediction | None:
        """Return what a pool of *size* would do with it; None where it could not keep up."""
        if self.callers is not None:
            return closed(size, callers=self.callers, think=self.between_ms, hold=self.hold_ms)
        return opened(size, rate=1 / self.between_ms, hold=self.hold_ms) if self.connections < size else None

    def suffices(self, size: int) -> bool:
        """Return whether at *size* waits meet the target, and the rate is next to what it would be without any."""
        predicted = self.at(size)
        if predicted is None:
            return False
        ceiling = self.connections / self.hold_ms
        return predicted.longer(self.target_ms) <= 1 - SHARE and predicted.throughput >= _OF_CEILING * ceiling

    def demand(self) -> int:
        """Return the smallest size that suffices."""
        low, high = 0, max(1, math.ceil(self.connections))
        while not self.suffices(high):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.suffices(middle) else (middle, high)
        return high


@dataclass(frozen=True, slots=True)
class Batches:
    """Jobs that wait in the batcher for a connection. Times in milliseconds.

    More connections take more batches at a time, as long as the jobs that are here fill them.
    """

    jobs: float
    """That are here at a time on average: waiting for their batch to leave, or in one that is under way."""
    per_batch: float
    hold_ms: float
    between_ms: float
    """From the end of a use to the beginning of the next one on the same connection."""

    def per_ms(self, size: int) -> float:
        """Return the jobs that *size* connections settle in a millisecond."""
        return min(size * self.per_batch, self.jobs) / (self.hold_ms + self.between_ms)

    def demand(self) -> int:
        """Return the smallest size with nearly the rate of a connection for each batch that could run."""
        return max(1, math.ceil(_OF_BATCHES * self.jobs / self.per_batch))


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommended size for each process of a group, and what it rests on."""

    limit: int
    """The size now."""
    size: int
    next_step: int
    """How far to go at once, before measuring again."""
    low: int
    high: int
    """The range that nine in ten samples of the ticks would have led to."""
    binding: str
    """What set the size: `demand`, `floor` (the least size, or a peak that was seen), or `budget`."""
    confidence: str
    demand: int
    """The size before floor and budget."""
    target_ms: float
    load: Load
    batches: Batches | None
    """Set where jobs wait in the batcher, and not at the pool's gate."""
    predictions: list[dict[str, Any]]

    @property
    def grows(self) -> bool:
        """Whether more is needed than is there."""
        return self.size > self.limit

    @property
    def shrinks(self) -> bool:
        """Whether less would do."""
        return self.size < self.limit


class _Part(NamedTuple):
    """What a load is made of, of one tick. Times in microseconds."""

    served: int
    in_use_us: int
    waiting_us: int
    us: float
    batches: int
    batch_jobs: int
    batch_wait_us: int
    callers: int


def load_of(ticks: Sequence[Tick]) -> Load | None:
    """Return the load of one process on average over *ticks*; None where nothing was served."""
    return _load_of([_part(tick) for tick in ticks])


def _part(tick: Tick) -> _Part:
    return _Part(
        served=tick.gain("acquire_ok"),
        in_use_us=tick.gain("in_use_us"),
        waiting_us=tick.gain("waiting_us"),
        us=tick.us,
        batches=tick.gain("batches"),
        batch_jobs=tick.gain("batch_jobs"),
        batch_wait_us=tick.gain("batch_wait_us_sum"),
        callers=tick.now["callers"] or 0,
    )


def _load_of(parts: Sequence[_Part]) -> Load | None:
    if not parts:
        return None
    columns = tuple(zip(*parts, strict=True))
    served, in_use_us, waiting_us, us = (sum(column) for column in columns[:4])
    if not served:
        return None
    hold_us = in_use_us / served
    callers = max(columns[-1])
    if not callers:
        return Load(None, hold_us / 1000, us / served / 1000)
    between_us = max(0.0, callers * us - in_use_us - waiting_us) / served
    return Load(callers, hold_us / 1000, between_us / 1000)


def _batches_of(parts: Sequence[_Part], limit: int) -> Batches | None:
    """Return what waits in the batcher on average over *parts*; None where no batch left."""
    served, in_use_us, _, us, batches, jobs, wait_us, _ = (sum(column) for column in zip(*parts, strict=True))
    if not served or not batches:
        return None
    per_batch = jobs / batches
    return Batches(
        jobs=wait_us / us + per_batch * in_use_us / us,
        per_batch=per_batch,
        hold_ms=in_use_us / served / 1000,
        between_ms=max(0.0, limit * us - in_use_us) / served / 1000,
    )


def _demand_of(parts: Sequence[_Part], batched: int | None) -> int | None:
    """Return the size that the load of *parts* needs; *batched*: the limit, where jobs wait in the batcher."""
    load = _load_of(parts)
    if load is None:
        return None
    batches = _batches_of(parts, batched) if batched else None
    return max(load.demand(), batches.demand() if batches else 0)


def advise(window: Window, *, peak: int, budget: int | None, seed: int = 0) -> Advice:
    """Return the size for a group whose figures are sound: `verdict.examine` says whether they are.

    *peak* is the most that one process has had in use within the last days, *budget* what the server can
    give to each; None where that is not known. The same figures and *seed* give the same advice.
    """
    load = load_of(window.ticks)
    assert load is not None, "nothing was served"
    parts = [_part(tick) for tick in window.ticks]
    batched = window.limit if is_batcher_crowded(window) else None
    batches = _batches_of(parts, batched) if batched else None
    demand = max(_busy_load(window.ticks).demand(), batches.demand() if batches else 0)
    low, high = _range(parts, batched, random.Random(seed))
    size, binding = demand, "demand"
    if size < (floor := max(LEAST_SIZE, min(peak + 1, window.limit))):
        size, binding = floor, "floor"
    if budget is not None and budget < size:
        size, binding = budget, "budget"
    if abs(size - window.limit) < max(1, _WORTH_IT * window.limit) and binding != "budget":
        size = window.limit
    return Advice(
        limit=window.limit,
        size=size,
        next_step=_step(window.limit, size),
        low=min(low, size),
        high=max(high, size),
        binding=binding,
        confidence=_confidence(window, batched, low, high),
        demand=demand,
        target_ms=load.target_ms,
        load=load,
        batches=batches,
        predictions=[_told(load, batches, at) for at in _sizes_around(window.limit, size)],
    )


def _busy_load(ticks: Sequence[Tick]) -> Load:
    """Return the load of the tick that 95 of 100 do not exceed, of those in which enough was served."""
    loads = [load for tick in ticks if tick.gain("acquire_ok") >= _LEAST_USES and (load := load_of([tick]))]
    loads.sort(key=lambda load: load.connections)
    average = load_of(ticks)
    assert average is not None, "nothing was served"
    return loads[min(len(loads) - 1, int(SHARE * len(loads)))] if loads else average


def _range(parts: Sequence[_Part], batched: int | None, chance: random.Random) -> tuple[int, int]:
    """Return the 5th and 95th percentile of the sizes that samples of the ticks lead to (Efron's bootstrap)."""
    samples = (_demand_of(chance.choices(parts, k=len(parts)), batched) for _ in range(_RESAMPLES))
    sizes = sorted(demand for demand in samples if demand)
    return sizes[len(sizes) // 20], sizes[-1 - len(sizes) // 20]


def _confidence(window: Window, batched: int | None, low: int, high: int) -> str:
    """Return `high`, `medium` or `low`: how well samples agree, and both halves of the window."""
    half = len(window.ticks) // 2
    ordered = [_part(tick) for tick in sorted(window.ticks, key=lambda tick: tick.now["tick"])]
    sizes = [demand for part in (ordered[:half], ordered[half:]) if (demand := _demand_of(part, batched))]
    width = (max(high, *sizes) - min(low, *sizes)) / high
    return "high" if width <= _NARROW else "medium" if width <= _WIDE else "low"


def _step(limit: int, size: int) -> int:
    if size > limit:
        return min(size, math.ceil(limit * _GROWTH))
    return max(size, math.ceil(limit * _SHRINKAGE))


def _sizes_around(limit: int, size: int) -> list[int]:
    fifth = max(1, round(size / 5))
    return sorted({limit, max(1, size - fifth), size, size + fifth})


def _told(load: Load, batches: Batches | None, size: int) -> dict[str, Any]:
    """Return what is predicted at *size*; the figures are None where the pool could not keep up.

    Where jobs wait in the batcher there are as many callers as connections, so none waits at the gate.
    """
    if batches is not None:
        jobs = batches.per_ms(size) * 1000
        use = batches.per_ms(size) * batches.hold_ms / batches.per_batch / size
        uses = jobs / batches.per_batch
        return {
            "size": size, "use": use, "wait_share": 0.0, "wait_p95_ms": 0.0, "per_second": uses,
            "jobs_per_second": jobs,
        }  # fmt: skip
    told = {"size": size, "use": None, "wait_share": None, "wait_p95_ms": None, "per_second": None}
    if (predicted := load.at(size)) is not None:
        told |= {
            "use": predicted.use,
            "wait_share": predicted.wait_share,
            "wait_p95_ms": predicted.wait_quantile(SHARE),
            "per_second": predicted.throughput * 1000,
        }
    return {**told, "jobs_per_second": None}
