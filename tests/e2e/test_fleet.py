"""A fleet that would need more connections than the server has: it shares them, and no connection is refused."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from commands import Service, until
from own_servers import OwnServers

_COUNTS = (
    "SELECT count(*) AS rows, count(*) FILTER (WHERE status = 'applied') AS applied,"
    " (SELECT count(*) FROM users) AS users FROM job_results"
)
_USERS = ("--mix", "create_user=1")
_HELD = (
    "SELECT tick, count(*) AS workers, sum(pool_limit + 1) AS may_have, sum(size + 1) AS have"
    " FROM pool_snapshots GROUP BY tick"
)
"""The limits and sizes of all pools at a tick, with the one connection that each worker has beside its pool."""
_LIMITS = (
    "SELECT array_agg(pool_limit) AS limits FROM pool_snapshots"
    " WHERE tick = (SELECT max(tick) - interval '1 s' FROM pool_snapshots)"
)
_REFUSED = "SELECT coalesce(sum(connect_too_many), 0) FROM pool_snapshots"


async def started(logs: list[Path], timeout_s: float) -> None:
    """Wait until every worker has."""

    async def all_have() -> bool:
        return all("worker.started" in log.read_text("utf-8") for log in logs)

    await until(all_have, timeout_s)


async def test_three_workers_share_what_there_is(service: Service, rows: Any, connection: Any, tmp_path: Path) -> None:
    """Of twenty connections five are the margin and one is this test's: fourteen for three workers of ten."""
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 20")
    logs = service.start_fleet(3, tmp_path, POOL_MAX_SIZE="10")
    await started(logs, 30)

    document = service.run("producer", "--jobs", "2000", *_USERS, "--follow", "--json").document
    ticks = await rows(_HELD)
    (counts,) = await rows(_COUNTS)

    assert (2000, 2000) == (document["enqueued"], document["applied"])
    assert {"rows": 2000, "applied": 2000, "users": 2000} == counts
    assert 3 == max(tick["workers"] for tick in ticks)
    assert max(tick["may_have"] for tick in ticks) <= 14
    assert "budget.limited" in "".join(log.read_text("utf-8") for log in logs)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_twenty_workers_on_a_hundred_connections(own_servers: OwnServers, tmp_path: Path) -> None:
    """All start at once, open what they may, work, and half of them leave: nobody is ever refused a connection."""
    service, jobs = own_servers.service, 20_000
    connection: Any = await asyncpg.connect(own_servers.urls.database)  # one for the whole test, as others' count
    assert "100" == await connection.fetchval("SHOW max_connections")
    usable = 100 - 3 - 5 - 1

    async def limits() -> list[int]:
        return (await connection.fetchrow(_LIMITS))["limits"] or []

    async def all_is_shared() -> bool:
        return len(await limits()) == 20 and sum(await limits()) + 20 == usable

    async def the_others_have_risen() -> bool:
        return sorted(await limits()) == [8] * 9 + [9]

    service.run("producer", "--jobs", str(jobs // 2), *_USERS, "--seed", "1")
    logs = service.start_fleet(20, tmp_path, POOL_MIN_SIZE="10", POOL_MAX_SIZE="10", STATS_INTERVAL="1")
    await started(logs, 180)
    words = ("producer", "--jobs", str(jobs // 2), *_USERS, "--seed", "2", "--follow", "--json")
    document = (await asyncio.to_thread(service.run, *words)).document
    await until(all_is_shared, 60)
    shared = await limits()
    for worker in service.started[:10]:
        worker.send_signal(signal.SIGTERM)
    await asyncio.gather(*(asyncio.to_thread(worker.wait, 60) for worker in service.started[:10]))
    await until(the_others_have_risen, 60)
    ticks = [dict(row) for row in await connection.fetch(_HELD)]
    counts = dict(await connection.fetchrow(_COUNTS))
    refused = await connection.fetchval(_REFUSED)
    risen = await limits()
    await connection.close()

    print(  # noqa: T201
        f"limits {sorted(shared)}: {sum(shared)} + 20 of {usable}; after half had stopped {sorted(risen)}; at the most "
        f"{max(tick['may_have'] for tick in ticks)} granted, {max(tick['have'] for tick in ticks)} open"
    )
    assert (jobs // 2, jobs // 2) == (document["enqueued"], document["applied"])
    assert {"rows": jobs, "applied": jobs, "users": jobs} == counts
    assert max(tick["may_have"] for tick in ticks) <= usable
    assert 0 == refused
    server_log = (own_servers.home / "postgres.log").read_text("utf-8", "replace")
    assert "too many" not in server_log
    assert "remaining connection slots" not in server_log
    assert {0} == {worker.returncode for worker in service.started[:10]}
