"""The live picture and what it is put together from; in a browser: tests/web/test_page.py."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from front import running
from history import a_snapshot, insert_ten_minutes
from waiting import until

from producer.http import create_front
from settings import load
from tidepool.advice.window import Tick
from tidepool.embedded import Urls
from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Unavailable
from tidepool.pool.side_connection import SideConnection
from tidepool.storage.repositories import Repositories
from tidepool.storage.snapshots import Reading, Snapshot
from tidepool.web import feed as feed_module
from tidepool.web import page as page_module
from tidepool.web.feed import Feed
from tidepool.web.history import SPANS, tallies

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ADDED = """
    INSERT INTO job_results (job_id, function, status, result, reason, error, attempts, worker_id, enqueued_at,
                             started_at, finished_at, queue_us, pool_wait_us, db_us)
    SELECT gen_random_uuid(), $1, $2, CASE $2 WHEN 'applied' THEN '{}'::jsonb END,
           CASE $2 WHEN 'rejected' THEN 'invalid' END, NULL, 1, 'w', $3, $3, $3, 0, 0, 0
    FROM generate_series(1, $4::integer)
"""
Add = Any


@pytest.fixture
def add(connection: Any) -> Add:
    """Give a function that writes so many outcomes, that many seconds before noon."""

    async def add(function: str, count: int, *, ago_s: float, status: str = "applied", now: datetime = NOW) -> None:
        await connection.execute(ADDED, function, status, now - timedelta(seconds=ago_s), count)

    return add


@pytest.fixture
def app(database: PoolConfig, redis_url: str) -> FastAPI:
    """Give the application; it is open where its client is asked for."""
    urls = Urls(database=database.url, redis=redis_url)
    return create_front(load({"DATABASE_URL": urls.database, "REDIS_URL": urls.redis}), urls)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of it."""
    async with running(app) as client:
        yield client


def a_tick(at_s: float, before_s: float | None, **functions: tuple[list[int], list[int]]) -> Tick:
    """Return a tick that ends so many seconds before noon; *functions* have their counters before and now."""

    def row(ago_s: float, place: int) -> Snapshot:
        at = NOW - timedelta(seconds=ago_s)
        counts = {name: both[place] for name, both in functions.items()}
        return a_snapshot(tick=at, captured_at=at, started_at=at - timedelta(seconds=5), functions=counts)

    return Tick(None if before_s is None else row(before_s, 0), row(at_s, 1))


def test_outcomes_are_counted_by_function() -> None:
    """As gains, those of all processes, in the five minutes that end with the newest tick."""
    counted = tallies(
        [
            a_tick(300, 305, create_user=([0, 0, 0, 0], [1000, 0, 0, 0])),  # before the five minutes
            a_tick(5, 10, create_user=([100, 0, 1, 0], [110, 0, 2, 7]), place_order=([5, 5, 0, 0], [5, 5, 0, 0])),
            a_tick(0, None, create_user=([], [20, 0, 0, 0])),
        ]
    )
    (one,) = counted["functions"]
    assert ("create_user", {"applied": 30, "rejected": 0, "failed": 1, "retried": 7}) == (one["function"], one["jobs"])
    assert [2.0, 4.0] == one["rates"]["applied"][-2:]
    assert (60, 0.2) == (len(counted["times"]), one["rates"]["failed"][-2])
    assert (NOW.timestamp(), 300) == (counted["until"], counted["until"] - counted["since"])
    assert counted["until"] - 5 == counted["times"][-1]


def test_a_long_tick_is_spread_over_its_time() -> None:
    """Where workers write a row each half minute."""
    (one,) = tallies([a_tick(0, 30, f=([0, 0, 0, 0], [60, 0, 0, 0]))])["functions"]
    assert [2.0] * 6 == one["rates"]["applied"][-6:]
    assert 60 == sum(one["rates"]["applied"]) * 5


def test_counters_and_bounds_of_a_newer_process_are_no_error() -> None:
    """While workers are replaced one after the other: of its counters those that are known here are shown."""
    tick = a_tick(0, 5, f=([1, 0, 0, 0, 7], [3, 0, 0, 1, 9]))
    (one,) = tallies([tick])["functions"]
    assert {"applied": 2, "rejected": 0, "failed": 0, "retried": 1} == one["jobs"]
    row = {name: value for name, value in asdict(tick.now).items() if name in {field.name for field in fields(Reading)}}
    assert not any(Reading.of({**row, "wait_hist": [1] * 99}.items()).wait_hist)


