"""Claims against a real Redis: which jobs an owner gets, and what comes with them."""

from arq.connections import ArqRedis
from arq.jobs import Job as ArqJob
from arq.jobs import JobStatus
from leasing import QUEUE, claim, done, enqueue

from tidepool.queue.finisher import Done
from tidepool.queue.leases import Leases
from tidepool.queue.scripts import MOST_AT_ONCE
from tidepool.queue.wire import MAX_PAYLOAD_BYTES


async def test_a_claim_brings_everything_about_the_job(redis: ArqRedis, leases: Leases) -> None:
    """Id, due time, payload, failed tries and lapses come with the claim, the oldest first."""
    await enqueue(redis, "a", "b")
    await redis.set("arq:retry:b", 2)
    due = int(await redis.zscore(QUEUE, "a") or 0)

    (a, b), returned = await leases.claim("me", 10, suspect_too=False)

    assert 0 == returned
    assert ("a", "a", "me", due) == (a.id, a.queue_id, a.owner, a.due_ms)
    assert (1, False, 0, False) == (a.attempt, a.is_retry, a.lapses, a.is_aborted)
    assert ("b", 3, True) == (b.id, b.attempt, b.is_retry)
    assert b"et" in (a.payload or b"")


async def test_a_claimed_job_is_nobody_elses(redis: ArqRedis, leases: Leases) -> None:
    """A second owner does not see it; arq's client says that it is in progress, not deferred."""
    await enqueue(redis, "a")

    assert ["a"] == await claim(leases, "me")
    assert [] == await claim(leases, "you")
    assert [] == await claim(leases, "me")
    assert JobStatus.in_progress == await ArqJob("a", redis).status()


async def test_jobs_that_stock_workers_run_are_paged_past(redis: ArqRedis, leases: Leases) -> None:
    """A stock worker's jobs stay at the head of the queue, due; they are respected and do not hide the others."""
    busy = [f"busy-{number}" for number in range(30)]
    await enqueue(redis, *busy, "free")
    for job_id in busy:
        await redis.set(f"arq:in-progress:{job_id}", b"1", px=60_000)

    assert ["free"] == await claim(leases, "me", limit=5)


async def test_a_job_that_is_due_this_millisecond_is_claimed(redis: ArqRedis, leases: Leases) -> None:
    """Arq rounds its times, half of them up: a job enqueued just now must not look as if it were not due."""
    for number in range(50):
        await redis.enqueue_job("f", _job_id=f"now-{number}")

        assert [f"now-{number}"] == await claim(leases, "me")


async def test_a_claim_whose_reply_was_lost_is_found(redis: ArqRedis, leases: Leases) -> None:
    """What an owner holds without knowing it are its strays."""
    await enqueue(redis, "a", "b")
    await claim(leases, "me", 1)
    await claim(leases, "me", 1)

    assert ["b"] == await leases.strays("me", {"a"})


async def test_a_full_claim_and_finish_fit_into_the_scripts(redis: ArqRedis, leases: Leases) -> None:
    """Lua cannot unpack any number of values: the largest batch works, and a larger wish gets that much."""
    ids = [f"job-{number}" for number in range(MOST_AT_ONCE + 50)]
    await enqueue(redis, *ids)

    taken = await claim(leases, "me", limit=10_000)

    assert MOST_AT_ONCE == len(taken)
    assert [True] * MOST_AT_ONCE == await leases.finish("me", [done(job_id) for job_id in taken])


async def test_ids_that_are_no_text_survive(redis: ArqRedis, leases: Leases) -> None:
    """Whatever somebody put into the queue can be claimed and finished."""
    await redis.zadd(QUEUE, {b"\xff\xfe": 1})

    ((job,), _) = await leases.claim("me", 10, suspect_too=False)

    assert job.payload is None
    assert [True] == await leases.finish("me", [(job, Done())])
    assert 0 == await redis.zcard(QUEUE)


async def test_a_payload_that_is_too_large_is_not_read_whole(redis: ArqRedis, leases: Leases) -> None:
    """Only its length comes: a hundred of 100 MB would never get here."""
    await enqueue(redis, "a", "b")
    await redis.set("arq:job:a", b"x" * 3 * MAX_PAYLOAD_BYTES)
    await redis.set("arq:job:b", b"x" * MAX_PAYLOAD_BYTES)

    (jobs, _) = await leases.claim("me", 10, suspect_too=False)

    assert [3 * MAX_PAYLOAD_BYTES, b"x" * MAX_PAYLOAD_BYTES] == [job.payload for job in jobs]
