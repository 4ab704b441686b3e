"""Workers as the `arq` command runs them: sharing, stopping, dying, being asked for their health."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from arq.connections import ArqRedis, create_pool
from arq.jobs import Job
from commands import Service, stop, until

from tidepool.queue import wire
from tidepool.queue.connection import RedisClient

_LOCKED = "\n".join(
    json.dumps({"job": job, "id": job_id, "args": args})
    for job, job_id, args in (
        ("update_user", "rename", {"username": "ada", "full_name": "Countess"}),
        ("create_user", "eve", {"username": "eve", "email": "eve@x", "full_name": "Evelyn"}),
        ("create_product", "tea", {"sku": "tea", "name": "Tea", "price": "2.50", "category": "Drinks"}),
    )
)
"""A commands file of jobs that others' locks can keep waiting."""


@pytest.fixture
async def foreign(redis_url: str) -> AsyncIterator[ArqRedis]:
    """Give a client of somebody else: arq's own pool with the service's serializers."""
    pool = await create_pool(
        RedisClient.settings_for(redis_url), job_serializer=wire.serialize, job_deserializer=wire.deserialize
    )
    yield pool
    await pool.aclose(close_connection_pool=True)


@pytest.mark.slow
async def test_two_workers_share_the_work_and_both_leave_snapshots(service: Service, rows: Any) -> None:
    """With two workers and a producer beside them, both take part, and the lists show it."""
    workers = [service.start_worker(), service.start_worker()]

    report = service.run("producer", "--jobs", "3000", "--follow", "--json").document
    results = service.run("producer", "results", "--limit", "3000", "--json").document

    async def both_left_a_row() -> bool:
        return (
            2
            == (await rows("SELECT count(DISTINCT worker_id) AS n FROM pool_snapshots WHERE jobs_applied > 0"))[0]["n"]
        )

    assert 3000 == report["enqueued"] == len(results)
    assert 2 == len({row["worker_id"] for row in results})
    await until(both_left_a_row)
    snapshots = service.run("worker", "snapshots", "--json").document
    assert {row["worker_id"] for row in results} == {row["worker_id"] for row in snapshots}
    assert [0, 0] == [stop(worker)[0] for worker in workers]


async def test_sigterm_lets_jobs_finish_and_spends_no_try(service: Service, rows: Any) -> None:
    """A worker that is stopped in the middle leaves nothing half done; another one finishes the rest."""
    service.run("producer", "--jobs", "4000", "--seed", "3")
    worker = service.start_worker()

    async def begun() -> bool:
        return 0 < (await rows("SELECT count(*) AS n FROM job_results"))[0]["n"]

    await until(begun)
    status, log = stop(worker)
    (stopped,) = await rows("SELECT count(*) AS n FROM job_results")
    service.start_worker("--burst").wait()
    (after,) = await rows(
        "SELECT count(*) AS n, sum(attempts) FILTER (WHERE function LIKE 'create%') AS tries,"
        " count(*) FILTER (WHERE function LIKE 'create%') AS creations FROM job_results"
    )

    assert 0 == status
    assert "worker.stopped" in log
    assert 0 < stopped["n"] <= 4000 == after["n"]
    assert after["tries"] == after["creations"]


@pytest.mark.slow
async def test_a_lock_that_never_comes_free_keeps_no_worker_from_ending(service: Service, rows: Any) -> None:
    """It ends LEASE and 5 s after SHUTDOWN_WAIT, and another worker applies its jobs once, each in its first try.

    One job waits for a row, one for a name that a transaction has inserted, and one for a whole table.
    """
    other: Any = await asyncpg.connect(service.environment["DATABASE_URL"])  # ours would end an idle transaction
    await other.execute("INSERT INTO users (username, email, full_name) VALUES ('ada', 'ada@x', 'Ada')")
    await other.execute(
        "BEGIN; UPDATE users SET full_name = 'A' WHERE username = 'ada';"
        "INSERT INTO users (username, email, full_name) VALUES ('eve', 'eve@x', 'Eve');"
        "LOCK TABLE products"
    )
    service.run("producer", "--file", "-", stdin=_LOCKED)
    patient = {"LEASE": "1", "SHUTDOWN_WAIT": "1", "JOB_TIMEOUT": "60", "COMMAND_TIMEOUT": "60"}
    workers = [service.start_worker(**patient)]

    async def wait(worker: subprocess.Popen[str]) -> list[Any]:
        return await rows(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            f" AND application_name LIKE '%-{worker.pid}-%' HAVING count(*) = 3"
        )

    await until(lambda: wait(workers[0]))
    workers.append(service.start_worker(**patient))
    begun_s = time.monotonic()
    status, log = await asyncio.to_thread(stop, workers[0])
    took_s = time.monotonic() - begun_s
    await until(lambda: wait(workers[1]))
    settled = await rows("SELECT FROM job_results")
    await other.close()
    await until(lambda: rows("SELECT FROM job_results HAVING count(*) = 3"))
    outcomes = await rows("SELECT job_id, status, attempts FROM job_results ORDER BY job_id")
    users = await rows("SELECT username, full_name FROM users ORDER BY username")

    assert (0, True, []) == (status, "worker.stopped" in log, settled)
    assert 1 <= took_s < 1 + 1 + 5 + 3, took_s
    assert [(job_id, "applied", 1) for job_id in ("eve", "rename", "tea")] == [tuple(row.values()) for row in outcomes]
    assert [("ada", "Countess"), ("eve", "Evelyn")] == [tuple(row.values()) for row in users]
    assert 1 == len(await rows("SELECT FROM products"))