def test_without_a_row_nothing_is_known() -> None:
    """Both ends of the time are null, and no function is listed."""
    assert {"since": None, "until": None, "times": [], "functions": []} == tallies([])


async def test_history_is_of_gains(side: SideConnection, connection: Any) -> None:
    """A pool of two, full and waited for, at each stretch and over the whole time."""
    began = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(seconds=600)
    await insert_ten_minutes(side, began, waiting=15)
    now = began + timedelta(seconds=595)
    history = await SPANS["5m"].read(Repositories(connection), now)
    (pool,) = history["pools"]
    assert (1, 0) == (history["live"], history["ended"])
    assert (2, pytest.approx(0.95), pytest.approx(0.9)) == (pool["limit"], pool["use"], pool["queued"])
    known = [n for n, value in enumerate(pool["series"]["waiting"]) if value is not None]
    assert 29 <= len(known) <= 31
    assert all(pool["series"]["waiting"][n] == pytest.approx(15) for n in known)
    assert all(pool["series"]["in_use"][n] == pytest.approx(1.9) for n in known)
    assert pool["series"]["wait_p95_ms"][known[-1]] > 100
    assert {0.0, None} == {*history["outcomes"]["applied"]}


async def test_a_process_that_is_silent_has_ended(side: SideConnection, connection: Any) -> None:
    """It is counted, no more."""
    began = NOW - timedelta(minutes=30)
    await insert_ten_minutes(side, began, waiting=0)
    history = await SPANS["1h"].read(Repositories(connection), NOW)
    assert ([], 0, 1) == (history["pools"], history["live"], history["ended"])
    assert any(rate is not None for rate in history["outcomes"]["applied"])


async def test_counts_are_of_the_last_five_minutes_when_all_processes_have_died(
    side: SideConnection, connection: Any
) -> None:
    """They end now, and not with the newest snapshot: an old rate is no present one."""
    identity = Identity.of_this_process()
    journal = Journal(identity, side, about={"versions": {}, "config": {}})
    for n in range(120):  # ten jobs in each of ten minutes' ticks, up to two minutes ago
        at = NOW - timedelta(seconds=720 - 5 * n)
        own = {"instance_id": identity.instance_id, "worker_id": identity.worker_id, "pool_limit": 2}
        times = {"tick": at, "captured_at": at, "started_at": NOW - timedelta(seconds=800)}
        journal.add_snapshot(a_snapshot(**own, **times, functions={"f": [10 * n, 0, 0, 0]}))
    await journal.write()
    counted = (await SPANS["5m"].read(Repositories(connection), NOW))["tallies"]
    (one,) = counted["functions"]
    assert (NOW - timedelta(minutes=5), NOW) == tuple(
        datetime.fromtimestamp(counted[name], UTC) for name in ("since", "until")
    )
    assert 10 * (180 - 5) // 5 == one["jobs"]["applied"]
    assert [0.0] * 20 == one["rates"]["applied"][-20:]


async def test_the_picture_has_all_parts(app: FastAPI, http: httpx.AsyncClient, side: SideConnection, add: Add) -> None:
    """As JSON, of each time; a burst of viewers sees the same one."""
    await insert_ten_minutes(side, datetime.now(UTC) - timedelta(seconds=595), waiting=15)
    journal = Journal(Identity.of_this_process(), side, about={"versions": {}, "config": {}})
    journal.add_event("leak_suspected", {"task": "batch of create_user", "stack": ["deep", "inside"]})
    await journal.write()
    await add("create_user", 3, ago_s=10, now=datetime.now(UTC))

    async def has_verdicts() -> bool:
        return app.state.services.fleet.groups() is not None

    await until(has_verdicts)  # a picture does not wait for the first verdict
    answers = await asyncio.gather(
        *(http.get("/picture", params={"window": name}) for name in ("5m", "5m", "1h", "1d"))
    )
    assert [200] * 4 == [answer.status_code for answer in answers]
    picture = answers[0].json()
    assert answers[0].content == answers[1].content
    (group,) = picture["groups"]
    assert "pool_too_small" == group["verdict"]
    assert group["advice"].startswith("Set the max size of the pool to ")
    assert ["time with a queue", "waiting, of waiting and holding"] == [one["name"] for one in group["evidence"][:2]]
    assert [("leak_suspected", "task batch of create_user")] == [(e["kind"], e["detail"]) for e in picture["events"]]
    assert (0, 0, None) == tuple(picture["queue"][name] for name in ("waiting", "running", "oldest_s"))
    assert picture["has_results"]
    assert 1 == len(picture["history"]["pools"])
    assert 60 == len(picture["tallies"]["times"])


