"""Values in Redis that no worker of ours has written, one kind at a time; `test_hostile_redis` mixes all of them."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job as ArqJob
from arq.jobs import JobResult
from arq.worker import func
from engines import own_client, stop
from waiting import until

from tidepool.client import JobClient
from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker
from tidepool.jobs.job import Job
from tidepool.queue import wire
from tidepool.queue.faults import Outage
from tidepool.queue.finisher import Finisher
from tidepool.queue.leases import Again, Done, Leases, backlog
from tidepool.queue.scripts import script_text

QUEUE = "arq:queue"
MB = 2**20


class Running:
    """A worker whose function `job` waits until it may go on."""

    def __init__(self, redis: ArqRedis, *, log_results: bool = True, **options: Any) -> None:
        self.may_end = asyncio.Event()
        self.at_work: list[str] = []
        self.most_at_work = 0

        async def job(ctx: dict[Any, Any], *_args: Any, **_kwargs: Any) -> str:
            self.at_work.append(ctx["job_id"])
            self.most_at_work = max(self.most_at_work, len(self.at_work))
            await self.may_end.wait()
            self.at_work.remove(ctx["job_id"])
            return "result"

        self.worker = Worker(
            functions=[func(job, name="job")],
            redis_pool=own_client(redis),
            handle_signals=False,
            allow_abort_jobs=True,
            log_results=log_results,
            ctx={"engine": EngineOptions(**options)},
            job_serializer=wire.serialize,
            job_deserializer=wire.deserialize,
        )
        self.task = self.worker.main_task = asyncio.create_task(self.worker.main())

    async def until_at_work(self, count: int) -> None:
        """Wait until so many jobs run."""

        async def are() -> bool:
            assert not self.task.done()
            return len(self.at_work) == count

        await until(are)


@pytest.fixture
async def start(redis: ArqRedis) -> AsyncIterator[Any]:
    """Give a function that starts a worker; it ends with the test."""
    started: list[Running] = []

    def make(**options: Any) -> Running:
        started.append(Running(redis, **options))
        return started[-1]

    yield make
    for running in started:
        running.may_end.set()
        await stop(running.worker)


def is_empty(redis: ArqRedis) -> Any:
    """Return a condition: nothing is in the queue."""

    async def empty() -> bool:
        return not await redis.zcard(QUEUE)

    return empty


def is_idle(running: Running) -> Any:
    """Return a condition: the worker has no job any more."""

    async def idle() -> bool:
        return not running.worker.tasks

    return idle


async def enqueue(redis: ArqRedis, *ids: str | bytes, size: int = 0) -> None:
    """Enqueue jobs of so many bytes, due in this order."""
    for number, job_id in enumerate(ids):
        name = job_id.encode() if isinstance(job_id, str) else job_id
        payload = wire.serialize({"f": "job", "a": ["x" * size], "k": {}, "t": None, "et": 1_764_000_000_000})
        await redis.set(b"arq:job:" + name, payload)
        await redis.zadd(QUEUE, {name: number + 1})


async def test_no_id_looks_like_another_jobs_task(redis: ArqRedis, start: Any) -> None:
    """An id may hold the owner's name and any separator: each job has its slot, and gives it back."""
    running = start(owner="me")
    ids = [f"v{end}" for end in ("", "\nme.0", ":me.0", "\x00me.0", "again", "\nme.0\nme.0")]
    await enqueue(redis, *ids)
    await running.until_at_work(len(ids))
    running.may_end.set()
    await until(is_empty(redis))
    await until(is_idle(running))


async def test_a_job_whose_mark_somebody_deletes_gives_all_its_slots_back(redis: ArqRedis, start: Any) -> None:
    """It is claimed twice by one owner: both attempts count, and so do the bytes of both, until they have ended."""
    running = start(owner="me")
    for count in (1, 2, 3):
        await enqueue(redis, "twice", size=10_000)
        await redis.delete("arq:in-progress:twice")
        await running.until_at_work(count)
    running.may_end.set()
    await until(is_empty(redis))
    await until(is_idle(running))
    assert 0 == running.worker.held_bytes


