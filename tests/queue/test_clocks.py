"""Clocks that are wrong: when a job is due is decided by Redis's clock alone, and what is old by PostgreSQL's."""

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import Retry, func
from engines import own_client

from tidepool.client import JobClient
from tidepool.engine.worker import Worker
from tidepool.health.pruner import Pruner
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from tidepool.queue import wire
from tidepool.queue.leases import Leases
from tidepool.queue.wakeup import Wakeup

QUEUE = "arq:queue"
AN_HOUR_S = 3600.0


@pytest.fixture(params=[AN_HOUR_S, -AN_HOUR_S], ids=["ahead", "behind"])
def skew(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that makes this process's clock an hour wrong."""
    now, now_ns, skew_s = time.time, time.time_ns, request.param

    def make_wrong() -> None:
        monkeypatch.setattr(time, "time", lambda: now() + skew_s)
        monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(skew_s * 1e9))

    return make_wrong


async def due_in_s(redis: ArqRedis, job_id: str) -> float:
    """Return when a job is due, from now on, by Redis's clock."""
    seconds, micros = await redis.time()
    return float(await redis.zscore(QUEUE, job_id) or 0) / 1000 - seconds - micros / 1e6


async def test_an_idle_worker_sleeps_until_the_next_job_is_due(redis: ArqRedis, skew: Any) -> None:
    """One that is ahead would look again and again, one that is behind an hour late."""
    await redis.enqueue_job("job", _defer_by=0.3)
    skew()
    wakeup, begun = Wakeup(redis, QUEUE, poll_delay_s=30), time.monotonic()
    await wakeup.wait(30)
    await wakeup.close()

    assert 0.1 < time.monotonic() - begun < 10


async def test_a_deferred_job_is_not_claimed_early(redis: ArqRedis, skew: Any) -> None:
    """A job that is due is claimed."""
    await redis.enqueue_job("job", _job_id="later", _defer_by=600)
    await redis.enqueue_job("job", _job_id="now")
    skew()
    jobs, _ = await Leases(redis, QUEUE, lease_ms=5000).claim("me", 10, suspect_too=True)

    assert ["now"] == [job.id for job in jobs]


async def test_another_try_comes_after_its_delay(redis: ArqRedis, skew: Any) -> None:
    """With the worker's clock it would come at once if that is slow, and an hour late if it is fast."""

    async def job(_ctx: dict[Any, Any]) -> None:
        raise Retry(defer=60)

    skew()
    worker = Worker(
        functions=[func(job, name="job")],
        redis_pool=own_client(redis),
        burst=True,
        max_burst_jobs=1,
        handle_signals=False,
        job_serializer=wire.serialize,
        job_deserializer=wire.deserialize,
    )
    await redis.zadd(QUEUE, {"again": 1})
    await redis.set("arq:job:again", wire.serialize({"f": "job", "a": [], "k": {}, "t": None, "et": 1}))
    await worker.main()

    assert 50 < await due_in_s(redis, "again") <= 60
    await worker.close()


async def test_a_new_job_is_due_at_once(client: JobClient, redis: ArqRedis, skew: Any) -> None:
    """With the producer's clock it would come late if that is fast, and overtake all others if it is slow."""
    skew()
    await client.enqueue("job", {}, job_id="new")

    assert -5 < await due_in_s(redis, "new") <= 0


async def test_the_ledger_keeps_its_rows_whatever_the_workers_clock(
    database: PoolConfig, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is pruned early is a job that may be applied again."""
    await connection.execute(
        "INSERT INTO job_results (job_id, function, status, reason, attempts, worker_id, enqueued_at, started_at,"
        " finished_at, queue_us, pool_wait_us, db_us)"
        " SELECT 'a', 'f', 'rejected', 'invalid', 1, 'w', now(), now(), now(), 0, 0, 0"
    )

    class Ahead(datetime):
        """A clock that is three years ahead."""

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(days=1000)

    monkeypatch.setattr("tidepool.health.pruner.datetime", Ahead)
    side = SideConnection(database, "prune")
    pruned = await Pruner(side, results_keep_days=2, snapshots_keep_days=1).run_once()
    await side.close()

    assert 0 == pruned.results
