"""The advised size: from figures of the real gate in virtual time, whatever the size was when they were taken."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import NOON, Clock, Simulation, run_virtually

from tidepool.advice.sizing import Advice, Load
from tidepool.advice.window import Tick, Window
from tidepool.storage.snapshots import Snapshot

Measure = Callable[..., Window]


MEASURED: dict[tuple[int, int, int], list[Snapshot]] = {}
"""Rows by size, seconds and seed: the same every time, and some seconds of work."""


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    """Give a measurement of 200 callers that think for 450 ms and hold for 50, at a pool of some size."""

    def run(size: int, *, seconds: int = 30, seed: int = 1, **other: Any) -> Window:
        async def main(clock: Clock) -> list[Snapshot]:
            simulation = Simulation(clock, size=size, callers=200, seed=seed)
            for _ in range(200):
                simulation.add(simulation.caller(think_s=0.45, hold_s=0.05))
            await simulation.run(seconds)
            await simulation.end()
            return list(simulation.written.snapshots)

        key = (size, seconds, seed)
        if key not in MEASURED:
            MEASURED[key] = run_virtually(monkeypatch, main)
        return Window(Tick.pair([replace(row, **other) for row in MEASURED[key]], since=NOON))

    return run


def advice_at(window: Window, **other: Any) -> Advice:
    """Return the advice with no peak and no budget."""
    return Advice.of(window, **{"peak": 0, "budget": None, **other})


@pytest.mark.parametrize("size", [12, 20, 40])
def test_the_demand_does_not_depend_on_the_size_it_was_measured_at(measure: Measure, size: int) -> None:
    """A crowded pool hides nothing: callers, hold and think time can be measured there, too."""
    advice = advice_at(measure(size))
    assert 25 <= advice.demand <= 28
    assert (pytest.approx(50, rel=0.05), pytest.approx(450, rel=0.05)) == (advice.load.hold_ms, advice.load.between_ms)
    assert advice.low <= 26 <= advice.high
    assert "high" == advice.confidence


def test_the_advised_size_does_what_was_predicted(measure: Measure) -> None:
    """Measured anew at that size, with other luck: waits, use and rate are those of the prediction."""
    advice = advice_at(measure(16))
    (prediction,) = [prediction for prediction in advice.predictions if prediction.size == advice.size]
    window = measure(advice.size, seconds=60, seed=2)
    assert pytest.approx(prediction.per_second, rel=0.03) == window.gained.acquire_ok / 60
    assert pytest.approx(prediction.use, rel=0.05) == window.in_use / advice.size
    waited = window.wait_p95_ms
    assert waited is not None
    assert waited <= advice.target_ms
    smaller = measure(22, seconds=60, seed=3).wait_p95_ms
    assert smaller is not None
    assert 1 / 2 < smaller / advice.load.at(22).wait_quantile(0.95) < 2  # pyright: ignore[reportOptionalMemberAccess]


def test_a_step_at_a_time(measure: Measure) -> None:
    """From 12 to 24 first: with more connections each use may take longer. What is not worth it is left alone."""
    assert 24 == advice_at(measure(12)).next_step
    enough = advice_at(measure(28))
    assert (28, 28) == (enough.size, enough.next_step)
    less = advice_at(measure(60))
    assert less.size < less.limit
    assert 45 == less.next_step


def test_floors_and_caps_are_named(measure: Measure) -> None:
    """What the server cannot give is not advised, nor less than what was in use."""
    window = measure(16)
    capped = advice_at(window, budget=18)
    assert (18, "budget") == (capped.size, capped.binding)
    assert capped.demand > 18
    floored = advice_at(measure(60), peak=40)
    assert (41, "floor") == (floored.size, floored.binding)


def test_order_and_repetition_of_the_rows_do_not_matter(measure: Measure) -> None:
    """Rows come as they come, some of them twice."""
    rows = [tick.now for tick in measure(16).ticks]
    shuffled = [*rows, *rows[10:20]]
    random.Random(7).shuffle(shuffled)
    assert advice_at(Window(Tick.pair(rows, since=NOON))) == advice_at(Window(Tick.pair(shuffled, since=NOON)))


def test_without_the_number_of_callers_the_rate_is_taken_for_the_demand(measure: Measure) -> None:
    """Right where the pool is large enough: 20 connections' worth of load from outside need some more than 20."""
    advice = advice_at(measure(40, callers=0))
    assert advice.load.callers is None
    assert pytest.approx(20, rel=0.05) == advice.load.connections
    assert 25 <= advice.demand <= 31


def test_a_process_that_starts_again_counts_nothing_twice(measure: Measure) -> None:
    """Its counters begin at zero again: the second start is another instance."""
    rows = [tick.now for tick in measure(16, seconds=10).ticks]
    later = [
        replace(
            row,
            instance_id=UUID(int=2),
            **{name: getattr(row, name) + timedelta(seconds=10) for name in ("tick", "captured_at", "started_at")},
        )
        for row in rows
    ]
    twice = Window(Tick.pair([*rows, *later], since=NOON))
    once = Window(Tick.pair(rows, since=NOON))
    assert (2 * once.gained.acquire_ok, 2 * once.us) == (twice.gained.acquire_ok, twice.us)
    assert all(tick.gained.acquire_ok >= 0 for tick in twice.ticks)


@given(
    callers=st.integers(1, 150),
    hold_ms=st.floats(0.5, 200),
    between_ms=st.floats(0.0, 2000),
)
def test_more_load_never_needs_fewer_connections(callers: int, hold_ms: float, between_ms: float) -> None:
    """Monotone in the number of callers; and what is demanded suffices, one less does not."""
    demand = Load(callers, hold_ms, between_ms).demand()
    assert demand <= Load(callers + 10, hold_ms, between_ms).demand()
    assert Load(callers, hold_ms, between_ms).suffices(demand)
    assert demand == 1 or not Load(callers, hold_ms, between_ms).suffices(demand - 1)
    assert demand <= max(1, callers)
