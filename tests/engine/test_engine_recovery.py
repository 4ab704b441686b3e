"""Our Worker when things go wrong: owners that die, Redis that comes and goes, jobs that nobody should run."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from arq.connections import ArqRedis
from arq.worker import func
from engines import own_client, stop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, ResponseError, WatchError
from waiting import until

from tidepool.embedded.redis import EmbeddedRedis
from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker
from tidepool.queue import holding, leases, renewal, wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.faults import RedisFault
from tidepool.queue.leases import Leases
from tidepool.queue.state import QueueState

QUEUE = "arq:queue"


class Runs:
    """A job function that tells when and how often it ran."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.ran = asyncio.Event()

    async def __call__(self, ctx: dict[Any, Any]) -> str:
        """Take note."""
        self.ids.append(ctx["job_id"])
        self.ran.set()
        return "done"


def a_worker(
    redis: ArqRedis, runs: Callable[[Any], Awaitable[str]], *, lease_s: float = 10.0, **options: Any
) -> Worker:
    """Return a worker of ours that runs `job`."""

    async def job(ctx: dict[Any, Any]) -> str:
        return await runs(ctx)

    return Worker(
        functions=[func(job, name="job")],
        redis_pool=own_client(redis),
        handle_signals=False,
        tidepool=EngineOptions(lease_s=lease_s),
        job_serializer=wire.serialize,
        job_deserializer=wire.deserialize,
        **options,
    )


@pytest.fixture
async def running() -> AsyncIterator[Any]:
    """Give a function that runs a worker in the background; all are stopped at the end."""
    workers: list[Worker] = []

    def start(one: Worker) -> asyncio.Task[None]:
        one.main_task = asyncio.create_task(one.main())
        workers.append(one)
        return one.main_task

    yield start
    for one in workers:
        await stop(one)


class Clock:
    """The clock by which a process knows when its lease ends; it can be moved, as by a sleep of the machine."""

    def __init__(self) -> None:
        self.moved_s = 0.0

    def monotonic(self) -> float:
        """Return seconds."""
        return time.monotonic() + self.moved_s

    def perf_counter_ns(self) -> int:
        """Return nanoseconds, from which durations are measured."""
        return time.perf_counter_ns()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock of leases."""
    clock = Clock()
    for module in (holding, leases, renewal):
        monkeypatch.setattr(module, "time", clock)
    return clock


async def owner_in(redis: ArqRedis) -> str:
    """Return the one owner that holds jobs."""
    (owner,) = await redis.zrange(f"{QUEUE}:owners", 0, -1)
    return owner.decode()


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[tuple[ArqRedis, Any, Any, Path]]:
    """Give a client of a Redis of the test's own, its processes, a function that starts it again, and its socket."""
    binary = EmbeddedRedis.program("redis-server")
    socket = tmp_path / "r.sock"
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [
            binary,
            "--port",
            "0",
            "--unixsocket",
            socket,
            "--appendonly",
            "yes",
            "--save",
            "",
            "--dir",
            tmp_path,
        ]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        deadline = time.monotonic() + 20
        while not socket.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return processes[-1]

    start()
    redis = RedisClient.open(f"unix://{socket}?db=0", queue_name=QUEUE)
    yield redis, processes, start, socket
    await redis.aclose(close_connection_pool=True)
    for process in processes:
        process.kill()
        process.wait()


async def test_an_idle_worker_is_woken_by_any_client(redis: ArqRedis, running: Any) -> None:
    """A job that stock arq's client enqueues starts at once, although the worker would sleep for half a minute."""
    runs = Runs()
    one = a_worker(redis, runs, poll_delay=30)
    running(one)
    async with asyncio.timeout(10):
        while not (await redis.pubsub_numsub("__redis__:invalidate"))[0][1]:
            await asyncio.sleep(0.01)
        await redis.enqueue_job("job", _job_id="j")
        await runs.ran.wait()

    assert ["j"] == runs.ids


