"""`complete`: a function's effects and its ledger row are committed together, and the function is not run again."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import pytest
from arq.connections import ArqRedis
from arq.jobs import Job
from arq.worker import Retry
from commands import Service
from documents import blocks
from engines import own_client, stop
from leasing import lapse
from waiting import until

from tidepool import App, Reject, RetryPolicy, Transaction, complete
from tidepool.engine.options import EngineOptions, TypedJobs
from tidepool.engine.worker import Worker
from tidepool.jobs.job_type import AnyJobType
from tidepool.ledger.batcher import Batcher
from tidepool.ledger.completion import LEDGER
from tidepool.ledger.ledger import Ledger
from tidepool.pool.faults import Unavailable
from tidepool.pool.pool import Pool
from tidepool.queue import wire

QUEUE = "arq:queue"
EFFECT = "INSERT INTO effects (job, run) VALUES ($1, $2)"
AT_ONCE = RetryPolicy(first_s=0.0, max_s=0.0)
Ctx = dict[Any, Any]
Start = Callable[..., Worker]


@pytest.fixture
def app() -> App:
    """Give an application whose functions a test declares."""
    return App()


@pytest.fixture
async def start(app: App, pool: Pool, redis: ArqRedis, connection: Any) -> AsyncIterator[Start]:
    """Give a function that runs a worker of the application, until the queue is empty; all end with the test."""
    await connection.execute("CREATE TABLE effects (job text, run integer, UNIQUE (job, run))")
    ledger = Ledger(pool, app.job_types, worker_id="w")
    batcher = Batcher(ledger, slots=2, limit=10)
    started: list[Worker] = []

    def start_worker(**options: Any) -> Worker:
        typed = TypedJobs(app.job_types, 3, batcher, ledger)
        settings: dict[str, Any] = {
            "functions": typed.arq_functions(),
            "redis_pool": own_client(redis),
            "handle_signals": False,
            "burst": True,
            "poll_delay": 0,
            "ctx": {LEDGER: ledger},
            "tidepool": EngineOptions(owner=f"w{len(started)}", typed=typed, lease_s=60.0),
            "job_serializer": wire.serialize,
            "job_deserializer": wire.receive,
            "allow_abort_jobs": True,
        }
        worker = Worker(**{**settings, **options})
        worker.main_task = asyncio.create_task(worker.main())
        started.append(worker)
        return worker

    yield start_worker
    for one in started:
        await stop(one)
    await batcher.close()


async def enqueued(redis: ArqRedis, job_type: AnyJobType, *args: object, job_id: str = "a") -> Job:
    """Enqueue a job as an application does."""
    await redis.delete(f"arq:result:{job_id}")
    submission = job_type.options(id=job_id).call(*args).submission
    job = await redis.enqueue_job(submission.function, _job_id=job_id, **submission.fields)
    assert job is not None
    return job


async def effects(connection: Any) -> list[tuple[str, int]]:
    """Return the effects that are committed."""
    return [tuple(row) for row in await connection.fetch("SELECT job, run FROM effects ORDER BY 1, 2")]


async def row(connection: Any) -> tuple[Any, ...]:
    """Return the ledger's only row: status, result, attempts, atomic."""
    (found,) = await connection.fetch("SELECT status, result::text, attempts, atomic FROM job_results")
    return tuple(found)


async def test_effects_and_row_are_committed_together(app: App, start: Start, redis: ArqRedis, connection: Any) -> None:
    """Nothing of it is there before the block ends; the client gets what the function returns."""
    seen = []

    @app.function
    async def job(ctx: Ctx, word: str) -> str:
        completion = complete(ctx)
        async with completion as transaction:
            assert isinstance(transaction, Transaction)
            assert ("a", 1) == (transaction.job_id, transaction.attempt)
            await transaction.execute(EFFECT, word, 1)
            completion.result = {"word": word}
            seen.append(await effects(connection))
        seen.append(await effects(connection))
        with pytest.raises(RuntimeError, match="the job has ended"):
            await transaction.execute("SELECT 1")
        return word * 2

    begun = await enqueued(redis, job, "x")
    start()
    assert "xx" == await begun.result(timeout=10)
    assert [[], [("x", 1)]] == seen
    assert ("applied", '{"word": "x"}', 1, True) == await row(connection)


