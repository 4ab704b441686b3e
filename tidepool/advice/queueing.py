"""Predicts how long callers wait for a connection of a pool of a given size, by two queueing models.

The times for which callers hold a connection, and those between two uses, are taken to be exponentially distributed.
All times are in the unit of *hold*, whichever that is; rates are per that unit.

- `Prediction.closed`: *callers* is the number of tasks that use the pool; each thinks, waits, holds, and thinks again.
  The finite-source queue M/M/c//N, the "machine repairman" (Gross, Harris: Fundamentals of Queueing Theory, section
  on finite-source queues). An arriving caller sees the queue of the other N - 1 (arrival theorem: Sevcik, Mitrani,
  JACM 28, 1981), and from n >= c of them on waits for n - c + 1 departures, whose time is Erlang distributed.
- `Prediction.opened`: callers come from outside at a rate that does not depend on how many wait already. Erlang's M/M/c
  (the same book; Erlang C).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

_QUANTILE_STEPS = 60
"""Halvings of an interval: more than a float has digits."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predictions for a pool of `size` connections: the uses that it serves, and how long callers wait."""

    size: int
    throughput: float
    """Uses per unit of time."""
    use: float
    """Mean share of the connections that are in use."""
    wait_share: float
    """Share of the callers that wait at all."""
    wait_mean: float
    longer: Callable[[float], float]
    """Returns the share of the callers that wait longer than a given time."""

    @classmethod
    def closed(cls, size: int, *, callers: int, think: float, hold: float) -> Self:
        """Predict for a pool with a fixed number of *callers*, tasks that each use a connection again and again.

        A caller holds a connection for *hold* on average, and then does something else for *think* on average, both in
        the same unit of time. Computing the prediction takes longer the more *callers* there are.
        """
        states = _occupancy(size, callers, think, hold)
        busy = sum(min(n, size) * p for n, p in enumerate(states))
        waiting = sum((n - size) * p for n, p in enumerate(states) if n > size)
        throughput = busy / hold
        seen = _occupancy(size, callers - 1, think, hold)[size:]
        """How likely an arriving caller is to find 0, 1, 2 … others waiting, and no connection free."""

        def longer(wait: float) -> float:
            return _erlang_tails(seen, wait * size / hold)

        return cls(size, throughput, busy / size, sum(seen), waiting / throughput, longer)

    @classmethod
    def opened(cls, size: int, *, rate: float, hold: float) -> Self:
        """Predict for a pool whose callers come from outside, at *rate*, and hold a connection for *hold* on average.

        The rate does not depend on how many callers wait already. Raises `ValueError` if the pool cannot keep up with
        it.
        """
        load = rate * hold
        if load >= size:
            raise ValueError(f"{size} connections cannot carry a load of {load:.2f}")
        wait_share = _erlang_c(size, load)
        drain = (size - load) / hold
        return cls(
            size, rate, load / size, wait_share, wait_share / drain, lambda wait: wait_share * math.exp(-drain * wait)
        )

    def wait_quantile(self, share: float) -> float:
        """Return the wait that the fraction *share* of callers does not exceed; 0.95 returns the 95th percentile.

        Returns 0 if at least this fraction of the callers do not wait. The unit of time is that of the prediction's
        *hold*.
        """
        left = 1 - share
        if self.wait_share <= left:
            return 0.0
        low, high = 0.0, 1e-6
        while self.longer(high) > left:
            low, high = high, high * 2
        for _ in range(_QUANTILE_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.longer(middle) > left else (low, middle)
        return high


def _erlang_c(size: int, load: float) -> float:
    """Return the share of callers that wait (Erlang C), by way of the stable recurrence of Erlang B."""
    blocked = 1.0
    for n in range(1, size + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / size * (1 - blocked))


def _occupancy(size: int, callers: int, think: float, hold: float) -> list[float]:
    """Return the probabilities that 0, 1, … *callers* of the tasks hold a connection or wait for one.

    Computed in logarithms, against overflow.
    """
    ratio = math.log(hold / max(think, hold * 1e-9))
    logs = [0.0]
    for n in range(callers):
        logs.append(logs[-1] + math.log((callers - n) / min(n + 1, size)) + ratio)
    most = max(logs)
    weights = [math.exp(log - most) for log in logs]
    total = sum(weights)
    return [weight / total for weight in weights]


def _erlang_tails(seen: list[float], departures: float) -> float:
    """Return the probability that a wait is longer than the time in which so many *departures* are expected.

    *seen* has the probabilities that 0, 1, … others wait already. A caller that finds k others waiting waits for k + 1
    departures; the probability that fewer have happened is a sum of Poisson terms.
    """
    fewer, total = 0.0, 0.0
    for k, chance in enumerate(seen):
        fewer += math.exp(-departures + (k * math.log(departures) if k else 0.0) - math.lgamma(k + 1))
        total += chance * fewer
    return total