async def test_a_dead_workers_jobs_run_within_its_lease(redis: ArqRedis, running: Any) -> None:
    """Without a notification: the next claim after the lease's end takes them, and none is lost or run twice."""
    dead = Leases(redis, QUEUE, lease_ms=300)
    for number in range(5):
        await redis.enqueue_job("job", _job_id=f"j{number}")
    assert 5 == len((await dead.claim("dead", 10, suspect_too=False))[0])
    runs = Runs()
    running(a_worker(redis, runs, poll_delay=0.02))
    async with asyncio.timeout(10):
        while await redis.zcard(QUEUE):
            await asyncio.sleep(0.02)

    assert ["j0", "j1", "j2", "j3", "j4"] == sorted(runs.ids)


async def test_a_worker_that_lost_its_lease_goes_on_as_a_new_owner(redis: ArqRedis, running: Any, clock: Clock) -> None:
    """As after a sleep: its job comes back to it, and what the first attempt brings home late is refused."""
    attempts: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()

    async def attempt(_ctx: Any) -> str:
        attempts.put_nowait(end := asyncio.get_running_loop().create_future())
        return await end

    async def one_attempt_is_left() -> bool:
        return len(one.tasks) == 1

    one = a_worker(redis, attempt)
    running(one)
    job = await redis.enqueue_job("job", _job_id="a")
    assert job is not None
    first = await asyncio.wait_for(attempts.get(), 10)

    await QueueState(redis).release_owners(await owner_in(redis))
    clock.moved_s = 99
    second = await asyncio.wait_for(attempts.get(), 10)
    first.set_result("first")
    await until(one_attempt_is_left)
    assert not await redis.exists("arq:result:a")
    second.set_result("second")

    assert "second" == await job.result(10, poll_delay=0.02)


async def test_a_lease_that_is_lost_is_lost_once(redis: ArqRedis, running: Any, clock: Clock) -> None:
    """What the lost owner runs goes on for a while; the new owner's lease begins with its first claim nevertheless."""
    attempts: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()

    async def attempt(_ctx: Any) -> str:
        attempts.put_nowait(end := asyncio.get_running_loop().create_future())
        return await end

    one = a_worker(redis, attempt)
    running(one)
    await redis.enqueue_job("job", _job_id="lost")
    await asyncio.wait_for(attempts.get(), 10)
    await QueueState(redis).release_owners(await owner_in(redis))
    clock.moved_s = 99
    await asyncio.wait_for(attempts.get(), 10)
    heir = await owner_in(redis)
    for number in range(3):  # each is a claim of its own
        await redis.enqueue_job("job", _job_id=f"later-{number}")
        await asyncio.wait_for(attempts.get(), 10)

    assert heir == await owner_in(redis)
    assert {b"lost": b"1"} == await redis.hgetall(f"{QUEUE}:lapses")


async def test_a_job_that_killed_three_workers_is_failed_and_named(redis: ArqRedis, caplog: Any) -> None:
    """It is not run a fourth time; the result and the log say why."""
    await redis.enqueue_job("job", _job_id="killer")
    for number in range(3):
        lost = Leases(redis, QUEUE, lease_ms=1)
        claimed: list[Any] = []
        while not claimed:
            claimed, _ = await lost.claim(f"dead-{number}", 10, suspect_too=True)
    runs = Runs()
    one = a_worker(redis, runs, burst=True)
    await one.main()

    assert ([], 1) == (runs.ids, one.jobs_failed)
    assert "killer" in caplog.text
    assert "lost 3 workers" in caplog.text
    await one.close()


async def test_a_job_that_ignores_its_cancellation_is_cancelled_again(redis: ArqRedis) -> None:
    """As one whose batch is at the database goes on; this one does so twice, because `close` cancels, too."""
    begun, heard = asyncio.Event(), list[int]()

    async def stubborn(_ctx: Any) -> str:
        begun.set()
        for number in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                heard.append(number)
        await asyncio.Event().wait()
        return "never"

    one = a_worker(redis, stubborn, lease_s=1.0)
    one.main_task = asyncio.create_task(one.main())
    await redis.enqueue_job("job", _job_id="a")
    await begun.wait()
    one.handle_sig(signal.SIGTERM)
    await asyncio.gather(one.main_task, return_exceptions=True)
    await asyncio.wait_for(one.close(), 10)

    assert [0, 1] == heard
    assert [b"a"] == await redis.zrange(QUEUE, 0, -1)
    assert b"1" == await redis.get("arq:retry:a")  # the function has begun: it may have had its effect
    assert not await redis.exists(f"{QUEUE}:owners")


