"""Whatever stands in Redis, at whichever key: the worker goes on, and good jobs have the outcomes that they would have.

One worker lives through all examples, with real servers, short leases and many beats. An example plants values of any
type and any bytes while a job runs, enqueues good jobs, and waits for their outcomes, as front and client do.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.jobs import DeserializationError, ResultNotFound
from arq.worker import func
from engines import own_client, stop
from factories import user_fields
from fleet import a_capacity
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from planting import ENVELOPE, QUEUE
from redis.exceptions import RedisError

import tidepool.engine.worker as engine
from tidepool.client import JobClient
from tidepool.engine.options import EngineOptions, TypedJobs
from tidepool.engine.worker import Worker
from tidepool.fleet.budget import Budget
from tidepool.fleet.capacity import Capacity
from tidepool.jobs.outcomes import Applied, Rejected
from tidepool.jobs.submission import Submission
from tidepool.ledger.batcher import Batcher
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from tidepool.queue.state import QueueState
from tidepool.queue.wire import MAX_KEPT_BYTES, MAX_PAYLOAD_BYTES, now_ms, receive, serialize
from tidepool.web.waiting import Waits
from worker.jobs import JOBS

NUMBERS = itertools.count(1)
HEALTH, BUDGET = f"{QUEUE}:health-check:hostile", "tidepool:budget:db"


class Long(bytes):
    """Bytes that a failed example does not print."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{bytes(self[:20])!r}… ({len(self)} bytes)"


SPECIAL = [
    b"",
    b"\xff",
    b"\n",
    b"v",
    b"v\nme.0",
    b"me.0",
    b"0",
    b"-1",
    b"9" * 400,
    b"9223372036854775807",
    b"1e999",
    b"nan",
    b"NaN:Infinity",
    b"9999999999999:2",
    b"9999999999999:2:2",
    b'{"room":1,"workers":{"a":NaN}}',
    Long(b"x" * 70_000),
    Long(b"[" * 5000),
    b"[],",
    b"{}",
    serialize({**ENVELOPE, "k": user_fields("somebody")}),
    Long(serialize({**ENVELOPE, "k": {"big": ["x"] * 30_000}})),
    serialize({**ENVELOPE, "f": "tidepool:unrunnable", "a": [1, 2, 3, 4]}),
    Long(serialize({**ENVELOPE, "f": "\x00" * 3000})),
    serialize({"s": True, "r": {"status": "applied", "result": []}}),
    serialize({"s": False, "r": {"!error": "CancelledError", "text": {}}}),
    b"\x80\x05N.",
]
BYTES = st.sampled_from(SPECIAL) | st.binary(max_size=40)
SCORES = st.sampled_from(["-inf", "+inf", "-1e300", "1e300", "0", "0.5", "1764000000000"]) | st.integers(
    -10, 2**60
).map(str)
VALUES = st.one_of(
    st.tuples(st.just("SET"), BYTES),
    st.tuples(st.just("RPUSH"), BYTES),
    st.tuples(st.just("SADD"), BYTES),
    st.tuples(st.just("HSET"), BYTES, BYTES),
    st.tuples(st.just("XADD"), st.just("*"), BYTES, BYTES),
    st.lists(st.tuples(SCORES, BYTES), min_size=1, max_size=4).map(lambda pairs: ("ZADD", *itertools.chain(*pairs))),
)
OUR_KEYS = [
    QUEUE,
    *(f"{QUEUE}:{name}" for name in ("owners", "lapses", "suspects", "held:me.0", "held:me.1", "held:v")),
    *(f"{QUEUE}:{name}" for name in ("dead-letters", "functions", "deserializers")),
    *("arq:abort", HEALTH, BUDGET, f"{BUDGET}:capacity", f"{BUDGET}:restless"),
]
JOB_KEYS = st.tuples(st.sampled_from(["arq:job:", "arq:retry:", "arq:in-progress:", "arq:result:"]), BYTES)
KEYS = st.sampled_from(OUR_KEYS).map(str.encode) | JOB_KEYS.map(lambda parts: parts[0].encode() + parts[1])
PLANTS = st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=6)


@dataclass
class World:
    """A worker that runs, and others that read from the same Redis."""

    redis: ArqRedis
    running: asyncio.Task[None]
    budget: Budget
    client: JobClient
    waits: Waits
    held: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self, _: dict[Any, Any]) -> None:
        """Run until the example ends, so that there is something to renew and to abort."""
        self.held.set()
        await self.let_go.wait()


