"""The shop's charge in the forms that `tidepool.App` has, and a chain of three jobs that charge an order each."""

from collections.abc import Sequence

from tidepool import App, Command, Job, Transaction, complete

_CHARGE = "INSERT INTO public.charges (order_id, cents) VALUES ($1, $2) RETURNING id"
_CHARGES = """
INSERT INTO public.charges (order_id, cents) SELECT * FROM unnest($1::bigint[], $2::bigint[]) RETURNING id
"""

app = App()


class Charge(Command):
    """What a batch's job takes."""

    order_id: int
    cents: int


@app.job
async def charge_alone(tx: Transaction, order_id: int, cents: int) -> int:
    """Charge an order; return the charge's id."""
    return await tx.fetchval(_CHARGE, order_id, cents)


@app.job(share=100)
async def charge_sharing(tx: Transaction, order_id: int, cents: int) -> int:
    """Charge an order in a transaction that it shares with others; return the charge's id."""
    return await tx.fetchval(_CHARGE, order_id, cents)


@app.batch
async def charge_batch(tx: Transaction, jobs: Sequence[Job[Charge]]) -> list[int]:
    """Charge all orders with one statement; return the charges' ids."""
    commands = [job.command for job in jobs]
    rows = await tx.fetch(_CHARGES, [each.order_id for each in commands], [each.cents for each in commands])
    return [row["id"] for row in rows]


@app.function
async def charge_completing(ctx: dict[str, object], order_id: int, cents: int) -> int:
    """Charge an order at the end of a function that could have worked elsewhere; return the charge's id."""
    completion = complete(ctx)
    async with completion as tx:
        completion.result = await tx.fetchval(_CHARGE, order_id, cents)
    return completion.result


@app.job
async def chain_first(tx: Transaction, order_id: int, cents: int) -> None:
    """Charge an order, and enqueue the next job with the commit."""
    await tx.execute(_CHARGE, order_id, cents)
    await chain_second.on(tx).enqueue(order_id, cents + 1)


@app.job(share=100)
async def chain_second(tx: Transaction, order_id: int, cents: int) -> None:
    """Charge it again, and enqueue the last job with the commit."""
    await tx.execute(_CHARGE, order_id, cents)
    await chain_third.on(tx).enqueue(order_id, cents + 1)


@app.function
async def chain_third(ctx: dict[str, object], order_id: int, cents: int) -> None:
    """Charge it for the third time, in a completion."""
    async with complete(ctx) as tx:
        await tx.execute(_CHARGE, order_id, cents)


def __getattr__(name: str) -> type:
    """Make the settings of a worker when arq asks for them."""
    if name != "WorkerSettings":
        raise AttributeError(name)
    return app.worker_settings()