async def test_a_killed_worker_loses_and_doubles_nothing(service: Service, rows: Any) -> None:
    """SIGKILL in the middle of a run: the parent replaces the worker, and every job has one outcome and one effect."""
    report = asyncio.create_task(
        asyncio.to_thread(service.run, "producer", "--jobs", "6000", "--workers", "2", "--json")
    )

    async def under_way() -> Any:
        return await rows("SELECT split_part(worker_id, '-', -2)::int AS pid FROM job_results LIMIT 1")

    (victim,) = await until(under_way)
    os.kill(victim["pid"], signal.SIGKILL)
    document = (await report).document
    (counts,) = await rows(
        "SELECT count(*) AS n, count(*) FILTER (WHERE status = 'applied') AS applied FROM job_results"
    )
    (effects,) = await rows(
        "SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM products) + (SELECT count(*) FROM orders) AS n"
    )

    assert (6000, 0, 0) == (document["enqueued"], document["pending"], document["failed"])
    assert (6000, effects["n"]) == (counts["n"], counts["applied"])


def test_check_tells_a_live_worker_from_none(service: Service) -> None:
    """`arq --check` succeeds while this host's worker lives, and fails when it has stopped."""
    worker = service.start_worker(WORKER_NAME="checked")

    alive = service.run("arq", "worker.WorkerSettings", "--check", WORKER_NAME="checked").status
    other = service.run("arq", "worker.WorkerSettings", "--check", WORKER_NAME="another").status
    stop(worker)
    stopped = service.run("arq", "worker.WorkerSettings", "--check", WORKER_NAME="checked").status

    assert (0, 1, 1) == (alive, other, stopped)


async def test_somebody_elses_arq_client_enqueues_and_reads(service: Service, foreign: ArqRedis) -> None:
    """Arq's own pool with the service's serializers is a full client: fields by name or as one object.

    The second job waits for the first: two that are due in the same millisecond run in the order of their ids.
    """
    service.start_worker()

    named = await foreign.enqueue_job(
        "create_user", username="ada", email="ada@example.org", full_name="Ada", _job_id="u1"
    )
    assert isinstance(named, Job)
    applied = await named.result(20)
    whole = await foreign.enqueue_job("create_user", {"username": "ada", "email": "b@example.org", "full_name": "B"})
    assert isinstance(whole, Job)
    rejected = await whole.result(20)

    assert {"status": "applied", "result": {"user_id": 1}} == applied
    assert ("rejected", "username_taken") == (rejected["status"], rejected["reason"])


async def test_poison_among_good_jobs_harms_nobody(service: Service, foreign: ArqRedis, rows: Any) -> None:
    """What no producer of ours would send becomes an outcome with a reason; the worker and the others go on.

    The whole catalogue, entry by entry, is in `engine/test_poison.py`; this is the command's own run.
    """
    good = {"username": "good", "email": "good@example.org", "full_name": "Good"}
    raw = {
        "raw-bytes": b"\xff\xfe junk",
        "pickle": b"\x80\x04\x95.",
        "empty": b"",
        "list": b"[]",
        "wrong-function": b'{"f": ["x"], "a": [], "k": {}, "t": null, "et": 1}',
        "wrong-time": b'{"f": "create_user", "a": [], "k": {}, "t": null, "et": 1e300}',
        "nan": b'{"f": "create_user", "a": [], "k": {"username": NaN}, "t": null, "et": 1}',
        "deep": b'{"f": "create_user", "a": [' + b"[" * 5000 + b"]" * 5000 + b'], "k": {}, "t": null, "et": 1}',
        "huge": b'{"f": "create_user", "a": [], "k": {"username": "' + b"x" * 5_000_000 + b'"}, "t": null, "et": 1}',
    }
    for job_id, payload in raw.items():
        await foreign.set(f"arq:job:{job_id}", payload)
    await foreign.zadd("arq:queue", dict.fromkeys(raw, 1))
    await foreign.zadd("arq:queue", {b"\xff\xfe-id": 1, "no-payload": 1})
    await foreign.enqueue_job("no_such_function", 1, _job_id="unknown")
    await foreign.enqueue_job("create_user", **{**good, "username": "a\x00b"}, _job_id="nul")
    await foreign.enqueue_job("create_user", username="x", _job_id="missing")
    await foreign.enqueue_job("place_order", user_id=1, product_id=1, quantity=-1, _job_id="negative")
    await foreign.enqueue_job("create_user", **good, _job_id="good")

    service.start_worker("--burst").wait()
    left = await foreign.zcard("arq:queue")
    found = await rows("SELECT job_id, status, reason, error FROM job_results")
    outcomes = {row["job_id"].partition("~")[0]: row for row in found}  # a digest follows an id that had to be escaped

    assert 0 == left
    assert "applied" == outcomes.pop("good")["status"]
    assert {*raw, "\\udcff\\udcfe-id", "no-payload", "unknown", "nul", "missing", "negative"} == outcomes.keys()
    assert {("rejected", "invalid")} == {(row["status"], row["reason"]) for row in outcomes.values()}
    assert all(row["error"] for row in outcomes.values())
