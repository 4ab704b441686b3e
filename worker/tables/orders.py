"""The orders table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Reason
from tidepool.pool.connection import Connection, Row
from tidepool.pool.faults import NotStored
from tidepool.storage import queries, rows
from worker.jobs.place_order import PlaceOrder
from worker.jobs.ports import PlacedOrder

_SQL = queries.load("orders")
_NEWEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Order:
    """A row of orders with the product's present details."""

    id: int
    job_id: str | None
    user_id: int
    product_id: int
    quantity: int
    total_price: Decimal
    status: str
    created_at: datetime
    sku: str | None
    product_name: str
    price: Decimal
    category: str


class OrderRepository:
    """Orders, over one connection. Opens no transaction: writes belong to the ledger's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def place(self, jobs: Sequence[Job[PlaceOrder]]) -> list[PlacedOrder | Reason]:
        """See `worker.jobs.ports.Orders.place`."""
        return [_placed(row) for row in await self._connection.fetch(_SQL["place"], rows.encode(map(_row, jobs)))]

    async def get_by_id(self, order_id: int) -> Order | None:
        """Return the order with this id, or None."""
        row = await self._connection.fetchrow(_SQL["get_by_id"], order_id)
        return None if row is None else Order(**dict(row.items()))

    async def newest(self, *, before_id: int = _NEWEST, limit: int = 100) -> list[Order]:
        """Return up to *limit* orders, newest first; the last one's id begins the next page."""
        found = await self._connection.fetch(_SQL["newest"], before_id, limit)
        return [Order(**dict(row.items())) for row in found]

    async def of_user(self, user_id: int, *, before_id: int = _NEWEST, limit: int = 100) -> list[Order]:
        """Return up to *limit* of a user's orders, newest first; the last one's id begins the next page."""
        found = await self._connection.fetch(_SQL["of_user"], user_id, before_id, limit)
        return [Order(**dict(row.items())) for row in found]


def _row(job: Job[PlaceOrder]) -> tuple[object, ...]:
    c = job.command
    return job.id, c.user_id, c.username, c.product_id, c.sku, c.quantity, c.total_price, c.status


def _placed(row: Row) -> PlacedOrder | Reason:
    if row["refusal"]:
        return Reason(row["refusal"])
    if row["id"] is None:
        raise NotStored("an order was not inserted, though nothing refuses it: by a trigger?")
    return PlacedOrder(row["id"], row["total_price"])