async def test_a_redis_that_is_frozen_holds_no_picture_up(http: httpx.AsyncClient, monkeypatch: Any) -> None:
    """The queue is unknown, and that it is comes as fast as any picture; nobody asks twice at a time."""
    asked: list[int] = []

    async def hang(*_: object) -> None:
        asked.append(1)
        await asyncio.Event().wait()

    monkeypatch.setattr("tidepool.web.feed.QueueState.backlog", hang)
    async with asyncio.timeout(5):
        for window in ("5m", "1h"):
            assert (await http.get("/picture", params={"window": window})).json()["queue"] is None
    assert [1] == asked


async def test_another_time_is_refused(http: httpx.AsyncClient) -> None:
    """With a problem."""
    assert 422 == (await http.get("/picture", params={"window": "1y"})).status_code


async def test_the_stream_goes_on_until_the_feed_is_closed(app: FastAPI, http: httpx.AsyncClient) -> None:
    """A picture each, as server-sent events."""
    reading = asyncio.create_task(http.get("/events"))
    feed: Feed = app.state.feed
    await feed.pictures.of("5m").get()
    await asyncio.sleep(0)
    feed.close()
    answer = await reading
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = re.findall(r"^event: picture\ndata: (.*)\n\n", answer.text, re.MULTILINE)
    assert all(json.loads(data)["window"] == "5m" for data in found)


async def test_a_stream_says_that_the_database_is_away_and_goes_on(
    app: FastAPI, http: httpx.AsyncClient, monkeypatch: Any
) -> None:
    """The page keeps its figures until it is back."""
    monkeypatch.setattr(feed_module, "_LIFE_S", 0.01)
    feed: Feed = app.state.feed
    pool = app.state.services.pool
    acquire = pool.acquire

    def refuse() -> Any:
        raise Unavailable("away")

    monkeypatch.setattr(type(pool), "acquire", lambda _: refuse())
    stream = feed.follow("5m")
    assert b"retry: 1000\n\n" == await anext(stream)
    assert b'event: trouble\ndata: "PostgreSQL does not answer."\n\n' == await anext(stream)
    monkeypatch.setattr(type(pool), "acquire", lambda _: acquire())
    assert (await anext(stream)).startswith(b"event: picture\n")
    feed.close()
    assert [] == [event async for event in stream]


async def test_a_stream_says_that_a_frozen_database_does_not_answer(
    app: FastAPI, http: httpx.AsyncClient, monkeypatch: Any
) -> None:
    """A server that is stopped refuses nothing: the page would take the front for silent."""
    monkeypatch.setattr(feed_module, "_ANSWER_S", 0.01)
    feed: Feed = app.state.feed
    thawed = asyncio.Event()

    async def wait(*_: object) -> Any:
        await thawed.wait()
        raise Unavailable("away")

    monkeypatch.setattr(type(SPANS["5m"]), "read", wait)
    stream = feed.follow("5m")
    assert b"retry: 1000\n\n" == await anext(stream)
    assert b'event: trouble\ndata: "PostgreSQL does not answer."\n\n' == await anext(stream)
    thawed.set()
    feed.close()
    assert [] == [event async for event in stream]


async def test_without_redis_the_rest_is_still_reported(http: httpx.AsyncClient, monkeypatch: Any) -> None:
    """The queue is unknown then, which is not the same as empty."""

    async def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("redis.asyncio.client.Pipeline.execute", refuse)
    picture = (await http.get("/picture")).json()
    assert picture["queue"] is None
    assert not picture["has_results"]


async def test_a_reader_who_does_not_take_a_picture_is_dropped(
    app: FastAPI, http: httpx.AsyncClient, monkeypatch: Any
) -> None:
    """Else its pictures would pile up."""
    monkeypatch.setattr(feed_module, "_SLOW_S", 0.01)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) > 2:
            await asyncio.Event().wait()

    feed: Feed = app.state.feed
    async with asyncio.timeout(10):
        await feed_module._Stream(feed.follow("5m")).stream_response(send)
    assert 3 == len(sent)


async def test_the_page_loads_only_what_is_served_here(http: httpx.AsyncClient) -> None:
    """No script or style in it, and no address elsewhere: a strict policy lets all of it through."""
    answer = await http.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    html = answer.text
    assert [] == re.findall(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=|https?://", html)
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', html)
    assert {200} == {(await http.get(path)).status_code for path in loaded}
    static = Path(page_module.__file__).parent / "static"
    scripts = "".join(path.read_text("utf-8") for path in static.glob("*.js"))
    assert [] == re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", scripts)
