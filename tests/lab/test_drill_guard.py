"""What the drill asks before it breaks servers that are not its own."""

from typing import Any

import pytest

from lab.drill.guard import prepare
from tidepool.cli.terminal import CommandError
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.storage import queries

QUEUE = "arq:queue"


async def test_an_empty_database_of_ours_is_taken(database: PoolConfig, redis_url: str) -> None:
    """Also if migrations wrote rows, and a second time."""
    for _ in range(2):
        await prepare(Urls(database.url, redis_url), QUEUE, agreed=True)


async def test_every_table_of_the_migrations_is_known(connection: Any) -> None:
    """It is not taken for a stranger's."""
    assert [] == await connection.fetch(queries.load("guard", "lab.drill")["tables"])


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("INSERT INTO users (username, email, full_name) VALUES ('ada', 'ada@example.org', 'Ada')", "users"),
        ("INSERT INTO products (sku, name, price, category) VALUES ('tea', 'Tea', 1, 'Drinks')", "products"),
        ("CREATE TABLE invoices AS SELECT 1 AS id", "public.invoices"),
    ],
)
async def test_rows_of_others_are_refused(
    database: PoolConfig, redis_url: str, connection: Any, statement: str, table: str
) -> None:
    """By the names of their tables."""
    await connection.execute(statement)
    with pytest.raises(CommandError, match=rf"rows that are not the drill's, in {table}:"):
        await prepare(Urls(database.url, redis_url), QUEUE, agreed=True)
