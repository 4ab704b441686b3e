"""The shop of `examples/` on servers of its own, and the forms in which its charges are run."""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
from arq import ArqRedis, create_pool
from arq.connections import RedisSettings

from lab.bench.drain import Place, System
from lab.bench.servers import QUEUE
from tests.bench.adoption import once, sessions
from tidepool import JobClient, embedded
from tidepool.jobs.job_type import Call
from tidepool.queue.connection import RedisClient
from tidepool.settings import Settings

_ONCE = "tests.bench.adoption.once.WorkerSettings"


@dataclass(frozen=True, slots=True)
class Form:
    """A form in which charges are run: a worker's settings, and how a charge is enqueued."""

    system: System
    call: Callable[[int, int], Call[int]] | None
    """Makes a job of an order and its cents; None: arq's client enqueues it."""
    charges: int = 1
    """How many charges an order has in the end: a job may enqueue others."""

    @property
    def name(self) -> str:
        """The name by which the form is chosen and reported."""
        return self.system.name


FORMS = (
    Form(System("stock", "tests.bench.adoption.settings.Stock"), None),
    Form(System("moved", "tests.bench.adoption.settings.Moved"), None),
    Form(System("job", _ONCE), once.charge_alone.call),
    Form(System("share", _ONCE), once.charge_sharing.call),
    Form(System("complete", _ONCE), once.charge_completing.call),
    Form(System("session", "tests.bench.adoption.sessions.WorkerSettings"), sessions.charge_on_session.call),
    Form(System("chain", _ONCE), once.chain_first.call, charges=3),
    Form(System("batch", _ONCE), lambda order, cents: once.charge_batch.call(once.Charge(order_id=order, cents=cents))),
)
"""What is compared: the application as it was, moved by `adopt`, and its charge as a job of a `tidepool.App`."""


def add_forms(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the option that chooses forms, by default those that *default* names."""
    known = {form.name: form for form in FORMS}
    parser.add_argument(
        "--forms",
        type=lambda text: [known[name] for name in text.split(",")],
        default=[known[name] for name in default.split(",")],
        metavar="A,B",
        help=f"which of {', '.join(known)} (default {default})",
    )


_EXAMPLE = Path(__file__).parents[3] / "examples" / "shop"
_AT_ONCE = 50
_CENTS = 990
_STARTED = "SELECT count(*) FROM tidepool.pool_processes WHERE started_at > $1"
_RUNNING = "shop:workers"
"""The key under which the shop's start hook lists each worker."""


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

    async def started(self, form: Form, since: datetime) -> int:
        """Return how many workers of this form have started since a time, and run."""
        if form.call is None:
            return await self.redis.scard(_RUNNING)
        try:
            return await self.database.fetchval(_STARTED, since)
        except asyncpg.UndefinedTableError:  # the first one makes it
            return 0

    async def is_busy(self, form: Form) -> bool:
        """Return whether there are jobs that have not ended, in Redis or in the outbox."""
        if await self.redis.zcard(QUEUE):
            return True
        return form.charges > 1 and await self.database.fetchval("SELECT EXISTS (SELECT FROM tidepool.job_outbox)")

    async def enqueue(self, form: Form, orders: Iterable[int]) -> None:
        """Enqueue a charge of each of these orders, some at a time."""
        numbers = list(orders)
        if form.call is not None:
            await once.app.enqueue_many(form.call(number, _CENTS) for number in numbers)
            return
        for first in range(0, len(numbers), _AT_ONCE):
            some = numbers[first : first + _AT_ONCE]
            await asyncio.gather(*(self.redis.enqueue_job("charge", number, _CENTS) for number in some))


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
        client = RedisClient.open(urls.redis, queue_name=QUEUE)
        try:
            with once.app.use(JobClient(client), once.app.settings.load(environment)):
                yield Shop(database, redis, Place(environment))
        finally:
            await client.aclose(close_connection_pool=True)
            await redis.aclose()
            await database.close()
