"""The repositories' reading side on PostgreSQL: look-ups, pages, filters, and content that stays content."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from factories import a_change, a_job, a_product, a_user, an_order
from tables import Tables

from tidepool.jobs.job import IDENTITY_MS
from tidepool.jobs.outcomes import CommonReason, Failed, Rejected
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from worker.jobs import JOBS

INJECTIONS = [
    "'; DROP TABLE users; --",
    '"; DROP TABLE users; --',
    "x') ON CONFLICT DO NOTHING; DELETE FROM users; --",
    "{a,b}",
    'NULL", "x',
    "\\'; SELECT pg_sleep(9); --",
    "$1",
    "%s %(name)s {0}",
    "E'\\x41'",
]


@pytest.fixture
def repositories(connection: Any) -> Tables:
    """Give the repositories of one connection."""
    return Tables(connection)


async def test_a_user_is_found_by_id_username_and_email(repositories: Tables) -> None:
    """To the letter; None for one that is not there."""
    (user_id,) = await repositories.users.create([a_user("ada")])
    assert isinstance(user_id, int)
    user = await repositories.users.get_by_id(user_id)
    assert user is not None
    assert ("ada", "ada@example.org", "Ada Lovelace", True) == (
        user.username,
        user.email,
        user.full_name,
        user.is_active,
    )
    assert user.created_at.tzinfo is not None
    assert user == await repositories.users.get_by_username("ada") == await repositories.users.get_by_email(user.email)
    assert await repositories.users.get_by_id(user_id + 1) is None
    assert await repositories.users.get_by_username("ADA") is None
    assert await repositories.users.get_by_email("Ada@example.org") is None


async def test_a_change_is_seen_and_dated(repositories: Tables) -> None:
    """Only the given fields change, and the row says when."""
    await repositories.users.create([a_user("ada")])
    before = await repositories.users.get_by_username("ada")
    await repositories.users.update([a_change("ada", email="new@x")])
    after = await repositories.users.get_by_username("ada")
    assert before is not None
    assert after is not None
    assert ("new@x", before.full_name, before.created_at) == (after.email, after.full_name, after.created_at)
    assert after.updated_at > before.updated_at


async def test_users_are_listed_page_by_page(repositories: Tables) -> None:
    """In the order of their ids; the last id begins the next page."""
    ids = sorted(await repositories.users.create([a_user(f"u{n}") for n in range(7)]))  # type: ignore[type-var]
    pages: list[list[int]] = []
    after_id = 0
    while page := await repositories.users.list_page(after_id=after_id, limit=3):
        pages.append([user.id for user in page])
        after_id = page[-1].id
    assert [ids[:3], ids[3:6], ids[6:]] == pages


async def test_products_are_listed_by_category(repositories: Tables) -> None:
    """Page by page, with exact prices and nothing of other categories."""
    await repositories.products.create(
        [a_product(f"S{n}", category="Toys" if n % 2 else "Home", price=f"0.{n}0") for n in range(6)]
    )
    first = await repositories.products.by_category("Toys", limit=2)
    second = await repositories.products.by_category("Toys", after_id=first[-1].id, limit=2)
    assert ["S1", "S3", "S5"] == [product.sku for product in first + second]
    assert [Decimal("0.10"), Decimal("0.30"), Decimal("0.50")] == [product.price for product in first + second]
    assert [] == await repositories.products.by_category("toys")


async def test_a_users_orders_are_listed_newest_first(repositories: Tables) -> None:
    """With the product's details; the last id begins the next page."""
    (user_id, other) = await repositories.users.create([a_user("ada"), a_user("eve")])
    await repositories.products.create([a_product("LAMP", price="2.50")])
    assert isinstance(user_id, int)
    assert isinstance(other, int)
    await repositories.orders.place([(f"o{n}", an_order("ada", quantity=n)) for n in range(1, 6)])
    await repositories.orders.place([("not hers", an_order("eve"))])
    first = await repositories.orders.of_user(user_id, limit=3)
    second = await repositories.orders.of_user(user_id, before_id=first[-1].id, limit=3)
    assert ["o5", "o4", "o3", "o2", "o1"] == [order.job_id for order in first + second]
    assert ("LAMP", "Brass Lamp", "Home", Decimal("2.50"), 5, Decimal("12.50"), "pending") == (
        first[0].sku,
        first[0].product_name,
        first[0].category,
        first[0].price,
        first[0].quantity,
        first[0].total_price,
        first[0].status,
    )
    assert 1 == len(await repositories.orders.of_user(other))


@pytest.mark.parametrize("text", INJECTIONS)
async def test_sql_in_values_stays_text(repositories: Tables, connection: Any, text: str) -> None:
    """Whatever stands in a name, sku, category, status or id is stored and found as it is."""
    await repositories.users.create([a_user("canary"), a_user(text, email="i@x", full_name=text)])
    await repositories.products.create([a_product(text, name=text, description=text, category=text)])
    await repositories.users.update([a_change(text, full_name=text + "!")])
    await repositories.orders.place([(text, an_order(text, text, status=text))])
    user = await repositories.users.get_by_username(text)
    assert user is not None
    assert (text, text + "!") == (user.username, user.full_name)
    (order,) = await repositories.orders.of_user(user.id)
    assert (text, text, text, text) == (order.job_id, order.sku, order.category, order.status)
    (product,) = await repositories.products.by_category(text)
    assert text == product.description
    assert 2 == await connection.fetchval("SELECT count(*) FROM users")


