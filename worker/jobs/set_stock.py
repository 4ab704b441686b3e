"""Say whether a product is in stock."""

from collections.abc import Sequence
from typing import Self

from pydantic import model_validator

from tidepool.jobs.job import Job, JobType
from tidepool.jobs.outcomes import Applied, Reason, Unresolved, Verdict
from worker.jobs.fields import Command, Id, LeftOut, Sku
from worker.jobs.ports import Repositories


class SetStock(Command):
    """Whether a product can be ordered from now on."""

    product_id: LeftOut[Id] = None
    sku: LeftOut[Sku] = None
    in_stock: bool

    @model_validator(mode="after")
    def _names_one_product(self) -> Self:
        self.require_exactly_one("product_id", "sku")
        return self


async def set_stock(jobs: Sequence[Job[SetStock]], repositories: Repositories) -> list[Verdict]:
    """Set the products' stock. A product that is not there yet may be on its way: then the job is tried again."""
    changed = await repositories.products.set_stock([job.command for job in jobs])
    return [
        Unresolved(product) if isinstance(product, Reason) else Applied({"product_id": product}) for product in changed
    ]


JOB = JobType("set_stock", SetStock, set_stock)
