"""What a process tells of itself beside its samples: its start and end, events, and how the server is."""

import asyncio
import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from waiting import until

from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.health.recorder import Recorder
from tidepool.ledger.batcher import Tally
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories
from tidepool.storage.snapshots import ServerConnections

TICK = datetime.fromtimestamp(1_764_000_000, UTC)
SECOND = timedelta(seconds=1)
ABOUT: dict[str, dict[str, Any]] = {"versions": {"python": "3.12"}, "config": {"max_size": 4}}


@pytest.fixture
def journal(side: SideConnection) -> Journal:
    """Give the journal of a process."""
    return Journal(Identity.of_this_process(), side, about=ABOUT)


async def test_a_process_is_registered_once_and_its_end_is_recorded(journal: Journal, connection: Any) -> None:
    """A row without an end is of a process that runs, or was killed."""
    await journal.write()
    await journal.write()
    (row,) = await connection.fetch("SELECT * FROM pool_processes")
    assert (None, None) == (row["ended_at"], row["end_reason"])
    assert (ABOUT["versions"], ABOUT["config"]) == (json.loads(row["versions"]), json.loads(row["config"]))
    await journal.close("stopped")
    (row,) = await connection.fetch("SELECT * FROM pool_processes")
    assert "stopped" == row["end_reason"]
    assert row["started_at"] < row["ended_at"]


async def test_events_are_written_once(journal: Journal, connection: Any, logs: list[Any]) -> None:
    """Each is also logged, and is read as it was written."""
    since = datetime.now(UTC)
    journal.add_event("loop_blocked", {"lag_us": 300_000})
    await journal.write()
    await journal.write()
    (event,) = await Repositories(connection).events.newest(since=since)
    assert ("loop_blocked", {"lag_us": 300_000}) == (event["kind"], event["detail"])
    assert ["pool.event"] == [line["event"] for line in logs]


async def test_the_server_has_one_row_a_tick_from_the_first_process_that_writes(
    side: SideConnection, pool: Pool, connection: Any
) -> None:
    """Its sessions and counters, and what the budget knows; none before that knows anything."""
    known: list[ServerConnections | None] = [None]
    counts: dict[str, Any] = {field.name: 7 for field in fields(ServerConnections)}
    columns = counts | {"role_limit": None, "database_limit": None}
    journals = [Journal(Identity.of_this_process(), side, about=ABOUT, server=lambda: known[0]) for _ in range(2)]
    for n in range(2):
        for journal in journals:
            Recorder(journal, pool=pool, tally=Tally(), callers=lambda: 4, interval_s=1).take_snapshot(
                TICK + n * SECOND
            )
            await journal.write()
        known[0] = ServerConnections(**columns)
    (row,) = await connection.fetch("SELECT * FROM db_snapshots")
    assert TICK + SECOND == row["tick"]
    assert journals[0].identity.worker_id == row["written_by"]
    assert columns.items() <= dict(row).items()
    assert (None, None, False) == (row["role_limit"], row["database_limit"], row["in_recovery"])
    assert row["idle"] >= 1  # the pool's; the connection that asks does not count itself
    assert row["server_started_at"] < datetime.now(UTC)


async def test_what_waited_for_the_server_is_marked(database: PoolConfig, connection: Any) -> None:
    """Nothing is lost, and the rows of the outage can be distinguished from the others."""
    away = SideConnection(replace(database, url="postgresql://127.0.0.1:1/none"), "stats")
    journal = Journal(Identity.of_this_process(), away, about=ABOUT)
    pool = await Pool.open(database)
    recorder = Recorder(journal, pool=pool, tally=Tally(), callers=lambda: 4, interval_s=1)
    recorder.take_snapshot(TICK)
    await journal.write()
    away._config = database
    recorder.take_snapshot(TICK + SECOND)
    await journal.write()
    await pool.close()
    await away.close()
    rows = await connection.fetch("SELECT late FROM pool_snapshots ORDER BY tick")
    assert [True, False] == [row["late"] for row in rows]


async def test_a_leak_becomes_an_event_with_its_stack(
    journal: Journal, database: PoolConfig, connection: Any, side: SideConnection
) -> None:
    """From the pool's holder to the row, while it still has the connection."""
    pool = await Pool.open(replace(database, transaction_timeout_s=0.05))
    recorder = Recorder(journal, pool=pool, tally=Tally(), callers=lambda: 4, interval_s=1)

    async def keep() -> None:
        async with pool.acquire():
            await asyncio.Event().wait()

    async def overdue() -> bool:
        return any(holder.us > 50_000 for holder in pool.holders())

    keeper = asyncio.create_task(keep(), name="keeper")
    await until(overdue)
    recorder.take_snapshot(TICK)
    await journal.write()
    keeper.cancel()
    await asyncio.wait([keeper])
    await pool.close()
    (event,) = await Repositories(connection).events.newest(since=datetime.fromtimestamp(0, UTC))
    assert ("leak_suspected", "keeper") == (event["kind"], event["detail"]["task"])
    assert "keep" in event["detail"]["where"]
    assert "Event.wait" in event["detail"]["stack"][-1]
    (row,) = await connection.fetch("SELECT overdue_holders, holding_us FROM pool_snapshots")
    assert 1 == row["overdue_holders"]
    assert row["holding_us"] >= 50_000
