"""The stats job: a row for each tick, on time whatever the pool does."""

import asyncio
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from unsteady_side import UnsteadySide
from waiting import until

from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.health.loop_lag import LoopLag
from tidepool.health.metrics import Metrics
from tidepool.health.recorder import Recorder
from tidepool.jobs.outcomes import Applied
from tidepool.ledger.batcher import Tally
from tidepool.pool.faults import Unavailable
from tidepool.pool.pool import Pool
from tidepool.storage.repositories import Repositories
from tidepool.storage.snapshots import Reading, Snapshot

TICK = datetime.fromtimestamp(1_764_000_000, UTC)
SECOND = timedelta(seconds=1)


async def snapshots(connection: Any) -> list[dict[str, Any]]:
    """Return the rows in the order of their ticks."""
    return [dict(row) for row in await connection.fetch("SELECT * FROM pool_snapshots ORDER BY tick")]


async def test_a_sample_becomes_a_row_with_every_column(
    a_recorder: Callable[..., Recorder], pool: Pool, connection: Any
) -> None:
    """Identity, gauges, peaks, counters, and the ledger's tally."""
    await pool.check()
    recorder = a_recorder(Tally(applied=5, rejected=2, failed=1))
    recorder.take_snapshot(TICK)
    await recorder._journal.write()
    (row,) = await snapshots(connection)
    assert {"queue_waiting", "queue_oldest_us"} == {name for name, value in row.items() if value is None}  # no queue
    assert TICK == row["tick"]
    assert ("worker-1", "host-1", 1, 4, 1, 1) == tuple(
        row[name] for name in ("worker_id", "host", "min_size", "max_size", "size", "idle")
    )
    assert (5, 2, 1) == (row["jobs_applied"], row["jobs_rejected"], row["jobs_failed"])
    assert (1, 1, 0) == (row["acquire_ok"], row["queries"], row["in_use"])
    assert row["started_at"] <= row["captured_at"] <= row["written_at"]


async def test_a_snapshot_has_the_columns_of_the_table(connection: Any) -> None:
    """No more and no fewer: in a row without one of them something that is measured would be lost."""
    columns = await connection.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'pool_snapshots'"
    )
    assert {field.name for field in fields(Snapshot)} == {row["column_name"] for row in columns}


async def test_what_verdicts_and_the_page_read_is_what_was_written(
    a_recorder: Callable[..., Recorder], pool: Pool, connection: Any
) -> None:
    """Both queries have exactly the columns of a reading, and their types."""
    await pool.check()
    tally = Tally(known=["create_user"])
    tally.add([Applied({})], "create_user")
    recorder = a_recorder(tally)
    recorder.take_snapshot(TICK)
    await recorder.close()
    (row, *_) = await snapshots(connection)
    (read, *_) = await Repositories(connection).snapshots.window(TICK, SECOND, until=TICK)
    page, live = await Repositories(connection).snapshots.history(TICK, TICK + SECOND, SECOND)
    assert {field.name: row[field.name] for field in fields(Reading) if field.name != "functions"} == {
        name: value for name, value in asdict(read).items() if name != "functions"
    }
    assert {"create_user": [1, 0, 0, 0]} == page[0].functions
    assert read == replace(page[0], functions={})
    assert {row["instance_id"]} == live


async def test_a_row_is_written_while_the_pool_is_exhausted(
    a_recorder: Callable[..., Recorder], pool: Pool, connection: Any
) -> None:
    """That is when it is needed; it says who waits."""
    recorder = a_recorder()
    async with AsyncExitStack() as held:
        for _ in range(4):
            await held.enter_async_context(pool.acquire())
        waiter = asyncio.create_task(pool.check())
        await asyncio.sleep(0)
        recorder.take_snapshot(TICK)
        await recorder._journal.write()
        (row,) = await snapshots(connection)
    await waiter
    assert (4, 4, 0, 1) == tuple(row[name] for name in ("in_use", "size", "idle", "waiting"))


async def test_samples_are_kept_while_the_database_is_away(
    a_recorder: Callable[..., Recorder], side: UnsteadySide, connection: Any, logs: list[Any]
) -> None:
    """They are written when it is back, each for its own tick and with the time of its capture."""
    recorder = a_recorder()
    side.away = Unavailable("the server is away")
    for n in range(3):
        recorder.take_snapshot(TICK + n * SECOND)
        await recorder._journal.write()
    assert [] == await snapshots(connection)
    assert [("snapshot.late", n) for n in (1, 2, 3)] == [(line["event"], line["kept"]) for line in logs]
    side.away = None
    await recorder._journal.write()
    rows = await snapshots(connection)
    assert [TICK, TICK + SECOND, TICK + 2 * SECOND] == [row["tick"] for row in rows]
    assert all(row["captured_at"] < row["written_at"] for row in rows)
    await recorder._journal.write()
    assert rows == await snapshots(connection)