async def test_marks_of_other_jobs_are_neither_read_nor_removed(redis: ArqRedis, start: Any) -> None:
    """The job that runs here is aborted; bytes of no encoding hurt nobody; marks from the future go, as in arq."""
    running = start()
    others = {b"\xff": 1.0, b"someone": 2.0, b"\n": 0.0}
    await redis.zadd("arq:abort", others)
    await redis.zadd("arq:abort", {f"future-{n}": 9e15 for n in range(3)})
    job = await redis.enqueue_job("job", _job_id="mine")
    await running.until_at_work(1)
    assert job is not None
    assert await job.abort(timeout=10)
    assert others == dict(await redis.zrange("arq:abort", 0, -1, withscores=True))


@pytest.mark.parametrize("name", ["owners", "held:me", "lapses", "suspects"])
@pytest.mark.parametrize("command", ["SET {} x", "RPUSH {} x", "SADD {} x", "HSET {} x 1", "ZADD {} 1 x"])
async def test_a_key_of_ours_of_a_wrong_type_is_deleted_and_named_once(
    name: str, command: str, redis: ArqRedis, logs: list[Any]
) -> None:
    """The claim that finds it works all the same, and so does everything later."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    key = f"{QUEUE}:{name}"
    right = command.startswith("HSET" if name == "lapses" else "ZADD")
    for job_id in ("a", "b"):
        await redis.delete(key)
        await redis.execute_command(*command.format(key).split())
        await enqueue(redis, job_id)
        (job,), _ = await leases.claim("me", 10, suspect_too=True)
        assert job_id == job.id
        assert [True] == await leases.finish("me", [(job, Done())])
    assert ([] if right else [key]) == [line["what"] for line in logs if line["event"] == "redis.key_unusable"]


@pytest.mark.parametrize("name", ["owners", "held:me", "lapses", "suspects"])
async def test_a_key_of_a_wrong_type_between_claim_and_finish_breaks_nothing(name: str, redis: ArqRedis) -> None:
    """A finish does what it can; without the set of what it holds an owner holds nothing."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a", "b")
    (a, b), _ = await leases.claim("me", 10, suspect_too=True)
    await redis.set(f"{QUEUE}:{name}", "x")
    held = name != "held:me"
    finishes = [(a, Done(b"result", 1000)), (b, Again(1))]
    assert [held, held] == await leases.finish("me", finishes)


@pytest.mark.parametrize("kind", ["in-progress", "retry", "job", "result"])
async def test_a_jobs_key_of_a_wrong_type_is_that_jobs_alone(kind: str, redis: ArqRedis) -> None:
    """All three are claimed: a mark of another type is no worker's."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a", "odd", "b")
    await redis.delete(f"arq:{kind}:odd")
    await redis.hset(f"arq:{kind}:odd", "x", "1")
    jobs, _ = await leases.claim("me", 10, suspect_too=True)
    assert ["a", "odd", "b"] == [job.id for job in jobs]
    assert [1, 1, 1] == [job.attempt for job in jobs]
    assert [True] * 3 == await leases.finish("me", [(job, Done(b"r", 1000)) for job in jobs])
    assert b"r" == await redis.get("arq:result:odd")


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


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "nan"])
async def test_a_suspect_may_have_any_score(score: str, redis: ArqRedis) -> None:
    """It is handed out with a time that can be reckoned with."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a")
    await redis.zadd(f"{QUEUE}:suspects", {"a": 0 if score == "nan" else float(score)})
    (job,), _ = await leases.claim("me", 10, suspect_too=True)
    assert 0 <= job.due_ms <= 253_402_300_799_999


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
        finisher.put(Job(job_id, job_id, "me"), Done(b"x" * (MB + 1), 1000))
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
    assert 0 == running.worker.held_bytes


