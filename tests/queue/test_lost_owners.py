"""Owners that lost their lease, against a real Redis: their jobs come back, and they can finish nothing."""

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job as ArqJob
from arq.jobs import JobStatus
from leasing import QUEUE, claim, done, enqueue, finished, lapse

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import RetryLater
from tidepool.queue.leases import Leases


async def test_a_lost_owners_jobs_come_back_to_their_old_places(redis: ArqRedis, leases: Leases) -> None:
    """They run before younger ones that were enqueued meanwhile, and spend no try."""
    await enqueue(redis, "old-1", "old-2")
    await claim(leases, "dead")
    await enqueue(redis, *(f"young-{number}" for number in range(20)))
    await lapse(redis, "dead")

    jobs, returned = await leases.claim("me", 3, suspect_too=False)

    assert 2 == returned
    assert {"old-1", "old-2"} < {job.id for job in jobs}
    assert [1, 1] == [job.attempt for job in jobs if job.id.startswith("old")]


async def test_only_jobs_that_go_back_to_the_queue_are_counted(redis: ArqRedis, leases: Leases) -> None:
    """A lost owner's set also has ids that have left the queue: `jobs.recovered` counted them."""
    await enqueue(redis, "a", "b", "c")
    assert ["a", "b", "c"] == await claim(leases, "lost")
    await redis.zrem(QUEUE, "a")  # somebody finished it
    await lapse(redis, "lost")
    await redis.set("arq:in-progress:b", "another")  # somebody runs it
    claimed, returned = await leases.claim("mine", 10, suspect_too=False)
    assert (["c"], 1) == ([job.id for job in claimed], returned)


async def test_an_owner_that_lost_its_lease_can_finish_nothing(redis: ArqRedis, leases: Leases) -> None:
    """The fence: once somebody else has the job, the old owner neither acknowledges nor overwrites a result."""
    await enqueue(redis, "a")
    await claim(leases, "slow")
    await lapse(redis, "slow")
    assert ["a"] == await claim(leases, "quick")

    assert [False] == await leases.finish("slow", [done("a", b"late")])
    assert JobStatus.in_progress == await ArqJob("a", redis).status()
    assert [True] == await leases.finish("quick", [done("a", b"right")])
    assert [False] == await leases.finish("slow", [done("a", b"late")])
    assert b"right" == await redis.get("arq:result:a")


async def test_a_lapsed_lease_that_nobody_took_still_finishes(redis: ArqRedis, leases: Leases) -> None:
    """Being late harms nobody as long as nobody else has the job."""
    await enqueue(redis, "a")
    await claim(leases, "slow")
    await lapse(redis, "slow")

    assert [True] == await leases.finish("slow", [done("a")])


async def test_a_job_that_kills_its_workers_is_isolated_and_counted(redis: ArqRedis, leases: Leases) -> None:
    """After two lost owners it is a suspect, handed out one at a time and when asked for; then the count is three."""
    await enqueue(redis, "killer", "innocent")
    for owner in ("dead-1", "dead-2"):
        assert {"killer", "innocent"} == set(await claim(leases, owner))
        await lapse(redis, owner)

    assert [] == await claim(leases, "me")
    ((first,), _) = await leases.claim("dead-3", 10, suspect_too=True)
    assert ("killer", 2) == (first.id, first.lapses)
    await lapse(redis, "dead-3")
    ((last,), _) = await leases.claim("me", 10, suspect_too=True)
    assert ("killer", 3) == (last.id, last.lapses)
    await leases.finish("me", [done("killer")])

    assert ["innocent"] == await claim(leases, "me", suspect_too=True)
    await leases.finish("me", [done("innocent")])
    assert not await redis.exists(QUEUE, f"{QUEUE}:lapses", f"{QUEUE}:suspects", f"{QUEUE}:owners")


async def test_a_suspect_is_marked_as_any_job_is(redis: ArqRedis, leases: Leases) -> None:
    """Set apart it was not due for a day; in somebody's hands it is due again when its marks end, and they are kept."""
    await enqueue(redis, "a")
    for owner in ("dead-1", "dead-2"):
        assert ["a"] == await claim(leases, owner)
        await lapse(redis, owner)
    assert [] == await claim(leases, "me")

    assert ["a"] == await claim(leases, "me", suspect_too=True)
    seconds, _ = await redis.time()
    assert 19_000 <= (await redis.zscore(QUEUE, "a") or 0) - seconds * 1000 <= 22_000


async def test_a_job_that_ran_to_its_end_is_no_suspect(redis: ArqRedis, leases: Leases) -> None:
    """It asked for another try, so it was not what killed its workers."""
    await enqueue(redis, "a")
    for owner in ("dead-1", "dead-2"):
        assert ["a"] == await claim(leases, owner)
        await lapse(redis, owner)
    assert ["a"] == [*await claim(leases, "me"), *await claim(leases, "me", suspect_too=True)]
    await leases.finish("me", [finished("a", RetryLater())])

    ((job,), _) = await leases.claim("you", 10, suspect_too=False)
    assert ("a", 2, 0) == (job.id, job.attempt, job.lapses)


@pytest.mark.parametrize(("owners", "each"), [(5, 2), (1, 600)])
async def test_no_job_of_many_lost_owners_is_taken_as_if_nobody_had_it(
    redis: ArqRedis, leases: Leases, owners: int, each: int
) -> None:
    """No worker claimed until their marks had expired. A claim then put back some, and took others without a lapse."""
    job_ids = [f"{number}" for number in range(owners * each)]
    await enqueue(redis, *job_ids)
    for number in range(owners):
        for start in range(0, each, 200):
            await claim(leases, f"lost-{number}", min(200, each - start))
    await redis.zadd(f"{QUEUE}:owners", {f"lost-{number}": 1 for number in range(owners)})
    await redis.zadd(QUEUE, dict.fromkeys(job_ids, 2))
    await redis.delete(*(f"arq:in-progress:{job_id}" for job_id in job_ids))

    jobs: list[Job] = []
    for _ in range(10):
        jobs += (await leases.claim("me", 250, suspect_too=False))[0]

    assert set(job_ids) == {job.id for job in jobs}
    assert {1} == {job.lapses for job in jobs}
