"""The shop's tables, in the PostgreSQL database that DATABASE_URL names. `python -m shop.db` creates them."""

import asyncio
import os
from typing import Any

import asyncpg

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text   NOT NULL UNIQUE,
    name  text   NOT NULL
);
CREATE TABLE IF NOT EXISTS orders (
    id        bigint         GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id   bigint         NOT NULL REFERENCES users,
    ref       uuid           NOT NULL UNIQUE,
    total     numeric(12, 2) NOT NULL,
    placed_at timestamptz    NOT NULL,
    status    text           NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'paid', 'cancelled'))
);
CREATE TABLE IF NOT EXISTS charges ( -- kept longer than the orders, so without a foreign key
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   bigint      NOT NULL,
    cents      bigint      NOT NULL,
    charged_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""


def database_url() -> str:
    """Return the URL of the shop's database."""
    return os.environ.get("DATABASE_URL", "postgresql://localhost/shop")


async def open_pool() -> Any:
    """Open a pool of ten connections to the shop's database."""
    return await asyncpg.create_pool(database_url(), min_size=10, max_size=10)


async def create_tables() -> None:
    """Create the tables that are missing."""
    connection: Any = await asyncpg.connect(database_url())
    try:
        await connection.execute(SCHEMA)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(create_tables())