async def test_a_job_over_the_limit_is_refused_unread(redis: ArqRedis, start: Any) -> None:
    """Its result says why; one of exactly as many bytes runs, whatever client enqueued it."""
    running = start(max_job_bytes=5000)
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


async def test_an_id_of_no_encoding_has_its_result(redis: ArqRedis, start: Any, caplog: Any) -> None:
    """Without an error of a serializer in the log, and however long it is, its lines end."""
    caplog.set_level(logging.INFO)
    running = start()
    running.may_end.set()
    odd = b"\xff\n" + b"x" * 5000
    await enqueue(redis, odd)
    await until(is_empty(redis))
    assert wire.deserialize(await redis.get(b"arq:result:" + odd))["s"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert max(len(record.getMessage()) for record in caplog.records) < 1000


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


async def test_an_error_of_a_round_does_not_end_the_worker(
    redis: ArqRedis, start: Any, monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    """Whatever it is, if it is no answer of Redis's: it is logged once, and the rounds go on."""
    monkeypatch.setattr("tidepool.engine.worker._FAILED_ROUND_DELAY_S", 0.0)
    monkeypatch.setattr("tidepool.engine.worker._HEARTBEAT_S", 0.01)
    running = start()
    right = running.worker.heart_beat
    failures = 0

    async def heart_beat() -> None:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd")
        await right()

    monkeypatch.setattr(running.worker, "heart_beat", heart_beat)
    running.may_end.set()
    job = await redis.enqueue_job("job")
    assert job is not None
    assert "result" == await job.result(10)

    async def all_failed() -> bool:
        return failures == 3

    await until(all_failed)
    assert 1 == len([line for line in logs if line["event"] == "task.failed"])


async def test_the_backlog_is_counted_among_odd_owners(redis: ArqRedis) -> None:
    """Keys of wrong types hold nothing."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a", "b")
    await leases.claim("me", 1, suspect_too=False)
    await redis.set(f"{QUEUE}:held:odd", "x")
    await redis.zadd(f"{QUEUE}:owners", {"odd": 1, b"\xff": 2})
    found = await backlog(redis, QUEUE, 10)
    assert (1, 1) == (found.waiting, found.running)
    await redis.delete(f"{QUEUE}:owners", QUEUE)
    await redis.set(f"{QUEUE}:owners", "x")
    await redis.set(QUEUE, "x")
    found = await backlog(redis, QUEUE, 10)
    assert (0, 0, None) == tuple(found)


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
    await redis.register_script(script_text("renew"))(
        keys=[QUEUE, f"{QUEUE}:owners", f"{QUEUE}:held:me"], args=["me", 10_000, 0, 100]
    )

    assert {"tried": (2, 0), "held": (1, 1)} == {job.id: (job.attempt, job.lapses) for job in jobs}
    used = set(await redis.info("commandstats"))
    assert {"cmdstat_getrange", "cmdstat_strlen", "cmdstat_hstrlen"} <= used
    assert not {"cmdstat_get", "cmdstat_hget", "cmdstat_hmget", "cmdstat_hgetall"} & used


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


async def test_what_is_shown_of_a_retried_job_is_bounded(redis: ArqRedis) -> None:
    """Values of others may be huge: no more of them is read than shows that they are none of ours."""
    await redis.mset(
        {"arq:retry:a": "2", "arq:cause:a": "x" * MB, "arq:job:a": b" " * (2 * MB), "arq:retry:b": "1" * MB}
    )
    await redis.config_resetstat()
    shown = await JobClient(redis).retrying("a")
    assert shown is not None
    assert (None, 2, "x" * 500) == (shown.function, shown.attempts, shown.last_error)
    assert await JobClient(redis).retrying("b") is None
    assert "cmdstat_get" not in await redis.info("commandstats")
