"""The table `orders`: its rows, and the repository that inserts and reads them."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from tidepool import Connection, NotStored, Row, encode_rows, load_queries
from worker.reasons import ShopReason

_SQL = load_queries("orders", "worker.tables")
CONSTRAINTS = {
    "orders_user_id_fkey": ShopReason.UNKNOWN_USER,
    "orders_product_id_fkey": ShopReason.UNKNOWN_PRODUCT,
}
"""The constraints of the table, each with the reason for which a job that violates it is rejected."""
_NEWEST = 2**63 - 1
"""The greatest possible id. As *before_id*, it gives the page that begins with the newest order."""


@dataclass(frozen=True, slots=True)
class Order:
    """A row of the table `orders`, with the current sku, name, price and category of the ordered product."""

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


class _NewOrder(Protocol):
    """The values of a new row. The user is given by either id or username, the product by either id or sku."""

    @property
    def user_id(self) -> int | None: ...
    @property
    def username(self) -> str | None: ...
    @property
    def product_id(self) -> int | None: ...
    @property
    def sku(self) -> str | None: ...
    @property
    def quantity(self) -> int: ...
    @property
    def total_price(self) -> Decimal | None:
        """The total price to store; None for the product's price times the quantity."""
        ...

    @property
    def status(self) -> str: ...


class OrderRepository:
    """Inserts and reads orders over one connection.

    It opens no transaction: a job's writes belong to the transaction that also writes the job's outcome to the ledger.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def place(self, orders: Iterable[tuple[str, _NewOrder]]) -> list[tuple[int, Decimal] | ShopReason]:
        """Insert orders, each given as the id of its job and the order's values.

        Returns for each, in order, its id and total price, or the reason why it was not inserted: the first of
        UNKNOWN_USER, UNKNOWN_PRODUCT, INACTIVE_USER and OUT_OF_STOCK that applies. Raises `NotStored` if a trigger
        dropped a row.
        """
        given = encode_rows(
            (job_id, o.user_id, o.username, o.product_id, o.sku, o.quantity, o.total_price, o.status)
            for job_id, o in orders
        )
        return [_placed(row) for row in await self._connection.fetch(_SQL["place"], given)]

    async def get_by_id(self, order_id: int) -> Order | None:
        """Return the order with this id, or None."""
        row = await self._connection.fetchrow(_SQL["get_by_id"], order_id)
        return None if row is None else Order(**dict(row.items()))

    async def newest(self, *, before_id: int = _NEWEST, limit: int = 100) -> list[Order]:
        """Return up to *limit* orders whose ids are less than *before_id*, the newest first.

        For the next page, *before_id* is the id of the last order of this page.
        """
        found = await self._connection.fetch(_SQL["newest"], before_id, limit)
        return [Order(**dict(row.items())) for row in found]

    async def of_user(self, user_id: int, *, before_id: int = _NEWEST, limit: int = 100) -> list[Order]:
        """Return up to *limit* orders of a user whose ids are less than *before_id*, the newest first.

        For the next page, *before_id* is the id of the last order of this page.
        """
        found = await self._connection.fetch(_SQL["of_user"], user_id, before_id, limit)
        return [Order(**dict(row.items())) for row in found]


def _placed(row: Row) -> tuple[int, Decimal] | ShopReason:
    if row["refusal"]:
        return ShopReason(row["refusal"])
    if row["id"] is None:
        raise NotStored("an order was not inserted, though nothing refuses it: by a trigger?")
    return row["id"], row["total_price"]
