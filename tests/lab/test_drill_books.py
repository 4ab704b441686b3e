"""The drill's books and its proxy: what is wrong in the database is found, and what is lost on the way is chosen."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from factories import a_job
from history import insert_ten_minutes

from lab.drill.arena import QUEUE, Arena
from lab.drill.check import CheckResult, check
from lab.drill.log import Log
from lab.drill.proxy import Proxy
from lab.drill.run import Drill
from tidepool.embedded import Urls
from tidepool.ledger.ledger import Ledger
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from worker.jobs import JOBS

JOBS_OF_A_DRILL = 3500
EPOCH = datetime.fromtimestamp(0, UTC)
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Give a log in which every kind of job is."""
    log = Log(tmp_path / "log.jsonl", seed=1)
    log.write(JOBS_OF_A_DRILL)
    log.close()
    return log


async def settle(log: Log, pool: Pool) -> None:
    """Settle all jobs of a log, in their order."""
    ledger = Ledger(pool, JOBS, worker_id="drill")
    batch: list[Any] = []
    for job in [*log.jobs(), None]:
        if batch and (job is None or job.job != batch[0].function or len(batch) == 500):
            await ledger.settle(batch[0].function, batch)
            batch = []
        if job:
            command = JOBS.get(job.job).parse(job.args)  # pyright: ignore[reportOptionalMemberAccess]
            batch.append(a_job(command, job.id, function=job.job, content=job.args, is_last_attempt=True))


async def books(database: PoolConfig, log: Log) -> CheckResult:
    """Return what the check says."""
    return await check(database.url, log, since=EPOCH, longest_gap=timedelta(seconds=5))


def test_a_seed_makes_the_same_jobs(tmp_path: Path) -> None:
    """However they are asked for; ids are distinct, and the file has them all."""
    one, other = Log(tmp_path / "one", 7), Log(tmp_path / "other", 7)
    lines = [line for count in (1, 999, 3000) for line in one.write(count)]
    assert lines == other.write(4000)
    assert lines == list(one.commands())
    assert 4000 == len({job.id for job in one.jobs()})
    outcomes = {(job.outcome, job.reason) for job in one.jobs()}
    assert {("one_of", None), ("applied", None), ("rejected", "out_of_stock"), ("rejected", "unknown_user")} == outcomes
    one.close()
    other.close()


async def test_books_that_agree(log: Log, pool: Pool, database: PoolConfig) -> None:
    """Every job has the outcome that it must have."""
    await settle(log, pool)
    verdict = await books(database, log)
    assert verdict.holds, verdict
    assert JOBS_OF_A_DRILL == verdict.jobs


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("DELETE FROM job_results WHERE status = 'rejected' AND function = 'place_order'", "lost"),
        ("UPDATE orders SET job_id = 'x' WHERE id = (SELECT min(id) FROM orders)", "unknown"),
        ("DELETE FROM job_results WHERE function = 'place_order' AND status = 'applied'", "doubled"),
        ("INSERT INTO users (username, email, full_name) VALUES ('x', 'x@x', 'x')", "doubled"),
        ("DELETE FROM orders WHERE id = (SELECT min(id) FROM orders)", "without_effect"),
        (
            "UPDATE orders SET total_price = total_price + 1 WHERE id = (SELECT min(id) FROM orders)",
            "without_effect",
        ),
        ("UPDATE job_results SET reason = 'x' WHERE reason = 'out_of_stock'", "wrong"),
        ("UPDATE job_results SET reason = 'x' WHERE reason = 'username_taken'", "wrong"),
    ],
)
async def test_whatever_is_wrong_is_found(
    log: Log, pool: Pool, database: PoolConfig, connection: Any, harm: Any, found: str
) -> None:
    """Lost, unknown, doubled, without effect, another outcome: each with the ids of some."""
    await settle(log, pool)
    await connection.execute(harm)
    verdict = await books(database, log)
    assert verdict.counts[found]
    assert verdict.named[found]
    assert not verdict.holds


