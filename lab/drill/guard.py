"""Protects servers that the user names for a drill: it refuses those that are in use, and asks for consent."""

import sys
from typing import LiteralString, cast

import asyncpg
from redis.exceptions import RedisError

from lab.bench.servers import connect
from tidepool.cli.terminal import CommandError
from tidepool.embedded import Urls
from tidepool.pool.connection import Connection, DirectConnection
from tidepool.queue import wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.state import QueueState
from tidepool.storage import queries
from tidepool.urls import without_password

_SQL = queries.load("guard", "lab.drill")


async def prepare(urls: Urls, queue: str, *, agreed: bool) -> None:
    """Check that the drill may break these servers, and delete what an earlier drill has left on them.

    The user is asked for consent unless *agreed* is true. Raises `CommandError` if the database or the queue is in use,
    if the user does not consent, or if the servers cannot be reached.
    """
    redis = RedisClient.open(urls.redis, queue_name=queue)
    connection: DirectConnection | None = None
    try:
        connection = await connect(urls.database)
        is_new = await _examine(connection)
        if jobs := await redis.zcard(queue):
            raise CommandError(f"the queue {queue} has {jobs} jobs: the drill takes an empty one")
        if not agreed:
            _ask(urls)
        if not is_new:
            await connection.execute(_SQL["empty"])
        await QueueState(redis).release_owners("")
        async for key in redis.scan_iter(f"{wire.RESULT}drill-*", count=1000):
            await redis.delete(key)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, RedisError) as error:
        raise CommandError(f"the servers cannot be examined: {type(error).__name__}: {error}") from None
    finally:
        if connection is not None:
            await connection.close()
        await redis.aclose(close_connection_pool=True)


async def _examine(connection: Connection) -> bool:
    """Return whether the database has none of the service's tables.

    Raises `CommandError` if workers are connected to it, or if it has rows that are not a drill's.
    """
    if workers := await connection.fetchval(_SQL["workers"]):
        raise CommandError(f"workers have {workers} connections to this database: the drill takes one that is at rest")
    taken = [
        table
        for (table,) in await connection.fetch(_SQL["tables"])
        if await connection.fetchval(cast("LiteralString", f"SELECT EXISTS (SELECT FROM {table})"))  # noqa: S608  (quoted by PostgreSQL)
    ]
    is_new: bool = await connection.fetchval(_SQL["is_new"])
    if not is_new:
        taken += [table for (table,) in await connection.fetch(_SQL["strangers"])]
    if taken:
        raise CommandError(f"the database has rows that are not the drill's, in {', '.join(taken)}: name an empty one")
    return is_new


def _ask(urls: Urls) -> None:
    """Ask the user at the terminal for consent. Raises `CommandError` without it, or if there is no terminal."""
    if not sys.stdin.isatty():
        raise CommandError("there is no terminal to ask for consent: --yes agrees that these servers may be broken")
    print(  # noqa: T201  (a question to the user)
        f"The drill will lock tables of, and end sessions at, {without_password(urls.database)}\n"
        f"and put its jobs into {without_password(urls.redis)}; what an earlier drill has left there is removed.",
        file=sys.stderr,
    )
    if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was done")
