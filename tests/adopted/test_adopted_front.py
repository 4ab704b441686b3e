"""`tidepool serve` for an adopted application: the page and the API, over the history of plain functions and Redis."""

import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from commands import Service, until
from fastapi import FastAPI
from front import running

from tidepool.adopting import settings_class_of
from tidepool.app import App
from tidepool.web import create_app

ROOT = Path(__file__).parents[2]
APPLICATION = """
import os
import tidepool
from arq.connections import RedisSettings

async def double(ctx, number):
    return 2 * number

class WorkerSettings:
    functions = [double]
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])

WorkerSettings = tidepool.adopt(WorkerSettings)
"""
NOT_KEPT = "arguments of plain functions are not kept; the application can enqueue it anew"


@pytest.fixture
async def http(settings: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of the application's front."""
    async with running(a_front(settings)) as client:
        yield client


def a_front(settings: dict[str, Any]) -> FastAPI:
    """Return the web application of adopted arq settings."""
    kind = settings_class_of(settings)
    assert kind is not None
    loaded = kind.load()
    app = App(settings=kind)
    return create_app(app, loaded, loaded.urls, program="tidepool --app shop:Settings")


async def settled(http: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """Wait until a job has an outcome, and return the job."""

    async def look() -> dict[str, Any] | None:
        answer = (await http.get(f"/jobs/{job_id}")).json()
        return answer if answer.get("status") in ("applied", "rejected", "failed") else None

    return await until(look)


async def test_plain_jobs_are_listed_and_shown_and_refused_a_requeue(
    http: httpx.AsyncClient, redis: ArqRedis, work: Callable[[], None]
) -> None:
    """The list says that their rows were written after the fact; a requeue says why it leaves them out."""
    await redis.enqueue_job("send", "ada", _job_id="good")
    await redis.enqueue_job("send", "bad", _job_id="bad")
    assert {"id": "good", "status": "queued", "url": "/jobs/good"} == (await http.get("/jobs/good")).json()
    work()
    good, bad = await settled(http, "good"), await settled(http, "bad")
    assert ("applied", False, None) == (good["status"], good["atomic"], good["args"])
    assert ("failed", "ValueError: bad") == (bad["status"], bad["error"])
    rows = (await http.get("/jobs?status=failed")).json()["jobs"]
    assert [("bad", "send", False, False)] == [
        (row["job_id"], row["function"], row["atomic"], row["requeueable"]) for row in rows
    ]
    one, many = await http.post("/jobs/bad/requeue"), await http.post("/jobs/requeue?status=failed")
    assert (409, f"the job cannot run again: {NOT_KEPT}") == (one.status_code, one.json()["detail"])
    assert (202, {"requeued": 0, "left_out": 1}) == (many.status_code, many.json())


async def test_an_id_that_is_used_again_is_shown_as_it_is_now(
    http: httpx.AsyncClient, redis: ArqRedis, work: Callable[[], None]
) -> None:
    """The outcome of its last run is in the list meanwhile."""
    await redis.enqueue_job("send", "ada", _job_id="again")
    work()
    await settled(http, "again")
    await redis.delete("arq:result:again")
    await redis.enqueue_job("send", "ada", _job_id="again", _defer_by=3600)
    assert "deferred" == (await http.get("/jobs/again")).json()["status"]
    assert ["again"] == [row["job_id"] for row in (await http.get("/jobs")).json()["jobs"]]


async def test_a_job_is_aborted_as_by_arqs_client(
    http: httpx.AsyncClient, redis: ArqRedis, work: Callable[[], None]
) -> None:
    """Its outcome is a rejection."""
    await redis.enqueue_job("send", "ada", _job_id="later", _defer_by=3600)
    assert 202 == (await http.post("/jobs/later/abort")).status_code
    work()
    job = await settled(http, "later")
    assert ("rejected", "aborted") == (job["status"], job["reason"])


async def test_an_abort_that_no_worker_would_heed_is_refused(settings: dict[str, Any], redis: ArqRedis) -> None:
    """Workers look for aborts only if their settings say so."""
    settings["allow_abort_jobs"] = False
    await redis.enqueue_job("send", "ada", _job_id="later", _defer_by=3600)
    async with running(a_front(settings)) as http:
        refused = await http.post("/jobs/later/abort")
    assert (409, "aborts_are_off") == (refused.status_code, refused.json()["code"])


async def test_the_page_has_workers_and_functions_of_an_application_without_a_known_pool(
    http: httpx.AsyncClient, redis: ArqRedis, work: Callable[[], None]
) -> None:
    """Snapshots are written without a pool, too; nothing is judged then. The page names the application's commands."""
    html = (await http.get("/")).text
    assert "<code>tidepool --app shop:Settings results</code>" in html
    assert "{program}" not in html
    await redis.enqueue_job("send", "bad")
    work()

    async def counted() -> dict[str, Any] | None:
        picture = (await http.get("/picture")).json()
        return picture if picture["tallies"]["functions"] and picture["groups"] is not None else None

    picture = await until(counted)
    assert (1, []) == (picture["history"]["live"], picture["groups"])
    assert [("send", 1)] == [(one["function"], one["jobs"]["failed"]) for one in picture["tallies"]["functions"]]
    ready = (await http.get("/health/ready")).json()
    assert (True, {"postgresql", "migrations", "redis", "pool"}) == (ready["ready"], set(ready["checks"]))


def start(service: Service, folder: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start `tidepool --app … serve` in a folder with the application."""
    (folder / "jobs.py").write_text(APPLICATION, "utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "tidepool", "--app", "jobs:WorkerSettings", "serve", *words],
        env={**service.environment, "PYTHONPATH": str(ROOT), **variables},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_needs_a_database(service: Service, tmp_path: Path) -> None:
    """One line says which variable is missing."""
    out, err = start(service, tmp_path).communicate(timeout=30)
    assert ("", "TIDEPOOL_DATABASE_URL: is not set\n") == (out, err)


def test_the_command_asks_for_a_token_by_the_name_of_its_variable(service: Service, tmp_path: Path) -> None:
    """Before it listens where other machines can reach it."""
    url = service.environment["DATABASE_URL"]
    _, err = start(service, tmp_path, "--host", "0.0.0.0", TIDEPOOL_DATABASE_URL=url).communicate(timeout=30)
    assert "error: --host 0.0.0.0 is not a loopback address: set TIDEPOOL_FRONT_TOKEN\n" == err


def test_the_command_serves_until_a_signal(service: Service, tmp_path: Path) -> None:
    """It makes its tables, and prints its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    url = service.environment["DATABASE_URL"]
    serving = start(service, tmp_path, "--host", "127.0.0.1", "--port", str(port), TIDEPOOL_DATABASE_URL=url)
    assert serving.stdout is not None
    assert f"serving on http://127.0.0.1:{port}/\n" == serving.stdout.readline()
    assert "<code>tidepool --app jobs:WorkerSettings results</code>" in httpx.get(f"http://127.0.0.1:{port}/").text
    assert {"jobs": [], "next": None} == httpx.get(f"http://127.0.0.1:{port}/jobs").json()
    serving.send_signal(signal.SIGTERM)
    serving.communicate(timeout=30)
    assert 143 == serving.returncode
