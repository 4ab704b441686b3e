"""Long ids and foreign marks in Redis: what a claim, a look for aborts and a look at the fleet read is bounded."""

import pytest
from arq.connections import ArqRedis

from tidepool.queue.leases import Leases
from tidepool.queue.state import QueueState
from tidepool.queue.wire import MAX_PAYLOAD_BYTES

QUEUE = "arq:queue"
MB = 2**20


@pytest.fixture
def leases(redis: ArqRedis) -> Leases:
    """Give the leases of a worker of the service."""
    return Leases(redis, QUEUE, lease_ms=10_000, max_job_bytes=MAX_PAYLOAD_BYTES)


async def until_end(leases: Leases, most: int) -> list[str]:
    """Claim until a claim comes to the end of what is due; returns the ids."""
    found: list[str] = []
    for _ in range(most):
        jobs, _ = await leases.claim("me", 250, suspect_too=False)
        found += [job.id for job in jobs]
        if not leases.is_midway:
            return found
    raise AssertionError


async def test_any_number_of_foreign_marks_keeps_no_job(redis: ArqRedis, leases: Leases) -> None:
    """What one claim does not get past, the next ones do; then they begin at the head again."""
    await redis.mset({f"arq:in-progress:{n}": "theirs" for n in range(7000)})
    await redis.zadd(QUEUE, {str(n): n for n in range(7000)})
    await redis.zadd(QUEUE, {"good": 1_000_000})
    assert ["good"] == await until_end(leases, 3)
    await redis.delete("arq:in-progress:0")
    assert ["0"] == await until_end(leases, 3)


async def test_no_payload_is_read_in_vain(redis: ArqRedis, leases: Leases) -> None:
    """Not of a job that somebody else has, and one at most of those that are too large or do not fit any more."""
    for number in range(20):
        await redis.set(f"arq:job:theirs-{number}", "x" * MB)
        await redis.set(f"arq:in-progress:theirs-{number}", "theirs")
        await redis.set(f"arq:job:large-{number}", "x" * (MB + MB // 2))
        await redis.zadd(QUEUE, {f"theirs-{number}": 1, f"large-{number}": 2})
    for number in range(4):
        await redis.set(f"arq:job:fits-{number}", "x" * (MB - 1000))
        await redis.zadd(QUEUE, {f"fits-{number}": 3})
    await redis.set("arq:job:more", "x" * (MB // 2))
    await redis.zadd(QUEUE, {"more": 4})
    await redis.config_resetstat()
    jobs, _ = await leases.claim("me", 250, suspect_too=False)
    assert 24 == len(jobs)
    assert {3 * MB // 2} == {job.payload for job in jobs if isinstance(job.payload, int)}
    assert 5 == (await redis.info("commandstats"))["cmdstat_getrange"]["calls"]
    assert not await redis.exists("arq:in-progress:more")
    assert ["more"] == [job.id for job in (await leases.claim("me", 250, suspect_too=False))[0]]


async def test_marks_of_the_future_are_removed_unread(redis: ArqRedis, leases: Leases) -> None:
    """A thousand in a call, and those of jobs that run here are found among them."""
    await redis.zadd("arq:abort", {f"future-{n}": 9e15 for n in range(1500)} | {"mine": 1, "other": 2})
    assert ["mine"] == await leases.aborted(["not", "mine"])
    assert 501 == await redis.zcard("arq:abort")
    await redis.config_resetstat()
    assert [] == await leases.aborted(["mine"])
    assert [b"other"] == await redis.zrange("arq:abort", 0, -1)


async def test_long_names_of_owners_are_read_a_few_at_a_time(redis: ArqRedis) -> None:
    """Those that no worker can have are left out, and the others counted."""
    await redis.zadd(f"{QUEUE}:held:me", {"a": 1})
    await redis.zadd(QUEUE, {"a": 9e15, "b": 1})
    await redis.zadd(f"{QUEUE}:owners", {f"w{n}": n for n in range(20)} | {"me": 21})
    for number in range(40):
        await redis.zadd(f"{QUEUE}:owners", {f"{number}".encode() + b"x" * MB: 9e15})
    await redis.config_resetstat()
    found = await QueueState(redis).backlog(10)
    assert 2 == (await redis.info("commandstats"))["cmdstat_zrange"]["calls"]
    assert (1, 1) == (found.waiting, found.running)
    assert 21 == await QueueState(redis).release_owners("")


async def test_long_ids_of_a_lost_owner_come_back_a_few_at_a_time(redis: ArqRedis, leases: Leases) -> None:
    """All of them do, in as many claims as that takes."""
    ids = [f"{number}".encode() + b"x" * MB for number in range(12)]
    await redis.zadd(f"{QUEUE}:owners", {"lost": 1})
    for job_id in ids:
        await redis.zadd(f"{QUEUE}:held:lost", {job_id: 1})
        await redis.zadd(QUEUE, {job_id: 9e15})
    returned = [(await leases.claim("me", 1, suspect_too=False))[1] for _ in range(12)]
    assert 12 == sum(returned)
    assert max(returned) <= 4
