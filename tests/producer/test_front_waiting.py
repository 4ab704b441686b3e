"""Callers who wait for an outcome: many at a time, those who leave, and results that are no results."""

import asyncio
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from factories import user_fields
from front import WAIT, a_front
from planting import QUEUE
from waiting import until

from tidepool.jobs.outcomes import Applied, CommonReason, Failed, Rejected
from tidepool.pool.config import PoolConfig
from tidepool.queue import wire
from tidepool.web import waiting
from tidepool.web.waiting import Waits

pytestmark = pytest.mark.usefixtures("shared_database")


async def _true_of(value: object) -> object:
    return value


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


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"status": "applied", "result": {"user_id": 7}}, Applied({"user_id": 7})),
        ({"status": "rejected", "reason": "sku_taken", "error": "words"}, Rejected("sku_taken", "words")),
        ({"status": "rejected", "reason": "of_tomorrow", "error": ""}, Rejected("of_tomorrow", "was rejected")),
        (asyncio.CancelledError(), Rejected(CommonReason.ABORTED)),
        (RuntimeError("gave up"), Failed("gave up")),
        (7, Failed("the job ended with a result that this service did not write")),
        ({"status": "applied"}, Failed("the job ended with a result that this service did not write")),
    ],
)
async def test_a_result_is_read(redis: ArqRedis, result: object, outcome: object) -> None:
    """As the engine writes it, and never with an error."""
    await redis.set("arq:result:a", wire.serialize({"r": result}))
    assert outcome == await Waits(redis).outcome("a", 5)


async def test_bytes_that_are_no_result_are_read(redis: ArqRedis) -> None:
    """Somebody else's."""
    await redis.set("arq:result:a", b"\x80\x04")
    assert isinstance(await Waits(redis).outcome("a", 5), Failed)


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
    """One line at DEBUG, and nothing else."""
    transport: Any = front._transport
    messages = iter([{"type": "http.request", "body": b'{"user', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(messages)

    async def send(_message: Any) -> None:
        """Do nothing: the client has left."""

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/users/", "raw_path": b"/users/", "query_string": b""}
    more = {"headers": headers, "client": ("127.0.0.1", 1), "scheme": "http", "root_path": "", "http_version": "1.1"}
    await transport.app({**scope, **more}, receive, send)
    assert [("front.client_left", "debug")] == [(line["event"], line["log_level"]) for line in logs]
    assert not caplog.records
