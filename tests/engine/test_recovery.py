"""Workers that are killed or paused under load, without a parent that would tell: only the lease brings jobs back."""

import asyncio
import os
import random
import signal
import time
from typing import Any

import pytest
from arq.connections import ArqRedis
from commands import Service, stop, until
from own_servers import OwnServers

from tidepool.embedded.locks import wait_until
from tidepool.embedded.postgres import Postgres
from tidepool.fleet.identity import Identity

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


async def held_by(redis: ArqRedis, pid: int) -> tuple[str, ...]:
    """Return the jobs that a worker process holds."""
    (key,) = await redis.keys(f"arq:queue:held:{Identity.worker_id_prefix(pid)}*")
    return tuple(job_id.decode() for job_id in await redis.zrange(key, 0, -1))


def follow(service: Service, jobs: int) -> "asyncio.Future[Any]":
    """Run the producer in the background, following its jobs."""
    words = ("producer", "--jobs", str(jobs), "--follow", "--json")
    return asyncio.ensure_future(asyncio.to_thread(service.run, *words))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("turn", range(20))
async def test_one_of_two_workers_is_killed(service: Service, rows: Any, redis: ArqRedis, turn: int) -> None:
    """Its jobs are finished within the lease and two seconds; no job is lost, none is doubled.

    Orders of the other worker that wait for a user whom the dead one was to create come a little later.
    """
    workers = [service.start_worker(), service.start_worker()]
    report = follow(service, _JOBS)
    await begun(rows, random.Random(turn).randrange(1, _JOBS // 2))

    victim = workers[turn % 2].pid
    os.kill(victim, signal.SIGKILL)
    killed_s = time.time()
    held = await held_by(redis, victim)
    document = (await report).document
    everything_s = time.time() - killed_s
    (last,) = await rows(f"SELECT extract(epoch FROM max(finished_at)) AS s FROM job_results WHERE job_id IN {held}")
    recovered_s = float(last["s"]) - killed_s
    (counts,) = await rows(_COUNTS)

    print(f"turn {turn}: its {len(held)} jobs finished after {recovered_s:.1f} s, all after {everything_s:.1f} s")  # noqa: T201
    assert (_JOBS, 0, 0) == (document["enqueued"], document["pending"], document["failed"])
    assert (_JOBS, counts["effects"], 0) == (counts["rows"], counts["applied"], counts["failed"])
    assert recovered_s < 7


@pytest.mark.timeout(120)
@pytest.mark.parametrize("lease_s", [1, pytest.param(5, marks=pytest.mark.slow)])
async def test_a_worker_that_slept_for_three_leases_doubles_nothing(service: Service, rows: Any, lease_s: int) -> None:
    """Paused in the middle and woken after its jobs ran elsewhere, it says that it lost its lease, and goes on."""
    short = {} if lease_s > 1 else {"JOB_TIMEOUT": "2", "COMMAND_TIMEOUT": "2"}  # they end its transactions
    sleeper = service.start_worker(LEASE=str(lease_s), **short)
    report = follow(service, 5000)
    await begun(rows)
    os.kill(sleeper.pid, signal.SIGSTOP)
    three_leases = asyncio.create_task(asyncio.sleep(3 * lease_s))
    other = service.start_worker(LEASE=str(lease_s), **short)
    document = (await report).document
    await three_leases
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


@pytest.mark.timeout(180)
@pytest.mark.parametrize("away_s", [3, pytest.param(30, marks=pytest.mark.slow)])
async def test_postgresql_is_away_for_a_while(own_servers: OwnServers, away_s: int) -> None:
    """The worker stops claiming within 2 s, keeps what it has, and goes on within 2 s; no job pays a try for it."""
    jobs, service, redis = 40_000, own_servers.service, own_servers.redis
    service.run("producer", "--jobs", str(jobs), "--mix", "create_user=1")
    worker = service.start_worker()
    await until(lambda: own_servers.fetchval("SELECT count(*) > 2000 FROM job_results"))
    postgres = Postgres(own_servers.home)
    postgres.ask_to_stop()
    assert wait_until(postgres.is_down, 10)
    await asyncio.sleep(2)
    held = {key: await redis.zcard(key) for key in await redis.keys("*:held:*")}
    await asyncio.sleep(away_s - 2)
    assert held == {key: await redis.zcard(key) for key in held}

    postgres.start()
    assert wait_until(postgres.is_ready, 60)
    back_s = time.monotonic()
    before = await own_servers.fetchval("SELECT count(*) FROM job_results")
    await until(lambda: own_servers.fetchval(f"SELECT count(*) > {before} FROM job_results"))
    resumed_s = time.monotonic() - back_s
    await until(lambda: own_servers.fetchval(f"SELECT count(*) = {jobs} FROM job_results"), timeout_s=100)
    outcomes = await own_servers.fetch("SELECT status, max(attempts) FROM job_results GROUP BY status")
    users = await own_servers.fetchval("SELECT count(*) FROM users")
    status, log = stop(worker)
    restarts = await own_servers.fetchval("SELECT max(database_restarts) FROM pool_snapshots")

    print(f"away {away_s} s: {sum(held.values())} jobs kept, the next outcome {resumed_s:.1f} s after the return")  # noqa: T201
    assert 0 < sum(held.values()) <= 2000
    assert resumed_s < 2
    assert [("applied", 1)] == [tuple(row) for row in outcomes]
    assert jobs == users
    assert restarts == 1
    assert 0 == status
    assert 1 <= log.count("database.unavailable") <= 4  # a batch that was committing still gets through in between
    assert log.count("database.unavailable") == log.count("database.back")


async def test_a_worker_can_be_stopped_while_postgresql_is_away(own_servers: OwnServers) -> None:
    """It ends, however long PostgreSQL stays away, and gives its jobs back with no try spent."""
    jobs, service = 20_000, own_servers.service
    service.run("producer", "--jobs", str(jobs), "--mix", "create_user=1")
    worker = service.start_worker(SHUTDOWN_WAIT="1", LEASE="1")
    await until(lambda: own_servers.fetchval("SELECT count(*) > 0 FROM job_results"))
    postgres = Postgres(own_servers.home)
    postgres.ask_to_stop()
    assert wait_until(postgres.is_down, 10)

    status, log = stop(worker)
    assert 0 == status
    assert "database.unavailable" in log
    assert not await own_servers.redis.keys("*:held:*")
    assert not await own_servers.redis.keys("arq:retry:*")
    postgres.start()
    assert wait_until(postgres.is_ready, 60)
    service.start_worker("--burst").wait()
    outcomes = await own_servers.fetch("SELECT status, max(attempts) FROM job_results GROUP BY status")
    assert [("applied", 1)] == [tuple(row) for row in outcomes]
    assert jobs == await own_servers.fetchval("SELECT count(*) FROM users")
