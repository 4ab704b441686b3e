"""Computes the size that a connection pool needs: the smallest at which callers do not wait too long.

The waits are predicted by the models of `queueing`. Three figures can be measured however crowded the pool is: how many
tasks use the pool, how long they hold a connection, and how long they do something else in between. The size follows
from these, so a pool that is far too small gets the same advice as one that is large enough. The rate at which the pool
serves callers does not show how much they would ask for, and is used only if the number of tasks is not known.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from tidepool.advice.evidence import Crowding
from tidepool.advice.queueing import Prediction
from tidepool.advice.window import Tick, Window

_SHARE = 0.95
"""The percentile, as a share, of the waits that the target is about, and of the loads of ticks that sets the demand."""
_MIN_SIZE = 2
"""Connections: with one, a single slow statement stops everything."""
_TARGET_MS = 10.0
"""Max milliseconds of the 95th percentile of waits: less is not felt by jobs that come by way of Redis."""
_TARGET_OF_HOLD = 0.1
"""The same as a share of the hold, if that is longer: a tenth more is not felt either."""
_OF_CEILING = 0.99
"""The share of the rate without any waiting that the recommended size reaches: the last percent is expensive."""
_OF_BATCHES = 0.9
"""The same if jobs wait in the batcher: a batch that is far from full is not worth a connection."""
_MIN_USES = 20
"""Uses: a tick with fewer says too little about a load of its own."""
_WORTH_IT = 0.2
"""Share of the size: a change of less than this, or of less than one, is not worth making."""
_GROWTH, _SHRINKAGE = 2.0, 0.75
"""The largest change in one step, as a factor: the time for which a connection is held may change with the size."""
_RESAMPLES = 60
"""Samples of the ticks: enough for a 5th and a 95th percentile."""
_NARROW, _WIDE = 0.25, 0.75
"""Width of the range, as a share of the size, up to which the confidence is high, and medium."""

Confidence = Literal["high", "medium", "low"]


class _Part(NamedTuple):
    """The figures of one tick that a load is computed from. Times in microseconds."""

    served: int
    in_use_us: int
    waiting_us: int
    us: float
    batches: int
    batch_jobs: int
    batch_wait_us: int
    callers: int

    @classmethod
    def of(cls, tick: Tick) -> Self:
        """Return the parts of a tick."""
        gained = tick.gained
        return cls(
            served=gained.acquire_ok,
            in_use_us=gained.in_use_us,
            waiting_us=gained.waiting_us,
            us=tick.us,
            batches=gained.batches,
            batch_jobs=gained.batch_jobs,
            batch_wait_us=gained.batch_wait_us_sum,
            callers=tick.now.callers,
        )

    @classmethod
    def total(cls, parts: Sequence["_Part"]) -> "_Part":
        """Return the sums of *parts*; the number of callers is not added up, but is the largest of them."""
        *sums, callers = zip(*parts, strict=True)
        return cls(*(sum(column) for column in sums), callers=max(callers))


@dataclass(frozen=True, slots=True)
class Load:
    """The load on the connection pool of one process, as measured. Times are milliseconds.

    It consists of the number of tasks that use the pool, how long they hold a connection, and how long they do without
    one.
    """

    callers: int | None
    """Tasks that use the pool; None: callers come from outside, at a rate."""
    hold_ms: float
    between_ms: float
    """With callers: from giving a connection back to asking for the next. Without: from one use to the next."""

    @classmethod
    def of(cls, ticks: Sequence[Tick]) -> Self | None:
        """Return the mean load on a process's pool over *ticks*, intervals between snapshots; None if it was idle."""
        return cls.of_parts([_Part.of(tick) for tick in ticks])

    @classmethod
    def of_parts(cls, parts: Sequence[_Part]) -> Self | None:
        """Return the mean load on a process's pool over the intervals *parts* together; None if the pool was idle."""
        if not parts or not (total := _Part.total(parts)).served:
            return None
        hold_us = total.in_use_us / total.served
        if not total.callers:
            return cls(None, hold_us / 1000, total.us / total.served / 1000)
        between_us = max(0.0, total.callers * total.us - total.in_use_us - total.waiting_us) / total.served
        return cls(total.callers, hold_us / 1000, between_us / 1000)

    @property
    def connections(self) -> float:
        """How many connections of the pool would be in use on average if no caller ever had to wait for one."""
        if self.callers is None:
            return self.hold_ms / self.between_ms
        return self.callers * self.hold_ms / (self.hold_ms + self.between_ms)

    @property
    def target_ms(self) -> float:
        """The longest acceptable wait for a connection, in milliseconds, as the 95th percentile of all waits.

        It is 10 ms, or a tenth of the mean time for which a connection is held, if that is longer.
        """
        return max(_TARGET_MS, _TARGET_OF_HOLD * self.hold_ms)

    def at(self, size: int) -> Prediction | None:
        """Predict the waits in a pool of *size* connections under this load; None if the pool could not keep up."""
        if self.callers is not None:
            return Prediction.closed(size, callers=self.callers, think=self.between_ms, hold=self.hold_ms)
        return Prediction.opened(size, rate=1 / self.between_ms, hold=self.hold_ms) if self.connections < size else None

    def suffices(self, size: int) -> bool:
        """Return whether a pool of *size* connections is large enough for this load.

        That is the case if the 95th percentile of the waits is at most `target_ms`, and the pool serves at least 99 %
        of the uses per second that it would serve if no caller ever waited.
        """
        predicted = self.at(size)
        if predicted is None:
            return False
        ceiling = self.connections / self.hold_ms
        return predicted.longer(self.target_ms) <= 1 - _SHARE and predicted.throughput >= _OF_CEILING * ceiling

    def demand(self) -> int:
        """Return the smallest number of connections that is enough for this load, as `suffices` defines it."""
        low, high = 0, max(1, math.ceil(self.connections))
        while not self.suffices(high):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.suffices(middle) else (middle, high)
        return high