@pytest.fixture
def many_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker look after aborts and its health in every round."""
    monkeypatch.setattr(engine, "_HEARTBEAT_S", 0.005)


@pytest.fixture
async def world(redis: ArqRedis, pool: Pool, many_beats: None) -> AsyncIterator[World]:
    """Run a worker until the last example."""
    ledger = Ledger(pool, JOBS, worker_id="me")
    batcher = Batcher(ledger, slots=2, limit=500)
    typed = TypedJobs(JOBS, 5, batcher)
    limits = {"max_job_bytes": MAX_PAYLOAD_BYTES, "max_held_bytes": 2**21, "max_kept_bytes": MAX_KEPT_BYTES}
    options = EngineOptions(owner="me", lease_s=0.2, typed=typed, leave_s=0, **limits)
    budget = Budget(redis, "db", "me", pool_size=4, margin=5, read=a_reading)
    world: World

    async def hold(ctx: dict[Any, Any]) -> None:
        await world.hold(ctx)

    worker = Worker(
        functions=[*typed.arq_functions(), func(hold, name="hold")],
        redis_pool=own_client(redis),
        handle_signals=False,
        max_jobs=2000,
        allow_abort_jobs=True,
        job_serializer=serialize,
        job_deserializer=receive,
        health_check_key=HEALTH,
        health_check_interval=0,
        tidepool=options,
    )
    await budget.enter()
    await budget.take_share()
    world = World(redis, asyncio.current_task(), budget, JobClient(redis, patience_s=1), Waits(redis))  # type: ignore[arg-type]
    world.running = worker.main_task = asyncio.create_task(worker.main())
    yield world
    world.running.cancel()
    world.let_go.set()
    await asyncio.gather(world.running, return_exceptions=True)
    await batcher.close()
    await stop(worker)


async def test_ids_of_a_megabyte_in_the_fleet_are_dropped_unread(redis: ArqRedis, logs: list[Any]) -> None:
    """Any program may write them; a script that reads them all would need as much memory again."""
    for number in range(8):
        await redis.hset(BUDGET, b"%d" % number + b"x" * 2**20, "1:2")
    budget = Budget(redis, "db", "me", pool_size=4, margin=5, read=a_reading)
    await budget.enter()
    assert 4 == await budget.take_share()
    assert [b"me"] == await redis.hkeys(BUDGET)
    assert ["the fleet: 8 entries"] == [line["what"] for line in logs if line["event"] == "budget.entries_unusable"]


async def a_reading() -> Capacity:
    """Return what a server of a hundred connections would tell."""
    return a_capacity(100, {"me": 2})


async def live_through(world: World, plants: list[tuple[bytes, tuple[Any, ...]]]) -> None:
    """Plant everything while a job runs; then good jobs must be applied, and nobody may have ended."""
    assert not world.running.done()
    number = next(NUMBERS)
    await world.redis.flushdb()
    world.held.clear()
    world.let_go.clear()
    await world.redis.enqueue_job("hold", _job_id=f"hold-{number}")
    async with asyncio.timeout(10):
        await world.held.wait()
    await plant(world.redis, plants)
    await world.budget.beat()
    await read_as_others_do(world, plants)
    if await world.redis.type(QUEUE) != b"zset":
        await world.redis.delete(QUEUE)  # somebody mends it
    good = [
        Submission(f"good-{number}", "create_user", user_fields(f"user-{number}")),
        Submission(f"twin-{number}", "create_user", user_fields(f"user-{number}", email=f"{number}@other")),
    ]
    assert [True, True] == await world.client.enqueue_many(good)
    outcomes = await asyncio.gather(*(world.waits.outcome(job.id, 10) for job in good))
    world.let_go.set()
    assert not world.running.done()
    assert {Applied, Rejected} == {type(outcome) for outcome in outcomes}


async def plant(redis: ArqRedis, plants: list[tuple[bytes, tuple[Any, ...]]]) -> None:
    """Put values in the place of what stands at their keys; jobs that are named somewhere are due as well."""
    async with redis.pipeline(transaction=True) as pipe:
        for key, (command, *arguments) in plants:
            if key != QUEUE.encode() or command != "ZADD":
                pipe.delete(key)
            pipe.execute_command(command, key, *arguments)
            kind, _, job_id = key.partition(b":")[2].partition(b":")
            if kind in (b"job", b"retry", b"in-progress"):
                pipe.execute_command("EVAL", _MAKE_DUE, 1, QUEUE, job_id)
        pipe.publish("__redis__:invalidate", b"\xff")
        await pipe.execute(raise_on_error=False)  # a second value may not fit the type of the first


_MAKE_DUE = "return redis.pcall('ZADD', KEYS[1], 1, ARGV[1])"


_DECLARED = (RedisError, ResultNotFound, DeserializationError, TimeoutError, RuntimeError, asyncio.CancelledError)
"""What the client's methods raise; the last two are the errors of failed and of aborted jobs."""


async def read_as_others_do(world: World, plants: list[tuple[bytes, tuple[Any, ...]]]) -> None:
    """Look at everything as the front and the client do: what they raise is what they say that they raise."""
    await QueueState(world.redis).backlog(now_ms())
    for read_letters in (world.client.dead_letters.oldest(10), world.client.dead_letters.discard({"v"})):
        with suppress(*_DECLARED):
            await read_letters
    for key, _ in plants:
        job_id = key.rpartition(b":")[2].decode("utf-8", "replace")
        for read in (
            world.client.queued(),
            world.client.status(job_id),
            world.client.result(job_id, timeout_s=0.001),
            world.client.abort(job_id),
        ):
            with suppress(*_DECLARED):
                await read


_SETTINGS = settings(
    phases=[Phase.explicit, Phase.generate],  # not shrunk: an example leaves traces in the worker
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@settings(_SETTINGS, max_examples=25)
@given(plants=PLANTS)
async def test_good_jobs_are_done_whatever_stands_in_redis(world: World, plants: Any) -> None:
    """A few examples of it."""
    await live_through(world, plants)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(_SETTINGS, max_examples=2000)
@given(plants=PLANTS)
async def test_good_jobs_are_done_whatever_stands_in_redis_2000_times(world: World, plants: Any) -> None:
    """Two thousand."""
    await live_through(world, plants)
