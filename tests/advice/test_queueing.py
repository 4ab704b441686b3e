"""The queueing models against reference values: computed tables of both, exact to the last digit that they give."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidepool.advice.queueing import Prediction

MAIN = {"callers": 200, "think": 450.0, "hold": 50.0}
"""200 callers, 450 ms of other work, 50 ms of holding: 20 connections' worth of load, at most 0.4 uses a ms."""


def close(value: float, digits: float) -> object:
    """Return *value* within 1 %, or within half of the last digit that the table gives."""
    return pytest.approx(value, rel=0.01, abs=digits)


@pytest.mark.parametrize(
    ("size", "use", "wait_share", "mean_ms", "p95_ms"),
    [
        (11, 0.91, 0.682, 34.1, 130.7),
        (12, 0.83, 0.449, 11.2, 54.9),
        (13, 0.77, 0.285, 4.8, 29.0),
        (14, 0.71, 0.174, 2.2, 15.6),
        (15, 0.67, 0.102, 1.0, 7.1),
        (16, 0.62, 0.057, 0.5, 1.1),
    ],
)
def test_an_open_queue(size: int, use: float, wait_share: float, mean_ms: float, p95_ms: float) -> None:
    """A load of 10 connections, held for 50 ms."""
    predicted = Prediction.opened(size, rate=0.2, hold=50.0)
    assert close(use, 0.005) == predicted.use
    assert close(wait_share, 0.0005) == predicted.wait_share
    assert close(mean_ms, 0.05) == predicted.wait_mean
    assert close(p95_ms, 0.05) == predicted.wait_quantile(0.95)


def test_an_open_queue_that_cannot_keep_up_has_no_answer() -> None:
    """Its waits grow without end."""
    with pytest.raises(ValueError, match="cannot carry"):
        Prediction.opened(10, rate=0.2, hold=50.0)


@pytest.mark.parametrize(
    ("size", "per_second", "mean_ms", "wait_share", "use"),
    [
        (8, 160.0, 750, 1.000, 1.00),
        (12, 240.0, 333, 1.000, 1.00),
        (16, 320.0, 125, 0.999, 1.00),
        (20, 384.0, 20.9, 0.765, 0.96),
        (22, 394.5, 7.0, 0.476, 0.90),
        (24, 398.1, 2.4, 0.251, 0.83),
        (26, 399.4, 0.8, 0.116, 0.77),
        (28, 399.8, 0.2, 0.047, 0.71),
        (40, 400.0, 0.0, 0.000, 0.50),
    ],
)
def test_a_closed_queue(size: int, per_second: float, mean_ms: float, wait_share: float, use: float) -> None:
    """The main example, from a pool that is far too small to one that is far too large."""
    predicted = Prediction.closed(size, **MAIN)
    assert close(per_second, 0.05) == predicted.throughput * 1000
    assert close(mean_ms, 0.05) == predicted.wait_mean
    assert close(wait_share, 0.0005) == predicted.wait_share
    assert close(use, 0.005) == predicted.use


@pytest.mark.parametrize(("size", "p95_ms"), [(22, 32.1), (23, 22.5), (24, 15.4), (25, 10.0), (26, 5.8)])
def test_the_quantiles_of_a_closed_queue(size: int, p95_ms: float) -> None:
    """By the states that an arriving caller finds."""
    assert close(p95_ms, 0.05) == Prediction.closed(size, **MAIN).wait_quantile(0.95)


@pytest.mark.parametrize(
    ("callers", "think", "hold", "size", "of_ceiling", "wait_share"),
    [
        (100, 200, 20, 10, 0.972, 0.579),
        (100, 200, 20, 13, 0.997, 0.137),
        (100, 200, 20, 14, 0.999, 0.074),
        (100, 980, 20, 2, 0.933, 0.890),
        (100, 980, 20, 4, 0.998, 0.165),
        (100, 980, 20, 5, 1.000, 0.055),
        (50, 50, 50, 25, 0.954, 0.572),
        (50, 50, 50, 30, 0.997, 0.081),
        (50, 50, 50, 33, 0.999, 0.011),
        (10, 450, 50, 1, 0.832, 0.776),
        (10, 450, 50, 2, 0.981, 0.258),
        (10, 450, 50, 3, 0.998, 0.056),
    ],
)
def test_other_closed_queues(
    callers: int, think: float, hold: float, size: int, of_ceiling: float, wait_share: float
) -> None:
    """The ceiling is what the callers would do if nobody ever waited."""
    predicted = Prediction.closed(size, callers=callers, think=think, hold=hold)
    assert close(of_ceiling, 0.0005) == predicted.throughput * (think + hold) / callers
    assert close(wait_share, 0.0005) == predicted.wait_share


@pytest.mark.parametrize(("over", "wait_share"), [(0.5, 0.50), (1.0, 0.22), (1.25, 0.14), (1.5, 0.085), (2.0, 0.027)])
def test_the_square_root_rule_is_the_limit(over: float, wait_share: float) -> None:
    """With so many square roots of the load on top of it, large pools make this share wait (Halfin, Whitt 1981)."""
    load = 1_000_000.0
    assert (
        pytest.approx(wait_share, rel=0.03)
        == Prediction.opened(int(load + over * math.sqrt(load)), rate=load, hold=1.0).wait_share
    )


def test_callers_that_never_think_are_always_there() -> None:
    """All but those that hold wait, and the pool is in use all the time."""
    predicted = Prediction.closed(4, callers=10, think=0.0, hold=20.0)
    assert (4 / 20, 1.0) == (pytest.approx(predicted.throughput), pytest.approx(predicted.use))
    assert pytest.approx(30.0) == predicted.wait_mean


def test_as_many_connections_as_callers_are_never_waited_for() -> None:
    """More connections than callers are not waited for either."""
    for size in (10, 11):
        predicted = Prediction.closed(size, callers=10, think=1.0, hold=20.0)
        assert (0, 0, 0) == (predicted.wait_share, predicted.wait_mean, predicted.wait_quantile(0.99))


@given(
    size=st.integers(1, 40),
    callers=st.integers(1, 200),
    think=st.floats(0, 1000),
    hold=st.floats(0.01, 1000),
)
def test_littles_law_holds_in_the_closed_model(size: int, callers: int, think: float, hold: float) -> None:
    """Callers are thinking, waiting or holding: their number is the throughput times the length of the cycle."""
    predicted = Prediction.closed(size, callers=callers, think=think, hold=hold)
    cycle = max(think, hold * 1e-9) + predicted.wait_mean + hold
    assert pytest.approx(callers, rel=1e-6) == predicted.throughput * cycle
    assert Prediction.closed(size + 1, callers=callers, think=think, hold=hold).wait_mean <= predicted.wait_mean + 1e-9
