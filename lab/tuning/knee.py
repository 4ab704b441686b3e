"""Where a curve of rates bends: the smallest size, of a pool or a batch, that gives all there is to have.

Arms of one round were measured within minutes, those of different rounds were not, so a machine that gets slower
moves whole rounds. Tukey's median polish (*Exploratory Data Analysis*, 1977) takes that out: each size is left with its
median over the rounds, each round with how good a time it was, and what remains is noise.

The best is the middle one of the highest third of the sizes' medians, since the highest of twelve noisy figures is
mostly the luckiest. A size counts as good where it reaches 95 % of the best, or misses that by no more than one and a
half standard errors of a median, or a tenth: between sizes that cannot be told apart the smaller one is named, as by
the one-standard-error rule of Breiman and others (1984), and another run names it again.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

OF_BEST = 0.95
_ERRORS, _MOST_SLACK, _MOST_ERROR = 1.5, 0.1, 0.1
_TOP = 1 / 3
_POLISHES = 10
_MAD_TO_SIGMA, _MEDIAN_ERROR = 1.4826, 1.2533
"""For normal noise: from the median of its amounts to its deviation, and from that of one to that of a median."""


@dataclass(frozen=True, slots=True)
class Knee:
    """What the arms show. *rates* are each size's median, with the rounds' differences taken out."""

    size: int
    best: float
    rates: dict[int, float]
    plateau: list[int]
    """The sizes from the knee on that are as good, up to the first that is not."""
    error: float
    """Of a size's median, as a share of it."""
    rising: bool
    """Whether the knee is the largest size that was tried: larger ones may be better still."""
    clear: bool
    """Whether the noise is small enough to tell sizes apart that differ by a tenth."""


def knee_of(rates: Mapping[int, Mapping[int, float]]) -> Knee | None:
    """Return the knee of *rates*, jobs a second by size and round; None where nothing was measured."""
    medians, error = polished({size: of_rounds for size, of_rounds in rates.items() if of_rounds})
    if not medians:
        return None
    sizes = sorted(medians)
    best = statistics.median(sorted(medians.values())[-max(1, round(_TOP * len(sizes))) :])
    good = [medians[size] >= OF_BEST * best * (1 - min(_ERRORS * error, _MOST_SLACK)) for size in sizes]
    first = good.index(True)
    after = next((place for place in range(first, len(sizes)) if not good[place]), len(sizes))
    return Knee(
        size=sizes[first],
        best=best,
        rates={size: medians[size] for size in sizes},
        plateau=sizes[first:after],
        error=error,
        rising=len(sizes) > 1 and first == len(sizes) - 1,
        clear=error <= _MOST_ERROR,
    )


def polished(rates: Mapping[int, Mapping[int, float]]) -> tuple[dict[int, float], float]:
    """Return each size's median without the rounds' differences, and its standard error as a share of it."""
    logs = {(size, number): math.log(rate) for size, of_one in rates.items() for number, rate in of_one.items() if rate}
    of_size, of_round = dict.fromkeys(rates, 0.0), dict.fromkeys((number for _, number in logs), 0.0)
    for _ in range(_POLISHES):
        for size in of_size:
            of_size[size] = _median([value - of_round[n] for (one, n), value in logs.items() if one == size])
        for number in of_round:
            of_round[number] = _median([value - of_size[s] for (s, one), value in logs.items() if one == number])
    middle = _median(list(of_round.values()))
    left = [abs(value - of_size[size] - of_round[number]) for (size, number), value in logs.items()]
    medians = {size: math.exp(level + middle) for size, level in of_size.items() if rates[size]}
    return medians, _error(left, len(of_size), len(of_round))


def _error(left: Sequence[float], sizes: int, rounds: int) -> float:
    """Return the standard error of a size's median; the fit has taken a part of the noise with it."""
    free = len(left) - sizes - rounds + 1
    if free <= 0 or not rounds:
        return 0.0
    sigma = _MAD_TO_SIGMA * _median(left) * math.sqrt(len(left) / free)
    return _MEDIAN_ERROR * sigma / math.sqrt(rounds)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
