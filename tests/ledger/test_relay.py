"""The way of jobs from the outbox to Redis: once, whatever ends in between, and again if Redis has lost them."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from arq.connections import ArqRedis
from commands import Service
from factories import an_outbox_job, user_fields
from waiting import until

from tidepool.client import JobClient
from tidepool.ledger import relay as relays
from tidepool.ledger.outbox import write
from tidepool.ledger.relay import Relay
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from tidepool.queue.relaying import QueuedJob, RelayQueue

QUEUE = "arq:queue"


class Killed(BaseException):
    """Ends a relay as a signal would: it does nothing more."""


class Dying(RelayQueue):
    """Is killed at its first copy: before the call or after it."""

    after = False

    async def enqueue(self, jobs: Sequence[QueuedJob], *, again: bool = False) -> str:
        """Enqueue them, or not."""
        if self.after:
            await super().enqueue(jobs, again=again)
        raise Killed


class Relays:
    """Makes relays of one queue, each as if its process had just begun, and runs workers."""

    def __init__(self, redis: ArqRedis, side: SideConnection, connection: Any, service: Service) -> None:
        self._redis: Any = redis
        self._side = side
        self._connection = connection
        self._service = service

    def make(self, name: str = "one", kind: type[RelayQueue] = RelayQueue) -> Relay:
        """Return a relay of the process *name*."""
        return Relay(kind(self._redis, QUEUE, name), QUEUE, self._side, "public", declared={"create_user": True})

    async def work(self) -> None:
        """Let a relay do what there is to do."""
        relay = self.make()
        while await relay.work():
            pass

    async def commit(self, *job_ids: str, **fields: Any) -> None:
        """Enqueue jobs in a transaction."""
        async with self._connection.transaction():
            jobs = [an_outbox_job(job_id, **fields) for job_id in job_ids]
            await write(self._connection, jobs, schema="public", queue_name=QUEUE)

    async def run_workers(self) -> None:
        """Run a worker until the queue is empty; its relay is kept away, so that the test's own do the work."""

        async def be_another() -> None:
            for number in itertools.count():
                await self._redis.set("arq:queue:relay", f"another {number}")
                await asyncio.sleep(0.5)

        another = asyncio.create_task(be_another())
        ended = await asyncio.to_thread(self._service.run, "arq", "worker.WorkerSettings", "--burst")
        another.cancel()
        await asyncio.wait([another])
        assert 0 == ended.status, ended.stderr
        await self._redis.delete("arq:queue:relay")

    async def queued(self) -> list[str]:
        """Return the ids of the jobs in the queue."""
        return sorted(job_id.decode() for job_id in await self._redis.zrange(QUEUE, 0, -1))

    async def waiting(self) -> list[str]:
        """Return the ids of the jobs in the outbox."""
        return [row["job_id"] for row in await self._connection.fetch("SELECT job_id FROM job_outbox ORDER BY id")]

    async def effects(self) -> list[str]:
        """Return the users that were created; a job that is applied twice is rejected the second time."""
        rejected = await self._connection.fetchval("SELECT count(*) FROM job_results WHERE status <> 'applied'")
        assert 0 == rejected
        return [row["username"] for row in await self._connection.fetch("SELECT username FROM users ORDER BY username")]

    async def age(self) -> None:
        """Let two minutes pass since all rows were copied."""
        await self._connection.execute("UPDATE job_outbox SET relayed_at = relayed_at - interval '2 min'")


@pytest.fixture
def outbox(redis: ArqRedis, side: SideConnection, connection: Any, service: Service) -> Relays:
    """Give what makes relays."""
    return Relays(redis, side, connection, service)


@pytest.fixture
async def running(outbox: Relays) -> AsyncIterator[Relay]:
    """Give a relay that runs."""
    relay = outbox.make()
    task = asyncio.create_task(relay.run())
    yield relay
    task.cancel()


