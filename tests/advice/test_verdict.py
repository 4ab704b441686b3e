"""Verdicts: each trouble, made on purpose with the real gate in virtual time, gets its own and none of the others."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from virtual_time import NOON, Clock, Simulation, run_virtually

from tidepool.advice.study import Study
from tidepool.advice.verdict import PoolVerdict
from tidepool.advice.window import Tick, Window
from tidepool.pool.figures import BOUNDS_US
from tidepool.storage.snapshots import ServerReading

SECONDS = 40
Scenario = Callable[[Simulation], Awaitable[None]]


async def comfortable(simulation: Simulation) -> None:
    """Twenty callers, a load of two connections: eight are plenty, and six are in use at times."""
    for _ in range(20):
        simulation.add(simulation.caller(think_s=0.18, hold_s=0.02))
    await simulation.run(2 * SECONDS)


async def crowded(simulation: Simulation) -> None:
    """200 callers, a load of eight connections."""
    for _ in range(200):
        simulation.add(simulation.caller(think_s=0.48, hold_s=0.02))
    await simulation.run(2 * SECONDS)


async def leaking(simulation: Simulation) -> None:
    """As comfortable, but somebody keeps one."""

    async def keep() -> None:
        async with simulation.pool.acquire():
            await asyncio.Event().wait()

    simulation.add(keep())
    await comfortable(simulation)


async def blocked_loop(simulation: Simulation) -> None:
    """As comfortable, but for some code that computes for 60 ms at a time."""

    async def compute() -> None:
        while True:
            await asyncio.sleep(0.5)
            simulation.clock.block(0.06)

    simulation.add(compute())
    await comfortable(simulation)


async def slow_database(simulation: Simulation) -> None:
    """As comfortable, until each query takes ten times as long."""
    hold_s = 0.02
    for _ in range(20):
        simulation.add(simulation.caller(think_s=0.18, hold_s=lambda: hold_s))
    await simulation.run(SECONDS + 10)
    hold_s = 0.2
    await simulation.run(SECONDS - 10)


async def restarted(simulation: Simulation) -> None:
    """As comfortable, but the server starts anew in the middle."""
    simulation.add(asyncio.sleep(1.5 * SECONDS))
    for _ in range(20):
        simulation.add(simulation.caller(think_s=0.18, hold_s=0.02))
    await simulation.run(SECONDS + 10)
    simulation.pool.stats.database_restarts += 1
    simulation.pool.stats.closed_lost_idle += 8
    await simulation.run(SECONDS - 10)


async def churning(simulation: Simulation) -> None:
    """Few uses, between which connections are closed: each of them has to open one."""
    simulation.inner.lifetime_s, simulation.inner.connect_s = 0.3, 0.02
    for _ in range(10):
        simulation.add(simulation.caller(think_s=0.5, hold_s=0.005))
    await simulation.run(2 * SECONDS)


async def holding_for_nothing(simulation: Simulation) -> None:
    """As crowded, and only a fifth of each hold is spent on the database."""
    for _ in range(200):
        simulation.add(simulation.caller(think_s=0.48, hold_s=0.02, working=0.2))
    await simulation.run(2 * SECONDS)


async def idle(simulation: Simulation) -> None:
    """Hardly anybody comes."""
    simulation.add(simulation.caller(think_s=0.5, hold_s=0.02))
    await simulation.run(2 * SECONDS)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """Give a study of the second half of a scenario."""

    def run(scenario: Scenario, *, size: int = 8, callers: int = 20, **other: Any) -> Study:
        async def main(clock: Clock) -> Sequence[Any]:
            simulation = Simulation(clock, size=size, callers=callers, overdue_s=5)
            await scenario(simulation)
            await simulation.end()
            return simulation.written.snapshots

        rows = run_virtually(monkeypatch, main)
        since, until = NOON + timedelta(seconds=SECONDS), NOON + timedelta(seconds=2 * SECONDS)
        peak = max(row.in_use_max for row in rows)
        (found,) = Study.of(rows, other.pop("database", []), since=since, until=until, peak=peak)
        return replace(found, **other)

    return run


@pytest.mark.parametrize(
    ("scenario", "size", "callers", "verdict"),
    [
        (comfortable, 8, 20, "ok"),
        (crowded, 2, 200, "pool_too_small"),
        (leaking, 8, 20, "leak"),
        (blocked_loop, 8, 20, "loop_bound"),
        (slow_database, 8, 20, "database_bound"),
        (restarted, 8, 20, "incident"),
        (churning, 8, 10, "churn"),
        (holding_for_nothing, 2, 200, "hold_too_long"),
        (comfortable, 60, 20, "pool_too_large"),
        (idle, 8, 1, "insufficient_data"),
    ],
)
def test_each_trouble_has_its_verdict_and_no_other(
    study: Callable[..., Study], scenario: Scenario, size: int, callers: int, verdict: str
) -> None:
    """No other check holds either, before or after it: what is found is all that is wrong."""
    found = PoolVerdict.of(study(scenario, size=size, callers=callers))
    assert verdict == found.verdict, found.finding
    assert {verdict} == holding(found)


def holding(verdict: PoolVerdict) -> set[str]:
    """Return the verdicts of the checks that hold."""
    return {finding.verdict for finding in verdict.findings if finding.holds}


def test_a_pool_that_needs_more_than_the_server_has(study: Callable[..., Study]) -> None:
    """It is too small, and cannot be larger: that is another verdict, which says so."""
    found = PoolVerdict.of(study(crowded, size=2, callers=200, budget=4))
    assert "budget_bound" == found.verdict
    assert found.advice is not None
    assert (4, "budget") == (found.advice.size, found.advice.binding)


def a_reading(*, waiting_lock: int) -> ServerReading:
    """Return a reading of a server with four active sessions, so many of which wait for locks."""
    names = ("max_connections", "reserved_connections", "backends", "backends_of_workers", "backends_orphaned")
    return ServerReading(
        **dict.fromkeys(names, 0),
        role_limit=None,
        database_limit=None,
        workers=1,
        granted=8,
        usable=90,
        tick=NOON,
        active=4,
        waiting_lock=waiting_lock,
    )


def test_transactions_that_wait_for_locks_are_seen_from_the_server(study: Callable[..., Study]) -> None:
    """Where everything stands still no query ends, and none can be compared."""
    database = [a_reading(waiting_lock=3)] * 3
    assert "database_bound" == PoolVerdict.of(study(comfortable, database=database)).verdict
    database[0] = a_reading(waiting_lock=1)
    assert "ok" == PoolVerdict.of(study(comfortable, database=database)).verdict


def test_every_finding_tells_its_figures_and_limits(study: Callable[..., Study]) -> None:
    """Those of the checks that do not hold, too: that is how one sees what it is not."""
    found = PoolVerdict.of(study(comfortable))
    assert {"ok"} == holding(found)
    assert 10 < len(found.findings)
    for finding in found.findings:
        assert finding.evidence
        assert finding.words


def test_figures_that_contradict_each_other_get_no_verdict(study: Callable[..., Study]) -> None:
    """Little's law has to hold on our own figures."""
    sound = study(comfortable)
    doubled = [Tick(tick.before, replace(tick.now, in_use_us=2 * tick.now.in_use_us)) for tick in sound.window.ticks]
    found = PoolVerdict.of(replace(sound, window=Window(doubled)))
    assert ("insufficient_data", "contradiction") == (found.verdict, found.check)


