"""What the database itself refuses, from any client: the assumptions of the code, stated as constraints."""

from typing import Any

import asyncpg
import pytest

USER = {"username": "'ada'", "email": "'a@x'", "full_name": "'Ada'"}
PRODUCT = {"name": "'Lamp'", "price": "1", "category": "'Home'"}
ORDER = {"user_id": "1", "product_id": "1", "quantity": "1", "total_price": "1"}
RESULT = {
    "job_id": "'a'",
    "function": "'f'",
    "status": "'applied'",
    "result": "'{}'",
    "attempts": "1",
    "worker_id": "'w'",
    "enqueued_at": "now()",
    "started_at": "now()",
    "finished_at": "now()",
    "queue_us": "0",
    "pool_wait_us": "0",
    "db_us": "0",
}
TABLES = {"users": USER, "products": PRODUCT, "orders": ORDER, "job_results": RESULT}


async def insert(connection: Any, table: str, **values: str) -> None:
    """Insert a valid row with *values*, SQL expressions, in place of its own."""
    row = {**TABLES[table], **values}
    await connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(row.values())})")


@pytest.fixture
async def shop(connection: Any) -> Any:
    """Give a connection to a database with one user and one product."""
    await insert(connection, "users")
    await insert(connection, "products", sku="'LAMP'")
    return connection


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("users", {"username": "''"}),
        ("users", {"email": "''"}),
        ("users", {"full_name": "''"}),
        ("products", {"price": "-0.01"}),
        ("products", {"price": "'NaN'"}),
        ("products", {"sku": "''"}),
        ("products", {"name": "''"}),
        ("products", {"category": "''"}),
        ("orders", {"quantity": "0"}),
        ("orders", {"quantity": "-1"}),
        ("orders", {"total_price": "-1"}),
        ("orders", {"total_price": "'NaN'"}),
        ("orders", {"status": "''"}),
        ("job_results", {"status": "'done'"}),
        ("job_results", {"result": "NULL"}),
        ("job_results", {"status": "'rejected'", "result": "NULL"}),
        ("job_results", {"status": "'failed'"}),
        ("job_results", {"reason": "'invalid'"}),
        ("job_results", {"requeued_at": "now()"}),
        ("job_results", {"attempts": "0"}),
    ],
)
async def test_a_row_that_contradicts_the_code_is_refused(shop: Any, table: str, values: dict[str, str]) -> None:
    """NaN included, which passes `price >= 0` alone."""
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(shop, table, **{"username": "'eve'", "email": "'e@x'"} | values if table == "users" else values)


@pytest.mark.parametrize(
    ("table", "values", "constraint"),
    [
        ("users", {"email": "'other@x'"}, "users_username_key"),
        ("users", {"username": "'other'"}, "users_email_key"),
        ("products", {"sku": "'LAMP'"}, "products_sku_key"),
        ("orders", {"job_id": "'twice'"}, "orders_job_id_key"),
    ],
)
async def test_a_key_is_there_once(shop: Any, table: str, values: dict[str, str], constraint: str) -> None:
    """The constraint's name is what `faults` reads the reason from."""
    if table == "orders":
        await insert(shop, table, **values)
    with pytest.raises(asyncpg.UniqueViolationError) as raised:
        await insert(shop, table, **values)
    assert constraint == raised.value.constraint_name


@pytest.mark.parametrize(
    ("values", "constraint"),
    [({"user_id": "99"}, "orders_user_id_fkey"), ({"product_id": "99"}, "orders_product_id_fkey")],
)
async def test_an_order_has_a_user_and_a_product(shop: Any, values: dict[str, str], constraint: str) -> None:
    """Also once they were ordered from: nobody deletes them under the order."""
    with pytest.raises(asyncpg.ForeignKeyViolationError) as raised:
        await insert(shop, "orders", **values)
    assert constraint == raised.value.constraint_name
    await insert(shop, "orders")
    for table in ("users", "products"):
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await shop.execute(f"DELETE FROM {table}")


@pytest.mark.parametrize(
    ("table", "values"),
    [
        ("products", {"price": "100000000"}),
        ("products", {"price": "'Infinity'"}),
        ("orders", {"total_price": "1e18"}),
        ("orders", {"quantity": "2147483648"}),
        ("users", {"username": "repeat('x', 51)", "email": "'e@x'"}),
        ("users", {"username": "'eve'", "email": "repeat('x', 256)"}),
    ],
)
async def test_a_value_beyond_its_column_is_refused(shop: Any, table: str, values: dict[str, str]) -> None:
    """Neither cut nor rounded."""
    with pytest.raises((asyncpg.NumericValueOutOfRangeError, asyncpg.StringDataRightTruncationError)):
        await insert(shop, table, **values)


async def test_products_without_a_sku_are_never_the_same(shop: Any) -> None:
    """Null is not equal to null."""
    for _ in range(2):
        await insert(shop, "products")


async def test_ids_are_the_databases_to_give(shop: Any) -> None:
    """A row that brings its own would collide with a later one."""
    with pytest.raises(asyncpg.GeneratedAlwaysError):
        await insert(shop, "users", id="5", username="'eve'", email="'e@x'")
