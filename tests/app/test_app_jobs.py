"""An application's jobs from `enqueue` to their results: each kind of declaration, on real servers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from arq.connections import ArqRedis
from arq.worker import Retry
from engines import stop

from tidepool import App, Applied, Command, Failed, Job, Reason, Reject, Rejected, RetryPolicy, Transaction, Urls
from tidepool.engine.worker import Worker
from tidepool.lifecycle import settings_of_worker
from tidepool.queue.connection import RedisClient
from tidepool.testing import DrainedJob, drain, queued

pytest_plugins = ["tidepool.testing"]


class Refusal(Reason):
    """An application's reasons."""

    TAKEN = "taken", "the number is taken"
    CLOSED = "closed", "the shop is closed"


class View(Command):
    """The argument of a batch's job."""

    page: int


@pytest.fixture(scope="session")
def tidepool_servers(servers: Any) -> Urls:
    """Use the session's servers."""
    return servers.urls


@pytest.fixture(scope="session")
def tidepool_app() -> App:
    """Give the application whose migrations the databases have; the jobs of a test are in an application of its own."""
    return App()


@pytest.fixture
async def db(tidepool_urls: Urls) -> AsyncIterator[Any]:
    """Give a connection to the test's database, which has a table of numbers."""
    connection: Any = await asyncpg.connect(tidepool_urls.database)
    await connection.execute("CREATE TABLE numbers (number bigint CONSTRAINT numbers_once UNIQUE, xid text)")
    yield connection
    await connection.close()


@pytest.fixture
def app(db: Any) -> App:
    """Give an application without jobs."""
    return App()


@pytest.fixture
async def redis_at(tidepool_urls: Urls) -> AsyncIterator[ArqRedis]:
    """Give arq's client of the test's queue, with the serializers of our wire format."""
    client = RedisClient.open(tidepool_urls.redis, queue_name="arq:queue")
    yield client
    await client.aclose(close_connection_pool=True)


async def note(tx: Transaction, number: int) -> None:
    """Insert a number, with the id of the transaction."""
    await tx.execute("INSERT INTO numbers VALUES ($1, pg_current_xact_id()::text)", number)


def outcomes(drained: Sequence[DrainedJob]) -> dict[str, object]:
    """Return the outcomes by job id."""
    return {job.id: job.outcome for job in drained}


# ---------------------------------------------------------------- a job


async def test_a_job_runs_in_its_own_transaction_and_its_result_reaches_the_client(app: App, db: Any) -> None:
    """Whatever type the result has."""

    @app.job
    async def square(tx: Transaction, number: int) -> int:
        await note(tx, number)
        return number * number

    async with app:
        receipts = [await square.enqueue(number) for number in (2, 3)]
        jobs = {job.id: (job.function, job.fields) for job in await queued(app)}
        assert jobs == {receipts[0].id: ("square", {"number": 2}), receipts[1].id: ("square", {"number": 3})}
        drained = await drain(app)
        assert [4, 9] == [await receipt.result(1) for receipt in receipts]
    assert {(Applied(4), 1), (Applied(9), 1)} == {(job.outcome, job.attempts) for job in drained}
    assert 2 == await db.fetchval("SELECT count(DISTINCT xid) FROM numbers")
    assert [] == await queued(app)


@pytest.mark.parametrize("result", [None, 7, "é", 1.5, [1, [2]], {"a": None}, True])
async def test_results_of_any_json_type(app: App, result: object) -> None:
    """They are no objects, as arq's and the service's often are."""

    @app.job
    async def give(tx: Transaction) -> Any:
        return result

    async with app:
        receipt = await give.enqueue()
        (job,) = await drain(app)
        assert result == await receipt.result(1)
    assert Applied(result) == job.outcome


async def test_arguments_arrive_as_the_types_that_the_function_declares(app: App) -> None:
    """By position and by name, with defaults."""
    got: list[tuple[object, ...]] = []

    @app.job
    async def keep(tx: Transaction, ref: UUID, *, at: datetime, after: timedelta = timedelta(days=1)) -> None:
        got.append((ref, at, after))

    at = datetime(2026, 12, 1, 3, tzinfo=UTC)
    async with app:
        await keep.enqueue(UUID(int=7), at=at)
        await drain(app)
    assert [(UUID(int=7), at, timedelta(days=1))] == got


