"""Commands over HTTP: what is taken, what is refused, and the answers to callers who wait for the outcome."""

from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from arq.jobs import Job
from factories import a_job, product_fields, user_fields
from front import WAIT, a_front
from planting import QUEUE

from tidepool.jobs.outcomes import Failed
from tidepool.ledger.ledger import Ledger
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.queue import wire
from worker.jobs import JOBS

pytestmark = pytest.mark.usefixtures("shared_database")


def an_order(**fields: Any) -> dict[str, Any]:
    """Return the content of an order."""
    return {"username": "ada", "sku": "LAMP", "quantity": 2, **fields}


async def create_both(http: httpx.AsyncClient) -> None:
    """Create the user and the product that orders name."""
    assert 201 == (await http.post("/users/", json=user_fields(), headers=WAIT)).status_code
    assert 201 == (await http.post("/products/", json=product_fields(), headers=WAIT)).status_code


async def test_a_command_is_taken(front: httpx.AsyncClient, redis: ArqRedis) -> None:
    """202 with the job's id and address; the job is in the queue as arq's clients put it there."""
    answer = await front.post("/users/", json=user_fields())

    assert 202 == answer.status_code
    job_id = answer.json()["id"]
    assert {"id": job_id, "url": f"/jobs/{job_id}", "status": "queued"} == answer.json()
    assert f"/jobs/{job_id}" == answer.headers["location"]
    assert "preference-applied" not in answer.headers
    call = wire.receive(await redis.get(f"arq:job:{job_id}") or b"")
    assert ("create_user", user_fields()) == (call["f"], call["k"])
    assert "queued" == await Job(job_id, redis, QUEUE).status()


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/users/", b"{", "the body is not JSON"),
        ("/users/", b"", "the body is not JSON"),
        ("/users/", b"[]", "the body is not an object"),
        ("/users/", b'{"username": "\\ud800", "email": "a@b", "full_name": "A"}', "the body is not JSON"),
        ("/users/", b'{"username": "ada", "full_name": "A"}', "email: Field required"),
        ("/users/", b'{"username": "a", "email": "no", "full_name": "A"}', "email: must have one @"),
        ("/products/", b'{"name": "a", "price": 0.30000000000000004, "category": "c"}', "price: must be decimal text"),
        ("/orders/", b'{"username": "ada", "sku": "LAMP", "quantity": 0}', "quantity: Input should be greater"),
        ("/orders/", b'{"username": "ada", "user_id": 1, "sku": "L", "quantity": 1}', "give exactly one of user_id"),
    ],
)
async def test_what_is_not_valid_is_refused(
    front: httpx.AsyncClient, redis: ArqRedis, path: str, body: bytes, words: str
) -> None:
    """422 with the field and its fault, and nothing in the queue."""
    answer = await front.post(path, content=body, headers={"Content-Type": "application/json"})

    assert (422, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    problem = answer.json()
    assert ("invalid", 422, "about:blank") == (problem["code"], problem["status"], problem["type"])
    assert words in problem["detail"]
    assert 0 == await redis.zcard(QUEUE)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/users/0", {"full_name": "A"}, "user_id"),
        ("/users/x", {"full_name": "A"}, "user_id"),
        ("/users/7", {"user_id": 7, "full_name": "A"}, "user_id: is in the path"),
        ("/users/7", {"username": "ada", "full_name": "A"}, "give exactly one of user_id and username"),
        ("/users/7", {}, "give one or more of"),
        ("/products/7/stock", {}, "in_stock: Field required"),
    ],
)
async def test_a_change_names_its_row_in_the_path(
    front: httpx.AsyncClient, path: str, body: dict[str, Any], words: str
) -> None:
    """There and nowhere else."""
    answer = await front.put(path, json=body)
    assert (422, "invalid") == (answer.status_code, answer.json()["code"])
    assert words in answer.json()["detail"]


