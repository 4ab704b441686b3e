"""The reading room of the front: users, products and orders as JSON."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from factories import a_job, a_product, a_user, an_order
from front import a_front
from httpx import AsyncClient

from tidepool.ledger.ledger import Ledger
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from worker.jobs import JOBS

BEYOND = 2**63


@pytest.fixture
async def http(database: PoolConfig, redis_url: str) -> AsyncIterator[AsyncClient]:
    """Give a client of a front on the test's servers."""
    async with a_front(database.url, redis_url) as client:
        yield client


@pytest.fixture(autouse=True)
async def shop(pool: Pool) -> None:
    """Put five users, three products and two orders in place."""
    ledger = Ledger(pool, JOBS, worker_id="worker-1")
    await ledger.settle("create_user", [a_job(a_user(name)) for name in ("ada", "bob", "cyd", "dan", "eve")])
    products = [a_product("lamp"), a_product("tea", category="Tea / Coffee"), a_product("desk", price="1000")]
    await ledger.settle("create_product", [a_job(product) for product in products])
    orders = [an_order("ada", "lamp", 2), an_order("ada", "desk", 3)]
    await ledger.settle("place_order", [a_job(order, f"order-{n}") for n, order in enumerate(orders, 1)])


async def read(http: AsyncClient, path: str, **parameters: Any) -> Any:
    """Return what a path answers."""
    answer = await http.get(path, params=parameters)
    assert 200 == answer.status_code, answer.text
    return answer.json()


async def test_a_user_has_the_columns_of_its_row(http: AsyncClient) -> None:
    """Times have a zone."""
    user = await read(http, "/users/1")
    assert {"id": 1, "username": "ada", "email": "ada@example.org", "full_name": "Ada Lovelace", "is_active": True} == {
        name: value for name, value in user.items() if not name.endswith("_at")
    }
    assert user["created_at"].endswith(("Z", "+00:00"))


async def test_money_is_text(http: AsyncClient) -> None:
    """A reader in JavaScript would make a float of a number."""
    product = await read(http, "/products/1")
    assert ("12.50", "lamp") == tuple(product[name] for name in ("price", "sku"))
    order = await read(http, "/orders/2")
    assert ("3000.00", "1000.00", "order-2", 1) == tuple(
        order[name] for name in ("total_price", "price", "job_id", "user_id")
    )


async def test_users_are_listed_from_any_place(http: AsyncClient) -> None:
    """By an offset, or from after an id; the last page says that it is."""
    everyone = ["ada", "bob", "cyd", "dan", "eve"]

    async def names(**parameters: Any) -> tuple[list[str], int | None]:
        page = await read(http, "/users/", **parameters)
        return [user["username"] for user in page["users"]], page["next"]

    assert (everyone, None) == await names()
    assert (everyone[:2], 2) == await names(limit=2)
    assert (everyone[2:4], 4) == await names(limit=2, after=2)
    assert (everyone[3:], None) == await names(limit=2, offset=3)
    assert ([], None) == await names(offset=10)


async def test_a_users_orders_come_newest_first(http: AsyncClient) -> None:
    """Page by page; a user without any has none, and nobody's are not found."""
    first = await read(http, "/users/1/orders", limit=1)
    second = await read(http, "/users/1/orders", limit=1, before=first["next"])
    assert (["order-2"], ["order-1"], None) == (
        [order["job_id"] for order in first["orders"]],
        [order["job_id"] for order in second["orders"]],
        second["next"],
    )
    assert {"orders": [], "next": None} == await read(http, "/users/2/orders")
    assert 404 == (await http.get("/users/99/orders")).status_code


async def test_a_category_lists_its_products(http: AsyncClient) -> None:
    """To the letter, slashes included; one that nobody knows is empty."""
    page = await read(http, "/products/category/Home", limit=1)
    rest = await read(http, "/products/category/Home", after=page["next"])
    assert (["lamp"], ["desk"]) == tuple([p["sku"] for p in one["products"]] for one in (page, rest))
    assert ["tea"] == [p["sku"] for p in (await read(http, "/products/category/Tea%20%2F%20Coffee"))["products"]]
    assert {"products": [], "next": None} == await read(http, "/products/category/home")


@pytest.mark.parametrize("kind", ["user", "product", "order"])
async def test_what_is_not_there_is_a_problem_with_its_code(http: AsyncClient, kind: str) -> None:
    """404; and 422 for what cannot be an id."""
    answer = await http.get(f"/{kind}s/99")
    assert (404, f"unknown_{kind}", "application/problem+json") == (
        answer.status_code,
        answer.json()["code"],
        answer.headers["content-type"],
    )
    for wrong in ("0", "-1", "x", BEYOND):
        assert 422 == (await http.get(f"/{kind}s/{wrong}")).status_code


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "offset=-1", "offset=10001", "after=-1", f"after={BEYOND}", "limit=x"]
)
async def test_pages_have_bounds(http: AsyncClient, query: str) -> None:
    """A reader cannot ask for all of a million rows, nor have them skipped."""
    assert 422 == (await http.get(f"/users/?{query}")).status_code


async def test_a_page_of_products_is_bounded_in_bytes(
    http: AsyncClient, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A description may have a megabyte. The next page goes on behind the product that filled this one."""
    for module in ("worker.tables.products", "producer.http.reading"):
        monkeypatch.setattr(f"{module}.MAX_PAGE_BYTES", 1000)
    products = [a_product(f"book-{n}", category="Books", description="é" * 300) for n in range(5)]
    await Ledger(pool, JOBS, worker_id="w").settle("create_product", [a_job(one) for one in products])
    pages: list[list[str]] = []
    after: int | None = 0
    while after is not None:
        page = await read(http, "/products/category/Books", after=after)
        pages.append([product["sku"] for product in page["products"]])
        after = page["next"]
    assert [["book-0", "book-1"], ["book-2", "book-3"], ["book-4"]] == pages