async def test_a_rejected_job_has_no_effect_and_raises_reject_at_its_client(app: App, db: Any) -> None:
    """With the reason and the words, for a code of the application's own and for a `Reason`."""

    @app.job
    async def refuse(tx: Transaction, number: int) -> None:
        await note(tx, number)
        raise Reject("odd", "the number is odd") if number % 2 else Reject(Refusal.CLOSED)

    async with app:
        one, two = await refuse.enqueue(1), await refuse.enqueue(2)
        drained = outcomes(await drain(app))
        for receipt, reason, words in ((one, "odd", "the number is odd"), (two, "closed", "the shop is closed")):
            assert Rejected(reason, words) == drained[receipt.id]
            with pytest.raises(Reject, match=f"^{reason}: {words}$") as raised:
                await receipt.result(1)
            assert Rejected(reason, words) == raised.value.rejected
    assert 0 == await db.fetchval("SELECT count(*) FROM numbers")


async def test_a_broken_constraint_is_a_reason(app: App) -> None:
    """Which the declaration names."""

    @app.job(constraints={"numbers_once": Refusal.TAKEN})
    async def insert(tx: Transaction, number: int) -> None:
        await note(tx, number)

    async with app:
        await insert.enqueue(1)
        await drain(app)
        await insert.enqueue(1)
        (job,) = await drain(app)
    assert isinstance(job.outcome, Rejected)
    assert Refusal.TAKEN == job.outcome.reason


async def test_a_failed_job_is_tried_again_and_its_attempts_are_used_up(app: App, db: Any) -> None:
    """Each attempt's effects are undone; the client gets the error."""
    attempts: list[int] = []

    @app.job(attempts=3)
    async def fail(tx: Transaction) -> None:
        await note(tx, 1)
        attempts.append(tx.attempt)
        raise ValueError("on purpose")

    async with app:
        receipt = await fail.enqueue()
        (job,) = await drain(app)
        with pytest.raises(RuntimeError, match=r"^ValueError: on purpose$"):
            await receipt.result(1)
    assert [1, 2, 3] == attempts
    assert (receipt.id, "fail", Failed("ValueError: on purpose"), 3) == job
    assert 0 == await db.fetchval("SELECT count(*) FROM numbers")


async def test_only_some_errors_are_tried_again(app: App) -> None:
    """Those that `retry_on` names."""

    @app.job(attempts=4, retry_on=(ConnectionError,), backoff=RetryPolicy(60, 60))
    async def fail(tx: Transaction) -> None:
        raise ConnectionError if tx.attempt < 3 else ValueError("for good")

    async with app:
        await fail.enqueue()
        (job,) = await drain(app)
    assert (Failed("ValueError: for good"), 3) == (job.outcome, job.attempts)


async def test_the_delay_between_two_attempts_is_the_declared_one(app: App) -> None:
    """It doubles with each attempt by default; here is the first."""

    @app.job(backoff=RetryPolicy(3600, 7200))
    async def fail(tx: Transaction) -> None:
        raise ValueError("on purpose")

    async with app:
        receipt = await fail.enqueue()
        options = vars(settings_of_worker(app, app.settings.load(), in_test=True))
        worker = Worker(handle_signals=False, **{name: each for name, each in options.items() if name[0] != "_"})
        worker.main_task = asyncio.create_task(worker.main())
        async with asyncio.timeout(20):
            while (retrying := await app.client.retrying(receipt.id)) is None:
                await asyncio.sleep(0.01)
        await stop(worker)
    assert retrying.due_at is not None
    assert 3600 == pytest.approx((retrying.due_at - datetime.now(UTC)).total_seconds(), abs=30)
    assert (1, "ValueError: on purpose") == (retrying.attempts, retrying.last_error)


async def test_arqs_retry_runs_the_job_again(app: App) -> None:
    """Whatever `retry_on` says, and its effects are undone."""

    @app.job(retry_on=())
    async def again(tx: Transaction) -> int:
        await note(tx, 1)
        if tx.attempt < 3:
            raise Retry(defer=3600)
        return tx.attempt

    async with app:
        await again.enqueue()
        (job,) = await drain(app)
    assert (Applied(3), 3) == (job.outcome, job.attempts)


