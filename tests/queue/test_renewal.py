"""The renewal of leases against a real Redis, and how its loss is noticed."""

import asyncio
import itertools
import threading
import time
from pathlib import Path
from typing import Any

from arq.connections import ArqRedis
from leasing import QUEUE, claim, done, enqueue, lapse
from redis import Redis

from tidepool.queue import scripts
from tidepool.queue.connection import RedisClient
from tidepool.queue.leases import Leases
from tidepool.queue.renewal import LONGEST_BLOCK_S, Renewal
from tidepool.queue.state import QueueState


async def test_renewing_keeps_every_job_of_the_owner(redis: ArqRedis) -> None:
    """One command of the renewal's thread keeps the lease while the event loop does nothing for it."""
    leases = Leases(redis, QUEUE, lease_ms=300)
    await enqueue(redis, "a", "b")
    await claim(leases, "me")
    lost: list[str] = []
    renewal = Renewal(redis, QUEUE, lease_ms=300, owner=lambda: "me", lost=lost.append)
    time.sleep(0.8)  # noqa: ASYNC251  (the loop is blocked on purpose, for longer than the lease)
    others = await claim(leases, "you")
    await renewal.close()

    assert ([], []) == (others, lost)
    assert [True, True] == await leases.finish("me", [done("a"), done("b")])


async def test_only_marks_that_are_old_are_renewed(redis: ArqRedis, leases: Leases) -> None:
    """A job is seldom held for half a lease; the lease itself is renewed each time."""
    await enqueue(redis, "young", "old")
    await claim(leases, "me")
    seconds, _ = await redis.time()
    await redis.zadd(QUEUE, {"old": seconds * 1000 + 14_000})
    for job_id in ("young", "old"):
        await redis.pexpire(f"arq:in-progress:{job_id}", 12_345)
    await redis.zadd(f"{QUEUE}:owners", {"me": seconds * 1000})

    await scripts.load(redis, "renew")(keys=[QUEUE, f"{QUEUE}:owners", f"{QUEUE}:held:me"], args=["me", 10_000, 0, 100])

    left = {job_id: await redis.pttl(f"arq:in-progress:{job_id}") for job_id in ("young", "old")}
    assert 12_000 <= left["young"] <= 12_345
    assert 19_000 <= left["old"] <= 20_000
    assert 19_000 <= (await redis.zscore(QUEUE, "old") or 0) - seconds * 1000 <= 22_000
    assert 9_000 <= (await redis.zscore(f"{QUEUE}:owners", "me") or 0) - seconds * 1000 <= 12_000


async def test_a_renewal_looks_at_so_many_jobs_in_turn(redis: ArqRedis, leases: Leases) -> None:
    """Anybody may have added millions to the set of those that are held: one call reads a bounded part of it."""
    await enqueue(redis, *"abcde")
    await claim(leases, "me")
    renew = scripts.load(redis, "renew")
    rank, replies = 0, list[tuple[int, int, str]]()
    for _ in range(3):
        for job_id in "abcde":
            await redis.pexpire(f"arq:in-progress:{job_id}", 1000)
            await redis.zadd(QUEUE, {job_id: 1})
        keys = [QUEUE, f"{QUEUE}:owners", f"{QUEUE}:held:me"]
        renewed, rank = await renew(keys=keys, args=["me", 10_000, rank, 2])
        kept = [job_id for job_id in "abcde" if await redis.pttl(f"arq:in-progress:{job_id}") > 1000]
        replies.append((renewed, rank, "".join(kept)))
    assert [(1, 2, "ab"), (1, 4, "cd"), (1, 0, "e")] == replies


async def test_marks_outlive_the_lease(redis: ArqRedis, leases: Leases) -> None:
    """What ends first is the lease, which is what a claim looks at to put a lost owner's jobs back."""
    await enqueue(redis, "a")
    await claim(leases, "me")
    lease_end, mark_end = await redis.zscore(f"{QUEUE}:owners", "me"), await redis.zscore(QUEUE, "a")
    assert 10_000 == (mark_end or 0) - (lease_end or 0)
    assert 19_000 < await redis.pttl("arq:in-progress:a") <= 20_000

    await QueueState(redis).release_owners("me")
    assert ["a"] == await claim(leases, "you")


