"""Ids that are used again: a new job with each enqueue time, as in arq, unless the id is the job's identity."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from arq.connections import ArqRedis
from planting import a_worker, drained
from settling import Settling, turns

from tidepool import App, Command, Transaction
from tidepool.client import JobClient
from tidepool.jobs.job import IDENTITY_MS, Job
from tidepool.jobs.job_type import JobTypes
from tidepool.jobs.outcomes import Applied, Failed, Rejected, Verdict
from tidepool.jobs.submission import Submission
from tidepool.ledger.batcher import Batcher
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from tidepool.queue import wire
from tidepool.queue.wire import now_ms
from tidepool.storage.repositories import Repositories

QUEUE = "arq:queue"
DAY_MS = 86_400_000


class Nothing(Command):
    """No arguments."""


async def count(transaction: Transaction, jobs: Sequence[Job[Nothing]]) -> list[Verdict]:
    """Insert a row for each job: these are the effects that the tests count."""
    await transaction.execute("INSERT INTO effects SELECT unnest($1::text[])", [job.id for job in jobs])
    return [Applied({}) for _ in jobs]


def types_of(function: Any) -> JobTypes:
    """Return two job types of one function: the id is the identity of jobs of the second."""
    app = App(wraps_results=True)
    app.batch(name="count")(function)
    app.batch(name="count_once", identity=True)(function)
    return app.job_types


TYPES = types_of(count)


@pytest.fixture
async def effects(connection: Any) -> Any:
    """Give a function that returns how many effects a job has had."""
    await connection.execute("CREATE TABLE effects (job_id text)")

    async def number(job_id: str = "a") -> int:
        return await connection.fetchval("SELECT count(*) FROM effects WHERE job_id = $1", job_id)

    return number


@pytest.fixture
def ledger(pool: Pool, effects: Any) -> Ledger:
    """Give a ledger with the two job types."""
    return Ledger(pool, TYPES, worker_id="w")


def delivered(function: str, enqueued_ms: int, job_id: str = "a", *, identity: bool | None = None) -> Job:
    """Return a job as the engine submits it."""
    job: Job = Job(job_id, function=function, enqueued_ms=enqueued_ms, due_ms=enqueued_ms, started_ms=now_ms())
    job.identity, job.command = identity, Nothing()
    job.set_key(is_identity=function == "count_once")
    return job


async def settled(ledger: Ledger, *jobs: Job) -> list[Any]:
    """Settle jobs of one type in one batch."""
    return await ledger.settle(jobs[0].function, jobs)


@pytest.mark.parametrize(
    ("function", "identity", "is_new"),
    [
        ("count", None, True),
        ("count_once", None, False),
        ("count", True, False),
        ("count_once", False, True),
    ],
)
async def test_a_new_enqueue_time_is_a_new_job_unless_the_id_is_the_identity(
    ledger: Ledger, effects: Any, *, function: str, identity: bool | None, is_new: bool
) -> None:
    """The type says which, and the job's own content has the last word."""
    for n in range(3):
        for _delivery in range(2):
            assert [Applied({})] == await settled(ledger, delivered(function, 1000 + n, identity=identity))
    assert (3 if is_new else 1) == await effects()


@pytest.mark.parametrize("age_ms", [3_600_000, DAY_MS, 20 * DAY_MS])
async def test_an_identity_has_one_effect_for_as_long_as_the_ledger_keeps_it(
    ledger: Ledger, connection: Any, effects: Any, age_ms: int
) -> None:
    """Hours and weeks later; other ids run again."""
    for function in ("count", "count_once"):
        await settled(ledger, delivered(function, now_ms() - age_ms, function))
    await connection.execute("UPDATE job_results SET finished_at = finished_at - $1 * interval '1 ms'", age_ms)
    for function in ("count", "count_once"):
        await settled(ledger, delivered(function, now_ms(), function))
    assert (2, 1) == (await effects("count"), await effects("count_once"))


