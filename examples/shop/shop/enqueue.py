"""Places generated orders, as the shop's web site does: `python -m shop.enqueue --orders 100`."""

import argparse
import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal

from arq import ArqRedis, create_pool
from arq.jobs import Job

from shop.tasks import REDIS, Basket, Buyer, Line


async def place_orders(redis: ArqRedis, count: int) -> AsyncIterator[Job]:
    """Enqueue *count* orders of a few buyers; yield their jobs."""
    for number in range(count):
        buyer = Buyer(f"buyer{number % 10}@example.com", f"Buyer {number % 10}")
        basket = Basket(lines=[Line(sku=f"SKU-{number % 7}", quantity=1 + number % 3, price=Decimal("4.95"))])
        job = await redis.enqueue_job("place_order", buyer, basket, ref=uuid.uuid4(), at=datetime.now(UTC))
        if job is not None:
            yield job


async def main() -> None:
    """Enqueue the orders that the command line asks for, wait for them, and print how many there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=100, metavar="N", help="orders to place (default 100)")
    arguments = parser.parse_args()
    redis = await create_pool(REDIS)
    jobs = [job async for job in place_orders(redis, arguments.orders)]
    placed = await asyncio.gather(*(job.result(timeout=60) for job in jobs))
    await redis.aclose()
    print(f"placed {len(placed)} orders")


if __name__ == "__main__":
    asyncio.run(main())
