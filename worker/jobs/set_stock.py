"""The job type `set_stock`: whether a product can be ordered."""

from collections.abc import Sequence
from typing import Self

from pydantic import model_validator

from tidepool import Applied, Command, Job, JobType, LeftOut, Transaction, Unresolved, Verdict
from worker.jobs.fields import Id, Sku
from worker.reasons import ShopReason
from worker.tables.products import ProductRepository


class SetStock(Command):
    """Whether a product can be ordered from now on."""

    product_id: LeftOut[Id] = None
    sku: LeftOut[Sku] = None
    in_stock: bool

    @model_validator(mode="after")
    def _names_one_product(self) -> Self:
        self.require_exactly_one("product_id", "sku")
        return self


async def set_stock(transaction: Transaction, jobs: Sequence[Job[SetStock]]) -> list[Verdict]:
    """Set the products' stock. A job whose product does not exist yet is tried again later."""
    changed = await ProductRepository(transaction).set_stock([job.command for job in jobs])
    return [
        Unresolved(product) if isinstance(product, ShopReason) else Applied({"product_id": product})
        for product in changed
    ]


JOB = JobType("set_stock", SetStock, set_stock, grants=("SELECT, UPDATE (in_stock) ON products",))
