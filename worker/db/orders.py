"""The orders table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from worker.db import queries
from worker.db.connection import Connection, Row
from worker.jobs.job import Job
from worker.jobs.place_order import PlaceOrder
from worker.jobs.ports import PlacedOrder
from worker.outcomes import Reason

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
        commands = [job.command for job in jobs]
        rows = await self._connection.fetch(
            _SQL["place"],
            [job.id for job in jobs],
            [command.user_id for command in commands],
            [command.username for command in commands],
            [command.product_id for command in commands],
            [command.sku for command in commands],
            [command.quantity for command in commands],
            [command.total_price for command in commands],
            [command.status for command in commands],
        )
        return [_placed(row) for row in rows]

    async def of_user(self, user_id: int, *, before_id: int = _NEWEST, limit: int = 100) -> list[Order]:
        """Return up to *limit* of a user's orders, newest first; the last one's id begins the next page."""
        rows = await self._connection.fetch(_SQL["of_user"], user_id, before_id, limit)
        return [Order(**dict(row.items())) for row in rows]


def _placed(row: Row) -> PlacedOrder | Reason:
    return Reason(row["refusal"]) if row["refusal"] else PlacedOrder(row["id"], row["total_price"])
