"""A fleet that would need more connections than the server has: it shares them, and no connection is refused."""

import asyncio
import json
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
async def test_workers_that_get_no_connection_log_why_once_and_start_when_there_is_one(
    service: Service, connection: Any, tmp_path: Path
) -> None:
    """The first has the server's words; the second waits for the first, which reads what the server can give."""
    await connection.execute(
        "CREATE ROLE few LOGIN CONNECTION LIMIT 0; GRANT ALL ON ALL TABLES IN SCHEMA public TO few;"
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO few"
    )
    url = service.environment["DATABASE_URL"].replace("postgres@", "few@")
    few = {"DATABASE_URL": url, "MIGRATE_ON_START": "false"}

    def lines(log: Path, event: str) -> list[Any]:
        return [line for line in map(json.loads, log.read_text("utf-8").splitlines()) if line["event"] == event]

    async def say(log: Path, event: str) -> list[Any]:
        return lines(log, event)

    (first,) = service.start_fleet(1, tmp_path, **few)
    await until(lambda: say(first, "server.waited_for"))
    (tmp_path / "second").mkdir()
    (second,) = service.start_fleet(1, tmp_path / "second", **few)
    await until(lambda: say(second, "budget.waiting"))
    await connection.execute("ALTER ROLE few CONNECTION LIMIT -1")
    await started([first, second], 30)
    for worker in service.started:
        worker.send_signal(signal.SIGTERM)
    await asyncio.gather(*(asyncio.to_thread(worker.wait, 20) for worker in service.started))
    await connection.execute("DROP OWNED BY few; DROP ROLE few")

    (waited,) = lines(first, "server.waited_for")
    assert "too many connections for role" in waited["error"]
    (waiting,) = lines(second, "budget.waiting")
    assert "no worker has been able to read" in waiting["reason"]
    assert not lines(second, "server.waited_for")


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
        f"limits {sorted(shared)}: {sum(shared)} + 20 of {usable}; after half had stopped {sorted(risen)}; at most "
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