async def test_the_newest_samples_are_kept_when_there_are_too_many(
    a_recorder: Callable[..., Recorder], side: UnsteadySide, connection: Any
) -> None:
    """An outage of hours must not fill the memory."""
    recorder = a_recorder()
    side.away = Unavailable("the server is away")
    for n in range(1000):
        recorder.take_snapshot(TICK + n * SECOND)
    side.away = None
    await recorder._journal.write()
    rows = await snapshots(connection)
    assert (720, TICK + 999 * SECOND) == (len(rows), rows[-1]["tick"])


async def test_the_same_tick_twice_is_one_row(a_recorder: Callable[..., Recorder], connection: Any) -> None:
    """The reply to a write may be lost, and the write repeated."""
    recorder = a_recorder()
    for _ in range(2):
        recorder.take_snapshot(TICK)
        await recorder._journal.write()
    recorder.take_snapshot(TICK + 1 * SECOND)
    await recorder._journal.write()
    assert [TICK, TICK + SECOND] == [row["tick"] for row in await snapshots(connection)]


async def test_ticks_are_multiples_of_the_interval(a_recorder: Callable[..., Recorder], connection: Any) -> None:
    """On the wall clock, so that the rows of all processes line up; closing writes the last one."""
    recorder = a_recorder(interval_s=0.1)
    running = asyncio.create_task(recorder.run())

    async def three_rows() -> bool:
        return len(await snapshots(connection)) >= 3

    await until(three_rows)
    running.cancel()
    await asyncio.wait([running])
    recorder.take_snapshot(TICK)
    await recorder.close()
    ticks = [row["tick"] for row in await snapshots(connection)]
    assert {0} == {tick.microsecond % 100_000 for tick in ticks}
    assert TICK in ticks
    assert len(ticks) >= 4


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_process_whose_clock_is_wrong_is_live_all_the_same(
    pool: Pool, side: UnsteadySide, connection: Any, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Its rows have PostgreSQL's time: of one that was 20 seconds behind, page and `why` knew nothing."""

    class Wrong(datetime):
        """A clock of this process alone."""

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr("tidepool.health.journal.datetime", Wrong)
    unsteady: Any = side
    identity = Identity(uuid.uuid4(), "worker-1", "host-1", Wrong.now(UTC))
    journal = Journal(identity, unsteady, about={"versions": {}, "config": {}})
    recorder = Recorder(journal, pool=pool, tally=Tally(), callers=lambda: 4, interval_s=0.1)
    running = asyncio.create_task(recorder.run())

    async def two_rows() -> bool:
        return len(await snapshots(connection)) >= 2

    await until(two_rows)
    live = await connection.fetch("SELECT * FROM live_processes(clock_timestamp())")
    running.cancel()
    await asyncio.wait([running])
    await recorder.close()
    assert [identity.instance_id] == [row["instance_id"] for row in live]
    now = datetime.now(UTC)
    for row in await snapshots(connection):
        assert all(abs(now - row[name]) < timedelta(minutes=1) for name in ("tick", "captured_at", "started_at"))


async def test_the_lag_of_the_event_loop_is_in_the_rows(a_recorder: Callable[..., Recorder], connection: Any) -> None:
    """The probe runs beside the recorder and ends with it."""
    recorder = a_recorder(interval_s=0.1)
    running = asyncio.create_task(recorder.run())

    async def measured() -> bool:
        return any(row["loop_lag_count"] for row in await snapshots(connection))

    await until(measured)
    running.cancel()
    await asyncio.wait([running])
    await recorder.close()
    assert "loop lag probe" not in {task.get_name() for task in asyncio.all_tasks() if not task.cancelling()}


async def test_an_interval_with_work_is_logged(a_recorder: Callable[..., Recorder], logs: list[Any]) -> None:
    """What was settled since the last tick; a quiet one says nothing."""
    tally = Tally()
    recorder = a_recorder(tally)
    recorder.take_snapshot(TICK)
    tally.applied, tally.failed = 7, 1
    recorder.take_snapshot(TICK + 1 * SECOND)
    recorder.take_snapshot(TICK + 2 * SECOND)
    tally.applied = 10
    recorder.take_snapshot(TICK + 3 * SECOND)
    settled = [(line["applied"], line["failed"]) for line in logs if line["event"] == "jobs.settled"]
    assert [(7, 1), (3, 0)] == settled


async def test_prometheus_reads_the_live_pool(pool: Pool) -> None:
    """Who has a connection now, and for how long already."""
    metrics = Metrics(pool, Tally(), LoopLag())
    await pool.check()
    async with pool.acquire():
        text = metrics.render()[0].decode()
    read = {s.name: s for family in text_string_to_metric_families(text) for s in family.samples if s.value}
    used = read["db_client_connection_count"]
    assert ("used", 1) == (used.labels["db_client_connection_state"], used.value)
    assert read["tidepool_pool_oldest_hold_seconds"].value > 0
    assert 1 == read["tidepool_pool_query_time_seconds_count"].value
    assert 1 == read["db_client_connection_create_time_seconds_count"].value
