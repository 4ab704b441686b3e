"""Thinning: fewer rows of old snapshots, and every sum, window and peak at the coarser resolution as before."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lab.tuning.tune import forget
from tidepool.health.pruner import Pruner
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)

Fill = Callable[..., Any]


@pytest.fixture
async def sides(database: PoolConfig) -> AsyncIterator[list[SideConnection]]:
    """Give the connections of four processes that prune."""
    sides = [SideConnection(database, f"stats-{n}") for n in range(4)]
    yield sides
    for side in sides:
        await side.close()


@pytest.fixture
def fill(connection: Any) -> Fill:
    """Give a function that inserts a process's rows: when it began, how often it ticks, how many times."""

    async def insert(start: datetime, every_s: float, count: int, instance_id: str | None = None) -> str:
        instance_id = instance_id or str(uuid.uuid4())
        ticks = [start + n * every_s * SECOND for n in range(count)]
        columns = await figure_columns(connection)
        rows = [
            {
                **{name: [n] * 18 if name.endswith("_hist") else n * place for place, name in enumerate(columns, 1)},
                **{name: (n * 7919 + place) % 1009 for place, name in enumerate(columns) if name.endswith("_max")},
                **dict.fromkeys(("worker_id", "host"), instance_id[:8]),
                **dict.fromkeys(("tick", "captured_at", "written_at"), tick.isoformat()),
                "started_at": start.isoformat(),
                "instance_id": instance_id,
            }
            for n, tick in enumerate(ticks)
        ]
        await connection.execute(
            "INSERT INTO pool_snapshots SELECT * FROM jsonb_populate_recordset(null::pool_snapshots, $1::jsonb)",
            json.dumps(rows),
        )
        return instance_id

    return insert


async def figure_columns(connection: Any) -> list[str]:
    """Return the names of the columns that hold figures and histograms."""
    return [
        row["column_name"]
        for row in await connection.fetch("""
            SELECT column_name FROM information_schema.columns
            WHERE table_name = 'pool_snapshots' AND data_type IN ('integer', 'bigint', 'ARRAY')
            ORDER BY ordinal_position""")
    ]


async def rows(connection: Any) -> list[dict[str, Any]]:
    """Return all rows."""
    return [dict(row) for row in await connection.fetch("SELECT * FROM pool_snapshots ORDER BY instance_id, tick")]


def a_pruner(side: SideConnection, keep_days: float = 365) -> Pruner:
    """Return a pruner as a process that has just started has it."""
    return Pruner(side, results_keep_days=30, snapshots_keep_days=keep_days)


def last_of_each(found: list[dict[str, Any]], period: timedelta) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the last row of each process and period, by both."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return {(row["instance_id"], (row["tick"] - epoch) // period): row for row in found}


async def test_minutes_are_left_after_a_day_and_hours_after_a_week(
    fill: Fill, sides: list[SideConnection], connection: Any
) -> None:
    """The last row of each; what is younger stays as it is, and what is past its time is gone."""
    two_hours = 2 * 3600 // 20
    starts = {age: NOW - age * DAY for age in (366, 30, 7, 2, 1, 0.5)}
    for start in starts.values():
        await fill(start, 20, two_hours)
    before = await rows(connection)
    pruned = await a_pruner(sides[0]).run_once(NOW)
    left = await rows(connection)
    of_each = {age: sum(start <= row["tick"] < start + DAY / 2 for row in left) for age, start in starts.items()}
    assert {366: 0, 30: 2, 7: 120, 2: 120, 1: 360, 0.5: 360} == of_each
    assert (360, len(before) - 360 - len(left)) == (pruned.snapshots, pruned.thinned)


async def test_a_week_old_row_stands_for_its_hour(fill: Fill, sides: list[SideConnection], connection: Any) -> None:
    """Also where it was thinned to minutes before: nothing depends on how often a pruner came by."""
    await fill(NOW - 8 * DAY, 20, 360)
    pruner = a_pruner(sides[0])
    before = await rows(connection)
    await pruner.run_once(NOW - 6 * DAY)
    by_minute = await rows(connection)
    await pruner.run_once(NOW)
    by_hour = await rows(connection)
    assert (360, 120, 2) == (len(before), len(by_minute), len(by_hour))
    peaks = [name for name in before[0] if name.endswith("_max")]
    for hour, row in last_of_each(by_hour, timedelta(hours=1)).items():
        of_the_hour = [old for old in before if hour in last_of_each([old], timedelta(hours=1))]
        assert {name: max(old[name] for old in of_the_hour) for name in peaks} == {name: row[name] for name in peaks}


