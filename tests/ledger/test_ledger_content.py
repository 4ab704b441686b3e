"""The ledger when content is wrong: one job's data does not change the outcomes of the others."""

import asyncio
from typing import Any

import pytest
from factories import a_change, a_job, a_user
from ledgers import CURSED, a_ledger, raising

from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Rejected
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from worker.jobs import JOBS
from worker.jobs.create_user import CreateUser
from worker.jobs.place_order import PlaceOrder
from worker.reasons import ShopReason


async def test_one_jobs_data_does_not_change_the_others_outcomes(pool: Pool, connection: Any) -> None:
    """A change to a taken email stands alone in the end; the rest is as it would be without it."""
    ledger = Ledger(pool, JOBS, worker_id="w")
    names = [f"user-{n}" for n in range(8)]
    created = await ledger.settle("create_user", [a_job(a_user(name)) for name in names])
    changes = [a_job(a_change(name, full_name="New")) for name in names]
    changes[3] = a_job(a_change("user-3", email="user-0@example.org"), "taken")
    outcomes = await ledger.settle("update_user", changes)
    rejected = Rejected(ShopReason.EMAIL_TAKEN, "breaks users_email_key")
    assert [*created[:3], rejected, *created[4:]] == outcomes
    assert 7 == await connection.fetchval("SELECT count(*) FROM users WHERE full_name = 'New'")
    assert "email_taken" == await connection.fetchval("SELECT reason FROM job_results WHERE job_id = 'taken'")


@pytest.mark.parametrize(
    "poison",
    [{"username": "a\x00b"}, {"username": "\ud800"}, {"username": "x" * 51}, {"username": ""}, {"is_active": "no"}],
    ids=["nul", "surrogate", "too long", "empty", "wrong type"],
)
async def test_data_that_slipped_through_validation_is_rejected_alone(
    pool: Pool, connection: Any, poison: dict[str, Any]
) -> None:
    """One bad element fails a whole array, on the server or already in the driver; nobody else pays for it."""
    fields: dict[str, Any] = {"username": "bad", "email": "bad@x", "full_name": "Bad", "is_active": True, **poison}
    bad = a_job(CreateUser.model_construct(**fields), "bad", content={})
    batch = [a_job(a_user("ada")), bad, a_job(a_user("eve"))]
    async with asyncio.timeout(10):
        outcomes = await a_ledger(pool).settle("create_user", batch)
    assert [Applied, Rejected, Applied] == [type(outcome) for outcome in outcomes]
    assert "invalid" == await connection.fetchval("SELECT reason FROM job_results WHERE job_id = 'bad'")


@pytest.mark.parametrize("quantity", [2**31, 2**70, 0, -1])
async def test_a_number_that_slipped_through_validation_is_rejected(pool: Pool, quantity: int) -> None:
    """Beyond the column's type the driver refuses it, within it the constraint does."""
    ledger = Ledger(pool, JOBS, worker_id="w")
    await ledger.settle("create_user", [a_job(a_user())])
    await pool_insert_product(pool)
    order = PlaceOrder.model_construct(username="ada", sku="LAMP", quantity=quantity, total_price=None, status="new")
    async with asyncio.timeout(10):
        (outcome,) = await ledger.settle("place_order", [a_job(order, content={})])
    assert isinstance(outcome, Rejected)
    assert CommonReason.INVALID is outcome.reason


async def pool_insert_product(pool: Pool) -> None:
    """Insert the product LAMP."""
    async with pool.acquire() as connection:
        await connection.execute("INSERT INTO products (sku, name, price, category) VALUES ('LAMP', 'L', 1, 'C')")


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("a\x00b", r"ValueError: a\x00b"),
        ("\ud800", r"ValueError: \ud800"),
        ("é😀", "ValueError: é😀"),
        ("", "ValueError: "),
    ],
)
async def test_an_errors_text_never_breaks_its_row(pool: Pool, connection: Any, text: str, stored: str) -> None:
    """PostgreSQL has no place for NUL: the path of failure must not fail itself."""
    ledger = a_ledger(pool, raising(ValueError(text)))
    assert [Failed(stored)] == await ledger.settle("create_user", [a_job(a_user(CURSED), is_last_attempt=True)])
    assert stored == await connection.fetchval("SELECT error FROM job_results")


async def test_an_endless_error_is_cut(pool: Pool) -> None:
    """A driver may quote a whole batch."""
    ledger = a_ledger(pool, raising(ValueError("x" * 100_000)))
    (outcome,) = await ledger.settle("create_user", [a_job(a_user(CURSED), is_last_attempt=True)])
    assert isinstance(outcome, Failed)
    assert len(outcome.error) <= 1000


async def test_an_outcome_of_a_newer_version_does_not_break_the_batch(pool: Pool, connection: Any) -> None:
    """While a new version is rolled out, old workers meet its rows."""
    ledger = a_ledger(pool)
    await ledger.settle("create_user", [a_job(Rejected(CommonReason.INVALID), "a")])
    await connection.execute("UPDATE job_results SET reason = 'too_young'")
    batch = [a_job(a_user("ada"), "a", is_last_attempt=True), a_job(a_user("eve"), "b", is_last_attempt=True)]
    again, other = await ledger.settle("create_user", batch)
    assert isinstance(other, Applied)
    assert not isinstance(again, Applied)
