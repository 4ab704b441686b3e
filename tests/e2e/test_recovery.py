"""Workers that are killed or paused under load, without a parent that would tell: only the lease brings jobs back."""

import asyncio
import os
import random
import signal
import time
from typing import Any

import pytest
from commands import Service, stop, until

_JOBS = 20_000
_COUNTS = (
    "SELECT count(*) AS rows, count(*) FILTER (WHERE status = 'applied') AS applied,"
    " (SELECT count(*) FROM users) + (SELECT count(*) FROM products) + (SELECT count(*) FROM orders) AS effects,"
    " count(*) FILTER (WHERE status = 'failed') AS failed FROM job_results"
)


async def begun(rows: Any, at_least: int = 1) -> None:
    """Wait until that many jobs have their outcome."""

    async def enough() -> bool:
        return (await rows("SELECT count(*) AS n FROM job_results"))[0]["n"] >= at_least

    await until(enough)


def follow(service: Service, jobs: int) -> "asyncio.Future[Any]":
    """Run the producer in the background, following its jobs."""
    words = ("producer", "--jobs", str(jobs), "--follow", "--json")
    return asyncio.ensure_future(asyncio.to_thread(service.run, *words))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("turn", range(20))
async def test_one_of_two_workers_is_killed(service: Service, rows: Any, turn: int) -> None:
    """Its jobs are finished by the other one within the lease and two seconds; none is lost, none is doubled."""
    workers = [service.start_worker(), service.start_worker()]
    report = follow(service, _JOBS)
    await begun(rows, random.Random(turn).randrange(1, _JOBS // 2))

    killed_s = time.monotonic()
    os.kill(workers[turn % 2].pid, signal.SIGKILL)
    document = (await report).document
    recovered_s = time.monotonic() - killed_s
    (counts,) = await rows(_COUNTS)

    print(f"turn {turn}: all finished {recovered_s:.1f} s after the kill")  # noqa: T201  (the figure is wanted)
    assert (_JOBS, 0, 0) == (document["enqueued"], document["pending"], document["failed"])
    assert (_JOBS, counts["effects"], 0) == (counts["rows"], counts["applied"], counts["failed"])
    assert recovered_s < 12 + _JOBS / 2000


async def test_a_worker_that_slept_for_three_leases_doubles_nothing(service: Service, rows: Any) -> None:
    """Paused in the middle and woken after its jobs ran elsewhere, it says that it lost its lease, and goes on."""
    sleeper = service.start_worker(LEASE="1")
    report = follow(service, 5000)
    await begun(rows)
    os.kill(sleeper.pid, signal.SIGSTOP)
    other = service.start_worker(LEASE="1")
    document = (await report).document
    os.kill(sleeper.pid, signal.SIGCONT)
    stop(other)
    again = service.run("producer", "--jobs", "200", "--follow", "--json").document
    (counts,) = await rows(_COUNTS)
    status, log = stop(sleeper)

    assert (5000, 0, 0) == (document["enqueued"], document["pending"], document["failed"])
    assert (200, 0) == (again["enqueued"], again["pending"])
    assert (5200, counts["effects"], 0) == (counts["rows"], counts["applied"], counts["failed"])
    assert 0 == status
    assert "lease.lost" in log
