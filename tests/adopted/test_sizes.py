"""Jobs and results of many megabytes, such as tables, attachments and notebooks; and jobs over the limit."""

import asyncio
from collections.abc import Callable
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.jobs import SerializationError

from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker
from tidepool.queue.dead_letters import DeadLetters

Make = Callable[..., arq.worker.Worker]
Ctx = dict[Any, Any]
QUEUE = "arq:queue"
MIB = 1024 * 1024


async def echo(_ctx: Ctx, value: bytes) -> bytes:
    """Return the argument."""
    return value


async def repeated(_ctx: Ctx, value: bytes, number: int) -> bytes:
    """Return the argument so many times."""
    return value * number


async def length(_ctx: Ctx, value: bytes) -> int:
    """Return the length of the argument."""
    return len(value)


@pytest.mark.parametrize("size", [MIB - 1, MIB, 2 * MIB, 20 * MIB])
async def test_large_arguments_and_results_arrive(make: Make, redis: ArqRedis, size: int) -> None:
    """By default up to 64 MiB, and the result as well."""
    job = await redis.enqueue_job("echo", b"x" * size)
    assert job is not None
    assert 1 == await make(echo).run_check()
    assert size == len(await job.result(timeout=20))


async def test_more_bytes_than_are_held_at_a_time_are_run_one_after_the_other(make: Make, redis: ArqRedis) -> None:
    """As many jobs as fit are claimed, and the others when these have ended; both classes run all of them."""
    jobs = [await redis.enqueue_job("length", b"x" * MIB) for _ in range(12)]
    worker = make(length)
    if isinstance(worker, Worker):
        worker.tidepool_options = EngineOptions(max_held_bytes=3 * MIB)
    assert 12 == await worker.run_check()
    assert [MIB] * 12 == [await job.result(timeout=5) for job in jobs if job is not None]


class TestLimit:
    """The limit that an application sets: `EngineOptions.max_job_bytes`. Only our class has one."""

    @pytest.fixture
    def kind(self) -> type[arq.worker.Worker]:
        """Give our class."""
        return Worker

    async def test_a_job_of_the_limit_is_run(self, make: Make, redis: ArqRedis) -> None:
        """To the byte: its size is that of what was pickled."""
        job = await redis.enqueue_job("length", b"x" * 3 * MIB, _job_id="j")
        assert job is not None
        size = await redis.strlen("arq:job:j")
        assert 1 == await make(length, tidepool=EngineOptions(max_job_bytes=size)).run_check()
        assert 3 * MIB == await job.result(timeout=5)

    async def test_a_larger_job_becomes_a_dead_letter_and_is_run_when_the_limit_is_raised(
        self, make: Make, redis: ArqRedis
    ) -> None:
        """No byte of it is lost, and the jobs beside it are run."""
        large = await redis.enqueue_job("length", b"x" * 3 * MIB, _job_id="large")
        small = await redis.enqueue_job("length", b"x", _job_id="small")
        assert large is not None
        assert small is not None
        size = await redis.strlen("arq:job:large")
        await make(length, tidepool=EngineOptions(max_job_bytes=size - 1)).async_run()
        assert (1, 0) == (await small.result(timeout=5), await redis.zcard(QUEUE))
        dead = DeadLetters(redis, QUEUE)
        (letter,) = await dead.oldest(10)
        assert ("large", size) == (letter.job_id, letter.size)
        assert f"larger than {size - 1} bytes" in letter.reason
        assert ["large"] == await dead.requeue()
        await make(length, tidepool=EngineOptions(max_job_bytes=size)).async_run()
        assert 3 * MIB == await large.result(timeout=5)

    async def test_without_dead_letters_its_client_gets_the_error(self, make: Make, redis: ArqRedis) -> None:
        """With `leave_s=None` it fails, as what cannot be decoded does in arq."""
        job = await redis.enqueue_job("length", b"x" * MIB)
        assert job is not None
        await make(length, tidepool=EngineOptions(max_job_bytes=MIB, leave_s=None)).async_run()
        with pytest.raises(arq.worker.JobExecutionFailed, match="is larger than 1048576 bytes"):
            await job.result(timeout=5)

    async def test_the_client_of_a_result_that_is_too_large_gets_an_error(self, make: Make, redis: ArqRedis) -> None:
        """Redis cut the connection: that counted as an outage, and no job was acknowledged any more."""
        large = await redis.enqueue_job("repeated", b"x", 3 * MIB)
        small = await redis.enqueue_job("repeated", b"x", 1)
        assert large is not None
        assert small is not None
        old = (await redis.config_get("proto-max-bulk-len"))["proto-max-bulk-len"]
        await redis.config_set("proto-max-bulk-len", MIB)
        try:
            async with asyncio.timeout(10):
                await make(repeated, tidepool=EngineOptions(max_result_bytes=MIB)).async_run()
        finally:
            await redis.config_set("proto-max-bulk-len", old)
        assert b"x" == await small.result(timeout=5)
        with pytest.raises(SerializationError, match=r"has 3145[0-9]{3} bytes, and 1048576 may be kept"):
            await large.result(timeout=5)

    async def test_a_result_that_fits_without_the_arguments_is_kept(self, make: Make, redis: ArqRedis) -> None:
        """Arguments count as a part of what is kept."""
        job = await redis.enqueue_job("length", b"x" * MIB)
        assert job is not None
        await make(length, tidepool=EngineOptions(max_result_bytes=MIB)).async_run()
        info = await job.result_info()
        assert info is not None
        assert (True, MIB, ()) == (info.success, info.result, info.args)
