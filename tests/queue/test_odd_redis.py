"""Keys and values in Redis that are not what they should be: of a wrong type, deleted, or of other jobs."""

import logging
from typing import Any

import pytest
from arq.connections import ArqRedis
from held_jobs import QUEUE, enqueue, is_empty, is_idle
from waiting import until

from tidepool.jobs.outcomes import RetryLater
from tidepool.queue import wire
from tidepool.queue.finisher import Done
from tidepool.queue.leases import Leases


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
    assert 0 == running.worker._tidepool_assembled().jobs.held_bytes


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
    finishes = [(a, Done(b"result", 1000)), (b, RetryLater())]
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


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "nan"])
async def test_a_suspect_may_have_any_score(score: str, redis: ArqRedis) -> None:
    """It is handed out with a time that can be reckoned with."""
    leases = Leases(redis, QUEUE, lease_ms=10_000)
    await enqueue(redis, "a")
    await redis.zadd(f"{QUEUE}:suspects", {"a": 0 if score == "nan" else float(score)})
    (job,), _ = await leases.claim("me", 10, suspect_too=True)
    assert 0 <= job.due_ms <= 253_402_300_799_999


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
