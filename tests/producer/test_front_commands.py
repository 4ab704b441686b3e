"""Commands over HTTP: taken, waited for, refused, repeated; and what is said while a server is away."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from arq.jobs import Job
from factories import a_job, product_fields, user_fields
from front import a_front
from planting import QUEUE, a_worker
from waiting import until

from producer.commands_file import read_commands
from tidepool.client import JobClient
from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Rejected
from tidepool.ledger.ledger import Ledger
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.queue import wire
from tidepool.queue.submission import Submission
from tidepool.web import waiting
from tidepool.web.waiting import Waits, outcome_of
from worker.jobs import JOBS

WAIT = {"Prefer": "wait=20"}


async def _true_of(value: object) -> object:
    return value


@pytest.fixture
def database(shared_database: PoolConfig) -> PoolConfig:
    """Give all tests of this file one database."""
    return shared_database


@pytest.fixture
async def front(database: PoolConfig, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a front."""
    async with a_front(database.url, redis_url) as http:
        yield http


@pytest.fixture
async def served(
    front: httpx.AsyncClient, redis: ArqRedis, pool: Pool, connection: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a front whose jobs a worker runs, on an empty database."""
    await connection.execute("TRUNCATE users, products, orders, job_results RESTART IDENTITY")
    async with a_worker(redis, pool):
        yield front


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
    (submission,) = read_commands([line], source="-")

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


async def test_callers_share_round_trips(front: httpx.AsyncClient, redis: ArqRedis) -> None:
    """Two hundred at a time: each has its own job, and Redis was called a few times."""
    await redis.config_resetstat()
    answers = await asyncio.gather(*(front.post("/users/", json=user_fields(f"u{n}")) for n in range(200)))

    assert {202} == {answer.status_code for answer in answers}
    assert 200 == await redis.zcard(QUEUE)
    calls = (await redis.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"]
    assert calls < 50


async def test_a_caller_who_leaves_is_not_waited_for(database: PoolConfig, redis_url: str) -> None:
    """Neither its request nor the question to Redis outlives it."""
    async with a_front(database.url, redis_url) as http:
        transport: Any = http._transport
        app = transport.app
        gone = asyncio.Event()
        messages = [{"type": "http.request", "body": wire.serialize(user_fields())}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_message: dict[str, Any]) -> None:
            pass

        names = {b"host": b"localhost", b"content-type": b"application/json", b"prefer": b"wait=30"}
        scope = {"type": "http", "method": "POST", "path": "/users/", "raw_path": b"/users/", "query_string": b""}
        scope |= {"headers": list(names.items()), "client": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1"}
        request = asyncio.create_task(app(scope, receive, send))
        waits: Waits = app.state.services.accepting.waits
        await until(lambda: _true_of(waits._waiting))
        gone.set()
        await request
        assert not waits._waiting


async def test_nobody_waits_when_the_front_stops(front: httpx.AsyncClient) -> None:
    """Who waits is answered 202 then."""
    transport: Any = front._transport
    waits: Waits = transport.app.state.services.accepting.waits
    request = asyncio.create_task(front.post("/users/", json=user_fields(), headers=WAIT))
    await until(lambda: _true_of(waits._waiting))
    waits.close()
    assert 202 == (await request).status_code
    assert 202 == (await front.post("/users/", json=user_fields("eve"), headers=WAIT)).status_code


async def test_redis_away(database: PoolConfig) -> None:
    """503, and when to try again."""
    async with a_front(database.url, "redis://127.0.0.1:1/0") as http:
        answer = await http.post("/users/", json=user_fields(), headers=WAIT)
    assert (503, "2") == (answer.status_code, answer.headers["retry-after"])
    assert "application/problem+json" == answer.headers["content-type"]


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"status": "applied", "result": {"user_id": 7}}, Applied({"user_id": 7})),
        ({"status": "rejected", "reason": "sku_taken", "error": "words"}, Rejected("sku_taken", "words")),
        ({"status": "rejected", "reason": "of_tomorrow", "error": ""}, Rejected("of_tomorrow", "was rejected")),
        (asyncio.CancelledError(), Rejected(CommonReason.ABORTED)),
        (RuntimeError("gave up"), Failed("gave up")),
        (7, Failed("the job ended with a result that is none of this service")),
        ({"status": "applied"}, Failed("the job ended with a result that is none of this service")),
    ],
)
def test_a_result_is_read(result: object, outcome: object) -> None:
    """As the engine writes it, and never with an error."""
    assert outcome == outcome_of(wire.serialize({"r": result}))


def test_bytes_that_are_no_result_are_read() -> None:
    """Somebody else's."""
    assert isinstance(outcome_of(b"\x80\x04"), Failed)


async def test_a_failed_job_is_our_fault(front: httpx.AsyncClient, pool: Pool) -> None:
    """500 with the error that the ledger has."""
    await Ledger(pool, JOBS, worker_id="w").settle("create_user", [a_job(Failed("gave up"), "sad", content={})])
    answer = await front.post("/users/", json=user_fields(), headers={**WAIT, "Idempotency-Key": "sad"})
    assert (500, "failed", "gave up") == (answer.status_code, answer.json()["code"], answer.json()["detail"])


FORGED = {
    "applied": {"status": "applied", "result": {"user_id": 4711}},
    "rejected": {"status": "rejected", "reason": "email_taken", "error": "no"},
    "failed": RuntimeError("no"),
    "aborted": asyncio.CancelledError(),
    "nothing of ours": 17,
}


@pytest.mark.parametrize("result", FORGED.values(), ids=FORGED)
async def test_a_forged_result_is_not_believed(served: httpx.AsyncClient, redis: ArqRedis, result: Any) -> None:
    """Whoever may write to Redis can invent a result; the job is enqueued all the same, and the ledger answers."""
    await redis.set("arq:result:forged", wire.serialize({"r": result, "s": True}))
    answer = await served.post("/users/", json=user_fields(), headers={**WAIT, "Idempotency-Key": "forged"})
    assert (201, {"user_id": 1}) == (answer.status_code, answer.json()["result"])
    assert 200 == (await served.get("/users/1")).status_code


async def test_a_result_that_is_forged_while_somebody_waits_is_not_believed(
    front: httpx.AsyncClient, redis: ArqRedis, connection: Any
) -> None:
    """There is no worker, so nothing is applied; who chose the job's id is told that it is queued."""
    await connection.execute("TRUNCATE users, products, orders, job_results RESTART IDENTITY")
    headers = {"Prefer": "wait=1", "Idempotency-Key": "raced"}
    asking = asyncio.create_task(front.post("/users/", json=user_fields(), headers=headers))
    await until(lambda: redis.exists("arq:job:raced"))
    await redis.set("arq:result:raced", wire.serialize({"r": FORGED["applied"], "s": True}))
    assert (202, "queued") == ((answer := await asking).status_code, answer.json()["status"])


async def test_thousands_of_callers_wait_at_a_time(redis: ArqRedis) -> None:
    """Each gets its own outcome, and Redis is asked for all of them together."""
    waits = Waits(redis)
    asking = {number: asyncio.create_task(waits.outcome(f"job-{number}", 30)) for number in range(8000)}
    await until(lambda: _true_of(len(waits._waiting) == len(asking)))
    for start in range(0, len(asking), 500):
        results = {
            f"arq:result:job-{number}": wire.serialize({"r": {"status": "applied", "result": {"n": number}}})
            for number in range(start, start + 500)
        }
        await redis.mset(results)
    for number, task in asking.items():
        assert Applied({"n": number}) == await task
    assert not waits._waiting


async def test_a_result_that_no_worker_wrote_is_not_read_whole(redis: ArqRedis) -> None:
    """It is ignored until a worker writes the job's own; results of other jobs are not kept by it."""
    waits = Waits(redis)
    result = wire.serialize({"r": {"status": "applied", "result": {}}})
    await redis.set("arq:result:huge", result + b" " * wire.MAX_PAYLOAD_BYTES)
    await redis.hset("arq:result:odd", "a", "b")
    await redis.mset({f"arq:result:{n}": result + b" " * 1_000_000 for n in range(12)})
    huge, odd = (asyncio.create_task(waits.outcome(name, 30)) for name in ("huge", "odd"))
    assert [Applied({})] * 12 == await asyncio.gather(*(waits.outcome(f"{n}", 30) for n in range(12)))
    assert not huge.done()
    await redis.delete("arq:result:odd")
    await redis.mset({"arq:result:huge": result, "arq:result:odd": result})
    assert [Applied({})] * 2 == await asyncio.gather(huge, odd)


async def test_an_error_of_a_look_does_not_end_the_waits(redis: ArqRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the next look comes, for those who wait already."""
    waits = Waits(redis)
    look_once, errors = waits._look_once, iter([KeyError("a mistake"), None])

    async def look() -> None:
        if error := next(errors, None):
            raise error
        await look_once()

    monkeypatch.setattr(waits, "_look_once", look)
    monkeypatch.setattr(waiting, "_TROUBLE_DELAY_S", 0.0)
    await redis.set("arq:result:a", wire.serialize({"r": {"status": "applied", "result": {}}}))
    assert Applied({}) == await waits.outcome("a", 5)


async def test_a_client_that_leaves_in_mid_body_costs_no_traceback(
    front: httpx.AsyncClient, logs: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One line for who debugs, and nothing else."""
    transport: Any = front._transport
    messages = iter([{"type": "http.request", "body": b'{"user', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(_message: Any) -> None:
        """Nobody is there."""

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/users/", "raw_path": b"/users/", "query_string": b""}
    more = {"headers": headers, "client": ("127.0.0.1", 1), "scheme": "http", "root_path": "", "http_version": "1.1"}
    await transport.app({**scope, **more}, receive, send)
    assert [("front.client_left", "debug")] == [(line["event"], line["log_level"]) for line in logs]
    assert not caplog.records
