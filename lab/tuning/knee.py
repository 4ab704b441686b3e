"""Finds the knee of a curve of rates: the smallest size (of a pool or a batch) that is about as good as the best.

Arms of one round were measured within minutes of each other, those of different rounds were not. So if the machine gets
slower, all rates of a round do. Tukey's median polish (*Exploratory Data Analysis*, 1977) removes this effect: it
splits each rate into the median of its size, the effect of its round, and noise.

The best rate is the median of the highest third of the sizes' medians, because the single highest of twelve noisy
values is mostly the luckiest. A size is good enough if it reaches 95 % of the best, less one and a half standard errors
of a median (max a tenth). Among sizes that the measurements cannot distinguish it chooses the smallest, like the
one-standard-error rule of Breiman and others (1984), so that another run chooses the same.
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
"""Factors for normal noise: median absolute deviation to standard deviation, and that to a median's standard error."""


@dataclass(frozen=True, slots=True)
class Knee:
    """The knee of the measured rates. *rates* are the medians of the sizes, without the effects of the rounds.

    *size* is the knee, and *best* is the best rate, in jobs per second.
    """

    size: int
    best: float
    rates: dict[int, float]
    plateau: list[int]
    """The sizes from the knee on that are good enough, up to the first that is not."""
    error: float
    """The standard error of a size's median, as a share of the median."""
    rising: bool
    """Whether the knee is the largest size that was measured, so that larger ones may be better."""
    clear: bool
    """Whether the noise is small enough (max a tenth) to tell apart sizes whose rates differ by a tenth."""


def knee_of(rates: Mapping[int, Mapping[int, float]]) -> Knee | None:
    """Return the knee of *rates*, which are jobs per second by size and round; None if there are none."""
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
    """Return the median rate of each size without the effects of the rounds, and its standard error as a share."""
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
    """Return the standard error of a size's median rate, from the absolute residuals *left* of the median polish.

    The polish fits sizes and rounds to the data, which makes the residuals too small; the formula corrects for that.
    """
    free = len(left) - sizes - rounds + 1
    if free <= 0 or not rounds:
        return 0.0
    sigma = _MAD_TO_SIGMA * _median(left) * math.sqrt(len(left) / free)
    return _MEDIAN_ERROR * sigma / math.sqrt(rounds)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
