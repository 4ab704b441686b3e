"""Calls as an application makes them, for type checkers: those marked as wrong are errors, and no others."""

from collections.abc import Sequence
from uuid import UUID

from tidepool import App, Command, Job, Receipt, Rejected, Transaction

app = App()


class View(Command):
    """The argument of a batch's job."""

    page: str


@app.job(attempts=5)
async def charge(tx: Transaction, order_id: int, cents: int = 100, *, ref: UUID) -> int:
    """Take positional and keyword arguments."""
    return order_id + cents


@app.job
async def close_order(tx: Transaction, order_id: int) -> str:
    """Return text."""
    return "closed"


@app.batch(limit=10)
async def count_views(tx: Transaction, jobs: Sequence[Job[View]]) -> list[int | Rejected]:
    """Return a number or a rejection for each."""
    return [len(job.command.page) for job in jobs]


@app.function(timeout_s=60)
async def tag_photo(ctx: dict[str, object], photo_id: int) -> list[str]:
    """Take arq's ctx."""
    return []


async def right(tx: Transaction) -> None:
    """Call them as they are declared."""
    receipt: Receipt[int] = await charge.enqueue(17, 990, ref=UUID(int=1))
    number: int = await receipt.result()
    name: str = await (await close_order.on(tx).options(id="o-17").enqueue(order_id=number)).result()
    views: int = await (await count_views.enqueue(View(page=name))).result()
    tags: list[str] = await (await tag_photo.enqueue(views)).result()
    await app.enqueue_many([charge.call(1, ref=UUID(int=2)), charge.call(2, 3, ref=UUID(int=3))])
    done: int = await charge(tx, 17, 990, ref=UUID(int=1))
    assert tags == [done]


async def wrong(tx: Transaction) -> None:
    """Call them in other ways."""
    await charge.enqueue("17", ref=UUID(int=1))  # wrong: type
    await charge.enqueue(17)  # wrong: missing
    await charge.enqueue(17, 990, ref="x")  # wrong: keyword's type
    await charge.on(tx).enqueue(17, 990, 3, ref=UUID(int=1))  # wrong: one too many
    await close_order.options(id="x").enqueue(order=3)  # wrong: no such name
    await count_views.enqueue("page")  # wrong: no command
    await tag_photo.enqueue("7")  # wrong: type
    text: str = await (await charge.enqueue(1, ref=UUID(int=1))).result()  # wrong: result
    assert text