async def test_every_step_of_the_end_is_taken(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of the one before: here Redis does not let us give our jobs back."""
    ended = asyncio.Event()

    async def on_shutdown(_ctx: Any) -> None:
        ended.set()

    one = a_worker(redis, Runs(), burst=True, on_shutdown=on_shutdown)
    await one.main()

    async def refuse(*_: Any) -> Any:
        raise NoPermissionError("this user has no permissions to run 'zrange'")

    monkeypatch.setattr(Leases, "strays", refuse)
    with pytest.raises(NoPermissionError):
        await one.close()
    assert ended.is_set()
    assert one.pool is None
    assert not [thread for thread in threading.enumerate() if thread.name == "lease renewal"]


async def test_a_redis_that_is_killed_and_comes_back_ends_no_worker(
    own_redis: Any, running: Any, logs: list[Any]
) -> None:
    """The worker says once that Redis is away, and once that it is back; jobs before and after are run once each."""
    redis, processes, start, socket = own_redis
    runs = Runs()
    task = running(a_worker(redis, runs, lease_s=1.0))
    await redis.enqueue_job("job", _job_id="before")
    await asyncio.wait_for(runs.ran.wait(), 10)
    async with asyncio.timeout(10):
        while await redis.zcard(QUEUE):
            await asyncio.sleep(0.01)

    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].wait()
    socket.unlink()
    async with asyncio.timeout(20):
        while not any(line["event"] == "redis.unavailable" for line in logs):
            await asyncio.sleep(0.01)
        await asyncio.to_thread(start)
        runs.ran.clear()
        while True:
            try:
                await redis.enqueue_job("job", _job_id="after")
                break
            except (RedisConnectionError, WatchError):  # WATCH is served while the data are loaded, what follows is not
                await asyncio.sleep(0.01)
        await runs.ran.wait()
        while await redis.zcard(QUEUE):
            await asyncio.sleep(0.01)

    assert ["before", "after"] == runs.ids
    assert not task.done()
    assert [1, 1] == [sum(line["event"] == name for line in logs) for name in ("redis.unavailable", "redis.back")]


async def test_lost_scripts_are_loaded_again(redis: ArqRedis, running: Any) -> None:
    """SCRIPT FLUSH in the middle is not even noticed."""
    runs = Runs()
    running(a_worker(redis, runs))
    for number in range(3):
        await redis.script_flush()
        runs.ran.clear()
        await redis.enqueue_job("job", _job_id=f"j{number}")
        await asyncio.wait_for(runs.ran.wait(), 10)

    assert ["j0", "j1", "j2"] == runs.ids


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (RedisConnectionError("reset"), True),
        (ConnectionRefusedError(), True),
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'."), True),
        (ResponseError("Error running script: @user_script:12: -READONLY You can't write against a replica"), True),
        (ResponseError("LOADING Redis is loading the dataset in memory"), True),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), True),
        (ResponseError("ERR wrong number of arguments"), False),
        (ValueError("a bug"), False),
    ],
)
def test_outages_are_distinguished_from_bugs(error: Exception, passes: bool) -> None:  # noqa: FBT001
    """What passes by itself, or by mending data, is waited out; a wrong command would be repeated for ever."""
    assert passes == RedisFault.of(error).is_outage


async def test_a_redis_that_stands_still_for_half_a_lease_costs_no_job(own_redis: Any, running: Any) -> None:
    """The last renewal is at most a quarter of a lease old: nobody else gets the job, and it runs once."""
    redis, processes, _, _ = own_redis
    attempts: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()

    async def attempt(_ctx: Any) -> str:
        attempts.put_nowait(end := asyncio.get_running_loop().create_future())
        return await end

    one = a_worker(redis, attempt, lease_s=2.0)
    running(one)
    job = await redis.enqueue_job("job", _job_id="a")
    end = await asyncio.wait_for(attempts.get(), 10)
    os.kill(processes[0].pid, signal.SIGSTOP)
    await asyncio.sleep(1.0)
    os.kill(processes[0].pid, signal.SIGCONT)

    assert ([], 0) == await Leases(redis, QUEUE, lease_ms=2000).claim("other", 10, suspect_too=True)
    end.set_result("once")
    assert "once" == await job.result(10, poll_delay=0.02)
    assert attempts.empty()
