"""The job type `create_product`."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from tidepool import Applied, Command, Job, JobType, LeftOut, Rejected, Text, Transaction, Verdict
from worker.jobs.fields import Money, Name, Sku, VisibleText
from worker.reasons import ShopReason
from worker.tables.products import CONSTRAINTS, ProductRepository


class CreateProduct(Command):
    """A new product. A sku, if it is given, must be unique; any number of products may have none."""

    sku: LeftOut[Sku] = None
    name: Name
    description: Text = ""
    price: Annotated[Money, Field(le=Decimal("99999999.99"))]
    category: Annotated[VisibleText, Field(max_length=100)]
    in_stock: bool = True


async def create_product(transaction: Transaction, jobs: Sequence[Job[CreateProduct]]) -> list[Verdict]:
    """Insert the products; one whose sku is taken is rejected."""
    created = await ProductRepository(transaction).create([job.command for job in jobs])
    return [
        Rejected(product) if isinstance(product, ShopReason) else Applied({"product_id": product})
        for product in created
    ]


JOB = JobType(
    "create_product",
    CreateProduct,
    create_product,
    constraints=CONSTRAINTS,
    grants=("SELECT, INSERT ON products", "USAGE ON SEQUENCE products_id_seq"),
)