def changed(study: Study, **gains_or_gauges: Callable[[int], Any]) -> Study:
    """Return a study whose rows have other figures: each a function of the tick's number since the start."""
    ticks = study.window.ticks
    readings = [ticks[0].before, *(tick.now for tick in ticks)]
    others = [
        replace(reading, **{name: value(n) for name, value in gains_or_gauges.items()})  # type: ignore[type-var]
        for n, reading in enumerate(readings)
    ]
    return replace(study, window=Window(Tick(before, now) for before, now in pairwise(others)))


def histogram(counts: dict[int, int]) -> list[int]:
    """Return a histogram with so many in some of its buckets."""
    return [counts.get(place, 0) for place in range(len(BOUNDS_US) + 1)]


def test_jobs_that_wait_in_the_batcher_make_a_pool_too_small(study: Callable[..., Study]) -> None:
    """One connection, batches of 500 jobs that take a second, 1,500 more that wait: the gate has no queue at all."""
    one = changed(
        study(always_held, size=1, callers=1),
        batches=lambda n: n,
        batch_jobs=lambda n: 500 * n,
        batch_wait_us_sum=lambda n: 500 * n * 3_000_000,
    )
    found = PoolVerdict.of(one)
    assert "pool_too_small" == found.verdict, found.findings
    assert found.advice is not None
    assert (4, "high") == (found.advice.size, found.advice.confidence)
    predicted = {prediction.size: prediction.jobs_per_second for prediction in found.advice.predictions}
    assert pytest.approx(500, rel=0.05) == predicted[1]
    assert pytest.approx(2000, rel=0.05) == predicted[4]


