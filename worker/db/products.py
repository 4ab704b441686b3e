"""The products table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from worker.db import queries
from worker.db.connection import Connection
from worker.jobs.create_product import CreateProduct
from worker.jobs.set_stock import SetStock
from worker.outcomes import Reason

_SQL = queries.load("products")


@dataclass(frozen=True, slots=True)
class Product:
    """A row of products."""

    id: int
    sku: str | None
    name: str
    description: str
    price: Decimal
    category: str
    in_stock: bool
    created_at: datetime


class ProductRepository:
    """Products, over one connection. Opens no transaction: writes belong to the ledger's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self, commands: Sequence[CreateProduct]) -> list[int | Reason]:
        """See `worker.jobs.ports.Products.create`."""
        rows = await self._connection.fetch(
            _SQL["create"],
            [command.sku for command in commands],
            [command.name for command in commands],
            [command.description for command in commands],
            [command.price for command in commands],
            [command.category for command in commands],
            [command.in_stock for command in commands],
        )
        return [row["id"] or Reason.SKU_TAKEN for row in rows]

    async def set_stock(self, commands: Sequence[SetStock]) -> list[int | Reason]:
        """See `worker.jobs.ports.Products.set_stock`."""
        rows = await self._connection.fetch(
            _SQL["set_stock"],
            [command.product_id for command in commands],
            [command.sku for command in commands],
            [command.in_stock for command in commands],
        )
        return [row["id"] or Reason.UNKNOWN_PRODUCT for row in rows]

    async def by_category(self, category: str, *, after_id: int = 0, limit: int = 100) -> list[Product]:
        """Return up to *limit* products of a category in the order of their ids; the last id begins the next page."""
        rows = await self._connection.fetch(_SQL["by_category"], category, after_id, limit)
        return [Product(**dict(row.items())) for row in rows]
