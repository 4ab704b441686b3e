"""What arq's Worker documents of jobs, their ids and their results, run on arq's class and on ours.

Each test enqueues with arq's own client and looks with it, too: a difference would show here.
"""

import logging
from datetime import UTC, datetime

import pytest
from arq.connections import ArqRedis
from arq.jobs import Job, JobStatus
from arq.worker import func
from both_workers import Make, add

from tidepool.queue import wire


async def test_a_job_runs_and_its_result_is_read(make: Make, redis: ArqRedis) -> None:
    """Positional and keyword arguments arrive, the result comes back, and only the result is left in Redis."""
    job = await redis.enqueue_job("add", 1, second=2, _job_id="one")
    one = make()

    assert 1 == await one.run_check()
    assert job is not None
    assert 3 == await job.result(1)
    assert JobStatus.complete == await job.status()
    info = await job.result_info()
    assert info is not None
    assert (True, 1, "add", "one") == (info.success, info.job_try, info.function, info.job_id)
    assert {b"arq:result:one", b"arq:queue:health-check"} == set(await redis.keys("*"))


async def test_an_exception_is_the_failed_result(make: Make, redis: ArqRedis) -> None:
    """A job that raises is not run again; its error is the result."""
    job = await redis.enqueue_job("fail")
    one = make()
    await one.main()

    assert (0, 1) == (one.jobs_complete, one.jobs_failed)
    assert job is not None
    with pytest.raises(RuntimeError, match="on purpose"):
        await job.result(1)


async def test_an_unknown_function_and_an_expired_job_fail(make: Make, redis: ArqRedis) -> None:
    """Jobs that cannot be run are failed and leave the queue."""
    await redis.enqueue_job("nobody_knows")
    await redis.enqueue_job("add", 1, _job_id="gone")
    await redis.delete("arq:job:gone")
    one = make()
    await one.main()

    assert (0, 2, 0) == (one.jobs_complete, one.jobs_failed, await redis.zcard("arq:queue"))


async def test_the_same_id_is_enqueued_once(make: Make, redis: ArqRedis) -> None:
    """While a job is queued, and as long as its result is kept, its id is taken."""
    assert await redis.enqueue_job("add", 1, _job_id="same") is not None
    assert await redis.enqueue_job("add", 2, _job_id="same") is None
    await make().main()
    assert await redis.enqueue_job("add", 3, _job_id="same") is None


async def test_keep_result_zero_keeps_none(make: Make, redis: ArqRedis) -> None:
    """With keep_result 0 nothing of a job is left, and its id is free again."""
    await redis.enqueue_job("add", 1, _job_id="fleeting")
    await make(keep_result=0).main()

    assert not await redis.exists("arq:result:fleeting")
    assert await redis.enqueue_job("add", 1, _job_id="fleeting") is not None


@pytest.mark.parametrize("keep_result", [0, 3600], ids=["none is kept", "it has expired"])
async def test_an_id_runs_again_once_it_has_no_result(make: Make, redis: ArqRedis, keep_result: int) -> None:
    """It is a new job then, with an enqueue time of its own."""
    times: set[object] = set()

    async def note(ctx: dict[str, object]) -> None:
        times.add(ctx["enqueue_time"])

    for _ in range(3):
        assert await redis.enqueue_job("note", _job_id="same") is not None
        await make(functions=[func(note, name="note")], keep_result=keep_result).main()
        assert (await redis.enqueue_job("note", _job_id="same") is None) == bool(keep_result)
        await redis.delete("arq:result:same", "arq:job:same", "arq:queue")  # as if the result had expired
    assert 3 == len(times)


async def test_results_are_kept_for_their_time_or_for_ever(make: Make, redis: ArqRedis) -> None:
    """keep_result is the result's time to live; keep_result_forever leaves it without one."""
    await redis.enqueue_job("add", 1, _job_id="hour")
    await redis.enqueue_job("kept", 1, _job_id="ever")
    await make(functions=[add, func(add, name="kept", keep_result_forever=True)], keep_result=3600).main()

    assert 3590 < await redis.ttl("arq:result:hour") <= 3600
    assert -1 == await redis.ttl("arq:result:ever")


async def test_the_health_key_tells_the_counts(make: Make, redis: ArqRedis) -> None:
    """The health key exists while the worker lives, with arq's words, and `async_check_health` reads it."""
    await redis.enqueue_job("add", 1)
    one = make(health_check_key="health", health_check_interval=30)
    await one.main()

    text = await redis.get("health")
    assert b"j_complete=" in text
    assert 29 < await redis.ttl("health") <= 31


async def test_queue_name_and_serializer_are_the_workers_own(make: Make, redis: ArqRedis) -> None:
    """Jobs of another queue are left alone; a serializer of one's own is used both ways."""
    await redis.enqueue_job("add", 1, _queue_name="other", _job_id="o")
    await redis.enqueue_job("add", 1, _job_id="m")
    one = make(queue_name="other")
    await one.main()

    assert (1, 1) == (one.jobs_complete, await redis.zcard("arq:queue"))
    assert 2 == await Job("o", redis, "other", wire.deserialize).result(1)


async def test_log_lines_are_arqs(make: Make, redis: ArqRedis, caplog: pytest.LogCaptureFixture) -> None:
    """A program that watches the log for arq's lines about jobs finds them."""
    caplog.set_level(logging.INFO)
    await redis.enqueue_job("add", 1, _job_id="j", _defer_until=datetime.now(UTC))
    await make().main()

    assert "→ j:add(1)" in caplog.text
    assert "← j:add ● 2" in caplog.text
