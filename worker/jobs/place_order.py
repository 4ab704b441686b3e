"""The job type `place_order`: inserts an order of a user for a product."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Self

from pydantic import Field, model_validator

from tidepool import Applied, Command, Job, LeftOut, Rejected, Transaction, Unresolved, Verdict
from worker.jobs.fields import Id, Money, Sku, Username, VisibleText
from worker.reasons import ShopReason
from worker.service import app
from worker.tables.orders import CONSTRAINTS, OrderRepository

_MAY_STILL_COME = (ShopReason.UNKNOWN_USER, ShopReason.UNKNOWN_PRODUCT)


class PlaceOrder(Command):
    """The fields of a `place_order` job: an order of one product by one user.

    The user is named by either `user_id` or `username`, the product by either `product_id` or `sku`.
    """

    user_id: LeftOut[Id] = None
    username: LeftOut[Username] = None
    product_id: LeftOut[Id] = None
    sku: LeftOut[Sku] = None
    quantity: Annotated[int, Field(ge=1, le=2**31 - 1)]
    total_price: LeftOut[Annotated[Money, Field(le=Decimal("999999999999999999.99"))]] = None
    """The total price to store. If it is left out, the product's price times the quantity."""
    status: Annotated[VisibleText, Field(max_length=50)] = "pending"

    @model_validator(mode="after")
    def _names_one_of_each(self) -> Self:
        self.require_exactly_one("user_id", "username")
        self.require_exactly_one("product_id", "sku")
        return self


@app.batch(
    identity=True,
    constraints=CONSTRAINTS,
    grants=("SELECT ON public.users, public.products", "SELECT, INSERT ON public.orders"),
)
async def place_order(transaction: Transaction, jobs: Sequence[Job[PlaceOrder]]) -> list[Verdict]:
    """Insert an order for each job. A job whose user or product does not exist yet is retried later.

    A job is rejected if the user is inactive, if the product is out of stock, or if user or product are still missing
    when its attempts are used up. Returns a verdict for each job, in order; an applied job's result is the `order_id`
    and the `total_price`.
    """
    return [
        _verdict(placed) for placed in await OrderRepository(transaction).place((job.id, job.command) for job in jobs)
    ]


def _verdict(placed: tuple[int, Decimal] | ShopReason) -> Verdict:
    if isinstance(placed, ShopReason):
        return Unresolved(placed) if placed in _MAY_STILL_COME else Rejected(placed)
    order_id, total_price = placed
    return Applied({"order_id": order_id, "total_price": str(total_price)})
