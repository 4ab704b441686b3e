"""Batches that touch the same rows in opposite orders: they wait for each other in a line, never in a circle.

A deadlock would be retried and go unnoticed, a second later each time. Here it is made certain where rows are not
sorted: somebody holds the row in the middle until both batches wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from factories import a_change, a_product, a_stock, a_user
from tables import Tables
from waiting import until

from tidepool.pool.pool import Pool
from tidepool.storage.results import Entry

NAMES = ["a", "m", "z"]
Batch = Callable[[Tables, Sequence[str]], Awaitable[Any]]


def create_users(repositories: Tables, names: Sequence[str]) -> Awaitable[Any]:
    """Create users of these names."""
    return repositories.users.create([a_user(name) for name in names])


def create_products(repositories: Tables, names: Sequence[str]) -> Awaitable[Any]:
    """Create products with these skus."""
    return repositories.products.create([a_product(name) for name in names])


def write_rows(repositories: Tables, names: Sequence[str]) -> Awaitable[Any]:
    """Write the ledger rows of jobs with these ids."""
    entries = [Entry(name, "failed", None, None, "gave up", None, 1, 0, 0, 0, 0) for name in names]
    return repositories.results.write("create_user", entries, worker_id="w", db_us=0)


def update_users(repositories: Tables, names: Sequence[str]) -> Awaitable[Any]:
    """Change users of these names, who are there."""
    return repositories.users.update([a_change(name, is_active=False) for name in names])


def set_stock(repositories: Tables, names: Sequence[str]) -> Awaitable[Any]:
    """Set the stock of products with these skus, which are there."""
    return repositories.products.set_stock([a_stock(name, in_stock=False) for name in names])


async def both_wait(connection: Any) -> bool:
    """Return whether two sessions wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return await connection.fetchval(query) == 2


@pytest.mark.parametrize(
    ("batch", "given"),
    [
        (create_users, None),
        (create_products, None),
        (write_rows, None),
        (update_users, create_users),
        (set_stock, create_products),
    ],
    ids=lambda batch: batch and batch.__name__,
)
async def test_two_batches_in_opposite_orders_do_not_deadlock(
    batch: Batch, given: Batch | None, pool: Pool, connection: Any
) -> None:
    """Both get through, one after the other."""
    if given:
        await given(Tables(connection), NAMES)
    in_the_middle = connection.transaction()
    await in_the_middle.start()
    await batch(Tables(connection), ["m"])

    async def run(names: Sequence[str]) -> None:
        async with pool.transaction() as own:
            await batch(Tables(own), names)

    running = [asyncio.create_task(run(names)) for names in (NAMES, NAMES[::-1])]
    async with pool.acquire() as watching:
        await until(lambda: both_wait(watching))
    await in_the_middle.rollback()
    await asyncio.gather(*running)