async def test_a_job_with_an_outcome_does_not_run(app: App, start: Start, redis: ArqRedis, connection: Any) -> None:
    """Its client gets the result that the ledger has, as after a redelivery."""
    runs = []

    @app.function
    async def job(ctx: Ctx) -> str:
        runs.append(ctx["job_id"])
        completion = complete(ctx)
        async with completion as transaction:
            await transaction.execute(EFFECT, "x", len(runs))
            completion.result = "stored"
        return "returned"

    content = job.call().submission
    assert "returned" == await _delivered(redis, content.function, start)
    assert "stored" == await _delivered(redis, content.function, start)
    assert ["a"] == runs
    assert [("x", 1)] == await effects(connection)


async def _delivered(redis: ArqRedis, function: str, start: Start) -> object:
    """Deliver the same job, once more, and return its result."""
    await redis.delete("arq:result:a")
    await redis.set("arq:job:a", wire.serialize({"t": None, "f": function, "a": (), "k": {}, "et": 1_700_000_000_000}))
    await redis.zadd(QUEUE, {"a": 1})
    start()
    return await Job("a", redis, _deserializer=wire.deserialize).result(timeout=10)


async def test_of_two_runs_at_a_time_one_has_the_effect(
    app: App, start: Start, redis: ArqRedis, connection: Any
) -> None:
    """The other is rolled back, and its function ended: it may not catch that as an error."""
    runs: list[int] = []
    caught: list[Exception] = []
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.function
    async def job(ctx: Ctx) -> str:
        runs.append(ctx["job_try"])
        run = len(runs)
        try:
            if run == 1:
                begun.set()
                await may_end.wait()
            completion = complete(ctx)
            async with completion as transaction:
                await transaction.execute(EFFECT, "x", run)
                completion.result = f"run {run}"
        except Exception as error:
            caught.append(error)
            raise
        finally:
            if run == 1:
                ended.set()
        return completion.result

    enqueued_job = await enqueued(redis, job)
    first = start()
    await begun.wait()
    await lapse(redis, "w0")
    second = start()
    assert "run 2" == await enqueued_job.result(timeout=10)
    may_end.set()
    async with asyncio.timeout(10):
        await ended.wait()
        assert first.main_task is not None
        assert second.main_task is not None
        await asyncio.gather(first.main_task, second.main_task)
    assert [("x", 2)] == await effects(connection)
    assert ("applied", '"run 2"', 2, True) == await row(connection)
    assert [] == caught
    assert (1, 0) == (first.jobs_complete, first.jobs_failed)


@pytest.mark.parametrize("in_group", [False, True])
async def test_an_error_that_comes_from_the_other_run_counts_as_its_outcome(
    app: App, start: Start, redis: ArqRedis, connection: Any, *, in_group: bool
) -> None:
    """Such as a unique violation by its effects; in a task group, too."""

    @app.function
    async def job(ctx: Ctx) -> str:
        async def finish() -> None:
            async with complete(ctx) as transaction:
                await connection.execute(EFFECT, "x", 1)
                await connection.execute(
                    "INSERT INTO job_results (job_id, key_ms, function, status, result, attempts, worker_id,"
                    " enqueued_at, started_at, finished_at, queue_us, pool_wait_us, db_us)"
                    " VALUES ('a', $1, 'job', 'applied', '\"theirs\"', 1, 'other', now(), now(), now(), 0, 0, 0)",
                    ctx["tidepool"].key[1],
                )
                await transaction.execute(EFFECT, "x", 1)

        if not in_group:
            await finish()
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(finish())
        return "mine"

    begun = await enqueued(redis, job)
    start()
    assert "theirs" == await begun.result(timeout=10)
    assert [("x", 1)] == await effects(connection)


@pytest.mark.parametrize("error", [ValueError("late"), Retry(defer=0.01), TimeoutError(), asyncio.CancelledError()])
async def test_an_error_after_completion_changes_nothing(
    app: App, start: Start, redis: ArqRedis, connection: Any, logs: list[Any], error: BaseException
) -> None:
    """The job is applied, and not run again; the error is logged."""
    runs = []

    @app.function(backoff=AT_ONCE)
    async def job(ctx: Ctx) -> None:
        runs.append(1)
        completion = complete(ctx)
        async with completion as transaction:
            await transaction.execute(EFFECT, "x", len(runs))
            completion.result = 7
        raise error

    begun = await enqueued(redis, job)
    worker = start()
    assert 7 == await begun.result(timeout=10)
    assert worker.main_task is not None
    await worker.main_task
    assert [1] == runs
    assert ["job.error_after_completion"] == [line["event"] for line in logs if line["log_level"] == "warning"]


