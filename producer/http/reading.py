"""The HTTP routes that return stored users, products and orders.

Amounts of money are JSON strings, because many clients read a JSON number as a float.
"""

from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Path, Query

from tidepool.web import GREATEST_ID, Body, Problem, Router, RowId, Using
from worker.tables.orders import Order, OrderRepository
from worker.tables.products import MAX_PAGE_BYTES, Product, ProductRepository
from worker.tables.users import User, UserRepository

router = Router(tags=["reading"])

_MOST_SKIPPED = 10_000
"""Max offset of a page of users, since the database reads each row that it skips. `after` skips rows at no cost."""

_Stored = TypeVar("_Stored", User, Product, Order)
PageLimit = Annotated[int, Query(ge=1, le=500, description="Max rows of the page.")]
Before = Annotated[int, Query(ge=1, le=GREATEST_ID, description="The `next` of the page before.")]
Category = Annotated[str, Path(min_length=1, max_length=100, description="Compared exactly.")]
After = Annotated[int, Query(ge=0, le=GREATEST_ID, description="The `next` of the page before.")]


class _UserPage(Body):
    """A page of users in the order of their ids. *next* is the `after` of the next page, null on the last page."""

    users: list[User]
    next: int | None


class _ProductPage(Body):
    """A page of products in the order of their ids. *next* is the `after` of the next page, null on the last page."""

    products: list[Product]
    next: int | None


class _OrderPage(Body):
    """A page of orders, the newest first. *next* is the `before` of the next page, null on the last page."""

    orders: list[Order]
    next: int | None


@router.get("/users/")
async def _list_users(
    services: Using,
    limit: PageLimit = 100,
    offset: Annotated[int, Query(ge=0, le=_MOST_SKIPPED, description="Users to skip.")] = 0,
    after: After = 0,
) -> _UserPage:
    """List users in the order of their ids, in pages."""
    async with services.pool.acquire() as connection:
        found = await UserRepository(connection).list_page(after_id=after, offset=offset, limit=limit + 1)
    return _UserPage(users=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/users/{user_id}")
async def _read_user(services: Using, user_id: RowId) -> User:
    """Return the user with this id."""
    async with services.pool.acquire() as connection:
        return _known(await UserRepository(connection).get_by_id(user_id), "user", user_id)


@router.get("/users/{user_id}/orders")
async def _list_orders(
    services: Using,
    user_id: RowId,
    limit: PageLimit = 100,
    before: Before = GREATEST_ID,
) -> _OrderPage:
    """List the orders of a user, the newest first, with the current details of their products."""
    async with services.pool.acquire() as connection:
        found = await OrderRepository(connection).of_user(user_id, before_id=before, limit=limit + 1)
        if not found:
            _known(await UserRepository(connection).get_by_id(user_id), "user", user_id)
    return _OrderPage(orders=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/products/")
async def _list_products(
    services: Using,
    category: Annotated[str | None, Query(min_length=1, max_length=100, description="Compared exactly.")] = None,
    limit: PageLimit = 100,
    after: After = 0,
) -> _ProductPage:
    """List products in the order of their ids: all, or those of a category. An unknown category gives an empty list.

    A page has fewer than *limit* products if their descriptions together reach 1 MiB.
    """
    async with services.pool.acquire() as connection:
        products = ProductRepository(connection)
        found = await (
            products.list_page(after_id=after, limit=limit + 1)
            if category is None
            else products.by_category(category, after_id=after, limit=limit + 1)
        )
    is_cut = sum(len(product.description.encode()) for product in found) >= MAX_PAGE_BYTES
    shown = found[:limit]
    return _ProductPage(products=shown, next=shown[-1].id if is_cut or len(found) > limit else None)


@router.get("/products/{product_id}")
async def _read_product(services: Using, product_id: RowId) -> Product:
    """Return the product with this id."""
    async with services.pool.acquire() as connection:
        return _known(await ProductRepository(connection).get_by_id(product_id), "product", product_id)


@router.get("/products/category/{category:path}")
async def _list_category(services: Using, category: Category, limit: PageLimit = 100, after: After = 0) -> _ProductPage:
    """List the products of a category in the order of their ids, as `/products/?category=` does."""
    return await _list_products(services, category, limit, after)


@router.get("/orders/")
async def _list_all_orders(services: Using, limit: PageLimit = 100, before: Before = GREATEST_ID) -> _OrderPage:
    """List all orders, the newest first, with the current details of their products."""
    async with services.pool.acquire() as connection:
        found = await OrderRepository(connection).newest(before_id=before, limit=limit + 1)
    return _OrderPage(orders=found[:limit], next=found[limit - 1].id if len(found) > limit else None)


@router.get("/orders/{order_id}")
async def _read_order(services: Using, order_id: RowId) -> Order:
    """Return the order with this id, with the current details of its product."""
    async with services.pool.acquire() as connection:
        return _known(await OrderRepository(connection).get_by_id(order_id), "order", order_id)


def _known(row: _Stored | None, kind: str, row_id: int) -> _Stored:
    if row is None:
        raise Problem(HTTPStatus.NOT_FOUND, f"no {kind} has the id {row_id}", code=f"unknown_{kind}")
    return row
