"""Redis's user: what the compose file lets it do is enough, and no more than that."""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from textwrap import dedent
from typing import Any

import pytest
from arq.connections import ArqRedis, create_pool
from arq.jobs import Job
from commands import Service, stop
from deployment import ROOT
from deployment import service as of_compose_file
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from waiting import until

from tidepool.client import JobClient
from tidepool.embedded.redis import EmbeddedRedis
from tidepool.queue import wire
from tidepool.queue.connection import RedisClient
from tidepool.queue.finisher import Lacks, SetAside
from tidepool.queue.leases import Leases

PASSWORD = "geheim"


def rules() -> list[str]:
    """Return what the compose file's user may do, as words."""
    (line,) = re.findall(r"user tidepool on \S+ (.*?)\n *END", of_compose_file("redis")["command"], re.DOTALL)
    return line.replace("\\\n", " ").split()


@pytest.fixture
def socket() -> Iterator[str]:
    """Run Redis by the compose file's own command, on a socket, with a second user who may do everything."""
    home = tempfile.mkdtemp(prefix="tp-")
    program = shutil.which("redis-server") or shutil.which("valkey-server") or EmbeddedRedis.program("redis-server")
    script = dedent(of_compose_file("redis")["command"].split("- |\n")[1]).replace("$$", "$")
    script = script.replace("redis-server -", f"{program} - --port 0 --unixsocket {home}/redis.sock --dir {home}")
    script = script.replace("\nEND", "\nuser admin on nopass ~* &* +@all\nEND")
    environment = {**os.environ, "REDISCLI_AUTH": PASSWORD}
    with subprocess.Popen(("sh", "-c", script), env=environment, stdout=subprocess.DEVNULL) as process:
        yield f"{home}/redis.sock"
        process.terminate()
    shutil.rmtree(home)


@pytest.fixture
async def admin(socket: str) -> AsyncIterator[Any]:
    """Give a client that may do everything, of a Redis that answers."""
    client: Any = RedisClient.open(f"unix://admin:x@{socket}", queue_name="q")

    async def answers() -> Any:
        try:
            return await client.ping()
        except RedisError:
            return False

    await until(answers)
    yield client
    await client.aclose(close_connection_pool=True)


@pytest.fixture
async def url(socket: str, admin: Any) -> str:
    """Give the URL of the user that the service is given.

    arq's own clients say who they are: not every version can grant that, nobody misses it, but it would be in ACL LOG.
    """
    with suppress(ResponseError):
        await admin.execute_command("ACL", "SETUSER", "tidepool", "+client|setinfo")
    return f"unix://tidepool:{PASSWORD}@{socket}?db=0"


@pytest.fixture
async def user(url: str) -> AsyncIterator[ArqRedis]:
    """Give arq's own client, as that user."""
    client = await create_pool(
        RedisClient.settings_for(url), job_serializer=wire.serialize, job_deserializer=wire.deserialize
    )
    yield client
    await client.aclose(close_connection_pool=True)


async def test_workers_producers_and_arqs_client_need_no_more(
    service: Service, url: str, user: ArqRedis, admin: Any
) -> None:
    """None of their commands is refused, including those whose failure they would only log or ignore."""
    service.environment["REDIS_URL"] = url
    worker = await asyncio.to_thread(service.start_worker, WORKER_NAME="w")

    ran = await asyncio.to_thread(service.run, "producer", "--jobs", "300", "--follow", "--json")
    fields = {"username": "ada", "email": "ada@x", "full_name": "Ada"}
    outcomes: list[str] = []
    for job_id in ("first", "twin"):  # one after the other: two batches at a time would race for the name
        job = await user.enqueue_job("create_user", **fields, _job_id=job_id)
        assert isinstance(job, Job)
        outcomes.append((await job.result(20))["status"])
    later = await user.enqueue_job("create_user", **fields, _defer_by=60)
    assert isinstance(later, Job)
    requeued = await asyncio.to_thread(service.run, "producer", "requeue", "twin", "--json")
    await later.abort(timeout=20)  # the worker may be faster than the mark that arq sets second
    checked = await asyncio.to_thread(service.run, "arq", "worker.WorkerSettings", "--check", WORKER_NAME="w")
    status, log = await asyncio.to_thread(stop, worker)

    assert (0, 300) == (ran.status, ran.document["enqueued"]), ran.stderr
    assert ["applied", "rejected"] == outcomes
    assert 1 == requeued.document["requeued"]
    assert (0, 0) == (checked.status, status)
    assert [] == await admin.acl_log()
    assert PASSWORD not in log