async def test_a_cancellation_does_not_interrupt_the_commit(
    app: App, start: Start, redis: ArqRedis, connection: Any
) -> None:
    """A deferred trigger of the effects takes longer than the function may run; the job is applied none the less."""
    await _slow_commit(connection)
    runs = []

    @app.function(timeout_s=0.2, backoff=AT_ONCE)
    async def job(ctx: Ctx) -> None:
        runs.append(1)
        completion = complete(ctx)
        async with completion as transaction:
            await transaction.execute(EFFECT, "x", len(runs))
            completion.result = "applied"

    begun = await enqueued(redis, job)
    start()
    await _when_it_waits(connection)
    await asyncio.sleep(0.3)  # the function's time is over
    await connection.execute("SELECT pg_advisory_unlock(1)")
    assert "applied" == await begun.result(timeout=10)
    assert [1] == runs


async def test_a_commit_whose_answer_is_lost_is_looked_up(
    app: App, start: Start, redis: ArqRedis, pool: Pool, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was committed here: the function goes on as after any commit."""
    begin, runs = pool.transaction, list[int]()

    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        async with begin() as inner:
            yield inner
        raise Unavailable("the connection was lost")

    monkeypatch.setattr(pool, "transaction", transaction)

    @app.function(backoff=AT_ONCE)
    async def job(ctx: Ctx) -> str:
        runs.append(1)
        async with complete(ctx) as inner:
            await inner.execute(EFFECT, "x", len(runs))
        return "went on"

    begun = await enqueued(redis, job)
    start()
    assert "went on" == await begun.result(timeout=10)
    assert [("x", 1)] == await effects(connection)


async def test_a_commit_that_was_lost_with_its_connection_is_repeated(
    app: App, start: Start, redis: ArqRedis, connection: Any
) -> None:
    """It was not committed here: the function gets the error, and the next attempt has the effect, once."""
    await _slow_commit(connection)
    runs = []

    @app.function(backoff=AT_ONCE)
    async def job(ctx: Ctx) -> int:
        runs.append(1)
        async with complete(ctx) as transaction:
            await transaction.execute(EFFECT, "x", len(runs))
        return len(runs)

    begun = await enqueued(redis, job)
    start()
    pid = await _when_it_waits(connection)
    await connection.execute("SELECT pg_terminate_backend($1), pg_advisory_unlock(1)", pid)
    assert 2 == await begun.result(timeout=10)
    assert [("x", 2)] == await effects(connection)


async def _slow_commit(connection: Any) -> None:
    """Make commits of effects wait for the lock that *connection* has."""
    await connection.execute("SELECT pg_advisory_lock(1)")
    await connection.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END$$;"
        "CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION wait()"
    )


async def _when_it_waits(connection: Any) -> int:
    """Wait until a commit waits for that lock; return its server process."""
    async with asyncio.timeout(10):
        while True:
            query = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            if (pid := await connection.fetchval(query)) is not None:
                return pid
            await asyncio.sleep(0.01)


async def test_an_error_of_the_block_is_the_functions_own(
    app: App, start: Start, redis: ArqRedis, connection: Any
) -> None:
    """The effects are undone, and the function may complete its job in another way."""

    @app.function
    async def job(ctx: Ctx) -> str:
        try:
            async with complete(ctx) as transaction:
                await transaction.execute(EFFECT, "x", 1)
                raise LookupError("own")  # noqa: TRY301
        except LookupError:
            pass
        async with complete(ctx) as transaction:
            await transaction.execute(EFFECT, "x", 2)
        return "done"

    begun = await enqueued(redis, job)
    start()
    assert "done" == await begun.result(timeout=10)
    assert [("x", 2)] == await effects(connection)


async def test_a_job_is_completed_once_and_by_its_own_function(
    app: App, start: Start, redis: ArqRedis, connection: Any
) -> None:
    """Anything else is a mistake, which the error names."""
    late: list[Callable[[], Awaitable[None]]] = []

    @app.function
    async def job(ctx: Ctx) -> str:
        async with complete(ctx):
            with pytest.raises(RuntimeError, match="before"):
                async with complete(ctx):
                    pass
        with pytest.raises(RuntimeError, match="before"):
            async with complete(ctx):
                pass
        return "done"

    @app.function
    async def leaves(ctx: Ctx) -> None:
        async def finish() -> None:
            async with complete(ctx):
                pass

        late.append(finish)

    for ctx in ({}, {"job_id": "a"}, {"tidepool": SimpleNamespace(), LEDGER: None}):
        with pytest.raises(RuntimeError, match=r"in a job of an @app\.function only"):
            complete(ctx)
    first, second = await enqueued(redis, job), await enqueued(redis, leaves, job_id="b")
    start()
    assert ("done", None) == (await first.result(timeout=10), await second.result(timeout=10))
    with pytest.raises(RuntimeError, match="has ended"):
        await late[0]()
    assert ["a"] == [found["job_id"] for found in await connection.fetch("SELECT job_id FROM job_results")]


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({}, 3),
        ({"attempts": 2}, 2),
        ({"retry_on": (OSError,)}, 1),
        ({"retry_on": (LookupError,)}, 3),
    ],
)
async def test_an_error_is_retried_as_declared(
    app: App, start: Start, redis: ArqRedis, options: dict[str, Any], runs: int
) -> None:
    """Up to the number of attempts, after the errors that are named."""
    tries = []

    @app.function(backoff=AT_ONCE, **options)
    async def job(ctx: Ctx) -> None:
        tries.append(ctx["job_try"])
        raise KeyError("none")

    begun = await enqueued(redis, job)
    start()
    with pytest.raises(Exception, match="none"):
        await begun.result(timeout=10)
    assert [*range(1, runs + 1)] == tries


async def test_a_rejection_and_a_time_limit(app: App, start: Start, redis: ArqRedis) -> None:
    """A rejection is final; a function that takes too long is tried again like one that raises an error."""
    tries = []

    @app.function(backoff=AT_ONCE)
    async def reject(ctx: Ctx) -> None:
        tries.append("reject")
        raise Reject("not_payable", "no")

    @app.function(backoff=AT_ONCE, timeout_s=0.05, attempts=2)
    async def slow(ctx: Ctx) -> None:
        tries.append("slow")
        await asyncio.Event().wait()

    for job_type, job_id in ((reject, "a"), (slow, "b")):
        begun = await enqueued(redis, job_type, job_id=job_id)
        start()
        with pytest.raises((RuntimeError, Reject, TimeoutError)):
            await begun.result(timeout=10)
    assert ["reject", "slow", "slow"] == tries


async def test_a_job_that_is_enqueued_in_the_block_leaves_with_it(
    app: App, start: Start, redis: ArqRedis, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If and only if the block is committed, so chains of jobs are exactly-once."""
    monkeypatch.setenv("DB_SCHEMA", "public")

    @app.function
    async def follow(ctx: Ctx, number: int) -> None: ...

    @app.function(backoff=AT_ONCE)
    async def job(ctx: Ctx) -> None:
        async with complete(ctx) as transaction:
            await follow.on(transaction).enqueue(ctx["job_try"])
            if ctx["job_try"] == 1:
                raise ValueError("once")

    begun = await enqueued(redis, job)
    start()
    await begun.result(timeout=10)
    assert 1 == await connection.fetchval("SELECT count(*) FROM job_outbox")
    assert ("applied", "null", 2, True) == await row(connection)


LATE = """
import os, signal
from tidepool import App, complete

app = App()


@app.function(identity=True, attempts=int(os.environ.get("ATTEMPTS", 3)))
async def job(ctx: dict, moment: str) -> str:
    await ctx["redis"].rpush("runs", ctx["job_try"])
    dies = ctx["job_try"] == 1
    if dies and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if moment != "never":
        completion = complete(ctx)
        async with completion as transaction:
            await transaction.execute("INSERT INTO public.effects (job, run) VALUES ('x', $1)", ctx["job_try"])
            completion.result = "stored"
            if dies and moment == "within":
                os.kill(os.getpid(), signal.SIGKILL)
    if dies and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return "returned"


def __getattr__(name):
    if name == "WorkerSettings":
        return app.worker_settings()
    raise AttributeError(name)
"""


@pytest.mark.parametrize(
    ("moment", "runs", "made", "ledger", "result"),
    [
        ("before", [1, 2], [("x", 2)], ("applied", '"stored"', 2, True), "returned"),
        ("within", [1, 2], [("x", 2)], ("applied", '"stored"', 2, True), "returned"),
        ("after", [1], [("x", 1)], ("applied", '"stored"', 1, True), "stored"),
        ("never", [1], [], ("applied", "null", 1, False), "returned"),
        ("", [1], [("x", 1)], ("applied", '"stored"', 1, True), "returned"),
    ],
)
async def test_a_killed_worker(  # noqa: PLR0913, PLR0917  (a row of the table)
    service: Service,
    redis: ArqRedis,
    connection: Any,
    tmp_path: Path,
    moment: str,
    runs: list[int],
    made: list[tuple[str, int]],
    ledger: tuple[Any, ...],
    result: str,
) -> None:
    """Before the commit the function runs again; after it, it does not. Without completion, a row is written later."""
    (tmp_path / "late.py").write_text(LATE)
    await connection.execute("CREATE TABLE effects (job text, run integer)")
    begun = await redis.enqueue_job("job", moment=moment, _job_id="a")
    assert begun is not None
    service.environment |= {"PYTHONPATH": str(tmp_path), "DB_SCHEMA": "public", "LEASE": "1"}
    worker = await asyncio.to_thread(service.run, "arq", "late.WorkerSettings", "--burst")
    if moment not in ("never", ""):
        assert -signal.SIGKILL == worker.status, worker.stderr
        worker = await asyncio.to_thread(service.run, "arq", "late.WorkerSettings", "--burst")
    assert 0 == worker.status, worker.stderr
    assert runs == [int(run) for run in await cast("Any", redis).lrange("runs", 0, -1)]
    assert made == await effects(connection)
    assert ledger == await row(connection)
    assert result == await begun.result(timeout=10)


async def test_a_job_of_one_attempt_is_applied_if_that_was_completed(
    service: Service, redis: ArqRedis, connection: Any, tmp_path: Path
) -> None:
    """It has no attempt left when another worker finds it."""
    (tmp_path / "late.py").write_text(LATE)
    await connection.execute("CREATE TABLE effects (job text, run integer)")
    begun = await redis.enqueue_job("job", moment="after", _job_id="a")
    assert begun is not None
    service.environment |= {"PYTHONPATH": str(tmp_path), "DB_SCHEMA": "public", "LEASE": "1", "ATTEMPTS": "1"}
    for status in (-signal.SIGKILL, 0):
        worker = await asyncio.to_thread(service.run, "arq", "late.WorkerSettings", "--burst")
        assert status == worker.status, worker.stderr
    assert "stored" == await begun.result(timeout=10)
    assert ("applied", '"stored"', 1, True) == await row(connection)


async def test_what_the_documentation_shows_is_exactly_once(
    service: Service, redis: ArqRedis, connection: Any, tmp_path: Path
) -> None:
    """With a worker of its own: the photo has its tags, and the client the number of them."""
    (block,) = [block.text for block in blocks("docs/exactly-once.md") if "def tag_photo" in block.text]
    (tmp_path / "photos.py").write_text(f"{block}\n\nWorkerSettings = app.worker_settings()\n", "utf-8")
    await connection.execute("CREATE TABLE photos (id bigint, tags text[]); INSERT INTO photos VALUES (7)")
    begun = await redis.enqueue_job("tag_photo", photo_id=7, _job_id="a")
    assert begun is not None
    service.environment |= {"PYTHONPATH": str(tmp_path), "DB_SCHEMA": "public"}
    worker = await asyncio.to_thread(service.run, "arq", "photos.WorkerSettings", "--burst")
    assert 0 == worker.status, worker.stderr
    assert 2 == await begun.result(timeout=10)
    assert ["harbour", "dawn"] == await connection.fetchval("SELECT tags FROM photos")
    assert ("applied", "2", 1, True) == await row(connection)


async def test_a_completion_waits_for_postgresql(
    app: App, start: Start, redis: ArqRedis, servers: Any, connection: Any, logs: list[Any]
) -> None:
    """For as long as the function may run: its work is not lost by an outage at its end."""
    runs: list[int] = []
    admin = await asyncpg.connect(servers.database_url("postgres"))
    name = await connection.fetchval("SELECT quote_ident(current_database())")

    @app.function
    async def job(ctx: Ctx) -> int:
        runs.append(1)
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        async with complete(ctx) as transaction:
            await transaction.execute(EFFECT, "x", len(runs))
        return len(runs)

    begun = await enqueued(redis, job)
    start()

    async def is_away() -> bool:
        return any(line["event"] == "database.unavailable" for line in logs)

    await until(is_away)
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    assert 1 == await begun.result(timeout=10)
    assert [("x", 1)] == await effects(connection)
