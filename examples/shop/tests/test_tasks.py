"""Each function, run by a worker and awaited by arq's client."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from arq import ArqRedis
from arq.jobs import Job, JobStatus
from conftest import WAIT_S, Shop, until

from shop.tasks import Basket, Buyer, Line, UnknownUser, signature

pytestmark = pytest.mark.usefixtures("worker")


@pytest.fixture
def buyer() -> Buyer:
    """Give a buyer who has no orders yet."""
    return Buyer(f"{uuid4()}@example.com", "Ada")


async def enqueue(redis: ArqRedis, function: str, *arguments: Any, **named: Any) -> Job:
    """Enqueue a job."""
    job = await redis.enqueue_job(function, *arguments, **named)
    assert job is not None
    return job


async def run(redis: ArqRedis, function: str, *arguments: Any, **named: Any) -> Any:
    """Enqueue a job, and return its result or raise its error."""
    job = await enqueue(redis, function, *arguments, **named)
    return await job.result(WAIT_S, poll_delay=0.02)


async def place(redis: ArqRedis, buyer: Buyer) -> int:
    """Place an order of 19.80 less a voucher of 2.00; return its id."""
    basket = Basket(lines=[Line(sku="TEA", quantity=2, price=Decimal("9.90"))])
    order = {"ref": uuid4(), "voucher": Decimal("2.00"), "at": datetime(2026, 11, 30, 12, 30, tzinfo=UTC)}
    return await run(redis, "place_order", buyer, basket, **order)


async def test_an_order_keeps_the_types_of_its_arguments(redis: ArqRedis, database: Any, buyer: Buyer) -> None:
    """A dataclass, a model, a UUID, a Decimal and a datetime."""
    order_id = await place(redis, buyer)
    order = await database.fetchrow(
        "SELECT email, total, placed_at FROM orders JOIN users ON users.id = user_id WHERE orders.id = $1", order_id
    )
    assert (buyer.email, Decimal("17.80"), datetime(2026, 11, 30, 12, 30, tzinfo=UTC)) == tuple(order)


async def test_an_order_is_charged_by_a_job_that_its_job_enqueues(redis: ArqRedis, database: Any, buyer: Buyer) -> None:
    """With the total in cents."""
    order_id = await place(redis, buyer)
    query = "SELECT cents FROM charges WHERE order_id = $1"
    await until(lambda: database.fetch(query, order_id))
    assert [1780] == [row["cents"] for row in await database.fetch(query, order_id)]


async def test_a_charge_is_one_row(redis: ArqRedis, database: Any) -> None:
    """The result is its id."""
    charge_id = await run(redis, "charge", -1, 990)
    rows = await database.fetch("SELECT id, cents FROM charges WHERE order_id = -1")
    assert [(charge_id, 990)] == [tuple(row) for row in rows]


async def test_an_order_is_confirmed_when_it_is_charged(redis: ArqRedis, database: Any) -> None:
    """Until then the job is tried again and again."""
    job = await enqueue(redis, "confirm", -2)

    async def is_deferred() -> bool:
        return await job.status() is JobStatus.deferred

    await until(is_deferred)
    await run(redis, "charge", -2, 990)
    assert await job.result(WAIT_S, poll_delay=0.02) >= 2


async def test_a_receipt_is_signed_in_a_thread(redis: ArqRedis, buyer: Buyer) -> None:
    """The result is what the function returned there."""
    order_id = await place(redis, buyer)
    assert signature(f"order {order_id}: 17.80") == await run(redis, "sign_receipt", order_id)


async def test_a_balance_is_what_is_not_paid(redis: ArqRedis, database: Any, buyer: Buyer) -> None:
    """Exact, as a Decimal."""
    order_id = await place(redis, buyer)
    await until(lambda: database.fetchval("SELECT EXISTS (SELECT FROM charges WHERE order_id = $1)", order_id))
    await database.execute("UPDATE orders SET total = total + 0.1 WHERE id = $1", order_id)
    assert Decimal("0.1") == await run(redis, "balance", buyer.email)


async def test_an_error_is_raised_where_the_result_is_awaited(redis: ArqRedis) -> None:
    """With its type and its arguments."""
    with pytest.raises(UnknownUser, match="nobody"):
        await run(redis, "balance", "nobody@example.com")


async def test_the_script_places_orders(shop: Shop, database: Any) -> None:
    """And waits for all of them."""
    assert "placed 20 orders\n" == shop.run("shop.enqueue", "--orders", "20")
    assert 20 == await database.fetchval("SELECT count(*) FROM orders WHERE total IN (4.95, 9.90, 14.85)")