async def test_two_workers_with_one_identity_have_one_effect(pool: Pool, ledger: Ledger, effects: Any) -> None:
    """At the same time, with different enqueue times, and also with the same one."""
    other = Ledger(pool, TYPES, worker_id="other")
    for n in range(20):
        ids = [f"{n}-{number}" for number in range(10)]
        await asyncio.gather(
            settled(ledger, *(delivered("count_once", 1000, job_id) for job_id in ids)),
            settled(other, *(delivered("count_once", 1000 + n, job_id) for job_id in ids[::-1])),
        )
        assert [1] * 10 == [await effects(job_id) for job_id in ids]


async def test_two_workers_with_one_reused_id_have_an_effect_for_each_time(
    pool: Pool, ledger: Ledger, effects: Any
) -> None:
    """Each is a job of its own, in one batch or two; of two deliveries of one of them, one has an effect."""
    other = Ledger(pool, TYPES, worker_id="other")
    jobs = [delivered("count", 1000 + n) for n in range(10)]
    await asyncio.gather(settled(ledger, *jobs), settled(other, *jobs[::-1]))
    assert 10 == await effects()


@pytest.mark.parametrize("function", ["count", "count_once"])
async def test_a_worker_that_is_lost_before_or_after_the_commit_leaves_one_effect(
    pool: Pool, effects: Any, function: str
) -> None:
    """What is redelivered has the enqueue time that it had."""
    reached = asyncio.Event()

    async def hang(transaction: Transaction, jobs: Sequence[Job[Nothing]]) -> list[Verdict]:
        verdicts = await count(transaction, jobs)
        reached.set()
        await asyncio.Event().wait()
        return verdicts

    lost = asyncio.create_task(settled(Ledger(pool, types_of(hang), worker_id="lost"), delivered(function, 1000)))
    await reached.wait()
    lost.cancel()
    await asyncio.gather(lost, return_exceptions=True)
    assert 0 == await effects()
    for name in ("second", "third"):
        assert [Applied({})] == await settled(Ledger(pool, TYPES, worker_id=name), delivered(function, 1000))
    assert 1 == await effects()


async def test_a_reused_id_does_not_join_a_job_that_still_runs() -> None:
    """Its old job was taken over and ended elsewhere, and this process does not know that yet."""
    settling = Settling(held=True)
    batcher = Batcher(settling, slots=2, limit=10)
    callers = [asyncio.create_task(batcher.submit(delivered("count", n))) for n in (1000, 1000, 2000)]
    await turns()
    assert ["a", "a"] == [job_id for batch in settling.batches for job_id in batch]
    settling.let_go()
    await asyncio.gather(*callers)


async def test_a_job_that_cannot_be_read_gets_the_outcome_that_it_had(ledger: Ledger, effects: Any) -> None:
    """Its content expired after it was applied. An outcome from before the job was enqueued is not its own."""
    now = now_ms()
    await settled(ledger, delivered("count", now - DAY_MS))
    gone: Job = Job("a", due_ms=now - DAY_MS, started_ms=now)
    later: Job = Job("a", due_ms=now + DAY_MS, started_ms=now)
    answers = list[Any]()
    for job in (gone, later):
        job.decided = Rejected("invalid", "has no content")
        job.set_key(is_identity=True)
        answers += await settled(ledger, job)
    assert [Applied({}), Rejected("invalid", "has no content")] == answers


async def enqueue_both(redis: ArqRedis) -> list[bool]:
    """Enqueue a job of each type with arq's client, with the type's name as the id; return which were enqueued."""
    return [await redis.enqueue_job(name, _job_id=name) is not None for name in ("count", "count_once")]


def test_the_callers_wish_is_in_the_job_and_else_that_of_an_identitys_type() -> None:
    """Other jobs say nothing, so that their type decides where they run."""
    count_type, once = (TYPES.get(name) for name in ("count", "count_once"))
    assert count_type is not None
    assert once is not None
    wishes = [one.options(id="a", identity=wish) for one in (count_type, once) for wish in (None, True, False)]
    assert [None, True, False, True, True, False] == [one.call(Nothing()).submission.identity for one in wishes]
    assert "identity" not in wire.receive(wire.encode(count_type.call(Nothing()).submission, 1))
    assert wire.receive(wire.encode(once.call(Nothing()).submission, 1))["identity"] is True


