"""Claims, leases and finishes against a real Redis: who holds a job, who may finish it, who gets it next."""

import asyncio
import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job as ArqJob
from arq.jobs import JobStatus
from redis import Redis

from tidepool.jobs.job import Job
from tidepool.queue import wire
from tidepool.queue.leases import MOST_AT_ONCE, Again, Done, Ending, Leases, Release, release_owners
from tidepool.queue.renewal import LONGEST_BLOCK_S, Renewal
from tidepool.queue.scripts import script_text
from tidepool.queue.wire import MAX_PAYLOAD_BYTES

QUEUE = "arq:queue"


@pytest.fixture
def leases(redis: ArqRedis) -> Leases:
    """Give the leases of the queue, ten seconds long."""
    return Leases(redis, QUEUE, lease_ms=10_000)


async def enqueue(redis: ArqRedis, *job_ids: str) -> None:
    """Enqueue jobs in this order, a millisecond apart."""
    now = time.time_ns() // 1_000_000 - 1000
    for number, job_id in enumerate(job_ids):
        await redis.set(f"arq:job:{job_id}", wire.serialize({"f": "f", "a": [], "k": {}, "t": None, "et": now}))
        await redis.zadd(QUEUE, {job_id: now + number})


async def claim(leases: Leases, owner: str, limit: int = 10, *, suspect_too: bool = False) -> list[str]:
    """Claim, and return the ids."""
    return [job.id for job in (await leases.claim(owner, limit, suspect_too=suspect_too))[0]]


async def lapse(redis: ArqRedis, owner: str) -> None:
    """Let an owner's lease end now, as if its process had been dead for ten seconds."""
    assert 1 == await release_owners(redis, QUEUE, owner)
    async for key in redis.scan_iter("arq:in-progress:*"):
        if await redis.get(key) == owner.encode():
            await redis.delete(key)


def finished(job_id: str, ending: Ending, *, is_retry: bool = False) -> tuple[Job, Ending]:
    """Return a job that ends so."""
    return Job(job_id, job_id, is_retry=is_retry), ending


def done(job_id: str, result: bytes = b"result", *, is_retry: bool = False) -> tuple[Job, Ending]:
    """Return a job that has ended."""
    return finished(job_id, Done(result, 1000), is_retry=is_retry)


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


async def test_a_finish_stores_the_result_and_leaves_nothing_else(redis: ArqRedis, leases: Leases) -> None:
    """After the last finish Redis has the result, and no lease, no mark and no payload."""
    await enqueue(redis, "a")
    await claim(leases, "me")

    assert [True] == await leases.finish("me", [done("a")])
    assert [b"arq:result:a"] == await redis.keys("*")
    assert b"result" == await redis.get("arq:result:a")


async def test_another_try_keeps_the_count_and_the_time(redis: ArqRedis, leases: Leases) -> None:
    """A job that runs again is due when it was told to be, and its failed tries are counted."""
    await enqueue(redis, "soon", "later")
    await claim(leases, "me")
    await leases.finish("me", [finished("soon", Again(1)), finished("later", Again(1, delay_ms=60_000))])
    seconds, _ = await redis.time()

    ((soon,), _) = await leases.claim("me", 10, suspect_too=False)
    assert ("soon", 2) == (soon.id, soon.attempt)
    assert 0 < (await redis.zscore(QUEUE, "later") or 0) - 1000 * seconds <= 61_000


@pytest.mark.parametrize("cause", ["line 1\nline 2 ", " 7 blanks", "nul \x00 é", "", "x" * 5000])
async def test_the_cause_of_the_last_try_is_kept(cause: str, redis: ArqRedis, leases: Leases) -> None:
    """Whatever its text is, as long as the job is to run again; a try without one deletes that of the try before."""
    await enqueue(redis, "a")
    await claim(leases, "me")
    await leases.finish("me", [finished("a", Again(1, "before"))])
    await claim(leases, "me")
    await leases.finish("me", [finished("a", Again(2, cause))])
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


async def test_a_finish_is_safe_to_repeat(redis: ArqRedis, leases: Leases) -> None:
    """A call whose reply was lost is repeated, and changes nothing more."""
    await enqueue(redis, "a")
    await claim(leases, "me")

    assert [[True], [False]] == [await leases.finish("me", [done("a")]) for _ in range(2)]
    assert [b"arq:result:a"] == await redis.keys("*")


async def test_a_claim_whose_reply_was_lost_is_found(redis: ArqRedis, leases: Leases) -> None:
    """What an owner holds without knowing it are its strays."""
    await enqueue(redis, "a", "b")
    await claim(leases, "me", 1)
    await claim(leases, "me", 1)

    assert ["b"] == await leases.strays("me", {"a"})


async def test_a_job_that_kills_its_workers_is_isolated_and_told(redis: ArqRedis, leases: Leases) -> None:
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
    await leases.finish("me", [finished("a", Again(1))])

    ((job,), _) = await leases.claim("you", 10, suspect_too=False)
    assert ("a", 2, 0) == (job.id, job.attempt, job.lapses)


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

    await redis.register_script(script_text("renew"))(
        keys=[QUEUE, f"{QUEUE}:owners", f"{QUEUE}:held:me"], args=["me", 10_000, 0, 100]
    )

    left = {job_id: await redis.pttl(f"arq:in-progress:{job_id}") for job_id in ("young", "old")}
    assert 12_000 <= left["young"] <= 12_345
    assert 19_000 <= left["old"] <= 20_000
    assert 19_000 <= (await redis.zscore(QUEUE, "old") or 0) - seconds * 1000 <= 22_000
    assert 9_000 <= (await redis.zscore(f"{QUEUE}:owners", "me") or 0) - seconds * 1000 <= 12_000


async def test_a_renewal_looks_at_so_many_jobs_in_turn(redis: ArqRedis, leases: Leases) -> None:
    """Anybody may have added millions to the set of those that are held: one call reads a bounded part of it."""
    await enqueue(redis, *"abcde")
    await claim(leases, "me")
    renew = redis.register_script(script_text("renew"))
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

    await release_owners(redis, QUEUE, "me")
    assert ["a"] == await claim(leases, "you")


async def test_a_renewal_tells_that_the_lease_is_lost(redis: ArqRedis, leases: Leases) -> None:
    """The owner hears of it in its event loop, and goes on as another one."""
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


async def test_a_blocked_loop_keeps_its_lease_for_as_long_as_is_documented(
    redis: ArqRedis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer: its job is another worker's then, and what it finishes late is refused."""
    monkeypatch.setattr("tidepool.queue.renewal.LONGEST_BLOCK_S", 1.2)
    short = Leases(redis, QUEUE, lease_ms=400)
    await enqueue(redis, "a")
    assert ["a"] == await claim(short, "me")
    renewal = Renewal(redis, QUEUE, lease_ms=400, owner=lambda: "me", lost=lambda _owner: None)
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
