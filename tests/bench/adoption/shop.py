"""The shop of `examples/` on servers of its own, with a worker on stock arq or moved to Tidepool."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from arq import ArqRedis, create_pool
from arq.connections import RedisSettings

from lab.bench.drain import Place, System
from tidepool import embedded
from tidepool.settings import Settings

SYSTEMS = (
    System("stock", "tests.bench.adoption.settings.Stock"),
    System("moved", "tests.bench.adoption.settings.Moved"),
)
"""What is compared: the application as it was, and moved."""
_EXAMPLE = Path(__file__).parents[3] / "examples" / "shop"
_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Shop:
    """The shop's database and queue, and the environment of its processes."""

    database: Any
    redis: ArqRedis
    place: Place

    async def empty(self) -> None:
        """Delete all charges and everything in Redis, and make a checkpoint, so that none falls into what follows."""
        await self.redis.flushdb()
        await self.database.execute("TRUNCATE charges")
        await self.database.execute("CHECKPOINT")

    async def enqueue(self, orders: Iterable[int]) -> None:
        """Enqueue a charge of each of these orders, some at a time."""
        numbers = list(orders)
        for first in range(0, len(numbers), _AT_ONCE):
            some = numbers[first : first + _AT_ONCE]
            await asyncio.gather(*(self.redis.enqueue_job("charge", number, 990) for number in some))


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    """Run servers with an empty shop for the length of the block."""
    with tempfile.TemporaryDirectory(prefix="shop-") as home, embedded.join(Path(home)) as membership:
        urls = membership.urls
        environment = Settings.child_environment(
            DATABASE_URL=urls.database, REDIS_URL=urls.redis, PYTHONPATH=str(_EXAMPLE)
        )
        subprocess.run((sys.executable, "-m", "shop.db"), env=environment, check=True)
        database: Any = await asyncpg.connect(urls.database)
        redis = await create_pool(RedisSettings.from_dsn(urls.redis))
        try:
            yield Shop(database, redis, Place(environment))
        finally:
            await redis.aclose()
            await database.close()
