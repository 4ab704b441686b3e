"""Verdicts: each trouble, made on purpose with the real gate in virtual time, gets its own and none of the others."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from virtual_time import NOON, Clock, Simulation, run_virtually

from worker.health.study import studies_of
from worker.health.verdict import Study, Verdict, examine

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
            return simulation.written.rows

        rows = run_virtually(monkeypatch, main)
        since, until = NOON + timedelta(seconds=SECONDS), NOON + timedelta(seconds=2 * SECONDS)
        peak = max(row["in_use_max"] for row in rows)
        (found,) = studies_of(rows, other.pop("database", []), since=since, until=until, peak=peak)
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
    found = examine(study(scenario, size=size, callers=callers))
    assert verdict == found.name, found.finding
    assert {verdict} == holding(found)


def holding(verdict: Verdict) -> set[str]:
    """Return the verdicts of the checks that hold."""
    return {finding.verdict for finding in verdict.findings if finding.holds}


def test_a_pool_that_needs_more_than_the_server_has(study: Callable[..., Study]) -> None:
    """It is too small, and cannot be larger: that is another verdict, which says so."""
    found = examine(study(crowded, size=2, callers=200, budget=4))
    assert "budget_bound" == found.name
    assert found.advice is not None
    assert (4, "budget") == (found.advice.size, found.advice.binding)


def test_transactions_that_wait_for_locks_are_seen_from_the_server(study: Callable[..., Study]) -> None:
    """Where everything stands still no query ends, and none can be compared."""
    database = [{"active": 4, "waiting_lock": 3, "usable": 90, "workers": 1}] * 3
    assert "database_bound" == examine(study(comfortable, database=database)).name
    database[0] = {**database[0], "waiting_lock": 1}
    assert "ok" == examine(study(comfortable, database=database)).name


def test_every_finding_tells_its_figures_and_limits(study: Callable[..., Study]) -> None:
    """Those of the checks that do not hold, too: that is how one sees what it is not."""
    found = examine(study(comfortable))
    assert {"ok"} == holding(found)
    assert 10 < len(found.findings)
    for finding in found.findings:
        assert finding.evidence
        assert finding.words


def test_figures_that_contradict_each_other_get_no_verdict(study: Callable[..., Study]) -> None:
    """Little's law has to hold on our own figures."""
    sound = study(comfortable)
    for tick in sound.window.ticks:
        tick.now["in_use_us"] *= 2  # pyright: ignore[reportIndexIssue]
    assert "insufficient_data" == examine(sound).name
