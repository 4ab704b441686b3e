"""An idle worker's sleep: what ends it, and that trouble with Redis does not cost it its light sleep for good."""

import asyncio
import time

import pytest
from arq.connections import ArqRedis
from redis.exceptions import ResponseError
from waiting import until

from tidepool.queue.leases import Leases
from tidepool.queue.wakeup import Wakeup

QUEUE = "arq:queue"


async def test_the_wakeup_knows_when_the_next_job_is_due(redis: ArqRedis) -> None:
    """A deferred job ends the wait at its time, without anybody changing the queue."""
    await redis.enqueue_job("job", _defer_by=0.2)
    wakeup, begun = Wakeup(redis, QUEUE, poll_delay_s=30), time.monotonic()
    await wakeup.wait(30)
    await wakeup.close()

    assert 0.1 < time.monotonic() - begun < 10


async def test_jobs_that_are_skipped_do_not_hide_the_next_one(redis: ArqRedis) -> None:
    """The wait ends when that one is due; it does not end at once, again and again, because of the others."""
    await redis.zadd(QUEUE, {"left": 1, "too": 2})
    await redis.enqueue_job("job", _defer_by=0.2)
    wakeup, begun = Wakeup(redis, QUEUE, poll_delay_s=30), time.monotonic()
    for _ in range(2):
        await wakeup.wait(30, skipped=[b"left", b"too", b"gone"])
    await wakeup.close()

    assert 0.1 < time.monotonic() - begun < 10


async def test_a_head_that_nobody_takes_ends_the_wait_less_and_less_often(redis: ArqRedis) -> None:
    """A stock worker runs it, say: who waits for it asks some dozen times in a second, not thirty thousand times."""
    await redis.set("arq:in-progress:theirs", "1")
    await redis.zadd(QUEUE, {"theirs": 1})
    wakeup, begun, waits = Wakeup(redis, QUEUE, poll_delay_s=30), time.monotonic(), 0
    while time.monotonic() - begun < 0.5:
        await wakeup.wait(30)
        waits += 1
    assert waits < 10
    wakeup.set()
    begun = time.monotonic()
    await wakeup.wait(30)
    assert time.monotonic() - begun < 0.3  # another head, as far as is known
    waiting = asyncio.create_task(wakeup.wait(30))
    await redis.enqueue_job("job")
    await asyncio.wait_for(waiting, 10)
    await wakeup.close()


async def test_a_busy_redis_can_still_wake_us(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that passes is no reason to poll from then on."""
    wakeup = Wakeup(redis, QUEUE, poll_delay_s=30)

    async def busy(*_: object) -> float:
        raise ResponseError("BUSY Redis is busy running a script.")

    monkeypatch.setattr(wakeup, "_due_in_s", busy)
    with pytest.raises(ResponseError):
        await wakeup.wait(30)
    monkeypatch.undo()
    await redis.enqueue_job("job")
    await asyncio.wait_for(wakeup.wait(30), 10)
    assert wakeup._listener is not None
    await wakeup.close()


async def test_the_wakeup_knows_when_the_next_lease_ends(redis: ArqRedis) -> None:
    """An idle worker takes a lost one's jobs at that moment; its own beat would be half a second late."""
    await redis.enqueue_job("job", _job_id="a")
    dead = Leases(redis, QUEUE, lease_ms=1000)
    await dead.claim("dead", 10, suspect_too=False)
    wakeup = Wakeup(redis, QUEUE, poll_delay_s=30)
    await wakeup.wait(30)
    await wakeup.close()

    seconds, micros = await redis.time()
    assert (await redis.zscore(QUEUE, "a") or 0) > 1000 * seconds + micros / 1000, "its mark has not ended"
    ((job,), returned) = await Leases(redis, QUEUE, lease_ms=10_000).claim("me", 10, suspect_too=False)
    assert ("a", 1) == (job.id, returned)


async def test_a_listener_that_lost_its_connection_is_replaced(redis: ArqRedis) -> None:
    """The connection that asks may live on, and nobody would hear the answer."""
    wakeup = Wakeup(redis, QUEUE, poll_delay_s=30)
    await wakeup.wait(0)
    first = wakeup._listener
    assert first is not None
    await wakeup._listening.disconnect(nowait=True)
    await asyncio.wait([first])

    waiting = asyncio.create_task(wakeup.wait(30))

    async def listens() -> bool:
        return wakeup._listener not in (None, first)

    await until(listens)
    await redis.enqueue_job("job")
    await asyncio.wait_for(waiting, 10)
    await wakeup.close()
