"""The job type `set_stock`: sets whether a product can be ordered."""

from collections.abc import Sequence
from typing import Self

from pydantic import model_validator

from tidepool import Applied, Command, Job, LeftOut, Transaction, Unresolved, Verdict
from worker.jobs.fields import Id, Sku
from worker.reasons import ShopReason
from worker.service import app
from worker.tables.products import ProductRepository


class SetStock(Command):
    """The fields of a `set_stock` job: a product, and whether it can be ordered from now on.

    The product is named by either `product_id` or `sku`.
    """

    product_id: LeftOut[Id] = None
    sku: LeftOut[Sku] = None
    in_stock: bool

    @model_validator(mode="after")
    def _names_one_product(self) -> Self:
        self.require_exactly_one("product_id", "sku")
        return self


@app.batch(identity=True, grants=("SELECT, UPDATE (in_stock) ON public.products",))
async def set_stock(transaction: Transaction, jobs: Sequence[Job[SetStock]]) -> list[Verdict]:
    """Set whether the jobs' products are in stock. A job whose product does not exist yet is retried later.

    It is rejected if the product is still missing when its attempts are used up. Returns a verdict for each job, in
    order.
    """
    changed = await ProductRepository(transaction).set_stock([job.command for job in jobs])
    return [
        Unresolved(product) if isinstance(product, ShopReason) else Applied({"product_id": product})
        for product in changed
    ]