@dataclass(frozen=True, slots=True)
class _Batches:
    """Jobs that wait in the batcher for a connection. Times in milliseconds.

    More connections run more batches at a time, as long as the jobs that are here fill them.
    """

    jobs: float
    """Mean number of jobs that are here: waiting for their batch to leave, or in one that is under way."""
    per_batch: float
    hold_ms: float
    between_ms: float
    """From the end of a use to the beginning of the next one on the same connection."""

    @classmethod
    def of(cls, parts: Sequence[_Part], limit: int) -> Self | None:
        """Return the mean over *parts* for a pool of *limit*; None if no batch left."""
        total = _Part.total(parts)
        if not total.served or not total.batches:
            return None
        per_batch = total.batch_jobs / total.batches
        return cls(
            jobs=total.batch_wait_us / total.us + per_batch * total.in_use_us / total.us,
            per_batch=per_batch,
            hold_ms=total.in_use_us / total.served / 1000,
            between_ms=max(0.0, limit * total.us - total.in_use_us) / total.served / 1000,
        )

    def per_ms(self, size: int) -> float:
        """Return how many jobs *size* connections finish per millisecond."""
        return min(size * self.per_batch, self.jobs) / (self.hold_ms + self.between_ms)

    def demand(self) -> int:
        """Return the smallest pool size that reaches 90 % of the rate of a connection for each batch that could run."""
        return max(1, math.ceil(_OF_BATCHES * self.jobs / self.per_batch))


