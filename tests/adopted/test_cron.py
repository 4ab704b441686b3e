"""arq's cron, whole, on arq's class and on ours.

Time is virtual where it is the matter: `run_cron` takes the time at which it looks, and times that have passed are run
at once.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from signal import Signals
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.cron import cron
from waiting import until

from tidepool.engine.worker import Worker

Make = Callable[..., arq.worker.Worker]
Ctx = dict[Any, Any]
NOON = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
"""A Monday."""
_SECOND = dt.timedelta(seconds=1)


class Journal:
    """A cron function that notes its runs."""

    def __init__(self) -> None:
        self.runs: list[Ctx] = []

    async def note(self, ctx: Ctx) -> None:
        """Note a run."""
        self.runs.append(ctx)


async def look(worker: arq.worker.Worker, since: dt.datetime, seconds: int) -> None:
    """Let a worker look for due cron jobs, as its heartbeats do: every half second of virtual time.

    Its later heartbeats, in real time, look for none.
    """
    for half in range(2 * seconds):
        await worker.run_cron(since + half * _SECOND / 2, 0.5)
    worker.cron_jobs = []


def _times(runs: list[Ctx]) -> list[str]:
    """Return the times of day in the ids of runs, which are their ticks."""
    ticks = (int(run["job_id"].rpartition(":")[2]) / 1000 for run in runs)
    return sorted(f"{dt.datetime.fromtimestamp(tick, dt.UTC):%a %H:%M:%S}" for tick in ticks)


@pytest.mark.parametrize(
    ("schedule", "seconds", "times"),
    [
        ({"second": {0, 30}}, 91, ["Mon 12:00:30", "Mon 12:01:00", "Mon 12:01:30"]),
        ({"second": 5, "minute": {0, 2}}, 300, ["Mon 12:00:05", "Mon 12:02:05"]),
        ({"minute": 59}, 3600, ["Mon 12:59:00"]),
        ({"weekday": "mon", "hour": 12, "minute": 1}, 120, ["Mon 12:01:00"]),
        ({"weekday": "tues", "hour": 12, "minute": 1}, 120, []),
        ({"day": 2, "month": 3, "hour": 12, "minute": 1, "second": 7}, 120, ["Mon 12:01:07"]),
    ],
    ids=str,
)
async def test_each_tick_is_run_once_by_a_fleet(make: Make, schedule: Ctx, seconds: int, times: list[str]) -> None:
    """Two workers look at every tick; each is run by one of them, under the tick's own id."""
    journal = Journal()
    crons = [cron(journal.note, name="note", **schedule) for _ in range(2)]
    one, two = (make(cron_jobs=[job], timezone=dt.UTC, max_burst_jobs=1000) for job in crons)
    await look(one, NOON, seconds)
    await look(two, NOON, seconds)
    await one.async_run()
    await two.async_run()
    assert times == _times(journal.runs)


async def test_what_is_not_unique_is_run_by_every_worker(make: Make) -> None:
    """noteburst's: once per worker and tick."""
    journal = Journal()
    workers = [make(cron_jobs=[cron(journal.note, second={0, 30}, unique=False)]) for _ in range(3)]
    for worker in workers:
        await look(worker, NOON, 61)
    await workers[0].async_run()
    assert 6 == len(journal.runs) == len({run["job_id"] for run in journal.runs})


async def test_a_job_id_of_its_own_is_the_mutex_of_several_schedules(make: Make) -> None:
    """While one run is queued, none is added."""
    journal = Journal()
    crons = [cron(journal.note, name=name, job_id="only", second=second) for name, second in (("a", 10), ("b", 20))]
    worker = make(cron_jobs=crons)
    await look(worker, NOON, 30)
    await worker.async_run()
    assert ["only"] == [run["job_id"] for run in journal.runs]


