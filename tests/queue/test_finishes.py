"""Finishes against a real Redis: what is left of a job that has ended, runs again or is given back."""

import pytest
from arq.connections import ArqRedis
from leasing import QUEUE, claim, done, enqueue, finished

from tidepool.jobs.outcomes import Release, RetryLater
from tidepool.queue.leases import Leases


async def test_a_finish_stores_the_result_and_leaves_nothing_else(redis: ArqRedis, leases: Leases) -> None:
    """After the last finish Redis has the result, and no lease, no mark and no payload."""
    await enqueue(redis, "a")
    await claim(leases, "me")

    assert [True] == await leases.finish("me", [done("a")])
    assert [b"arq:result:a"] == await redis.keys("*")
    assert b"result" == await redis.get("arq:result:a")


async def test_another_try_keeps_the_count_and_the_time(redis: ArqRedis, leases: Leases) -> None:
    """A job that runs again is due at the time that was set, and its failed tries are counted."""
    await enqueue(redis, "soon", "later")
    await claim(leases, "me")
    await leases.finish("me", [finished("soon", RetryLater()), finished("later", RetryLater(60.0))])
    seconds, _ = await redis.time()

    ((soon,), _) = await leases.claim("me", 10, suspect_too=False)
    assert ("soon", 2) == (soon.id, soon.attempt)
    assert 0 < (await redis.zscore(QUEUE, "later") or 0) - 1000 * seconds <= 61_000


@pytest.mark.parametrize("cause", ["line 1\nline 2 ", " 7 blanks", "nul \x00 é", "", "x" * 5000])
async def test_the_cause_of_the_last_try_is_kept(cause: str, redis: ArqRedis, leases: Leases) -> None:
    """Whatever its text is, as long as the job is to run again; a try without one deletes that of the try before."""
    await enqueue(redis, "a")
    await claim(leases, "me")
    await leases.finish("me", [finished("a", RetryLater(cause="before"))])
    await claim(leases, "me")
    await leases.finish("me", [finished("a", RetryLater(cause=cause), attempt=2)])
    assert (b"2", cause.encode() or None) == (await redis.get("arq:retry:a"), await redis.get("arq:cause:a"))
    await claim(leases, "me")
    await leases.finish("me", [done("a", is_retry=True)])
    assert [b"arq:result:a"] == await redis.keys("*")


async def test_a_released_job_is_as_it_was(redis: ArqRedis, leases: Leases) -> None:
    """Giving a job back spends no try and keeps its place."""
    await enqueue(redis, "a", "b")
    before = await redis.zrange(QUEUE, 0, -1, withscores=True)
    await claim(leases, "me")

    assert [True, True] == await leases.finish("me", [finished("a", Release()), finished("b", Release())])
    assert before == await redis.zrange(QUEUE, 0, -1, withscores=True)
    assert not await redis.exists("arq:retry:a", "arq:in-progress:a", f"{QUEUE}:owners")


async def test_a_finish_is_safe_to_repeat(redis: ArqRedis, leases: Leases) -> None:
    """A call whose reply was lost is repeated, and changes nothing more."""
    await enqueue(redis, "a")
    await claim(leases, "me")

    assert [[True], [False]] == [await leases.finish("me", [done("a")]) for _ in range(2)]
    assert [b"arq:result:a"] == await redis.keys("*")
