"""The job that every peer runs: insert one user in a transaction of its own, and return its id."""

import os
from typing import Any

DATABASE = os.environ["BENCH_DATABASE_URL"]
REDIS = os.environ["BENCH_REDIS_URL"]
POOL_SIZE = 10
"""Connections of a process: with no queue in front, 10 did more transactions here than 20 or 50."""
CHUNK = 500


async def open_pool() -> Any:
    """Open asyncpg's pool."""
    import asyncpg

    return await asyncpg.create_pool(DATABASE, min_size=POOL_SIZE, max_size=POOL_SIZE)


async def create_user(pool: Any, number: int) -> int:
    """Insert user *number*."""
    async with pool.acquire() as connection, connection.transaction():
        return await connection.fetchval(
            "INSERT INTO users (username, email, full_name) VALUES ($1, $2, 'Bench') RETURNING id", *_keys(number)
        )


def open_blocking_pool() -> Any:
    """Open psycopg's pool, for peers that run jobs in threads or processes."""
    from psycopg_pool import ConnectionPool

    return ConnectionPool(DATABASE, min_size=1, max_size=POOL_SIZE, open=True)


def create_user_blocking(pool: Any, number: int) -> int:
    """Insert user *number*."""
    with pool.connection() as connection:
        return connection.execute(
            "INSERT INTO users (username, email, full_name) VALUES (%s, %s, 'Bench') RETURNING id", _keys(number)
        ).fetchone()[0]


def chunks(count: int) -> list[range]:
    """Return the numbers of *count* jobs in pieces for one bulk call."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def _keys(number: int) -> tuple[str, str]:
    return f"bench-{number}", f"bench-{number}@example.org"
