"""Idempotency keys over HTTP: the same key is the same job."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from factories import user_fields
from front import WAIT
from planting import QUEUE
from waiting import until

from producer.commands_file import CommandReader
from tidepool.client import JobClient
from tidepool.jobs.submission import Submission
from tidepool.queue import wire

pytestmark = pytest.mark.usefixtures("shared_database")


async def test_the_same_key_is_the_same_job(front: httpx.AsyncClient, redis: ArqRedis) -> None:
    """The same answer, and no second job; what the first asked for stands."""
    key = {"Idempotency-Key": "user/ädä"}
    headers = {name: value.encode() for name, value in key.items()}
    first = await front.post("/users/", json=user_fields(), headers=headers)  # type: ignore[arg-type]
    second = await front.post("/users/", json=user_fields("eve"), headers=headers)  # type: ignore[arg-type]

    assert (202, "user/ädä", "/jobs/user%2F%C3%A4d%C3%A4") == (
        first.status_code,
        first.json()["id"],
        first.json()["url"],
    )
    assert (202, first.json()) == (second.status_code, second.json())
    assert 1 == await redis.zcard(QUEUE)
    assert user_fields() == wire.receive(await redis.get("arq:job:user/ädä") or b"")["k"]


async def test_a_key_that_can_be_no_id_is_refused(front: httpx.AsyncClient) -> None:
    """400, and the header is named."""
    latin = "commande-é-1".encode("latin-1")
    for key in (" ", '" a"', '"a', '"a"b', '"a"; p=1', latin, "x" * 201, "", ".", ".."):
        answer = await front.post("/users/", json=user_fields(), headers=[("Idempotency-Key", key)])  # type: ignore[list-item]
        assert (400, "invalid_key") == (answer.status_code, answer.json()["code"])
        assert "Idempotency-Key: must " in answer.json()["detail"]


async def test_two_keys_are_no_key(front: httpx.AsyncClient, redis: ArqRedis) -> None:
    """400: which of them is meant is a guess."""
    answer = await front.post(
        "/users/", json=user_fields(), headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    )
    assert (400, "invalid_key") == (answer.status_code, answer.json()["code"])
    assert 0 == await redis.zcard(QUEUE)


@pytest.mark.parametrize(
    "job_id", ["commande-é-1", "注文-1", "or-p-BANK CHARGES", "a, b", 'say "x"', "back\\slash", "a/../b"]
)
@pytest.mark.parametrize("quoted", [False, True])
async def test_an_id_is_the_same_whichever_way_it_comes(
    front: httpx.AsyncClient, redis: ArqRedis, job_id: str, *, quoted: bool
) -> None:
    """By HTTP, plain or quoted, by a file, and in the job's URL: one job."""
    key = '"' + job_id.replace("\\", "\\\\").replace('"', '\\"') + '"' if quoted else job_id
    answer = await front.post("/users/", json=user_fields(), headers=[("Idempotency-Key", key.encode())])  # type: ignore[list-item]
    line = json.dumps({"job": "create_user", "id": job_id, "args": user_fields()}).encode()
    (submission,) = CommandReader.of_lines([line], source="-")

    assert isinstance(submission, Submission)
    assert [False] == await JobClient(redis).enqueue_many([submission])
    assert (202, job_id) == (answer.status_code, answer.json()["id"])
    assert job_id == (await front.get(answer.json()["url"])).json()["id"]
    assert [job_id.encode()] == await redis.zrange(QUEUE, 0, -1)


async def test_a_repeated_job_that_redis_has_forgotten_is_answered_from_the_ledger(
    served: httpx.AsyncClient, redis: ArqRedis
) -> None:
    """The same outcome, and the queue is not touched."""
    headers = {**WAIT, "Idempotency-Key": "once"}
    first = await served.post("/users/", json=user_fields(), headers=headers)
    await until(lambda: redis.delete("arq:result:once"))

    again = await served.post("/users/", json=user_fields(), headers=headers)
    unwaited = await served.post("/users/", json=user_fields(), headers={"Idempotency-Key": "once"})

    assert (201, first.json()) == (again.status_code, again.json())
    assert first.headers["location"] == again.headers["location"]
    assert (202, "queued") == (unwaited.status_code, unwaited.json()["status"])
    assert not await redis.exists("arq:job:once", "arq:result:once")


FORGED = {
    "applied": {"status": "applied", "result": {"user_id": 4711}},
    "rejected": {"status": "rejected", "reason": "email_taken", "error": "no"},
    "failed": RuntimeError("no"),
    "aborted": asyncio.CancelledError(),
    "nothing of ours": 17,
}


@pytest.mark.parametrize("result", FORGED.values(), ids=FORGED)
async def test_a_forged_result_is_not_believed(served: httpx.AsyncClient, redis: ArqRedis, result: Any) -> None:
    """Anybody who may write to Redis can invent a result; the job is enqueued all the same, and the ledger answers."""
    await redis.set("arq:result:forged", wire.serialize({"r": result, "s": True}))
    answer = await served.post("/users/", json=user_fields(), headers={**WAIT, "Idempotency-Key": "forged"})
    assert (201, {"user_id": 1}) == (answer.status_code, answer.json()["result"])
    assert 200 == (await served.get("/users/1")).status_code


async def test_a_result_that_is_forged_while_somebody_waits_is_not_believed(
    front: httpx.AsyncClient, redis: ArqRedis, connection: Any
) -> None:
    """There is no worker, so nothing is applied; the caller, who chose the job's id, gets the status `queued`."""
    await connection.execute("TRUNCATE users, products, orders, job_results RESTART IDENTITY")
    headers = {"Prefer": "wait=1", "Idempotency-Key": "raced"}
    asking = asyncio.create_task(front.post("/users/", json=user_fields(), headers=headers))
    await until(lambda: redis.exists("arq:job:raced"))
    await redis.set("arq:result:raced", wire.serialize({"r": FORGED["applied"], "s": True}))
    assert (202, "queued") == ((answer := await asking).status_code, answer.json()["status"])
