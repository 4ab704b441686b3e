"""The history of plain functions: rows after the fact, which never delay a job and never hide a declared job's row."""

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import serialize_job
from commands import Service
from factories import a_job, a_user
from virtual_time import Clock, run_virtually

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Applied, Failed
from tidepool.ledger import history
from tidepool.ledger.history import History
from tidepool.ledger.ledger import Ledger
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import DatabaseFault
from tidepool.pool.pool import Pool
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories
from tidepool.urls import PostgresUrl
from worker.jobs import JOBS


class Unspeakable(Exception):
    """An error whose text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def ended(job_id: str, error: BaseException | None = None, **fields: Any) -> Job:
    """Return a job of a plain function that has ended."""
    values = {"function": "f", "enqueued_ms": 1000, "started_ms": 2000, "due_ms": 1500, **fields}
    job: Job = Job(job_id, "owner")
    for name, value in values.items():
        setattr(job, name, value)
    job.error = error
    return job


async def rows(connection: Any) -> dict[str, tuple[Any, ...]]:
    """Return the rows of the ledger by id: function, status, reason, error, attempts, atomic."""
    found = await connection.fetch("SELECT * FROM job_results")
    names = ("function", "status", "reason", "error", "attempts", "atomic")
    return {row["job_id"]: tuple(row[name] for name in names) for row in found}


async def test_each_end_is_a_row_that_says_that_it_is_not_atomic(side: SideConnection, connection: Any) -> None:
    """Successes, failures and aborts; of runs of one job the last one stays."""
    recorded = History(side, worker_id="w")
    recorded.add(ended("a", ValueError("first")))
    recorded.add(ended("a", attempt=2))
    recorded.add(ended("b", ValueError("nul \x00, half \ud800, " + 600 * "x")))
    recorded.add(ended("c", asyncio.CancelledError(), is_aborted=True))
    recorded.add(ended("d", Unspeakable()))
    await recorded.write()
    recorded.add(ended("b", attempt=3))
    await recorded.write()
    found = await rows(connection)
    assert ("f", "applied", None, None, 2, False) == found["a"]
    assert ("f", "applied", None, None, 3, False) == found["b"]
    assert ("f", "rejected", "aborted", "CancelledError: ", 1, False) == found["c"]
    assert ("f", "failed", None, "Unspeakable: (its text cannot be read)", 1, False) == found["d"]


async def test_an_id_that_is_used_again_has_a_row_for_each_job(side: SideConnection, connection: Any) -> None:
    """A new enqueue time is a new job, as in arq; a second run of the same job replaces the row of the first."""
    recorded = History(side, worker_id="w")
    for enqueued_ms, attempt in ((1000, 1), (2000, 1), (1000, 2)):
        recorded.add(ended("a", enqueued_ms=enqueued_ms, attempt=attempt))
    await recorded.write()
    recorded.add(ended("a", enqueued_ms=2000, attempt=3))
    await recorded.write()
    found = await connection.fetch("SELECT key_ms, attempts FROM job_results ORDER BY key_ms")
    assert [(1000, 2), (2000, 3)] == [tuple(row.values()) for row in found]


async def test_a_row_that_was_committed_with_its_effect_stays(
    pool: Pool, side: SideConnection, connection: Any
) -> None:
    """A plain function that became a declared type; the other way round the declared job's row replaces it."""
    ledger = Ledger(pool, JOBS, worker_id="w")
    await ledger.settle("create_user", [a_job(a_user("ada"), "declared", reused_ms=1000)])
    recorded = History(side, worker_id="w")
    recorded.add(ended("declared", ValueError("not this one")))
    recorded.add(ended("plain"))
    await recorded.write()
    (outcome,) = await ledger.settle("create_user", [a_job(a_user("eve"), "plain", reused_ms=1000)])
    assert isinstance(outcome, Applied)
    assert {("create_user", "applied", None, None, 1, True)} == set((await rows(connection)).values())
    assert 2 == await connection.fetchval("SELECT count(*) FROM users")


