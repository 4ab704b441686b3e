"""What a handler may ask of storage.

Handlers see these interfaces and nothing behind them: `tidepool.storage` implements them on PostgreSQL, the
tests with dictionaries, and one suite runs on both. Every method takes a whole batch and answers in
its order; each works inside the transaction that the ledger opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from tidepool.jobs.job import Job
    from tidepool.jobs.outcomes import Reason
    from worker.jobs.create_product import CreateProduct
    from worker.jobs.create_user import CreateUser
    from worker.jobs.place_order import PlaceOrder
    from worker.jobs.set_stock import SetStock
    from worker.jobs.update_user import UpdateUser


class PlacedOrder(NamedTuple):
    """A new order and what it costs in all."""

    order_id: int
    total_price: Decimal


class Users(Protocol):
    """The users."""

    async def create(self, commands: Sequence[CreateUser]) -> Sequence[int | Reason]:
        """Insert users. Answers the new id, or USERNAME_TAKEN or EMAIL_TAKEN."""
        ...

    async def update(self, commands: Sequence[UpdateUser]) -> Sequence[int | Reason]:
        """Set the given fields, in order where one user has several commands.

        Answers the user's id, or UNKNOWN_USER. An email that is taken fails the whole batch with a data
        fault, which the ledger isolates.
        """
        ...


class Products(Protocol):
    """The products."""

    async def create(self, commands: Sequence[CreateProduct]) -> Sequence[int | Reason]:
        """Insert products. Answers the new id, or SKU_TAKEN."""
        ...

    async def set_stock(self, commands: Sequence[SetStock]) -> Sequence[int | Reason]:
        """Set whether products are in stock; the last command of a product wins. Answers its id, or UNKNOWN_PRODUCT."""
        ...


class Orders(Protocol):
    """The orders."""

    async def place(self, jobs: Sequence[Job[PlaceOrder]]) -> Sequence[PlacedOrder | Reason]:
        """Insert orders, each under its job's id.

        Answers the order, or UNKNOWN_USER, UNKNOWN_PRODUCT, INACTIVE_USER or OUT_OF_STOCK, the first that holds.
        """
        ...


class Repositories(Protocol):
    """The repositories of one transaction."""

    @property
    def users(self) -> Users: ...  # noqa: D102  (says it all)
    @property
    def products(self) -> Products: ...  # noqa: D102
    @property
    def orders(self) -> Orders: ...  # noqa: D102