async def test_a_job_that_takes_too_long_is_cancelled(app: App) -> None:
    """And tried again."""

    @app.job(timeout_s=0.05, attempts=2)
    async def hang(tx: Transaction) -> int:
        await asyncio.Event().wait()
        return 0

    async with app:
        await hang.enqueue()
        (job,) = await drain(app)
    assert (Failed("took longer than 0.05 s"), 2) == (job.outcome, job.attempts)


@pytest.mark.parametrize(
    "call", [{}, {"number": 1, "other": 2}, {"number": "one"}], ids=["missing", "unknown", "wrong"]
)
async def test_invalid_arguments_are_refused_and_rejected(app: App, call: dict[str, Any], tidepool_urls: Urls) -> None:
    """At the client when it enqueues, and at the worker when another program has enqueued them."""

    @app.job
    async def take(tx: Transaction, number: int) -> None:
        raise AssertionError

    async with app:
        with pytest.raises((TypeError, ValueError)):
            await take.enqueue(**call)
        await app.client.enqueue("take", call)
        (job,) = await drain(app)
    assert isinstance(job.outcome, Rejected)
    assert "invalid" == job.outcome.reason


async def test_arqs_own_client_enqueues_with_positional_arguments(app: App, redis_at: ArqRedis) -> None:
    """As existing producers do, with the serializer of `wire`; its `Job.result` gives the bare value."""

    @app.job
    async def add(tx: Transaction, first: int, second: int = 1) -> int:
        return first + second

    for arguments in ((1,), (1, 2)):
        job = await redis_at.enqueue_job("add", *arguments)
        assert job is not None
        await drain(app)
        assert sum(arguments) + 2 - len(arguments) == await job.result(1)


@pytest.mark.parametrize("is_time", [False, True])
async def test_a_deferred_job_is_due_later(app: App, redis_at: ArqRedis, *, is_time: bool) -> None:
    """By a delay, or at a time of any time zone."""
    hour = timedelta(hours=1)
    defer = datetime.now(timezone(9 * hour)) + hour if is_time else hour

    @app.job
    async def late(tx: Transaction) -> str:
        return tx.job_id

    async with app:
        await late.options(id="later", defer=defer).enqueue()
        await late.options(id="now", defer=timedelta(seconds=-1)).enqueue()
        due_ms = dict(await redis_at.zrange("arq:queue", 0, -1, withscores=True))
        assert ["deferred", "queued"] == [await app.client.status(job_id) for job_id in ("later", "now")]
        assert 3_600_000 == pytest.approx(due_ms[b"later"] - due_ms[b"now"], abs=60_000)
        assert {"later", "now"} == set(outcomes(await drain(app)))


# ---------------------------------------------------------------- several jobs in one transaction


async def test_a_shared_transaction_runs_each_job_once_and_undoes_only_the_failed_one(app: App, db: Any) -> None:
    """No other job's code runs again because of it."""
    calls: list[int] = []

    @app.job(share=10, attempts=1)
    async def share(tx: Transaction, number: int) -> int:
        calls.append(number)
        await note(tx, number)
        if number == 3:
            raise ValueError("on purpose")
        if number == 4:
            await tx.execute("SELECT 1/0")
        if number == 5:
            raise Reject("five")
        return number

    async with app:
        await app.enqueue_many([share.options(id=f"job-{number}").call(number) for number in range(8)])
        drained = outcomes(await drain(app))
    assert sorted(calls) == [*range(8)]
    kept = [0, 1, 2, 6, 7]
    assert {f"job-{number}": Applied(number) for number in kept} == {
        job_id: outcome for job_id, outcome in drained.items() if isinstance(outcome, Applied)
    }
    assert Failed("ValueError: on purpose") == drained["job-3"]
    assert Rejected("five") == drained["job-5"]
    rows = await db.fetch("SELECT number, xid FROM numbers ORDER BY number")
    assert kept == [row["number"] for row in rows]
    assert 1 == len({row["xid"] for row in rows})