@pytest.mark.parametrize("text", INJECTIONS)
async def test_sql_in_filters_stays_text(repositories: Tables, text: str) -> None:
    """The operators' commands pass what they are given."""
    assert [] == await repositories.results.newest(job_ids=[text], status=text, function=text)
    assert [] == await repositories.results.slowest(job_ids=[text], status=text, function=text)
    assert [] == await repositories.results.latency(job_ids=[text], status=text, function=text)
    assert [] == await repositories.snapshots.newest(worker_id=text)
    wanted: dict[str, Any] = {"job_ids": [text], "status": text, "function": text}
    assert [] == await repositories.results.mark_requeued(**wanted, search=text, after_id=text, limit=5)
    for search in (None, text):
        page = repositories.results.page(before=None, limit=5, search=search, status=text, function=text)
        assert [] == (await page)[0]
    assert {} == await repositories.results.lookup([(text, IDENTITY_MS)])


async def test_outcomes_are_listed_newest_first_and_filtered(pool: Pool, repositories: Tables) -> None:
    """By id, status, function and age; JSON columns come decoded."""
    ledger = Ledger(pool, JOBS, worker_id="w")
    await ledger.settle("create_user", [a_job(a_user("ada"), "applied")])
    await ledger.settle("create_user", [a_job(Failed("x"), "failed", content={"a": [1, None]})])
    await ledger.settle("place_order", [a_job(Rejected(CommonReason.INVALID), "rejected", function="place_order")])

    async def listed(**conditions: Any) -> list[str]:
        return [row["job_id"] for row in await repositories.results.newest(**conditions)]

    assert ["rejected", "failed", "applied"] == await listed()
    assert ["rejected", "failed"] == await listed(limit=2)
    assert ["failed"] == await listed(status="failed")
    assert ["rejected"] == await listed(function="place_order")
    assert ["applied"] == await listed(job_ids=["applied", "unknown"])
    assert [] == await listed(since=datetime.now(UTC) + timedelta(minutes=1))
    assert 3 == len(await listed(since=datetime.now(UTC) - timedelta(minutes=1)))
    (row,) = await repositories.results.newest(job_ids=["failed"])
    assert ({"a": [1, None]}, None) == (row["args"], row["result"])


async def insert_times(connection: Any, function: str, **times_us: tuple[int, int, int]) -> None:
    """Insert ledger rows by id, with their time in the queue, waiting for a connection and in the database."""
    await connection.executemany(
        """INSERT INTO job_results (job_id, function, status, result, attempts, worker_id, enqueued_at, started_at,
                                    finished_at, queue_us, pool_wait_us, db_us)
           VALUES ($1, $2, 'applied', '{}', 1, 'w', now(), now(), now(), $3, $4, $5)""",
        [(job_id, function, *parts) for job_id, parts in times_us.items()],
    )


async def test_outcomes_are_listed_slowest_first_and_filtered(repositories: Tables, connection: Any) -> None:
    """By the sum of the three parts, whichever it was that took so long; equals by their ids."""
    await insert_times(connection, "f", queue=(9000, 0, 0), pool=(0, 9500, 1), quick=(1, 1, 1))
    await insert_times(connection, "g", database=(1, 1, 9100), all=(3000, 3000, 3000))

    async def listed(**conditions: Any) -> list[str]:
        return [row["job_id"] for row in await repositories.results.slowest(**conditions)]

    assert ["pool", "database", "all", "queue", "quick"] == await listed()
    assert ["pool", "database"] == await listed(limit=2)
    assert ["database", "all"] == await listed(function="g")
    assert ["queue", "quick"] == await listed(job_ids=["quick", "queue"])
    assert [] == await listed(status="failed")
    assert [] == await listed(since=datetime.now(UTC) + timedelta(minutes=1))
    (row,) = await repositories.results.slowest(limit=1)
    assert {} == row["result"]


async def test_the_latency_of_all_jobs_is_that_of_the_view(repositories: Tables, connection: Any) -> None:
    """The query has the conditions that the view cannot have; its result is the same, part by part."""
    await insert_times(connection, "f", a=(1000, 20, 300), b=(5000, 10, 900))
    await insert_times(connection, "g", c=(7, 8, 9))
    view = {tuple(row) for row in await connection.fetch("SELECT * FROM job_latency")}
    parts = await repositories.results.latency()
    assert view == {tuple(row.values()) for row in parts}
    assert ["queue", "batch", "pool", "database"] * 2 == [row["part"] for row in parts]


async def test_the_latency_of_some_jobs_is_theirs(repositories: Tables, connection: Any) -> None:
    """The same conditions as the list that it stands above."""
    await insert_times(connection, "f", a=(1000, 20, 300), b=(5000, 10, 900))
    await insert_times(connection, "g", c=(7, 8, 9))

    async def queued_ms(**conditions: Any) -> list[float]:
        return [row["p50_ms"] for row in await repositories.results.latency(**conditions) if row["part"] == "queue"]

    assert [3.0, 0.007] == await queued_ms()
    assert [3.0] == await queued_ms(function="f")
    assert [5.0] == await queued_ms(job_ids=["b"])
    assert [] == await queued_ms(status="failed")
    assert [] == await queued_ms(since=datetime.now(UTC) + timedelta(minutes=1))


async def test_creating_users_that_exist_burns_no_more_than_ids(repositories: Tables, connection: Any) -> None:
    """A refused row leaves nothing behind, and the next id is greater than all before."""
    (first,) = await repositories.users.create([a_user("ada")])
    await repositories.users.create([a_user("ada")])
    (second,) = await repositories.users.create([a_user("eve")])
    assert isinstance(first, int)
    assert isinstance(second, int)
    assert second > first
    assert 2 == await connection.fetchval("SELECT count(*) FROM users")