async def test_the_jobs_of_lost_workers_need_no_more(url: str, admin: Any) -> None:
    """They are put back, kept aside after the second loss, and handed out alone."""
    redis = RedisClient.open(url, queue_name="arq:queue")
    await redis.enqueue_job("create_user", _job_id="heavy")
    for owner in ("first", "second", "third"):
        leases = Leases(redis, "arq:queue", lease_ms=1)
        jobs: list[Any] = []

        async def has_claimed() -> bool:
            jobs[:], _ = await leases.claim(owner, 10, suspect_too=True)  # noqa: B023  (awaited within the turn)
            return bool(jobs)  # noqa: B023

        await until(has_claimed)
    await redis.aclose(close_connection_pool=True)

    assert ("heavy", 2) == (jobs[0].id, jobs[0].lapses)
    assert [] == await admin.acl_log()


async def test_dead_letters_need_no_more(url: str, admin: Any) -> None:
    """They are made, listed, put back and deleted."""
    redis = RedisClient.open(url, queue_name="arq:queue")
    leases, letters = Leases(redis, "arq:queue", lease_ms=5000), JobClient(redis).dead_letters
    for expected in (letters.requeue, letters.discard):
        await redis.enqueue_job("unknown", _job_id="a")
        await leases.announce(["known"], "json")
        (job,), _ = await leases.claim("me", 10, suspect_too=True)
        await leases.finish("me", [(job, SetAside(Lacks.FUNCTION, "why", "unknown"))])
        assert (1, 1) == (await letters.count(), len(await letters.oldest(5)))
        assert ["a"] == await expected()
    await redis.aclose(close_connection_pool=True)
    assert [] == await admin.acl_log()


async def test_more_than_that_is_refused(socket: str, user: ArqRedis) -> None:
    """Anybody who gets hold of the password can neither read or destroy anything else nor reach the machine."""
    for command in (
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("CONFIG", "SET", "dir", "/tmp"),
        ("EVAL", "return 1", 0),
        ("DEBUG", "SLEEP", 0),
        ("ACL", "LIST"),
        ("MODULE", "LIST"),
        ("SHUTDOWN",),
        ("GET", "somebody:elses"),
    ):
        with pytest.raises(NoPermissionError):
            await user.execute_command(*command)
    nobody = RedisClient.open(f"unix://{socket}", queue_name="q")
    with pytest.raises(AuthenticationError):
        await nobody.ping()
    await nobody.aclose(close_connection_pool=True)


async def test_a_command_that_is_missing_is_one_clear_line(service: Service, url: str, admin: Any) -> None:
    """A worker without it cannot work; waiting does not bring it."""
    await admin.execute_command("ACL", "SETUSER", "tidepool", "-evalsha")

    ended = await asyncio.to_thread(service.run, "arq", "worker.WorkerSettings", REDIS_URL=url)

    assert 2 == ended.status
    assert "error: Redis refuses us: " in ended.stderr.splitlines()[-1]
    assert "evalsha" in ended.stderr.splitlines()[-1]
    assert not any(word in ended.stderr for word in ("Traceback", PASSWORD))


def test_the_documentation_has_the_same_rules() -> None:
    """Operators of a Redis of their own take the rules from there."""
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    (block,) = re.findall(r"user tidepool on >PASSWORD (.*?)\n```", text, re.DOTALL)
    assert rules() == block.replace("\\\n", " ").split()
