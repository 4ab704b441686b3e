"""The job type `create_product`: inserts a product."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated

from pydantic import Field

from tidepool import Applied, Command, Job, LeftOut, Rejected, Text, Transaction, Verdict
from worker.jobs.fields import Money, Name, Sku, VisibleText
from worker.reasons import ShopReason
from worker.service import app
from worker.tables.products import CONSTRAINTS, ProductRepository


class CreateProduct(Command):
    """The fields of a `create_product` job. The sku is optional, and must be unique if it is given."""

    sku: LeftOut[Sku] = None
    name: Name
    description: Text = ""
    price: Annotated[Money, Field(le=Decimal("99999999.99"))]
    category: Annotated[VisibleText, Field(max_length=100)]
    in_stock: bool = True


@app.batch(
    identity=True,
    constraints=CONSTRAINTS,
    grants=("SELECT, INSERT ON public.products", "USAGE ON SEQUENCE public.products_id_seq"),
)
async def create_product(transaction: Transaction, jobs: Sequence[Job[CreateProduct]]) -> list[Verdict]:
    """Insert a product for each job. A job whose sku is taken is rejected.

    Returns a verdict for each job, in order; an applied job's result is the new `product_id`.
    """
    created = await ProductRepository(transaction).create([job.command for job in jobs])
    return [
        Rejected(product) if isinstance(product, ShopReason) else Applied({"product_id": product})
        for product in created
    ]
