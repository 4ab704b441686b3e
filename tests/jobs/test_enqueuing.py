"""How the jobs of an application are enqueued: ids, delays, many at once, and what is refused."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from arq import ArqRedis
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from settings import Settings
from tidepool import App, JobClient, Transaction
from tidepool.pool.config import PoolConfig
from tidepool.queue.wire import now_ms

QUEUE = "arq:queue"


@pytest.fixture
def app(client: JobClient) -> Iterator[App]:
    """Give an application that uses the test's queue."""
    app = App()
    with app.use(client, Settings.load({})):
        yield app


@pytest.fixture
def charge(app: App) -> Any:
    """Give a job type."""

    @app.job
    async def charge(_tx: Transaction, order_id: int, cents: int = 100) -> int:
        return order_id + cents

    return charge


async def test_a_job_is_enqueued_once_for_each_id(charge: Any, redis: ArqRedis) -> None:
    """Without an id each is another job."""
    first, second = await charge.enqueue(17), await charge.enqueue(17)
    assert first.is_new
    assert first.id != second.id
    named = [await charge.options(id="charge-17").enqueue(17, 990) for _ in range(2)]
    assert [("charge-17", True), ("charge-17", False)] == [(receipt.id, receipt.is_new) for receipt in named]
    assert 3 == await redis.zcard(QUEUE)


async def test_a_job_may_be_deferred(charge: Any, redis: ArqRedis) -> None:
    """By a delay, or until a time."""
    at = datetime(2040, 1, 1, tzinfo=UTC)
    by_time = await charge.options(defer=at).enqueue(1)
    by_delay = await charge.options(defer=timedelta(hours=1)).enqueue(1)
    assert at.timestamp() * 1000 == await redis.zscore(QUEUE, by_time.id)
    score = await redis.zscore(QUEUE, by_delay.id)
    assert score is not None
    assert abs(now_ms() + 3_600_000 - score) < 60_000


async def test_many_jobs_are_enqueued_at_once(app: App, charge: Any, redis: ArqRedis) -> None:
    """More than one call to Redis takes."""
    receipts = await app.enqueue_many(charge.call(number) for number in range(1200))
    assert 1200 == len({receipt.id for receipt in receipts}) == await redis.zcard(QUEUE)
    assert [] == await app.enqueue_many([])


async def test_what_cannot_be_enqueued_is_refused_in_words(charge: Any) -> None:
    """By the type that Python uses for it."""
    with pytest.raises(TypeError, match="order_id"):
        await charge.enqueue()
    with pytest.raises(ValueError, match="order_id: Input should be a valid integer"):
        await charge.enqueue("17")
    with pytest.raises(ValueError, match="printable"):
        charge.options(id="a\nb")
    with pytest.raises(ValueError, match="time zone"):
        charge.options(defer=datetime(2040, 1, 1))  # noqa: DTZ001


async def test_an_application_that_is_not_open_says_so() -> None:
    """The message names the block that opens it."""
    app = App()

    @app.job
    async def charge(_tx: Transaction) -> None: ...

    with pytest.raises(RuntimeError, match="async with app"):
        await charge.enqueue()


async def test_a_job_is_enqueued_in_a_transaction(app: App, charge: Any, connection: Any, redis: ArqRedis) -> None:
    """If and only if it commits; Redis gets the job from a relay."""
    at = datetime(2040, 1, 1, tzinfo=UTC)
    async with connection.transaction():
        receipt = await charge.on(connection).options(id="charge-17", defer=at).enqueue(17)
        await app.enqueue_many([charge.call(18), charge.call(19)], on=Transaction(connection))
    transaction = connection.transaction()
    await transaction.start()
    await charge.on(connection).enqueue(20)
    await transaction.rollback()
    with pytest.raises(RuntimeError, match="in no transaction"):
        await charge.on(connection).enqueue(21)
    rows = await connection.fetch("SELECT job_id, function, due_ms FROM job_outbox ORDER BY id")
    assert ("charge-17", True) == (receipt.id, receipt.is_new)
    assert [("charge-17", "charge", at.timestamp() * 1000)] == [tuple(row.values()) for row in rows[:1]]
    assert 3 == len(rows)
    assert 0 == await redis.zcard(QUEUE)


def test_code_without_asyncio_enqueues_in_its_transaction(database: PoolConfig) -> None:
    """An application may be open for that, or not: nothing is sent to Redis."""
    app = App(settings=Settings)

    @app.job
    async def charge(_tx: Transaction, order_id: int) -> int:
        return order_id

    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database.url))
    with Session(engine) as session:
        assert charge.on(session).enqueue_now(17).is_new
        session.commit()
        charge.on(session).enqueue_now(18)
        session.rollback()
        assert [("charge",)] == session.execute(text("SELECT function FROM job_outbox")).all()
    with pytest.raises(RuntimeError, match="needs a transaction"):
        charge.enqueue_now(19)
    engine.dispose()