async def always_held(simulation: Simulation) -> None:
    """Use the one connection all the time, a second each."""

    async def hold() -> None:
        while True:
            await simulation.use(1.0)

    simulation.add(hold())
    await simulation.run(2 * SECONDS)


def test_a_natural_wait_in_the_batcher_is_no_verdict(study: Callable[..., Study]) -> None:
    """A batch that waits for an eighth of what the one before it takes grows meanwhile: that is what batching is."""
    natural = changed(
        study(always_held, size=1, callers=1),
        batches=lambda n: n,
        batch_jobs=lambda n: 500 * n,
        batch_wait_us_sum=lambda n: 500 * n * 125_000,
    )
    assert "ok" == PoolVerdict.of(natural).verdict


def test_cpu_that_others_took_is_no_verdict_where_nothing_waits(study: Callable[..., Study]) -> None:
    """Nor is a lag of which the process was ready to run; with jobs in the queue the same process wants more CPU."""
    full = {"cpu_us": lambda n: 300_000 * n, "cpu_wait_us": lambda n: 600_000 * n}
    lags = {"loop_lag_hist": lambda n: histogram({8: 10 * n}), "loop_block_hist": lambda n: histogram({0: 10 * n})}
    starved = changed(study(comfortable), **full, **lags)
    assert "ok" == PoolVerdict.of(starved).verdict
    assert "loop_bound" == PoolVerdict.of(changed(starved, queue_oldest_us=lambda _: 2_000_000)).verdict


def test_a_short_block_counts_only_where_something_waits(study: Callable[..., Study]) -> None:
    """Twenty-five milliseconds hold nobody up in an idle process."""
    blocked = changed(study(comfortable), loop_block_hist=lambda n: histogram({0: 9 * n, 7: n}))
    assert "ok" == PoolVerdict.of(blocked).verdict
    assert "loop_bound" == PoolVerdict.of(changed(blocked, queue_oldest_us=lambda _: 2_000_000)).verdict


def test_what_holds_for_a_moment_only_is_no_verdict(study: Callable[..., Study]) -> None:
    """On average over the window it would: one burst of blocks in a tenth of the time."""
    burst = changed(study(comfortable), loop_block_hist=lambda n: histogram({0: 10 * n, 9: 40 if n > 20 else 0}))
    found = PoolVerdict.of(burst)
    assert "ok" == found.verdict
    (finding,) = (one for one in found.findings if one.verdict == "loop_bound")
    assert "in a row" in finding.evidence[-1].name


def test_slow_commits_are_the_databases(study: Callable[..., Study]) -> None:
    """Only where jobs wait; a slow COMMIT that nobody waits for limits nothing."""
    slow = {"commits": lambda n: 10 * n, "commit_us_sum": lambda n: 10 * n * 150_000}
    assert "ok" == PoolVerdict.of(changed(study(comfortable), **slow)).verdict
    found = PoolVerdict.of(changed(study(comfortable), **slow, queue_oldest_us=lambda _: 2_000_000))
    assert "database_bound" == found.verdict
    assert "COMMIT" in found.finding.words