async def test_a_waiting_caller_gets_what_was_created(served: httpx.AsyncClient) -> None:
    """201 with the result, and the address of the row."""
    user = await served.post("/users/", json=user_fields(), headers=WAIT)
    product = await served.post("/products/", json=product_fields(), headers=WAIT)
    order = await served.post("/orders/", json=an_order(), headers={"Prefer": "respond-async, wait=10"})

    assert [201, 201, 201] == [answer.status_code for answer in (user, product, order)]
    assert "applied" == order.json()["status"]
    assert "25.00" == order.json()["result"]["total_price"]
    assert f"/orders/{order.json()['result']['order_id']}" == order.headers["location"]
    assert f"/users/{user.json()['result']['user_id']}" == user.headers["location"]
    assert f"/products/{product.json()['result']['product_id']}" == product.headers["location"]
    assert "wait=10" == order.headers["preference-applied"]


async def test_a_waiting_caller_gets_what_was_changed(served: httpx.AsyncClient) -> None:
    """200 with the result; the change is there when the answer is."""
    await create_both(served)

    renamed = await served.put("/users/1", json={"is_active": False}, headers=WAIT)
    emptied = await served.put("/products/1/stock", json={"in_stock": False}, headers=WAIT)

    assert (200, {"user_id": 1}) == (renamed.status_code, renamed.json()["result"])
    assert (200, {"product_id": 1}) == (emptied.status_code, emptied.json()["result"])
    order = await served.post("/orders/", json=an_order(), headers=WAIT)
    assert (409, "inactive_user") == (order.status_code, order.json()["code"])


async def test_a_waiting_caller_gets_the_rejection(served: httpx.AsyncClient) -> None:
    """409 where a rule says no, 422 where something is not there; with code, words, and the job's id."""
    await create_both(served)

    taken = await served.post("/users/", json=user_fields(), headers={**WAIT, "Idempotency-Key": "again"})
    unknown = await served.post("/orders/", json=an_order(sku="NONE"), headers=WAIT)

    assert (409, "username_taken", "again") == (taken.status_code, taken.json()["code"], taken.json()["id"])
    assert "another user has this username" == taken.json()["detail"]
    assert "wait=20" == taken.headers["preference-applied"]
    assert (422, "unknown_product") == (unknown.status_code, unknown.json()["code"])


async def test_a_caller_whose_time_is_up_is_sent_to_the_job(front: httpx.AsyncClient, redis: ArqRedis) -> None:
    """202, as without the wish; and the job is in the queue."""
    answer = await front.post("/users/", json=user_fields(), headers={"Prefer": "wait=1"})
    assert (202, "queued", "wait=1") == (
        answer.status_code,
        answer.json()["status"],
        answer.headers["preference-applied"],
    )
    assert 1 == await redis.zcard(QUEUE)


@pytest.mark.parametrize("wish", ["wait=0", "wait", "wait=x", "await=5", "wait=-1", "return=minimal"])
async def test_what_is_no_wish_to_wait_is_none(front: httpx.AsyncClient, wish: str) -> None:
    """RFC 7240: a preference that is not understood is ignored."""
    answer = await front.post("/users/", json=user_fields(), headers={"Prefer": wish})
    assert 202 == answer.status_code
    assert "preference-applied" not in answer.headers


async def test_redis_away(database: PoolConfig) -> None:
    """503, and when to try again."""
    async with a_front(database.url, "redis://127.0.0.1:1/0") as http:
        answer = await http.post("/users/", json=user_fields(), headers=WAIT)
    assert (503, "2") == (answer.status_code, answer.headers["retry-after"])
    assert "application/problem+json" == answer.headers["content-type"]


async def test_a_failed_job_is_our_fault(front: httpx.AsyncClient, pool: Pool) -> None:
    """500 with the error that the ledger has."""
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", [a_job(Failed("gave up"), "sad", content={})])
    answer = await front.post("/users/", json=user_fields(), headers={**WAIT, "Idempotency-Key": "sad"})
    assert (500, "failed", "gave up") == (answer.status_code, answer.json()["code"], answer.json()["detail"])