async def test_a_batch_gets_its_jobs_at_once(app: App) -> None:
    """And returns a result or a verdict for each."""
    sizes: list[int] = []

    @app.batch(limit=5)
    async def views(tx: Transaction, jobs: Sequence[Job[View]]) -> list[int | Rejected]:
        sizes.append(len(jobs))
        return [job.command.page or Rejected(Refusal.CLOSED) for job in jobs]

    async with app:
        await app.enqueue_many([views.options(id=f"view-{page}").call(View(page=page)) for page in range(5)])
        drained = outcomes(await drain(app))
    assert {"view-0": Rejected("closed", "the shop is closed")} | {
        f"view-{page}": Applied(page) for page in range(1, 5)
    } == drained
    assert [5] == sizes


# ---------------------------------------------------------------- a function


async def test_a_function_gets_arqs_ctx(app: App) -> None:
    """It has no transaction; its result and its rejection reach the client."""

    @app.function
    async def tag(ctx: dict[Any, Any], number: int) -> list[int]:
        if not number:
            raise Reject("zero")
        return [number, ctx["job_try"]]

    async with app:
        one, none = await tag.enqueue(7), await tag.enqueue(0)
        drained = outcomes(await drain(app))
        assert [7, 1] == await one.result(1)
        with pytest.raises(Reject, match=r"^zero: zero$"):
            await none.result(1)
    assert {one.id: Applied([7, 1]), none.id: Rejected("zero")} == drained


async def test_a_job_enqueues_another_one_which_is_drained_too(app: App) -> None:
    """With the worker's connection; afterwards the client of the block is used again."""

    @app.job
    async def last(tx: Transaction) -> str:
        return "last"

    @app.function
    async def first(ctx: dict[Any, Any]) -> None:
        await last.options(id="follow-up").enqueue()

    async with app:
        await first.options(id="start").enqueue()
        assert ["start", "follow-up"] == [job.id for job in await drain(app)]
        await last.options(id="later").enqueue()
        assert ["later"] == [job.id for job in await drain(app)]


# ---------------------------------------------------------------- wrapped results


async def test_an_application_that_wraps_its_results_returns_them_unwrapped_to_its_own_clients(db: Any) -> None:
    """The clients of arq get the wrapped ones."""
    app = App(wraps_results=True)

    @app.job
    async def halve(tx: Transaction, number: int) -> int:
        if number % 2:
            raise Reject("odd", "it is odd")
        return number // 2

    async with app:
        even, odd = await halve.enqueue(4), await halve.enqueue(5)
        await drain(app)
        assert 2 == await even.result(1)
        with pytest.raises(Reject, match=r"^odd: it is odd$"):
            await odd.result(1)
        assert {"status": "applied", "result": 2} == await app.client.result(even.id)


# ---------------------------------------------------------------- the tools for tests


async def test_the_transaction_of_a_test_is_rolled_back(tidepool_transaction: Transaction) -> None:
    """A job is called in it as a function."""
    app = App()

    @app.job
    async def create(tx: Transaction, name: str) -> str:
        await tx.execute("CREATE TABLE made (name text)")
        return await tx.fetchval("INSERT INTO made VALUES ($1) RETURNING name", name)

    assert "it" == await create(tidepool_transaction, "it")


async def test_a_drain_ends_after_the_jobs_that_were_enqueued_in_a_transaction(app: App, db: Any) -> None:
    """They are in the outbox first, and then in the queue."""

    @app.job
    async def square(tx: Transaction, number: int) -> int:
        return number * number

    async with db.transaction():
        for number in range(3):
            await square.on(db).enqueue(number)
    assert [Applied(0), Applied(1), Applied(4)] == sorted((job.outcome for job in await drain(app)), key=str)


async def test_a_drain_has_a_limit_of_time(app: App) -> None:
    """The error names the functions of the jobs that are left."""

    @app.job(timeout_s=1)
    async def hang(tx: Transaction) -> None:
        await asyncio.Event().wait()

    async with app:
        await hang.enqueue()
    with pytest.raises(TimeoutError, match=r"^after 0\.3 s there are jobs left, of: hang$"):
        await drain(app, timeout_s=0.3)


def test_a_suite_without_an_application_is_told_so(request: pytest.FixtureRequest) -> None:
    """With what to define."""
    from tidepool.testing.fixtures import tidepool_app  # noqa: PLC0415

    define: Callable[[], App] = tidepool_app.__wrapped__  # type: ignore[attr-defined]
    with pytest.raises(pytest.UsageError, match="define a fixture tidepool_app"):
        define()