async def test_at_startup_it_runs_at_once(make: Make) -> None:
    """And not again before its time. A real worker's heartbeat does it."""
    journal = Journal()
    schedule = {"month": 1, "day": 1, "hour": 0, "minute": 0}
    if dt.datetime.now(dt.UTC).month == 1:
        schedule["month"] = 7
    crons = [cron(journal.note, name=name, run_at_startup=name == "now", **schedule) for name in ("now", "later")]
    worker = make(cron_jobs=crons, burst=False)
    running = asyncio.create_task(worker.async_run())

    async def has_run() -> bool:
        return worker.jobs_complete == 1

    await until(has_run)
    worker.handle_sig(Signals.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        await running
    assert 1 == len(journal.runs)
    assert journal.runs[0]["job_id"].startswith("now:")


async def test_a_tick_is_run_at_its_time_by_a_running_worker(make: Make) -> None:
    """Not before it, and by itself."""
    ran: asyncio.Future[dt.datetime] = asyncio.get_running_loop().create_future()

    async def job(_ctx: Ctx) -> None:
        if not ran.done():
            ran.set_result(dt.datetime.now(dt.UTC))

    tick = dt.datetime.now(dt.UTC) + 1.5 * _SECOND
    worker = make(
        cron_jobs=[cron(job, second=tick.second, microsecond=0)], burst=False, timezone=dt.UTC, poll_delay=0.05
    )
    running = asyncio.create_task(worker.async_run())
    async with asyncio.timeout(20):
        assert await ran >= tick.replace(microsecond=0)
    worker.handle_sig(Signals.SIGTERM)
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_timeout_and_result_of_a_cron_job(make: Make, redis: ArqRedis) -> None:
    """Its own ones; by default it keeps no result."""

    async def slow(_ctx: Ctx) -> None:
        await asyncio.Event().wait()

    async def kept(_ctx: Ctx) -> str:
        return "kept"

    crons = [
        cron(slow, name="slow", second=1, timeout=0.01, keep_result=60),
        cron(kept, name="kept", second=1, keep_result=dt.timedelta(minutes=2)),
        cron(kept, name="not kept", second=1),
    ]
    worker = make(cron_jobs=crons, job_timeout=1800)
    await look(worker, NOON, 2)
    await worker.async_run()
    results = {result.function: result for result in await redis.all_job_results()}
    assert {"slow", "kept"} == {*results}
    assert isinstance(results["slow"].result, TimeoutError)
    assert "kept" == results["kept"].result
    assert 110 < await redis.ttl(f"arq:result:{results['kept'].job_id}") <= 120


@pytest.mark.parametrize(("options", "tries"), [({}, [1]), ({"max_tries": 3}, [1, 2, 3])], ids=["default", "3"])
async def test_tries_of_a_cron_job(
    make: Make, redis: ArqRedis, kind: type[arq.worker.Worker], options: Ctx, tries: list[int]
) -> None:
    """One by default. arq waits for the end of the mark of the try before, a minute; ours does not."""
    seen: list[int] = []

    async def again(ctx: Ctx) -> None:
        seen.append(ctx["job_try"])
        raise arq.worker.Retry

    crons = [cron(again, name="again", second=1, **options)]
    await look(make(cron_jobs=crons), NOON, 2)
    (job,) = await redis.queued_jobs()
    for _ in range(len(tries) + 1):
        worker = make(cron_jobs=crons, max_burst_jobs=1)
        worker.cron_jobs = []
        await worker.async_run()
        if kind is arq.worker.Worker:
            await redis.delete(f"arq:in-progress:{job.job_id}")
    assert tries == seen
    (result,) = await redis.all_job_results()
    assert f"max {len(tries)} retries exceeded" == str(result.result)


async def test_names_of_cron_jobs(make: Make, redis: ArqRedis) -> None:
    """The function's own, a given one, a dotted string; each can be enqueued by hand as well."""
    journal = Journal()
    crons = [cron(journal.note), cron(journal.note, name="nightly"), cron("asyncio.sleep", second=1)]
    worker = make(cron_jobs=crons)
    names = ["cron:Journal.note", "nightly", "cron:asyncio.sleep"]
    assert names == [*worker.functions]
    worker.cron_jobs = []  # a tick of one may come meanwhile
    job = await redis.enqueue_job("nightly")
    assert job is not None
    assert 1 == await worker.run_check()
    assert job.job_id == journal.runs[0]["job_id"]


async def test_the_time_zone_is_that_of_the_setting(make: Make, redis: ArqRedis) -> None:
    """Its hours are hours there."""
    journal = Journal()
    zone = dt.timezone(dt.timedelta(hours=5, minutes=30))
    worker = make(cron_jobs=[cron(journal.note, name="note", hour=17, minute=31)], timezone=zone)
    await look(worker, NOON.astimezone(zone), 61)
    await worker.async_run()
    assert ["Mon 12:01:00"] == _times(journal.runs)


async def test_a_tick_that_two_workers_see_at_different_times_is_run_once(make: Make, redis: ArqRedis) -> None:
    """The second one, whose clock is behind, enqueues it when it has been run already: its mark holds it back."""
    journal = Journal()
    one, two = (make(cron_jobs=[cron(journal.note, name="note", second=10)]) for _ in range(2))
    await look(one, NOON, 11)
    await one.async_run()
    (run,) = journal.runs
    assert 50 < await redis.ttl(f"arq:in-progress:{run['job_id']}") <= 60
    await look(two, NOON, 11)
    two.max_burst_jobs = 0
    await two.async_run()
    assert 1 == len(journal.runs)


async def test_a_worker_that_starts_just_before_a_tick_enqueues_it_at_once(connect: Callable[..., ArqRedis]) -> None:
    """Ours only: arq enqueues it half a second later, when another worker has perhaps run it."""
    journal = Journal()
    worker = Worker(cron_jobs=[cron(journal.note, name="note", second=10, microsecond=0)], redis_pool=connect())
    await worker.run_cron(NOON + 9.7 * _SECOND, 0.5)
    tick_ms = int((NOON + 10 * _SECOND).timestamp() * 1000)
    assert [f"note:{tick_ms}".encode()] == await worker.pool.zrange(worker.queue_name, 0, -1)
