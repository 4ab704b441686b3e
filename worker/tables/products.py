"""The table `products`: its rows, and the repository that inserts, changes and reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from tidepool import Connection, NotStored, encode_rows, load_queries
from worker.reasons import ShopReason

_SQL = load_queries("products", "worker.tables")
CONSTRAINTS = {"products_sku_key": ShopReason.SKU_TAKEN}
"""The constraints of the table, each with the reason for which a job that violates it is rejected."""


@dataclass(frozen=True, slots=True)
class Product:
    """A row of the table `products`."""

    id: int
    sku: str | None
    name: str
    description: str
    price: Decimal
    category: str
    in_stock: bool
    created_at: datetime


MAX_PAGE_BYTES = 1024 * 1024
"""Max bytes of all descriptions on one page of products (1 MiB), since a single description may have as many."""


class _NewProduct(Protocol):
    """The values of a new row."""

    @property
    def sku(self) -> str | None: ...
    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def price(self) -> Decimal: ...
    @property
    def category(self) -> str: ...
    @property
    def in_stock(self) -> bool: ...


class _StockChange(Protocol):
    """A change of whether a product is in stock. The product is given by either id or sku."""

    @property
    def product_id(self) -> int | None: ...
    @property
    def sku(self) -> str | None: ...
    @property
    def in_stock(self) -> bool: ...


class ProductRepository:
    """Inserts, changes and reads products over one connection.

    It opens no transaction: a job's writes belong to the transaction that also writes the job's outcome to the ledger.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self, products: Sequence[_NewProduct]) -> list[int | ShopReason]:
        """Insert products. Returns for each, in order, the new id, or SKU_TAKEN if a product has this sku already.

        Raises `NotStored` if a trigger dropped a row.
        """
        given = encode_rows((p.sku, p.name, p.description, p.price, p.category, p.in_stock) for p in products)
        created = await self._connection.fetch(_SQL["create"], given)
        refused = [product.sku for product, row in zip(products, created, strict=True) if row["id"] is None]
        if refused:
            await self._require_taken(refused)
        return [row["id"] or ShopReason.SKU_TAKEN for row in created]

    async def _require_taken(self, skus: Sequence[str | None]) -> None:
        """Raise `NotStored` if one of *skus* does not exist. They are the skus of rows that were not inserted."""
        taken = {row["sku"] for row in await self._connection.fetch(_SQL["taken"], [sku for sku in skus if sku])}
        if not taken.issuperset(skus):
            raise NotStored("a product was not inserted, though its sku is not taken: by a trigger?")

    async def set_stock(self, changes: Sequence[_StockChange]) -> list[int | ShopReason]:
        """Set whether products are in stock. If a product has several changes, the last one counts.

        Returns for each change, in order, the product's id, or UNKNOWN_PRODUCT. Raises `NotStored` if a trigger dropped
        a change.
        """
        given = encode_rows((c.product_id, c.sku, c.in_stock) for c in changes)
        changed = await self._connection.fetch(_SQL["set_stock"], given)
        if any(row["found"] and not row["id"] for row in changed):
            raise NotStored("a product was not updated, though it is there: by a trigger?")
        return [row["id"] or ShopReason.UNKNOWN_PRODUCT for row in changed]

    async def get_by_id(self, product_id: int) -> Product | None:
        """Return the product with this id, or None."""
        row = await self._connection.fetchrow(_SQL["get_by_id"], product_id)
        return None if row is None else Product(**dict(row.items()))

    async def list_page(self, *, after_id: int = 0, limit: int = 100) -> list[Product]:
        """Return up to *limit* products whose ids are greater than *after_id*, in the order of their ids.

        The page ends earlier if its descriptions reach `MAX_PAGE_BYTES` together. For the next page, *after_id* is the
        id of the last product of this page.
        """
        found = await self._connection.fetch(_SQL["list_page"], after_id, limit, MAX_PAGE_BYTES)
        return [Product(**dict(row.items())) for row in found]

    async def by_category(self, category: str, *, after_id: int = 0, limit: int = 100) -> list[Product]:
        """Return up to *limit* products of the category *category* whose ids are greater than *after_id*, by id.

        Pages work as those of `list_page`.
        """
        found = await self._connection.fetch(_SQL["by_category"], category, after_id, limit, MAX_PAGE_BYTES)
        return [Product(**dict(row.items())) for row in found]