async def test_a_commit_wakes_the_relay(
    outbox: Relays, running: Relay, redis: ArqRedis, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for its next look at the table."""
    monkeypatch.setattr(relays, "_CHECK_S", 3600.0)
    listening = "SELECT FROM pg_stat_activity WHERE query LIKE '%job_outbox%' AND pid <> pg_backend_pid()"
    listening += " AND datname = current_database() AND state = 'idle'"
    await until(lambda: connection.fetch(listening))
    await outbox.commit("a")
    await until(outbox.queued)
    await outbox.commit("b", due_ms=1_900_000_000_000)
    await until(lambda: redis.exists("arq:job:b"))
    assert 1_900_000_000_000 == await redis.zscore(QUEUE, "b")
    payload = await connection.fetchval("SELECT payload FROM job_outbox WHERE job_id = 'a'")
    assert payload == await redis.get("arq:job:a")


async def test_a_job_that_was_rolled_back_never_runs(outbox: Relays, connection: Any, redis: ArqRedis) -> None:
    """Nor does anything of it stay."""
    for number in range(200):
        transaction = connection.transaction()
        await transaction.start()
        await write(connection, [an_outbox_job(f"a{number}")], schema="public", queue_name=QUEUE)
        await transaction.rollback()
    await outbox.commit("b")
    await outbox.work()
    assert ["b"] == await outbox.queued()
    assert ["b"] == await outbox.waiting()
    assert [b"arq:job:b"] == await redis.keys("arq:job:*")


@pytest.mark.parametrize("has_run", [False, True], ids=["waits", "has run"])
@pytest.mark.parametrize("after", [False, True], ids=["before Redis", "before marking"])
async def test_a_relay_that_is_killed_loses_and_doubles_nothing(
    outbox: Relays, redis: ArqRedis, *, after: bool, has_run: bool, logs: list[Any]
) -> None:
    """Between reading and Redis, and between Redis and marking; also if the jobs have run meanwhile."""
    await outbox.commit("a", "b", "c")
    killed = outbox.make("killed", Dying)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dying, "after", after)
        with pytest.raises(Killed):
            await killed.work()
    await redis.delete("arq:queue:relay")  # as it expires
    if has_run:
        await outbox.run_workers()
    await outbox.work()
    await outbox.run_workers()
    assert ["a", "b", "c"] == await outbox.effects()
    await outbox.work()
    assert [] == await outbox.waiting()
    assert [] == [line for line in logs if line["event"] == "outbox.id_in_use"]


async def test_rows_stay_until_there_is_an_outcome(outbox: Relays) -> None:
    """They would be missing in an emptied Redis otherwise."""
    await outbox.commit("a", "b")
    await outbox.work()
    await outbox.work()
    assert ["a", "b"] == await outbox.waiting()
    await outbox.run_workers()
    await outbox.work()
    assert [] == await outbox.waiting()


async def test_an_earlier_outcome_of_the_id_is_not_that_of_the_job(outbox: Relays, redis: ArqRedis) -> None:
    """An id may be used again, as in arq; the job is then another one."""
    await outbox.commit("a", identity=False)
    await outbox.work()
    await outbox.run_workers()
    await redis.delete("arq:result:a")
    await outbox.commit("a", username="second", identity=False)
    await outbox.work()
    await outbox.work()
    assert ["a"] == await outbox.waiting() == await outbox.queued()
    await outbox.run_workers()
    assert ["a", "second"] == await outbox.effects()
    await outbox.work()
    assert [] == await outbox.waiting()


async def test_a_job_whose_id_is_its_identity_runs_once(outbox: Relays, redis: ArqRedis) -> None:
    """For as long as the ledger has its row, whenever it is enqueued again."""
    await outbox.commit("a", identity=True)
    await outbox.work()
    await outbox.run_workers()
    await redis.flushdb()
    await outbox.commit("a", username="second", identity=True)
    await outbox.work()
    await outbox.run_workers()
    assert ["a"] == await outbox.effects()
    await outbox.work()
    assert [] == await outbox.waiting()


@pytest.mark.parametrize("was_filling", [False, True], ids=["emptied", "emptied twice"])
async def test_an_emptied_redis_is_filled_again(outbox: Relays, redis: ArqRedis, *, was_filling: bool) -> None:
    """With the jobs that have no outcome, and with each of them once."""
    await outbox.commit("a", "b", "c")
    await outbox.work()
    await outbox.run_workers()
    ids = [f"d{number:04}" for number in range(1200)]
    await outbox.commit(*ids)
    await outbox.work()
    await redis.flushdb()
    if was_filling:  # by a relay that was killed
        await redis.set("arq:queue:refilled", "no")
    await outbox.work()
    assert ids == await outbox.queued()
    assert ids == await outbox.waiting()
    await outbox.run_workers()
    assert ["a", "b", "c", *ids] == await outbox.effects()


async def test_a_redis_that_is_emptied_while_it_is_filled_is_filled_again(outbox: Relays, redis: ArqRedis) -> None:
    """The end of the first filling does not count."""
    ids = [f"d{number:04}" for number in range(1200)]
    await outbox.commit(*ids)
    await outbox.work()
    await redis.flushdb()
    relay = outbox.make()
    assert await relay.work()
    assert 0 < len(await outbox.queued()) < len(ids)
    await redis.flushdb()
    while await relay.work():
        pass
    await outbox.work()
    assert ids == await outbox.queued()


async def test_a_job_with_an_id_in_use_is_dropped(outbox: Relays, client: JobClient, logs: list[Any]) -> None:
    """As arq refuses to enqueue it, and with a log line."""
    await client.enqueue("create_user", user_fields("first"), job_id="a")
    await outbox.commit("a", "b", username="second")
    await outbox.work()
    assert ["b"] == await outbox.waiting()
    (line,) = [line for line in logs if line["event"] == "outbox.id_in_use"]
    assert (1, ["a"]) == (line["count"], line["job_ids"])


async def test_a_job_that_redis_has_lost_alone_is_copied_again(
    outbox: Relays, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failover to a replica may lose the last jobs: those that neither Redis nor the ledger has."""
    monkeypatch.setattr(relays, "_GRACE_S", 0.0)
    monkeypatch.setattr(relays, "_CHECK_S", 0.0)
    await outbox.commit("a")
    await outbox.work()
    await outbox.run_workers()
    await redis.delete("arq:result:a")
    await outbox.commit("b", "c", "d")
    await outbox.work()
    await redis.zrem(QUEUE, "b")
    await redis.delete("arq:job:b")
    await redis.rename("arq:job:d", "arq:queue:dead-letter:1-1")
    await redis.zrem(QUEUE, "d")
    await redis.xadd("arq:queue:dead-letters", {"id": "d"}, id="1-1")
    await outbox.age()
    relay = outbox.make()
    await relay.work()
    assert ["c"] == await outbox.queued()
    await relay.work()
    assert ["b", "c"] == await outbox.queued()
    await outbox.run_workers()
    assert ["a", "b", "c"] == await outbox.effects()


async def test_of_a_plain_function_a_result_is_an_outcome(
    outbox: Relays, connection: Any, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its history may lack jobs. Of a declared job only the ledger proves an outcome."""
    monkeypatch.setattr(relays, "_GRACE_S", 0.0)
    monkeypatch.setattr(relays, "_CHECK_S", 0.0)
    await outbox.commit("plain", "declared")
    await connection.execute("UPDATE job_outbox SET function = 'send' WHERE job_id = 'plain'")
    await outbox.work()
    for job_id in ("plain", "declared"):
        await redis.delete(f"arq:job:{job_id}")
        await redis.zrem(QUEUE, job_id)
        await redis.set(f"arq:result:{job_id}", b"{}")
    await outbox.age()
    relay = outbox.make()
    await relay.work()
    await relay.work()
    assert ["declared"] == await outbox.queued() == await outbox.waiting()


async def test_one_relay_works_at_a_time(outbox: Relays, redis: ArqRedis) -> None:
    """Another one begins when the first has gone, or its lease is over."""
    await outbox.make("one").work()
    await outbox.commit("a")
    other = outbox.make("two")
    await other.work()
    assert [] == await outbox.queued()
    assert 0 < await redis.pttl("arq:queue:relay") <= 3000
    await outbox.make("two").close()
    await outbox.make("two").work()
    assert [] == await outbox.queued()
    await outbox.make("one").close()
    await outbox.make("two").work()
    assert ["a"] == await outbox.queued()


async def test_a_lease_that_nobody_renews_ends(
    outbox: Relays, redis: ArqRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one without an expiry, that another program has written."""
    monkeypatch.setattr(relays, "_CHECK_S", 0.0)
    await redis.set("arq:queue:relay", b"\xff")
    await outbox.commit("a")
    relay = outbox.make()
    await relay.work()
    assert [] == await outbox.queued()
    now_s = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now_s + 4)
    await relay.work()
    assert ["a"] == await outbox.queued()


async def test_keys_of_a_wrong_type_stop_no_relay(outbox: Relays, redis: ArqRedis) -> None:
    """They are replaced."""
    await outbox.commit("a")
    for key in ("arq:queue:relay", "arq:queue:refilled"):
        await redis.lpush(key, "x")
    await outbox.work()
    assert ["a"] == await outbox.queued()
    assert b"yes" == await redis.get("arq:queue:refilled")


async def test_a_relay_without_its_table_leaves_the_work_to_others(
    outbox: Relays, running: Relay, connection: Any, redis: ArqRedis, logs: list[Any]
) -> None:
    """It says so once, and works when it can."""
    await connection.execute("ALTER TABLE job_outbox RENAME TO away")

    async def said() -> bool:
        return any(line["event"] == "relay.unavailable" for line in logs)

    await until(said)
    assert not await redis.exists("arq:queue:relay")
    await connection.execute("ALTER TABLE away RENAME TO job_outbox")
    await outbox.commit("a")
    await until(outbox.queued)
    assert 1 == sum(line["event"] == "relay.unavailable" for line in logs)


async def test_large_jobs_are_copied_in_small_batches(outbox: Relays, connection: Any) -> None:
    """Of several megabytes at most, and in their order."""
    ids = [f"a{number}" for number in range(12)]
    await outbox.commit(*ids)
    await connection.execute("UPDATE job_outbox SET payload = payload || decode(repeat('20', 1000000), 'hex')")
    relay, sizes = outbox.make(), []
    for _ in itertools.count():
        has_more = await relay.work()
        sizes.append(len(await outbox.queued()))
        if not has_more:
            break
    assert [5, 10, 12] == sizes


async def test_a_worker_killed_with_its_relay_loses_and_doubles_nothing(
    outbox: Relays, service: Service, redis: ArqRedis, database: PoolConfig
) -> None:
    """Killed, Redis emptied, and another worker: each committed job has one effect, and the outbox is empty."""
    first = await asyncio.to_thread(service.start_worker)
    ids = [f"u{number:04}" for number in range(2000)]
    for part in range(0, 2000, 200):
        await outbox.commit(*ids[part : part + 200])
        if part == 800:
            first.kill()
            await redis.flushdb()
    await asyncio.to_thread(service.start_worker)

    async def is_settled() -> bool:
        return not await outbox.waiting()

    await until(is_settled, wait_s=60)
    assert ids == await outbox.effects()


@pytest.mark.parametrize(("identity", "expected"), [(None, []), (True, []), (False, ["a"])])
async def test_an_outcome_of_an_identity_settles_no_other_job(
    outbox: Relays, connection: Any, identity: Any, expected: list[str]
) -> None:
    """The id may have been that of a job whose id was its identity, or that could not be read."""
    await connection.execute(
        "INSERT INTO job_results (job_id, key_ms, function, status, reason, attempts, worker_id, enqueued_at,"
        " started_at, finished_at, queue_us, pool_wait_us, db_us)"
        " VALUES ('a', -1, 'create_user', 'rejected', 'invalid', 1, 'w', now() - interval '1 d', now(), now(), 0, 0, 0)"
    )
    await outbox.commit("a", identity=identity, username="ada")
    await outbox.work()
    assert expected == await outbox.waiting()
