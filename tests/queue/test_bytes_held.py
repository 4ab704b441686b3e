"""Bounds on bytes: what a claim returns, a finish sends, a worker holds and a log line shows."""

import logging
import time
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job as ArqJob
from arq.jobs import JobResult
from held_jobs import QUEUE, enqueue, is_empty
from waiting import until

from tidepool.client import JobClient
from tidepool.jobs.job import Job
from tidepool.queue import scripts, wire
from tidepool.queue.faults import Outage
from tidepool.queue.finisher import Done, Finisher
from tidepool.queue.leases import Leases

MB = 2**20


async def test_a_claim_stops_before_the_job_that_is_too_many_bytes(redis: ArqRedis) -> None:
    """Never without any job, and always in order; ids count as well."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a", "b", "c", size=1000)
    await enqueue(redis, "tiny", b"i" * 3000)
    await redis.zadd(QUEUE, {"tiny": 10, b"i" * 3000: 11})
    rounds: list[list[str]] = []
    for max_bytes in (2500, 1, 5, 3000, 3000):
        jobs, _ = await leases.claim("me", 250, suspect_too=True, max_bytes=max_bytes)
        rounds.append([job.queue_id[:4] for job in jobs])
    assert [["a", "b"], ["c"], ["tiny"], ["iiii"], []] == rounds


async def test_one_claim_returns_4_mib_whatever_it_is_asked_for(redis: ArqRedis) -> None:
    """So that Redis has no more of them at hand."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, *"abcdef", size=MB - 1000)
    jobs, _ = await leases.claim("me", 250, suspect_too=True, max_bytes=100 * MB)
    assert ["a", "b", "c", "d"] == [job.id for job in jobs]


async def test_finishes_are_sent_4_mib_at_a_time(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them get there."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, *"abcdef")
    await leases.claim("me", 250, suspect_too=True)
    sizes: list[int] = []
    right = leases.finish

    async def measured(owner: str, finishes: Any) -> list[bool]:
        sizes.append(sum(len(done.result) for _, done in finishes))
        return await right(owner, finishes)

    monkeypatch.setattr(leases, "finish", measured)
    finisher = Finisher(leases, Outage(), lambda _: None)
    for job_id in "abcdef":
        finisher.put(Job(job_id, "me"), Done(b"x" * (MB + 1), 1000))
    await finisher.drain()
    assert [3 * (MB + 1)] * 2 == sizes
    assert 6 == len([key async for key in redis.scan_iter("arq:result:*")])


async def test_a_worker_holds_no_more_bytes_than_it_may(redis: ArqRedis, start: Any) -> None:
    """Large jobs wait for each other; one that is larger than all that it may hold runs alone."""
    heartbeats: list[float] = []
    running = start(max_held_bytes=250_000, beaten=lambda: heartbeats.append(time.monotonic()))
    await enqueue(redis, *(f"j{n}" for n in range(7)), size=100_000)
    await running.until_at_work(3)  # the third one goes over the limit: there is always room for one
    await enqueue(redis, "large", size=400_000)
    enqueued_s = time.monotonic()

    async def has_beaten() -> bool:
        return heartbeats[-1] > enqueued_s

    await until(has_beaten)
    assert 3 == running.most_at_work
    running.may_end.set()
    await until(is_empty(redis))
    assert 0 == running.worker._tidepool_assembled().jobs.held_bytes


async def test_a_job_over_the_limit_is_refused_unread(redis: ArqRedis, start: Any) -> None:
    """Its result says why; one of exactly as many bytes runs, whatever client enqueued it."""
    running = start(max_job_bytes=5000, leave_s=None)
    running.may_end.set()
    await enqueue(redis, "over", size=5000)
    await enqueue(redis, "under", size=4900)
    await until(is_empty(redis))
    over, under = await _result(redis, "over"), await _result(redis, "under")
    assert (False, True) == (over.success, under.success)
    assert "is larger than 5000 bytes" in str(over.result)


async def test_arguments_of_large_jobs_are_not_kept_where_that_is_asked_for(redis: ArqRedis, start: Any) -> None:
    """Nor while the job runs; those of small ones are."""
    running = start(max_kept_bytes=5000)
    running.may_end.set()
    await enqueue(redis, "large", size=6000)
    await enqueue(redis, "small", size=10)
    await until(is_empty(redis))
    large, small = await _result(redis, "large"), await _result(redis, "small")
    assert ("x" * 10,) == tuple(small.args)
    assert [["left out: 6055 bytes"], {}] == [list(large.args), large.kwargs]


@pytest.mark.parametrize(("shown", "arguments"), [(True, "('secret')"), (False, "(…)")])
async def test_arguments_are_hidden_by_an_option_of_their_own(
    shown: bool,  # noqa: FBT001
    arguments: str,
    redis: ArqRedis,
    start: Any,
    caplog: Any,
) -> None:
    """`log_results` hides results, as in arq: its own users read the arguments beside it."""
    caplog.set_level(logging.INFO)
    running = start(log_arguments=shown, log_results=False)
    running.may_end.set()
    job = await redis.enqueue_job("job", "secret", _job_id="j")
    assert job is not None
    await job.result(10)
    assert f"→ j:job{arguments}" in caplog.text
    assert "'result'" not in caplog.text


async def _result(redis: ArqRedis, job_id: str) -> JobResult:
    found = await ArqJob(job_id, redis, _deserializer=wire.deserialize).result_info()
    assert found is not None
    return found


async def test_no_foreign_value_is_read_whole(redis: ArqRedis) -> None:
    """Redis would copy it for Lua, whatever its size: a mark, a count of tries or of lapses is asked for its length."""
    leases, huge = Leases(redis, QUEUE, lease_ms=10_000), b"1" * MB
    await enqueue(redis, "marked", "tried", "lost", "held")
    await redis.set("arq:in-progress:marked", huge)
    await redis.set("arq:retry:tried", huge)
    await redis.hset(f"{QUEUE}:lapses", "held", huge)
    await redis.set("arq:in-progress:lost", huge)
    await redis.zadd(f"{QUEUE}:held:dead", {"lost": 1})
    await redis.zadd(f"{QUEUE}:owners", {"dead": 1})
    await redis.config_resetstat()

    jobs, _ = await leases.claim("me", 10, suspect_too=True)
    await redis.zadd(QUEUE, {"held": 1})
    await redis.set("arq:in-progress:held", huge)
    await scripts.load(redis, "renew")(keys=[QUEUE, f"{QUEUE}:owners", f"{QUEUE}:held:me"], args=["me", 10_000, 0, 100])

    assert {"tried": (2, 0), "held": (1, 1)} == {job.id: (job.attempt, job.lapses) for job in jobs}
    used = set(await redis.info("commandstats"))
    assert {"cmdstat_getrange", "cmdstat_strlen", "cmdstat_hstrlen"} <= used
    assert not {"cmdstat_get", "cmdstat_hget", "cmdstat_hmget", "cmdstat_hgetall"} & used


async def test_what_is_shown_of_a_retried_job_is_bounded(redis: ArqRedis) -> None:
    """Values of others may be huge: no more is read than shows that they are not ours."""
    await redis.mset(
        {"arq:retry:a": "2", "arq:cause:a": "x" * MB, "arq:job:a": b" " * (2 * MB), "arq:retry:b": "1" * MB}
    )
    await redis.config_resetstat()
    shown = await JobClient(redis).retrying("a")
    assert shown is not None
    assert (None, 2, "x" * 500) == (shown.function, shown.attempts, shown.last_error)
    assert await JobClient(redis).retrying("b") is None
    assert "cmdstat_get" not in await redis.info("commandstats")
