"""The advice job: an event where there is something to do, once for the whole fleet."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from history import insert_ten_minutes

from tidepool.advice.advice_job import WINDOW, AdviceJob
from tidepool.advice.verdict import PoolVerdict
from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LASTING = timedelta(minutes=10)
"""Of the snapshots that are planted: their process is live at the end."""


def a_job(side: SideConnection) -> tuple[AdviceJob, Journal]:
    """Return the advice job of a process of its own, and its journal."""
    journal = Journal(Identity.of_this_process(), side, about={"versions": {}, "config": {}})
    return AdviceJob(journal, side), journal


async def advice_of(connection: Any) -> list[dict[str, Any]]:
    """Return what has been advised."""
    return [
        event["detail"] for event in await Repositories(connection).events.newest(since=NOW - WINDOW, kind="advice")
    ]


async def test_a_crowded_pool_gets_advice_once(side: SideConnection, connection: Any) -> None:
    """Two processes look; the second sees that the first has reported it."""
    await insert_ten_minutes(side, NOW - LASTING, waiting=15)
    for _ in range(2):
        job, journal = a_job(side)
        await job.run_once(NOW)
        await journal.write()
    (advice,) = await advice_of(connection)
    assert ("pool_too_small", 2) == (advice["verdict"], advice["pool_limit"])
    assert advice["advised"] > 2


async def test_workers_that_start_together_give_advice_once(
    side: SideConnection, connection: Any, database: PoolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rollout of twenty left twenty equal events each quarter of an hour: all looked before the first reported."""
    await insert_ten_minutes(side, NOW - LASTING, waiting=15)
    have_looked = asyncio.Barrier(6)
    judge = PoolVerdict.judge

    async def judge_together(studies: Any) -> Any:
        await have_looked.wait()
        return await judge(studies)

    monkeypatch.setattr("tidepool.advice.verdict.PoolVerdict.judge", judge_together)
    sides = [SideConnection(database, "stats") for _ in range(have_looked.parties)]
    processes = [a_job(own_side) for own_side in sides]
    async with asyncio.timeout(20):
        await asyncio.gather(*(job.run_once(NOW) for job, _ in processes))
    for own_side, (_, journal) in zip(sides, processes, strict=True):
        await journal.write()
        await own_side.close()
    assert ["pool_too_small"] == [advice["verdict"] for advice in await advice_of(connection)]


async def test_who_judges_longer_than_another_gives_no_advice(
    side: SideConnection, connection: Any, database: PoolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had looked before the other one reported, and looks again."""
    await insert_ten_minutes(side, NOW - LASTING, waiting=15)
    quick_side = SideConnection(database, "stats")
    quick, slow = a_job(quick_side)[0], a_job(side)[0]
    judge = PoolVerdict.judge

    async def judge_late(studies: Any) -> Any:
        monkeypatch.setattr("tidepool.advice.verdict.PoolVerdict.judge", judge)
        await quick.run_once(NOW)
        return await judge(studies)

    monkeypatch.setattr("tidepool.advice.verdict.PoolVerdict.judge", judge_late)
    await slow.run_once(NOW)
    await quick_side.close()
    assert 1 == len(await advice_of(connection))


async def test_where_there_is_nothing_to_do_nothing_is_reported(side: SideConnection, connection: Any) -> None:
    """Without any snapshots nothing is reported either."""
    job, journal = a_job(side)
    await job.run_once(NOW)
    await insert_ten_minutes(side, NOW - LASTING, waiting=0)
    await job.run_once(NOW)
    await journal.write()
    assert [] == await advice_of(connection)


async def test_a_failed_round_is_logged_and_the_next_one_comes(
    database: PoolConfig, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    """An outage does not end it."""
    monkeypatch.setattr("tidepool.advice.advice_job.WINDOW", timedelta(milliseconds=1))
    side = SideConnection(PoolConfig(url="postgresql://127.0.0.1:1/none", application_name="tests"), "stats")
    job, _ = a_job(side)
    running = asyncio.create_task(job.run())
    async with asyncio.timeout(20):
        while len(logs) < 2:
            await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    assert {"advice.failed"} == {line["event"] for line in logs}