@dataclass(frozen=True, slots=True)
class _Forecast:
    """What is predicted for one process with a pool of *size* connections: waits, and jobs per second.

    The figures are None if such a pool could not keep up with the load.
    """

    size: int
    use: float | None = None
    """Mean share of the connections that are in use."""
    wait_share: float | None = None
    """Share of the callers that wait at the pool's gate."""
    wait_p95_ms: float | None = None
    per_second: float | None = None
    """Uses of a connection, which are batches of jobs and other transactions, a second."""
    jobs_per_second: float | None = None
    """None unless jobs wait in the batcher."""

    @classmethod
    def at(cls, size: int, load: Load, batches: _Batches | None) -> Self:
        """Predict waits and rates for a pool of *size* connections under *load*.

        *batches* is given if jobs wait in the batcher, which gathers jobs for one transaction; then no caller waits at
        the pool itself.
        """
        if batches is not None:
            jobs_per_s = batches.per_ms(size) * 1000
            uses_per_s = jobs_per_s / batches.per_batch
            return cls(size, uses_per_s * batches.hold_ms / 1000 / size, 0.0, 0.0, uses_per_s, jobs_per_s)
        predicted = load.at(size)
        if predicted is None:
            return cls(size)
        wait_p95_ms = predicted.wait_quantile(_SHARE)
        return cls(size, predicted.use, predicted.wait_share, wait_p95_ms, predicted.throughput * 1000)


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommended pool size for each process of a group, and the figures that it is based on."""

    limit: int
    """The size now."""
    size: int
    next_step: int
    """How far to go at once, before measuring again."""
    low: int
    high: int
    """The range that nine in ten samples of the ticks would have led to."""
    binding: Literal["demand", "floor", "budget"]
    """What set the size: the demand, the floor (the least size, or a peak that was seen), or the server's budget."""
    confidence: Confidence
    demand: int
    """The size before floor and budget."""
    target_ms: float
    load: Load
    batches: _Batches | None
    """Set if jobs wait in the batcher, and not at the pool's gate."""
    predictions: Sequence[_Forecast]

    @classmethod
    def of(cls, window: Window, *, peak: int, budget: int | None, seed: int = 0) -> Self:
        """Compute the recommended pool size for the processes of *window*, a period of one group of processes.

        Call this only if the figures of the window are sound, which `PoolVerdict.of` checks. *peak* is the max number
        of connections that one process had in use within the last days; *budget* is the number of connections that the
        server can give to each process, None if that is not known. The same figures and *seed* give the same advice.
        """
        load = Load.of(window.ticks)
        assert load is not None, "nothing was served"
        parts = [_Part.of(tick) for tick in window.ticks]
        batched = window.limit if Crowding.of(window).is_of_batcher else None
        batches = _Batches.of(parts, batched) if batched else None
        demand = max(_busy_load(window.ticks, load).demand(), batches.demand() if batches else 0)
        low, high = _range(parts, batched, random.Random(seed))
        size, binding = _bounded(demand, window.limit, peak, budget)
        return cls(
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
            predictions=[_Forecast.at(at, load, batches) for at in _sizes_around(window.limit, size)],
        )


def _bounded(
    demand: int, limit: int, peak: int, budget: int | None
) -> tuple[int, Literal["demand", "floor", "budget"]]:
    """Return the size for a demand, and what set it; the present *limit* if a change is not worth making."""
    size, binding = demand, "demand"
    if size < (floor := max(_MIN_SIZE, min(peak + 1, limit))):
        size, binding = floor, "floor"
    if budget is not None and budget < size:
        return budget, "budget"
    return (limit if abs(size - limit) < max(1, _WORTH_IT * limit) else size), binding


def _demand_of(parts: Sequence[_Part], batched: int | None) -> int | None:
    """Return the size that the load of *parts* needs; *batched*: the limit, if jobs wait in the batcher."""
    load = Load.of_parts(parts)
    if load is None:
        return None
    batches = _Batches.of(parts, batched) if batched else None
    return max(load.demand(), batches.demand() if batches else 0)


def _busy_load(ticks: Sequence[Tick], average: Load) -> Load:
    """Return the load of the tick at the 95th percentile of load, of those ticks in which enough was served."""
    loads = [load for tick in ticks if tick.gained.acquire_ok >= _MIN_USES and (load := Load.of([tick]))]
    loads.sort(key=lambda load: load.connections)
    return loads[min(len(loads) - 1, int(_SHARE * len(loads)))] if loads else average


def _range(parts: Sequence[_Part], batched: int | None, chance: random.Random) -> tuple[int, int]:
    """Return the 5th and 95th percentile of the sizes that samples of the ticks lead to (Efron's bootstrap)."""
    samples = (_demand_of(chance.choices(parts, k=len(parts)), batched) for _ in range(_RESAMPLES))
    sizes = sorted(demand for demand in samples if demand)
    return sizes[len(sizes) // 20], sizes[-1 - len(sizes) // 20]


def _confidence(window: Window, batched: int | None, low: int, high: int) -> Confidence:
    """Return how well the samples and both halves of the window agree on a size."""
    half = len(window.ticks) // 2
    ordered = [_Part.of(tick) for tick in sorted(window.ticks, key=lambda tick: tick.now.tick)]
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
