"""The knee of a curve: found where it is, and found again however noisy the machine is."""

import math
import random

import pytest

from lab.tuning.knee import knee_of, polished
from lab.tuning.trials import LADDERS

LADDER = LADDERS["POOL_MAX_SIZE"]

ROUNDS = 5


def measured(
    curve: dict[int, float], *, noise: float = 0.0, drift: float = 0.0, seed: int = 0
) -> dict[int, dict[int, float]]:
    """Return what a machine of such noise would show, on which every round is slower than the one before by *drift*."""
    chance = random.Random(seed)
    return {
        size: {number: rate * (1 - drift) ** number * math.exp(chance.gauss(0, noise)) for number in range(ROUNDS)}
        for size, rate in curve.items()
    }


def saturating(capacity: float, hold: float) -> dict[int, float]:
    """Return the rates of a pool whose connections serve one job each in *hold*, up to a capacity."""
    return {size: capacity * (1 - math.exp(-size / (capacity * hold))) for size in LADDER}


def test_the_smallest_size_that_is_good_enough_is_named() -> None:
    """95 % of the best, not the best itself."""
    rates = {1: 400.0, 2: 760.0, 4: 970.0, 8: 1000.0, 16: 1000.0, 32: 1000.0}
    knee = knee_of(measured(rates))
    assert knee is not None
    assert (4, 0.0, False) == (knee.size, knee.error, knee.rising)
    assert [4, 8, 16, 32] == knee.plateau
    assert pytest.approx(1000) == knee.best


def test_what_falls_again_is_no_part_of_the_plateau() -> None:
    """Too many connections: the sizes behind the first fall are not recommended, even if one of them looks good."""
    knee = knee_of(measured({1: 500.0, 2: 990.0, 4: 1000.0, 8: 1000.0, 16: 800.0, 32: 960.0}))
    assert knee is not None
    assert [2, 4, 8] == knee.plateau


def test_a_ladder_that_ends_on_the_rise_says_so() -> None:
    """The best is beyond it."""
    knee = knee_of(measured({1: 100.0, 2: 200.0, 4: 400.0}))
    assert knee is not None
    assert (4, True) == (knee.size, knee.rising)


def test_a_machine_that_gets_slower_moves_no_size() -> None:
    """Each round a tenth slower, and one size missing from the fast rounds: its median stays what it is."""
    rates = measured({1: 500.0, 2: 1000.0, 4: 1000.0}, drift=0.1)
    rates[4] = {number: rate for number, rate in rates[4].items() if number > 2}
    medians, error = polished(rates)
    assert pytest.approx(medians[2], rel=0.001) == medians[4]
    assert pytest.approx(0, abs=0.001) == error


def test_a_machine_that_is_too_noisy_names_nothing_for_sure() -> None:
    """Where arms of the same size differ by half: another run would name another knee."""
    curve = dict.fromkeys(LADDER, 8000.0)
    quiet, noisy = knee_of(measured(curve, noise=0.05)), knee_of(measured(curve, noise=0.5))
    assert quiet is not None
    assert noisy is not None
    assert (True, False) == (quiet.clear, noisy.clear)


def test_nothing_measured_has_no_knee() -> None:
    """All arms were invalid, or none is there yet."""
    assert knee_of({}) is None
    assert knee_of({4: {}}) is None


@pytest.mark.parametrize("curve", ["flat", "sharp", "slow"])
def test_two_runs_name_knees_a_step_apart_at_the_most(curve: str) -> None:
    """Where arms differ by 7 % and rounds get slower: in nine of ten pairs of runs, for the slowest of curves."""
    curves = {
        "flat": dict.fromkeys(LADDER, 8000.0),
        "sharp": {size: min(size / 4, 1.0) * 8000 for size in LADDER},
        "slow": saturating(1500, 1 / 300),
    }
    apart = [
        abs(_step(measured(curves[curve], noise=0.07, drift=0.03, seed=seed))
            - _step(measured(curves[curve], noise=0.07, drift=0.03, seed=-1 - seed)))
        for seed in range(40)
    ]  # fmt: skip
    assert sum(steps <= 1 for steps in apart) >= 36, apart


def _step(rates: dict[int, dict[int, float]]) -> int:
    knee = knee_of(rates)
    assert knee is not None
    return LADDER.index(knee.size)