async def test_a_requeued_job_has_the_outcome_of_its_last_run(
    pool: Pool, side: SideConnection, connection: Any
) -> None:
    """Its first one was given up before it ran, which is an outcome of the ledger."""
    given_up = a_job(a_user("ada"), "a", reused_ms=1000)
    given_up.decided = Failed("max 3 retries exceeded")
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", [given_up])
    assert 1 == len(await Repositories(connection).results.mark_requeued(after_id="", limit=9))
    recorded = History(side, worker_id="w")
    recorded.add(ended("a"))
    await recorded.write()
    assert {"a": ("f", "applied", None, None, 1, False)} == await rows(connection)
    assert None is await connection.fetchval("SELECT requeued_at FROM job_results")


async def test_what_postgresql_cannot_store_is_dropped_alone(side: SideConnection, connection: Any) -> None:
    """Other programs enqueue, and may date a job in the year 300,000."""
    recorded = History(side, worker_id="w")
    for job_id, enqueued_ms in (("a", 1000), ("b", 2**62), ("c", 1000)):
        recorded.add(ended(job_id, enqueued_ms=enqueued_ms))
    await recorded.write()
    assert {"a", "c"} == set(await rows(connection))
    assert 1 == recorded.dropped


async def test_an_outage_keeps_outcomes_up_to_a_limit(
    database: PoolConfig, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond it are dropped and counted; the others are written when the table can be reached again."""
    monkeypatch.setattr(history, "MAX_WAITING", 3)
    recorded = History(SideConnection(database, "history"), worker_id="w")
    await connection.execute("ALTER TABLE job_results RENAME TO elsewhere")
    for job_id in "abcde":
        recorded.add(ended(job_id))
    await recorded.write()
    assert 2 == recorded.dropped
    await connection.execute("ALTER TABLE elsewhere RENAME TO job_results")
    await recorded.close()
    assert {*"abc"} == set(await rows(connection))


def test_a_history_works_only_while_there_are_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle hour costs nothing. Outcomes are written together soon after the first of them, also after an outage."""
    written = list[tuple[float, list[str]]]()
    away = list[DatabaseFault]()

    class Side:
        @asynccontextmanager
        async def use(self) -> AsyncIterator[None]:
            if away:
                raise away[0]
            yield

        async def close(self) -> None: ...

    class Repository:
        def __init__(self, _connection: None) -> None: ...

        async def record(self, batch: list[Any], **_: object) -> None:
            written.append((round(asyncio.get_running_loop().time(), 3), [entry.job_id for entry in batch]))

    async def main(clock: Clock) -> None:
        turns, select = 0, clock.select

        def counted(timeout: float | None = None) -> Any:
            nonlocal turns
            turns += 1
            return select(timeout)

        recorded = History(Side(), worker_id="w")  # type: ignore[arg-type]
        running = asyncio.create_task(recorded.run())
        monkeypatch.setattr(clock, "select", counted)
        for hour in (1, 2):
            turns = 0
            await asyncio.sleep(3600 * hour - clock.now_s)
            assert turns < 5
            recorded.add(ended(f"{hour}-a"))
            await asyncio.sleep(0.1)
            recorded.add(ended(f"{hour}-b"))
            await asyncio.sleep(1)
        away.append(DatabaseFault("away"))
        recorded.add(ended("c"))
        await asyncio.sleep(60)
        away.clear()
        await asyncio.sleep(0.3)
        recorded.add(ended("d"))
        running.cancel()
        await recorded.close()

    monkeypatch.setattr(history, "ResultRepository", Repository)
    run_virtually(monkeypatch, main)
    *soon, (after_outage_s, kept), (_, last) = written
    assert [(3600.2, ["1-a", "1-b"]), (7200.2, ["2-a", "2-b"])] == soon
    assert (["c"], ["d"]) == (kept, last)
    assert 7261 < after_outage_s < 7261.6


_APPLICATION = """
import json, os
from arq.connections import RedisSettings
from asyncpg import create_pool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
import tidepool

has_engine = os.environ["THEIR_POOL"] == "SQLAlchemy"
arguments = json.loads(os.environ["THEIR_DATABASE"])

async def double(ctx, number):
    if not has_engine:
        return await ctx["pool"].fetchval("SELECT 2 * $1::int", number)
    async with ctx["pool"].connect() as connection:
        return await connection.scalar(text("SELECT 2 * :number").bindparams(number=number))

async def start(ctx):
    if has_engine:
        ctx["pool"] = create_async_engine("postgresql+asyncpg://", connect_args=arguments)
    else:
        ctx["pool"] = await create_pool(**arguments)

async def stop(ctx):
    await (ctx["pool"].dispose() if has_engine else ctx["pool"].close())

async def fail(ctx):
    raise ValueError("on purpose")

class WorkerSettings:
    functions = [double, fail]
    redis_settings = RedisSettings.from_dsn(os.environ["THEIR_REDIS"])
    queue_name = "theirs"
    max_tries = 1
    on_startup = start
    on_shutdown = stop

tidepool.adopt(WorkerSettings, pool=lambda ctx: ctx["pool"])
"""


@pytest.mark.parametrize(
    ("their_pool", "max_size", "has_database"),
    [("SQLAlchemy", 15, True), ("asyncpg", 10, True), ("SQLAlchemy", 15, False)],
    ids=["engine", "pool of asyncpg", "no history"],
)
async def test_an_adopted_application_has_a_history_if_a_database_is_named(
    service: Service,
    redis: ArqRedis,
    tmp_path: Path,
    connection: Any,
    *,
    their_pool: str,
    max_size: int,
    has_database: bool,
) -> None:
    """Its worker writes it, and the commands read it, on the servers of its own settings."""
    (tmp_path / "their_application.py").write_text(_APPLICATION)
    environment = service.environment
    redis_url, database_url = environment.pop("REDIS_URL"), environment.pop("DATABASE_URL")
    environment |= {"THEIR_REDIS": redis_url, "THEIR_POOL": their_pool}
    environment["THEIR_DATABASE"] = json.dumps(PostgresUrl.parse(database_url).driver_arguments())
    environment["PYTHONPATH"] = str(tmp_path)
    if has_database:
        environment |= {"TIDEPOOL_DATABASE_URL": database_url, "TIDEPOOL_DB_SCHEMA": "public"}
    for number, function in enumerate(("double", "double", "fail")):
        job_id, args = f"{function}-{number}", (number,) if function == "double" else ()
        await redis.set(f"arq:job:{job_id}", serialize_job(function, args, {}, None, 1_000, serializer=pickle.dumps))
        await redis.zadd("theirs", {job_id: 1})

    done = service.run("arq", "their_application.WorkerSettings", "--burst")

    assert 0 == done.status, done.stderr
    assert 0 == await redis.zcard("theirs")
    expected = {"double-0", "double-1", "fail-2"} if has_database else set[str]()
    assert expected == set(await rows(connection))
    listed = service.run("tidepool", "--app", "their_application:WorkerSettings", "results", "--json")
    if has_database:
        assert {("double", "applied"), ("fail", "failed")} == {
            (row["function"], row["status"]) for row in listed.document
        }
        assert {False} == {row["atomic"] for row in listed.document}
        snapshots = service.run("tidepool", "--app", "their_application:WorkerSettings", "snapshots", "--json")
        names = ("jobs_applied", "jobs_failed", "acquire_ok", "max_size")
        assert [2, 1, 2, max_size] == [snapshots.document[0][name] for name in names]
        config = await connection.fetchval("SELECT config FROM pool_processes")
        assert max_size == json.loads(config)["max_size"]
    else:
        assert (2, "TIDEPOOL_DATABASE_URL: is not set\n") == (listed.status, listed.stderr)
        letters = service.run("tidepool", "--app", "their_application:WorkerSettings", "dead-letters", "--json")
        assert (0, []) == (letters.status, letters.document)