async def test_all_but_the_peaks_of_a_row_that_is_left_is_what_it_was(
    fill: Fill, sides: list[SideConnection], connection: Any
) -> None:
    """And the peaks, of every column that is one, are the greatest of its minute: no list of them goes stale."""
    await fill(NOW - 2 * DAY, 5, 240)
    before = await rows(connection)
    await a_pruner(sides[0]).run_once(NOW)
    left = await rows(connection)
    peaks = {name for name in before[0] if name.endswith("_max")}
    assert len(peaks) >= 6
    expected = last_of_each(before, timedelta(minutes=1))
    for minute, kept in expected.items():
        of_the_minute = [row for row in before if minute in last_of_each([row], timedelta(minutes=1))]
        kept.update({name: max(row[name] for row in of_the_minute) for name in peaks})
    assert list(expected.values()) == left


async def test_the_views_tell_the_same_minutes(fill: Fill, sides: list[SideConnection], connection: Any) -> None:
    """A window is a subtraction of last rows, and those are there."""
    await fill(NOW - 2 * DAY, 7, 500)
    await fill(NOW - 2 * DAY + 30 * SECOND, 11, 300)
    query = "SELECT * FROM {} ORDER BY minute, 2"
    before = [await connection.fetch(query.format(view)) for view in ("pool_health", "fleet_health")]
    assert (await a_pruner(sides[0]).run_once(NOW)).thinned
    assert before == [await connection.fetch(query.format(view)) for view in ("pool_health", "fleet_health")]


async def test_the_hours_of_a_year_add_up(fill: Fill, sides: list[SideConnection], connection: Any) -> None:
    """The gains of all hours are the gain of all the time."""
    await fill(NOW - 30 * DAY, 60, 600)
    summed = "SELECT sum(jobs), sum(acquires), histogram_sum(wait_hist), sum(seconds) FROM pool_health"
    before = await connection.fetch(summed)
    assert 590 == (await a_pruner(sides[0]).run_once(NOW)).thinned
    assert before == await connection.fetch(summed)


async def test_thinning_twice_changes_nothing(fill: Fill, sides: list[SideConnection], connection: Any) -> None:
    """Neither by the same process nor by one that starts anew."""
    await fill(NOW - 30 * DAY, 20, 400)
    await fill(NOW - 3 * DAY, 5, 400)
    pruner = a_pruner(sides[0])
    assert (await pruner.run_once(NOW)).thinned
    once = await rows(connection)
    assert (0, 0, 0, 0) == await pruner.run_once(NOW)
    assert (0, 0, 0, 0) == await a_pruner(sides[1]).run_once(NOW)
    assert once == await rows(connection)


async def test_processes_are_not_mixed(fill: Fill, sides: list[SideConnection], connection: Any) -> None:
    """Each keeps its own last row of a minute, also one that stopped in the middle of it."""
    first = await fill(NOW - 2 * DAY, 5, 3)
    second = await fill(NOW - 2 * DAY + 20 * SECOND, 5, 4)
    await a_pruner(sides[0]).run_once(NOW)
    left = {str(row["instance_id"]): row["tick"] for row in await rows(connection)}
    assert {first: NOW - 2 * DAY + 10 * SECOND, second: NOW - 2 * DAY + 35 * SECOND} == left


async def test_a_minute_that_is_not_a_day_old_throughout_is_left(
    fill: Fill, sides: list[SideConnection], connection: Any
) -> None:
    """Its last row may still be to come: it would be thinned to something that is not its end."""
    await fill(NOW - DAY, 5, 12)
    for age_s in (0, 30, 59):
        assert 0 == (await a_pruner(sides[0]).run_once(NOW + age_s * SECOND)).thinned
    assert 11 == (await a_pruner(sides[0]).run_once(NOW + 60 * SECOND)).thinned
    assert [NOW - DAY + 55 * SECOND] == [row["tick"] for row in await rows(connection)]


async def test_a_running_pruner_thins_what_has_grown_old_since(
    fill: Fill, sides: list[SideConnection], connection: Any
) -> None:
    """It does not look at the rest again, but at all that its last round left for later."""
    await fill(NOW - DAY, 5, 60)
    pruner = a_pruner(sides[0])
    thinned = [(await pruner.run_once(NOW + minutes * 60 * SECOND)).thinned for minutes in (0, 1, 1.5, 2, 5, 6)]
    assert [0, 11, 0, 11, 33, 0] == thinned


