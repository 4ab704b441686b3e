"""The stats job and the pruning: a row for each tick, on time whatever the pool does, and not for ever."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from waiting import until

from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.health.loop_lag import LoopLag
from tidepool.health.metrics import Metrics
from tidepool.health.pruner import Pruner
from tidepool.health.recorder import Recorder
from tidepool.jobs.outcomes import Applied
from tidepool.ledger.batcher import Tally
from tidepool.pool.config import PoolConfig
from tidepool.pool.connection import Connection
from tidepool.pool.faults import Unavailable
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories
from tidepool.storage.snapshots import Reading, Snapshot

TICK = datetime.fromtimestamp(1_764_000_000, UTC)
SECOND = timedelta(seconds=1)
NOW = datetime(2026, 1, 31, tzinfo=UTC)


class UnsteadySide:
    """A side connection that can be away, and that counts its uses."""

    def __init__(self, side: SideConnection) -> None:
        self._side = side
        self.away: Exception | None = None
        self.uses = 0

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """Lend the connection, unless it is away."""
        self.uses += 1
        if self.away is not None:
            raise self.away
        async with self._side.use() as connection:
            yield connection


@pytest.fixture
async def side(database: PoolConfig) -> AsyncIterator[UnsteadySide]:
    """Give a side connection to the test's database."""
    side = SideConnection(database, "stats")
    yield UnsteadySide(side)
    await side.close()


@pytest.fixture
def a_recorder(pool: Pool, side: UnsteadySide) -> Callable[..., Recorder]:
    """Give a factory of recorders of one imagined process."""
    identity = Identity(uuid.uuid4(), "worker-1", "host-1", datetime.now(UTC))

    def build(tally: Tally | None = None, interval_s: float = 0.1, on: Pool = pool) -> Recorder:
        unsteady: Any = side
        journal = Journal(identity, unsteady, about={"versions": {"python": "3"}, "config": {"max_size": 4}})
        return Recorder(journal, pool=on, tally=tally or Tally(), callers=lambda: 4, interval_s=interval_s)

    return build


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
    """And written when it is back, each for its own tick and with the time of its capture."""
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


async def insert_results(connection: Any, count: int, finished_at: datetime) -> None:
    """Insert *count* ledger rows."""
    await connection.execute(
        """INSERT INTO job_results (job_id, function, status, result, attempts, worker_id, enqueued_at, started_at,
                                    finished_at, queue_us, pool_wait_us, db_us)
           SELECT gen_random_uuid()::text, 'f', 'applied', '{}', 1, 'w', $1, $1, $1, 0, 0, 0
           FROM generate_series(1, $2::int)""",
        finished_at,
        count,
    )


async def insert_snapshots(recorder: Recorder, *ticks: datetime) -> None:
    """Insert a snapshot for each tick."""
    for tick in ticks:
        recorder.take_snapshot(tick)
    await recorder._journal.write()


async def test_only_what_is_past_its_time_is_pruned(
    a_recorder: Callable[..., Recorder], side: UnsteadySide, connection: Any
) -> None:
    """Ledger rows by when they finished, snapshots by their tick; each has its own time."""
    unsteady: Any = side
    pruner = Pruner(unsteady, results_keep_days=30, snapshots_keep_days=7)
    await insert_results(connection, 3, NOW - timedelta(days=30, seconds=1))
    await insert_results(connection, 2, NOW - timedelta(days=29, hours=23))
    day = timedelta(days=1)
    await insert_snapshots(a_recorder(), NOW - 8 * day, NOW - 7.1 * day, NOW - 6.9 * day)
    assert (3, 2, 0, 0) == await pruner.run_once(NOW)
    assert (0, 0, 0, 0) == await pruner.run_once(NOW)
    assert 2 == await connection.fetchval("SELECT count(*) FROM job_results")
    assert 1 == await connection.fetchval("SELECT count(*) FROM pool_snapshots")


async def test_pruning_goes_in_small_batches(side: UnsteadySide, connection: Any) -> None:
    """A thousand rows at a time, so that no statement holds locks for long."""
    unsteady: Any = side
    await insert_results(connection, 2500, NOW - timedelta(days=31))
    assert (2500, 0, 0, 0) == await Pruner(unsteady, results_keep_days=30, snapshots_keep_days=7).run_once(NOW)
    assert 1 + 3 + 1 + 3 + 9 == side.uses  # for how long; 1000, 1000, 500; no more tables; a thousand minutes to thin


async def test_processes_that_prune_at_once_do_not_wait_for_each_other(database: PoolConfig, connection: Any) -> None:
    """Each row is deleted by one of them."""
    await insert_results(connection, 3000, NOW - timedelta(days=31))
    sides = [SideConnection(replace(database), f"side-{n}") for n in range(3)]
    pruners = [Pruner(side, results_keep_days=30, snapshots_keep_days=7) for side in sides]
    pruned = await asyncio.gather(*(pruner.run_once(NOW) for pruner in pruners))
    assert 3000 == sum(round_of_one.results for round_of_one in pruned)
    for side in sides:
        await side.close()


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (Unavailable("the server is away"), "prune.failed"),
        (LookupError("a column of another version"), "task.failed"),
    ],
)
async def test_a_failed_round_of_pruning_is_logged_and_the_next_one_comes(
    side: UnsteadySide, connection: Any, logs: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception, event: str
) -> None:
    """Neither an outage nor a surprise ends it."""
    monkeypatch.setattr("tidepool.health.pruner._INTERVAL_S", 0.01)
    monkeypatch.setattr("tidepool.repeating._MIN_FAILED_DELAY_S", 0.01)
    unsteady: Any = side
    await insert_results(connection, 1, NOW - timedelta(days=3000))
    side.away = error
    running = asyncio.create_task(Pruner(unsteady, results_keep_days=30, snapshots_keep_days=7).run())

    async def told() -> bool:
        return bool(logs)

    async def pruned() -> bool:
        return await connection.fetchval("SELECT count(*) FROM job_results") == 0

    await until(told)
    side.away = None
    await until(pruned)
    running.cancel()
    await asyncio.wait([running])
    assert event == logs[0]["event"]
