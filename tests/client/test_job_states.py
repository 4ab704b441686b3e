"""Is this job alive? Where jobs stand, by Redis, the ledger and the outbox."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from factories import a_job, a_submission, a_user, an_outbox_job
from leasing import enqueue

from tidepool.client import JobClient
from tidepool.jobs.outcomes import CommonReason, Failed, Rejected, RetryLater
from tidepool.ledger.ledger import Ledger
from tidepool.ledger.outbox import write
from tidepool.pool.pool import Pool
from tidepool.queue.leases import Leases
from tidepool.queue.state import JobState
from worker.jobs import JOBS

IDS = ("applied", "rejected", "failed", "outbox", "nobody")


@pytest.fixture
def client(redis: ArqRedis, pool: Pool) -> JobClient:
    """Give a job client with a ledger."""
    return JobClient(redis, ledger=pool)


@pytest.fixture
async def ended(pool: Pool) -> None:
    """Store an outcome of each kind, and enqueue a job in a transaction."""
    batch = [
        a_job(a_user("ada"), "applied"),
        a_job(Rejected(CommonReason.INVALID, "no good"), "rejected", content={}),
        a_job(Failed("gave up"), "failed", content={}, attempt=3),
    ]
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", batch)
    async with pool.transaction() as transaction:
        await write(transaction, [an_outbox_job("outbox")], schema="public", queue_name="arq:queue")


def soon(moment: datetime | None, within_s: float = 10.0) -> bool:
    """Return whether a time is in the next seconds."""
    return moment is not None and timedelta() < moment - datetime.now(UTC) < timedelta(seconds=within_s)


async def test_jobs_of_the_queue_wait_run_and_are_retried(redis: ArqRedis, client: JobClient) -> None:
    """With owner and lease, attempts and when; a lost lease shows as one that has ended."""
    leases = Leases(redis, redis.default_queue_name, lease_ms=5000)
    await enqueue(redis, "running", "retrying")
    (held, again), _ = await leases.claim("host-1-abc.0", 10, suspect_too=False)
    await leases.finish("host-1-abc.0", [(again, RetryLater(5.0, "ValueError: no"))])
    await client.enqueue_many([a_submission(job_id="queued")])
    await redis.enqueue_job("create_user", _job_id="deferred", _defer_by=5)
    assert "running" == held.id
    queued, deferred, running, retrying = await client.job_states(["queued", "deferred", "running", "retrying"])
    assert [("queued", 0), ("queued", 0), ("running", 0), ("retrying", 1)] == [
        (job.state, job.attempts) for job in (queued, deferred, running, retrying)
    ]
    assert soon(deferred.due_at)
    assert soon(retrying.due_at)
    assert not soon(queued.due_at)
    assert retrying.error is not None
    assert "ValueError: no" in retrying.error
    assert ("host-1-abc", True, None) == (running.worker_id, soon(running.lease_ends_at), running.due_at)
    assert all(job.is_alive for job in (queued, deferred, running, retrying))
    await client.state.release_owners("host-1-abc")
    (lost,) = await client.job_states(["running"])
    assert lost.is_alive
    assert lost.lease_ends_at is not None
    assert lost.lease_ends_at < datetime.now(UTC)


async def test_a_job_of_a_stock_worker_runs_without_a_name(redis: ArqRedis, client: JobClient) -> None:
    """Its mark has an end, which is all that arq writes."""
    await enqueue(redis, "a")
    await redis.psetex("arq:in-progress:a", 9000, b"1")
    (job,) = await client.job_states(["a"])
    assert ("running", None, True) == (job.state, job.worker_id, soon(job.lease_ends_at))


@pytest.mark.usefixtures("ended")
async def test_jobs_that_are_not_in_the_queue_have_an_outcome_or_wait_in_the_outbox(client: JobClient) -> None:
    """What is nowhere is unknown; that is what a sweeper may enqueue again."""
    applied, rejected, failed, outbox, nobody = await client.job_states(IDS)
    assert ["applied", "rejected", "failed", "queued", "unknown"] == [
        job.state for job in (applied, rejected, failed, outbox, nobody)
    ]
    assert (1, None, None) == (applied.attempts, applied.reason, applied.error)
    assert ("invalid", "no good") == (rejected.reason, rejected.error)
    assert (3, "gave up") == (failed.attempts, failed.error)
    assert {job.ended_at is None for job in (applied, rejected, failed)} == {False}
    assert [outbox] == [job for job in (applied, rejected, failed, outbox, nobody) if job.is_alive]
    assert JobState("nobody", "unknown") == nobody


@pytest.mark.usefixtures("ended")
async def test_plain_sql_can_ask_without_redis(connection: Any) -> None:
    """For all rows of a table of the application at once; it cannot tell a job that waits from one that runs."""
    await connection.execute("CREATE TABLE mine (job_id text)")
    await connection.execute("INSERT INTO mine SELECT unnest($1::text[])", list(IDS))
    await connection.execute("UPDATE job_results SET requeued_at = now() WHERE job_id = 'rejected'")
    rows = await connection.fetch(
        "SELECT job_id, state, reason, error FROM mine"
        " JOIN job_states(ARRAY(SELECT job_id FROM mine)) AS s USING (job_id)"
    )
    assert {
        ("applied", "applied", None, None),
        ("rejected", "enqueued", None, None),
        ("failed", "failed", None, "gave up"),
        ("outbox", "enqueued", None, None),
        ("nobody", "unknown", None, None),
    } == {tuple(row.values()) for row in rows}


@pytest.mark.usefixtures("ended")
async def test_a_settled_row_of_the_outbox_is_no_job_that_waits(pool: Pool, connection: Any, client: JobClient) -> None:
    """It is there until the relay deletes it. One that was enqueued later, under the same id, waits."""
    jobs = [an_outbox_job("failed"), an_outbox_job("again")]
    async with pool.transaction() as transaction:
        await write(transaction, jobs, schema="public", queue_name="arq:queue")
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", [a_job(Failed("x"), "again", reused_ms=1000)])
    assert ["failed", "queued"] == [job.state for job in await client.job_states(["failed", "again"])]


async def test_a_result_in_redis_is_an_end_that_the_ledger_does_not_know(redis: ArqRedis, client: JobClient) -> None:
    """A plain function's row is written a moment later, or there is no database at all."""
    await redis.set("arq:result:a", b"x")
    await redis.rpush("arq:retry:b", "a key of another type")
    await redis.set("arq:retry:c", b"9" * 100)
    await redis.zadd("arq:queue", {"b": 1e300, "c": float("inf")})
    for one in (client, JobClient(redis)):
        states = await one.job_states(["a", "b", "c"])
        assert [("finished", None), ("queued", 0), ("queued", 0)] == [(job.state, job.attempts) for job in states]