async def test_thinning_goes_in_small_batches(
    fill: Fill, sides: list[SideConnection], connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also through the middle of a minute: its peaks arrive in two steps."""
    await fill(NOW - 2 * DAY, 1, 300)
    before = await rows(connection)
    monkeypatch.setattr("tidepool.health.pruner._BATCH", 50)
    assert 295 == (await a_pruner(sides[0]).run_once(NOW)).thinned
    left = await rows(connection)
    assert max(row["wait_us_max"] for row in before[60:120]) == left[1]["wait_us_max"]


async def test_processes_that_thin_at_once_lose_no_peak(
    fill: Fill, sides: list[SideConnection], connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is at it, the others leave it to that one; what it leaves undone they do later."""
    for _ in range(5):
        await fill(NOW - 8 * DAY, 5, 720)
    before = await rows(connection)
    monkeypatch.setattr("tidepool.health.pruner._BATCH", 100)
    pruners = [a_pruner(side) for side in sides]
    pruned = await asyncio.gather(*(pruner.run_once(NOW) for pruner in pruners))
    pruned += [await pruners[0].run_once(NOW)]
    left = await rows(connection)
    assert (5, 5 * 719) == (len(left), sum(of_one.thinned for of_one in pruned))
    for row in left:
        of_it = [old for old in before if old["instance_id"] == row["instance_id"]]
        assert max(old["wait_us_max"] for old in of_it) == row["wait_us_max"]


async def test_a_pruner_leaves_it_to_the_one_that_is_at_it(
    fill: Fill, sides: list[SideConnection], connection: Any
) -> None:
    """Without waiting: the side connection has snapshots to write. It comes back to it in its next round."""
    await fill(NOW - 2 * DAY, 5, 12)
    pruner = a_pruner(sides[0])
    async with connection.transaction():
        assert await Repositories(connection).snapshots.lock_thinning()
        assert 0 == (await pruner.run_once(NOW)).thinned
    assert 11 == (await pruner.run_once(NOW)).thinned


async def insert_beside(connection: Any, table: str, tick: datetime, **values: Any) -> None:
    """Insert a row with nothing in it but a time, and what is given."""
    names = await connection.fetch(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $1", table
    )
    empty = {"integer": 0, "bigint": 0, "text": "", "boolean": False, "jsonb": {}, "uuid": str(uuid.uuid4())}
    row = {row["column_name"]: empty.get(row["data_type"], tick.isoformat()) for row in names}
    await connection.execute(
        f"INSERT INTO {table} SELECT * FROM jsonb_populate_record(null::{table}, $1::jsonb)",
        json.dumps({**row, **values}),
    )


async def test_rows_beside_the_snapshots_go_with_them(sides: list[SideConnection], connection: Any, fill: Fill) -> None:
    """Events and the server's rows by their time; a process as long as it has a snapshot."""
    for days in (11, 9):
        await insert_beside(connection, "pool_events", NOW - days * DAY)
        await insert_beside(connection, "db_snapshots", NOW - days * DAY)
        await insert_beside(connection, "pool_processes", NOW - days * DAY)
    instance = await fill(NOW - 11 * DAY, 86_400, 5)
    await insert_beside(connection, "pool_processes", NOW - 11 * DAY, instance_id=instance)
    pruned = await a_pruner(sides[0], keep_days=10).run_once(NOW)
    assert 3 == pruned.others
    for table, left in (("pool_events", 1), ("db_snapshots", 1), ("pool_processes", 2)):
        assert left == await connection.fetchval(f"SELECT count(*) FROM {table}")


async def test_the_servers_rows_are_thinned_too(sides: list[SideConnection], connection: Any) -> None:
    """The last one of each minute is left of those that are older than a day."""
    for n in range(24):
        await insert_beside(connection, "db_snapshots", NOW - 2 * DAY + n * 10 * SECOND)
        await insert_beside(connection, "db_snapshots", NOW - n * 10 * SECOND)
    await a_pruner(sides[0]).run_once(NOW)
    ticks = [row["tick"] for row in await connection.fetch("SELECT tick FROM db_snapshots ORDER BY tick")]
    assert [NOW - 2 * DAY + (60 * n + 50) * SECOND for n in range(4)] == ticks[:4]
    assert 24 == len(ticks[4:])


async def test_the_laboratory_forgets_the_workers_of_an_arm(database: PoolConfig, connection: Any, fill: Fill) -> None:
    """Those with the defaults of asyncpg and arq were judged together with others of the same size."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    earlier = await fill(began - SECOND, 10, 3)
    await fill(began, 10, 3)
    await forget(database.url, began)
    assert [earlier] == [
        str(row[0]) for row in await connection.fetch("SELECT DISTINCT instance_id FROM pool_snapshots")
    ]