async def test_a_renewal_tells_that_the_lease_is_lost(redis: ArqRedis, leases: Leases) -> None:
    """The owner is notified in its event loop, and goes on as another one."""
    await enqueue(redis, "a")
    await claim(leases, "me")
    await lapse(redis, "me")
    await claim(leases, "you")
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    renewal = Renewal(
        redis, QUEUE, lease_ms=300, owner=lambda: "me", lost=lambda o: heard.done() or heard.set_result(o)
    )

    assert "me" == await asyncio.wait_for(heard, 10)
    await renewal.close()


async def test_a_lease_that_ended_with_its_last_job_is_not_lost(redis: ArqRedis, leases: Leases) -> None:
    """Redis forgets an owner that holds nothing; just before a renewal the worker may not know yet."""
    await enqueue(redis, "a")
    await claim(leases, "me")
    await leases.finish("me", [done("a")])
    looks, looked_again, lost = itertools.count(), threading.Event(), list[str]()

    def owner() -> str | None:
        look = next(looks)
        if look == 1:
            renewal.begin(time.monotonic())  # it knows, and has claimed another job
        elif look > 1:
            looked_again.set()
        return "me" if look < 2 else None

    renewal = Renewal(redis, QUEUE, lease_ms=200, owner=owner, lost=lost.append)
    assert await asyncio.to_thread(looked_again.wait, 10)
    await renewal.close()
    await asyncio.sleep(0)
    assert [] == lost


async def test_an_owner_that_slept_gives_up_by_its_own_clock(redis: ArqRedis) -> None:
    """Before it claims again, a process that was paused for longer than its lease becomes a new owner."""
    lost: list[Any] = []
    renewal = Renewal(redis, QUEUE, lease_ms=10_000, owner=lambda: "me", lost=lost.append)
    renewal.begin(time.monotonic() - 9)
    renewal.check("me")
    assert [] == lost

    renewal.begin(time.monotonic() - 11)
    renewal.check("me")
    await renewal.close()
    assert ["me"] == lost


async def test_a_blocked_loop_keeps_its_lease_for_as_long_as_is_allowed(redis: ArqRedis, redis_url: str) -> None:
    """It keeps it no longer: then its jobs are another worker's, and finishes that come late are refused."""
    short = Leases(redis, QUEUE, lease_ms=400)
    await enqueue(redis, "a")
    assert ["a"] == await claim(short, "me")
    renewal = Renewal(redis, QUEUE, lease_ms=400, owner=lambda: "me", lost=lambda _owner: None, longest_block_s=1.2)
    began_s = time.monotonic()
    with Redis.from_url(redis_url) as beside:
        while _lease_end_s(beside, "me") > time.time() and time.monotonic() < began_s + 10:
            time.sleep(0.01)  # noqa: ASYNC251  (it blocks the event loop: that is what is tried)
    lasted_s = time.monotonic() - began_s
    await renewal.close()
    assert 1.2 < lasted_s < 1.2 + 2 * 0.4
    assert ["a"] == await claim(short, "another")
    assert [False, True] == [*await short.finish("me", [done("a")]), *await short.finish("another", [done("a")])]


def _lease_end_s(redis: Any, owner: str) -> float:
    return float(redis.zscore(f"{QUEUE}:owners", owner) or 0) / 1000


def test_the_documents_name_the_bound_of_a_blocked_loop() -> None:
    """The one that the engine has."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    assert f"its lease is renewed for {LONGEST_BLOCK_S:.0f} s" in readme


def test_the_thread_ends_with_an_event_loop_that_left_it_open(redis_url: str) -> None:
    """As in an application's tests that run a worker's `main` and never close it: nothing is raised in the thread."""

    async def begin() -> None:
        redis = RedisClient.open(redis_url, queue_name=QUEUE)
        Renewal(redis, QUEUE, lease_ms=40, owner=lambda: None, lost=lambda _owner: None)

    asyncio.run(begin())
    for thread in threading.enumerate():
        if thread.name == "lease renewal":
            thread.join(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "lease renewal"]
