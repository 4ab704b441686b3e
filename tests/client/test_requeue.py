"""Requeueing: outcomes without an effect are taken back, and their jobs run again under their own ids."""

from typing import Any

import pytest
from arq.connections import ArqRedis
from factories import a_job, a_product, a_user, an_order

from tidepool.client import JobClient
from tidepool.jobs.job import IDENTITY_MS
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Rejected
from tidepool.jobs.submission import Submission
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from tidepool.queue import wire
from tidepool.storage.repositories import Repositories
from worker.jobs import JOBS


@pytest.fixture
def client(redis: ArqRedis, pool: Pool) -> JobClient:
    """Give a job client with a ledger."""
    return JobClient(redis, ledger=pool)


@pytest.fixture
def ledger(pool: Pool) -> Ledger:
    """Give a ledger over the test's pool."""
    return Ledger(pool, JOBS, worker_id="worker-1")


async def mark(pool: Pool, *job_ids: str, after_id: str = "", limit: int = 100, **conditions: Any) -> list[str]:
    """Mark rows as requeued; return the ids of their jobs."""
    async with pool.transaction() as connection:
        repository = Repositories(connection).results
        jobs = await repository.mark_requeued(
            job_ids=list(job_ids) or None, after_id=after_id, limit=limit, **conditions
        )
    return [job.job_id for job in jobs]


async def settle_some(ledger: Ledger) -> None:
    """Settle one job of each status, and one whose content cannot run again."""
    await ledger.settle(
        "create_user",
        [
            a_job(a_user("ada"), "applied"),
            a_job(a_user("ada"), "rejected"),
            a_job(Failed("gave up"), "failed", content={"username": "eve"}),
            a_job(Rejected(CommonReason.INVALID), "unreadable", content=None),
        ],
    )
    await ledger.settle("place_order", [a_job(an_order("nobody"), "order", is_last_attempt=True)])


async def test_applied_jobs_are_never_taken_back(ledger: Ledger, pool: Pool, connection: Any) -> None:
    """Jobs whose content was not kept are not requeued either."""
    await settle_some(ledger)
    before = await connection.fetch("SELECT * FROM job_results WHERE job_id IN ('applied', 'unreadable')")
    assert [] == await mark(pool, "applied", "unreadable", "nobody")
    assert [] == await mark(pool, status="applied")
    assert ["failed", "order", "rejected"] == await mark(pool)
    assert before == await connection.fetch("SELECT * FROM job_results WHERE job_id IN ('applied', 'unreadable')")


async def test_conditions_narrow_what_is_taken_back(ledger: Ledger, pool: Pool) -> None:
    """By status, function and id; a null leaves its condition out."""
    await settle_some(ledger)
    assert ["failed"] == await mark(pool, status="failed")
    assert ["order"] == await mark(pool, function="place_order")
    assert ["order", "rejected"] == await mark(pool, status="rejected")
    assert ["rejected"] == await mark(pool, "rejected", "failed", status="rejected", function="create_user")


async def test_rows_are_taken_back_page_by_page(ledger: Ledger, pool: Pool) -> None:
    """In the order of the ids' bytes, whatever the locale thinks of it."""
    ids = ["A", "B", "Z", "a", "b", "ä", "😀"]
    await ledger.settle("create_user", [a_job(Failed("x"), i, content={}) for i in ids[::-1]])
    assert ["A", "B", "Z"] == await mark(pool, limit=3)
    assert ["a", "b", "ä"] == await mark(pool, after_id="Z", limit=3)
    assert ["😀"] == await mark(pool, after_id="ä", limit=3)
    assert [] == await mark(pool, after_id="😀", limit=3)


async def test_an_interrupted_requeue_is_made_up_for(ledger: Ledger, pool: Pool) -> None:
    """A caller that died between marking and enqueueing left rows that the next call returns again."""
    await settle_some(ledger)
    assert ["failed"] == await mark(pool, "failed")
    assert ["failed"] == await mark(pool, "failed")


async def test_a_marked_row_is_no_outcome_any_more(ledger: Ledger, pool: Pool) -> None:
    """Neither for a redelivery, nor for a run that follows its jobs."""
    await settle_some(ledger)
    await mark(pool, "failed")
    async with pool.acquire() as connection:
        results = Repositories(connection).results
        keys = [("failed", IDENTITY_MS), ("rejected", IDENTITY_MS)]
        assert {keys[1]} == set(await results.lookup(keys))
        assert ["rejected"] == [job.job_id for job in await results.finished(["failed", "rejected"])]


async def test_a_rejected_order_is_applied_after_a_requeue(
    ledger: Ledger, pool: Pool, client: JobClient, redis: ArqRedis, connection: Any
) -> None:
    """The whole cycle: rejected, its user created, taken back, enqueued with its content, applied, and only once."""
    await ledger.settle("create_product", [a_job(a_product())])
    await ledger.settle("place_order", [a_job(an_order(quantity=2), "order", is_last_attempt=True)])
    await redis.set("arq:result:order", wire.serialize({"r": {"status": "rejected"}}))
    await ledger.settle("create_user", [a_job(a_user())])
    async with pool.transaction() as transaction:
        (job,) = await Repositories(transaction).results.mark_requeued(job_ids=["order"], after_id="", limit=10)
    assert [True] == await client.enqueue_many([Submission(*job)], again=True)
    call = wire.receive(await redis.get("arq:job:order") or b"")
    assert ("place_order", {"username": "ada", "sku": "LAMP", "quantity": 2}) == (call["f"], call["k"])
    order = JOBS.get("place_order")
    assert order is not None
    (outcome,) = await ledger.settle("place_order", [a_job(order.parse(call["k"]), "order")])
    assert isinstance(outcome, Applied)
    assert "25.00" == outcome.result["total_price"]
    assert [] == await mark(pool)
    assert [outcome] == await ledger.settle("place_order", [a_job(an_order(quantity=2), "order")])
    assert 1 == await connection.fetchval("SELECT count(*) FROM orders")


async def test_the_command_requeues_any_number_of_jobs(
    ledger: Ledger, pool: Pool, client: JobClient, redis: ArqRedis
) -> None:
    """In chunks; what is in the queue already stays one job."""
    ids = [f"job-{n:04}" for n in range(1200)]
    for start in range(0, 1200, 200):
        batch = [a_job(Failed("x"), i, content={"username": i}) for i in ids[start : start + 200]]
        await ledger.settle("create_user", batch)
    assert ids == await client.requeue(status="failed")
    assert 1200 == await client.queued()
    assert ids == await client.requeue(status="failed")
    assert 1200 == await client.queued()
    assert b'"job-1199"' in (await redis.get("arq:job:job-1199") or b"")