async def test_a_session_that_was_left_in_a_transaction_is_found(
    log: Log, pool: Pool, database: PoolConfig, connection: Any
) -> None:
    """By its process id; one that is idle is no fault."""
    await settle(log, pool)
    pid = str(await connection.fetchval("SELECT pg_backend_pid()"))
    async with connection.transaction():
        left = await books(database, log)
    assert ({"left_in_transaction": [pid]}, False) == (left.named, left.holds)
    assert (await books(database, log)).holds


async def test_a_process_that_wrote_no_snapshots_for_too_long_is_found(
    log: Log, pool: Pool, database: PoolConfig, connection: Any, side: SideConnection
) -> None:
    """By its worker and the tick at the gap's end. Its rows are ten seconds apart, and the drill allows for five."""
    await settle(log, pool)
    await insert_ten_minutes(side, NOON, waiting=0)
    assert 59 == (await books(database, log)).counts["snapshot_gaps"]
    allowed = timedelta(seconds=10)
    assert (await check(database.url, log, since=EPOCH, longest_gap=allowed)).holds
    await connection.execute("DELETE FROM pool_snapshots WHERE tick = $1", NOON + timedelta(seconds=50))
    found = await check(database.url, log, since=EPOCH, longest_gap=allowed)
    assert (1, False) == (found.counts["snapshot_gaps"], found.holds)
    assert ":01:00" in found.named["snapshot_gaps"][0]
    assert (await check(database.url, log, since=NOON + timedelta(minutes=1), longest_gap=allowed)).holds


async def test_a_lease_that_outlives_the_last_job_is_found(
    log: Log, pool: Pool, database: PoolConfig, redis: ArqRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its owner, when the dead have had their time to be found."""
    monkeypatch.setattr("lab.drill.run._LEASES_WAIT_S", 0.01)
    arena = Arena(tmp_path, count=0, shots=1)
    arena.urls, arena.redis = Urls(database.url, ""), redis
    drill = Drill(arena, log, rate=1, seed=1, report=print)
    await settle(log, pool)
    assert (await drill.books(since=EPOCH)).holds
    await redis.zadd(f"{QUEUE}:owners", {"worker-1": 1})
    left = await drill.books(since=EPOCH)
    assert ({"leases_left": ["worker-1"]}, False) == (left.named, left.holds)


class Echo:
    """A server on a Unix socket that answers each piece with itself, and remembers what it heard."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the other side ends."""
        while data := await reader.read(1000):
            self.heard.append(data)
            writer.write(data)
        writer.close()


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncIterator[tuple[Echo, Proxy]]:
    """Give a server and a proxy before it."""
    echo = Echo()
    server = await asyncio.start_unix_server(echo.answer, tmp_path / "echo.sock")
    proxy = Proxy(str(tmp_path / "echo.sock"))
    await proxy.open()
    yield echo, proxy
    await proxy.close()
    server.close()


async def test_a_proxy_passes_on(echo: tuple[Echo, Proxy]) -> None:
    """By default; while it is frozen nothing arrives, and nothing is lost."""
    server, proxy = echo
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"one")
    assert b"one" == await reader.readexactly(3)
    proxy.freeze()
    writer.write(b"two")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(3), 0.05)
    assert [b"one"] == server.heard
    proxy.thaw()
    assert b"two" == await reader.readexactly(3)
    proxy.reset()
    assert b"" == await reader.read()
    writer.close()


@pytest.mark.parametrize("passes_on", [True, False])
async def test_a_trap_loses_one_answer_or_one_request(echo: tuple[Echo, Proxy], *, passes_on: bool) -> None:
    """The connection is lost with it; later ones are not affected."""
    server, proxy = echo
    sprung = asyncio.Event()
    proxy.trap(b"COMMIT", passes_on=passes_on, bite=sprung.set)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"BEGIN")
    assert b"BEGIN" == await reader.readexactly(5)
    writer.write(b"COMMIT")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(6)
    assert sprung.is_set()
    assert passes_on is (b"COMMIT" in server.heard)
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"COMMIT")
    assert b"COMMIT" == await reader.readexactly(6)
    writer.close()
