"""Owners that somebody planted in Redis: they keep no other owner's jobs, and cost a bounded time."""

from arq.connections import ArqRedis
from held_jobs import QUEUE, enqueue

from tidepool.queue.leases import Leases
from tidepool.queue.state import QueueState


async def test_a_lost_owners_odd_jobs_do_not_keep_the_others(redis: ArqRedis) -> None:
    """A held key of a wrong type, a mark of one, and counts of lapses that are no numbers."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a", "b", "c")
    await leases.claim("lost", 10, suspect_too=True)
    await redis.hset(f"{QUEUE}:lapses", mapping={"a": "x", "b": 2**63 - 1})
    await redis.delete("arq:in-progress:c")
    await redis.rpush("arq:in-progress:c", "x")
    await redis.set(f"{QUEUE}:held:odd", "x")
    await redis.zadd(f"{QUEUE}:owners", {"lost": 1, "odd": 0, b"\xff": 0})
    for _ in range(2):
        jobs, _ = await leases.claim("me", 10, suspect_too=False)
    jobs += (await leases.claim("me", 10, suspect_too=False))[0]
    assert [b"me"] == await redis.zrange(f"{QUEUE}:owners", 0, -1)
    assert {b"a", b"b", b"c"} == set(await redis.zrange(f"{QUEUE}:held:me", 0, -1))


async def test_the_backlog_is_counted_among_odd_owners(redis: ArqRedis) -> None:
    """Keys of wrong types hold nothing."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a", "b")
    await leases.claim("me", 1, suspect_too=False)
    await redis.set(f"{QUEUE}:held:odd", "x")
    await redis.zadd(f"{QUEUE}:owners", {"odd": 1, b"\xff": 2})
    found = await QueueState(redis).backlog(10)
    assert (1, 1) == (found.waiting, found.running)
    await redis.delete(f"{QUEUE}:owners", QUEUE)
    await redis.set(f"{QUEUE}:owners", "x")
    await redis.set(QUEUE, "x")
    found = await QueueState(redis).backlog(10)
    assert (0, 0, None) == tuple(found)


async def test_thousands_of_planted_owners_do_not_keep_a_lost_ones_jobs(redis: ArqRedis) -> None:
    """Those without jobs cost a claim little, so it removes a hundred of them."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a")
    await leases.claim("lost", 1, suspect_too=False)
    await redis.zadd(f"{QUEUE}:owners", {"lost": 2} | {f"planted-{n}": 1 for n in range(1000)})
    returned = [(await leases.claim("me", 1, suspect_too=False))[1] for _ in range(11)]
    assert 1 == sum(returned)
    assert [b"me"] == await redis.zrange(f"{QUEUE}:owners", 0, -1)


async def test_a_look_for_strays_reads_a_bounded_part(redis: ArqRedis) -> None:
    """Anybody may have added millions to the set of those that are held."""
    await redis.zadd(f"{QUEUE}:held:me", {f"{n}": n for n in range(5000)})
    assert 1000 == len(await Leases(redis, QUEUE, lease_ms=10_000).strays("me", {"0", "1"}))
