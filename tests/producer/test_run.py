"""A run of the producer: enqueues a stream, follows it to the outcomes, and its counts add up."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

import pytest
from arq.connections import ArqRedis
from factories import a_job, a_submission
from redis.exceptions import ConnectionError as RedisConnectionError
from waiting import until

from producer.commands_file import Item, RefusedLine
from producer.report import RunReport
from producer.run import Run, Take, _Ids
from producer.workload import Workload
from tidepool.client import JobClient
from tidepool.jobs.submission import Submission
from tidepool.ledger.ledger import Ledger
from tidepool.pool.pool import Pool
from tidepool.queue import wire
from worker.jobs import JOBS

QUEUE = "arq:queue"


@asynccontextmanager
async def a_worker(redis: ArqRedis, pool: Pool) -> AsyncIterator[Ledger]:
    """Settle what is queued, in the plainest way there is, until the block ends."""
    ledger = Ledger(pool, JOBS, worker_id="plain")
    stopping = asyncio.Event()

    async def work() -> None:
        while not stopping.is_set():
            for member in await redis.zrange(QUEUE, 0, 99):
                await settle(member.decode())
            await asyncio.sleep(0.005)

    async def settle(job_id: str) -> None:
        call = wire.receive(await redis.get(f"arq:job:{job_id}") or b"")
        job_type = JOBS.get(call["f"])
        assert job_type is not None
        job = a_job(job_type.parse(call["k"]), job_id, function=call["f"], content=call["k"], is_last_attempt=True)
        await ledger.settle(call["f"], [job])
        await redis.zrem(QUEUE, job_id)
        await redis.delete(f"arq:job:{job_id}")

    working = asyncio.create_task(work())
    try:
        yield ledger
    finally:
        stopping.set()  # not cancelled: redis-py may lose that, see test_broker
        await working


def taking(items: Iterable[Item]) -> Take:
    """Return a source that takes from *items*, and never waits."""
    left = iter(items)

    async def take(most: int) -> list[Item]:
        return list(islice(left, most))

    return take


Start = Callable[..., tuple[Run, RunReport, list[RefusedLine]]]


@pytest.fixture
def client(redis: ArqRedis, pool: Pool) -> JobClient:
    """Give a job client with a ledger."""
    return JobClient(redis, ledger=pool)


@pytest.fixture
def a_run() -> Start:
    """Give a factory: of a client it makes a run, its report, and the list of what it refuses."""

    def start(client: Any) -> tuple[Run, RunReport, list[RefusedLine]]:
        report, refused = RunReport(followed=True), list[RefusedLine]()
        return Run(client, report, refused.append), report, refused

    return start


def test_the_ids_of_a_run_are_taken_in_order_and_cost_little_memory() -> None:
    """A million of them would be 60 MB as text; there is no temporary file that a full disk could refuse."""
    ids, taken = _Ids(), list[str]()
    given = [f"load-123456789-é\udcff-{number}" for number in range(20_000)]
    for first in range(0, len(given), 500):
        ids.put(given[first : first + 500])
    assert 8 > sum(map(len, ids._blocks)) / len(given)
    while ids:
        taken += ids.take(777)
    assert given == taken


async def test_the_counts_of_a_run_add_up(client: JobClient, a_run: Start, pool: Pool, redis: ArqRedis) -> None:
    """Given = enqueued + duplicates + refused; enqueued = applied + rejected + failed; every refusal is reported."""
    run, report, refused = a_run(client)
    refusals = [RefusedLine(n, "email", "Field required") for n in (3, 9)]
    items = [*islice(Workload(1), 120), *refusals, *islice(Workload(1), 20)]
    async with a_worker(redis, pool) as ledger:
        async with asyncio.timeout(30), asyncio.TaskGroup() as both:
            both.create_task(run.enqueue(taking(items)))
            both.create_task(run.follow())
        assert (120, 20, 2, 0) == (report.enqueued, report.duplicates, report.refused, report.pending)
        assert refusals == refused
        tally = ledger.tally
        assert (tally.applied, tally.rejected, tally.failed) == tuple(
            report.total(status) for status in ("applied", "rejected", "failed")
        )
    document = report.as_json()
    assert 120 == sum(sum(counts.values()) for counts in document["by_function"].values())
    assert sum(document["rejections"].values()) == document["rejected"]
    assert document["run_seconds"] >= document["enqueue_seconds"] > 0


async def test_following_ends_only_with_the_last_outcome(
    client: JobClient, a_run: Start, pool: Pool, redis: ArqRedis
) -> None:
    """Not when everything is enqueued, nor when the queue is empty."""
    run, report, _ = a_run(client)
    await run.enqueue(taking([a_submission("ada", "a"), a_submission("eve", "b")]))
    following = asyncio.create_task(run.follow())
    ledger = Ledger(pool, JOBS, worker_id="w")
    await ledger.settle("create_user", [a_job(job_id="a")])

    async def one_is_counted() -> bool:
        return report.finished == 1

    await until(one_is_counted)
    assert not following.done()
    assert 1 == report.pending
    await ledger.settle("create_user", [a_job(job_id="b")])
    async with asyncio.timeout(10):
        await following
    assert (1, 1) == (report.total("applied"), report.total("rejected"))
    assert {"username_taken": 1} == report.rejections


async def test_an_empty_run_ends(client: JobClient, a_run: Start) -> None:
    """Nothing to wait for."""
    run, report, _ = a_run(client)
    async with asyncio.timeout(10):
        await run.enqueue(taking(()))
        await run.follow()
    assert 0 == report.given


async def test_a_chunk_of_refusals_enqueues_nothing(client: JobClient, a_run: Start) -> None:
    """Following such a run does not wait."""
    run, report, refused = a_run(client)
    async with asyncio.timeout(10):
        await run.enqueue(taking([RefusedLine(1, "", "is not JSON")]))
        await run.follow()
    assert (1, 1) == (report.refused, len(refused))
    assert 1 == report.exit_status


async def test_a_rate_is_kept(client: JobClient, a_run: Start) -> None:
    """100 jobs at 400 a second take a quarter of a second, less the chunk of 20 that goes out at once."""
    run, report, _ = a_run(client)
    begun_s = time.perf_counter()
    await run.enqueue(taking([a_submission() for _ in range(100)]), rate=400)
    assert 0.14 <= time.perf_counter() - begun_s
    assert 100 == report.enqueued


@pytest.mark.parametrize(("rate", "chunk"), [(None, 500), (1, 1), (19, 1), (400, 20), (1_000_000, 500)])
async def test_a_slow_rate_goes_in_small_chunks(a_run: Start, rate: float | None, chunk: int) -> None:
    """Twenty chunks a second, and never more than one round trip takes."""
    run, _, _ = a_run(None)
    asked: list[int] = []

    async def nothing(most: int) -> list[Item]:
        asked.append(most)
        return []

    await run.enqueue(nothing, rate=rate)
    assert [chunk] == asked


async def test_there_are_never_more_round_trips_than_allowed(a_run: Start) -> None:
    """No more of the stream is read than these round trips hold."""

    class SlowClient:
        under_way = most = 0

        async def enqueue_many(self, submissions: list[Submission]) -> list[bool]:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1
            return [True] * len(submissions)

    client = SlowClient()
    run, report, _ = a_run(client)
    await run.enqueue(taking([a_submission() for _ in range(3000)]), concurrency=2)
    assert (2, 3000) == (client.most, report.enqueued)


async def test_a_queue_that_stays_away_ends_the_run(redis: ArqRedis, a_run: Start) -> None:
    """With the error of the last try; what was enqueued before is counted."""
    client = JobClient(redis, patience_s=0)
    run, report, _ = a_run(client)

    run_script: Any = redis.evalsha
    replies: list[Any] = []

    async def lost_after_the_first(*parts: Any) -> Any:
        if replies:
            raise RedisConnectionError("Connection refused")
        replies.append(await run_script(*parts))
        return replies[0]

    redis.evalsha = lost_after_the_first
    with pytest.raises(ExceptionGroup) as raised:
        await run.enqueue(taking([a_submission() for _ in range(1000)]))
    assert raised.group_contains(RedisConnectionError)
    assert 500 == report.enqueued
