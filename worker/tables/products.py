"""The products table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from tidepool import Connection, NotStored, encode_rows, load_queries
from worker.reasons import ShopReason

_SQL = load_queries("products", "worker.tables")
CONSTRAINTS = {"products_sku_key": ShopReason.SKU_TAKEN}
"""The reason for which a job is rejected that breaks a constraint."""


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


MAX_PAGE_BYTES = 1024 * 1024
"""Max bytes of the descriptions in one list of products: each may have a megabyte."""


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
    """Whether a product is in stock. Either its id or its sku is given."""

    @property
    def product_id(self) -> int | None: ...
    @property
    def sku(self) -> str | None: ...
    @property
    def in_stock(self) -> bool: ...


class ProductRepository:
    """Products, over one connection. It opens no transaction, because writes belong to the ledger's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self, products: Sequence[_NewProduct]) -> list[int | ShopReason]:
        """Insert products; returns for each, in order, the new id, or SKU_TAKEN."""
        given = encode_rows((p.sku, p.name, p.description, p.price, p.category, p.in_stock) for p in products)
        created = await self._connection.fetch(_SQL["create"], given)
        refused = [product.sku for product, row in zip(products, created, strict=True) if row["id"] is None]
        if refused:
            await self._require_taken(refused)
        return [row["id"] or ShopReason.SKU_TAKEN for row in created]

    async def _require_taken(self, skus: Sequence[str | None]) -> None:
        """Raise `NotStored` unless each of the skus, which were not inserted, is there."""
        taken = {row["sku"] for row in await self._connection.fetch(_SQL["taken"], [sku for sku in skus if sku])}
        if not taken.issuperset(skus):
            raise NotStored("a product was not inserted, though its sku is not taken: by a trigger?")

    async def set_stock(self, changes: Sequence[_StockChange]) -> list[int | ShopReason]:
        """Set if products are in stock; the last change of a product wins.

        Returns for each, in order, the product's id, or UNKNOWN_PRODUCT.
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
        """Return up to *limit* products in the order of their ids; the last id begins the next page.

        The list ends earlier with the product whose description makes them `MAX_PAGE_BYTES` together.
        """
        found = await self._connection.fetch(_SQL["list_page"], after_id, limit, MAX_PAGE_BYTES)
        return [Product(**dict(row.items())) for row in found]

    async def by_category(self, category: str, *, after_id: int = 0, limit: int = 100) -> list[Product]:
        """Return up to *limit* products of a category, as `list_page` does."""
        found = await self._connection.fetch(_SQL["by_category"], category, after_id, limit, MAX_PAGE_BYTES)
        return [Product(**dict(row.items())) for row in found]