async def test_typed_jobs_run_again_where_arq_runs_them_again(redis: ArqRedis, pool: Pool, effects: Any) -> None:
    """Not while the result is kept; then the id is free. The identity's job has its outcome, and no second effect."""
    async with asyncio.timeout(20), a_worker(redis, pool, types=TYPES) as running:
        for turn in (1, 2, 3):
            assert [True, True] == await enqueue_both(redis)
            await drained(redis, running)
            assert [False, False] == await enqueue_both(redis)
            assert (turn, 1) == (await effects("count"), await effects("count_once"))
            await redis.delete("arq:result:count", "arq:result:count_once")  # as if it had expired


async def test_a_requeued_job_stays_the_same_job(redis: ArqRedis, pool: Pool, connection: Any, effects: Any) -> None:
    """It keeps its enqueue time: its row is replaced, and a redelivery finds it. Only the newest of an id goes back."""
    client = JobClient(redis, ledger=pool)
    ledger = Ledger(pool, TYPES, worker_id="w")
    for function, enqueued_ms in (("count", 1000), ("count", 2000), ("count_once", 1000)):
        job = delivered(function, enqueued_ms, function)
        job.decided, job.content = Failed("given up"), {}
        await settled(ledger, job)
    assert ["count", "count_once"] == await client.requeue(status="failed")
    async with asyncio.timeout(20), a_worker(redis, pool, types=TYPES) as running:
        await drained(redis, running)
    rows = await connection.fetch("SELECT job_id, key_ms, status FROM job_results ORDER BY job_id, key_ms")
    assert [("count", 1000, "failed"), ("count", 2000, "applied"), ("count_once", IDENTITY_MS, "applied")] == [
        tuple(row.values()) for row in rows
    ]
    await settled(ledger, delivered("count", 2000, "count"))
    assert (1, 1) == (await effects("count"), await effects("count_once"))


async def test_the_client_skips_identities_that_the_ledger_knows(
    redis: ArqRedis, pool: Pool, ledger: Ledger, effects: Any
) -> None:
    """And no other ids: what Redis does not know is new."""
    client = JobClient(redis, ledger=pool)
    await settled(ledger, delivered("count_once", 1000, "once"))
    await settled(ledger, delivered("count", 1000, "again"))
    await settled(ledger, delivered("count", 1000, "asked", identity=True))
    submissions = [
        Submission("once", "count_once", {}, identity=True),
        Submission("again", "count", {}),
        Submission("asked", "count", {}, identity=True),
    ]
    assert [False, True, False] == await client.enqueue_many(submissions)
    async with asyncio.timeout(20), a_worker(redis, pool, types=TYPES) as running:
        await client.enqueue("count", {}, job_id="mine", identity=True)
        await drained(redis, running)
        await redis.flushdb()
        assert [True] == await JobClient(redis).enqueue_many([Submission("mine", "count", {}, identity=True)])
        await drained(redis, running)
    assert (1, 2, 1) == tuple([await effects(job_id) for job_id in ("once", "again", "mine")])


async def test_by_id_the_newest_job_is_found(pool: Pool, ledger: Ledger, connection: Any) -> None:
    """In what a run counts; a list has all of them, and an old one is pruned without the others."""
    for n in range(3):
        job = delivered("count", 1000 + n)
        job.decided = None if n == 2 else Failed(f"error {n}")
        await settled(ledger, job)
    async with pool.acquire() as acquired:
        results = Repositories(acquired).results
        assert ["applied"] == [job.status for job in await results.finished(["a"])]
        listed = await results.newest(job_ids=["a"])
        first, edge = await results.page(before=None, limit=2, search="a")
        assert edge is not None
        last, _ = await results.page(before=edge, limit=2, search="a")
        assert [1002, 1001, 1000] == [row["key_ms"] for row in listed]
        assert ["applied", "failed", "failed"] == [row["status"] for row in (*first, *last)]
        await connection.execute("UPDATE job_results SET finished_at = 'epoch' WHERE key_ms = 1001")
        (row,) = await acquired.fetch("SELECT now() - interval '1 day' AS edge")
        assert 1 == await results.prune(row["edge"])
        assert [1002, 1000] == [row["key_ms"] for row in await results.newest(job_ids=["a"])]
