"""What somebody else writes to the keys of the connection budget: it is dropped, and the fleet is as it was."""

import asyncio
import json
import time
from typing import Any

import pytest
from fleet import KEY, Fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from tidepool.fleet.budget import LIFE_S

LATER_MS = int(time.time() * 1000) + 10**9
BYTES = st.binary(max_size=30) | st.sampled_from(
    [
        b"",
        b"1:2",
        b"1:2:3",
        b"%d:1:%s" % (LATER_MS - 10**9, b"9" * 300),
        b"0:0",
        b"9" * 400 + b":1",
        b"%d:1" % LATER_MS,
        b"%d:%s" % (LATER_MS, b"9" * 300),
        b"-1:-1",
        b"nan:nan",
    ]
)
READINGS = BYTES | st.sampled_from(
    [
        b"null",
        b"[]",
        b"{}",
        b'{"room":NaN,"workers":{}}',
        b'{"room":9,"workers":[]}',
        b'{"room":9,"workers":{"a":"x"}}',
        b'{"room":1e999,"workers":{}}',
        b'{"room":9,"workers":{"a":-5}}',
        b"[" * 5000,
    ]
)


async def three_workers() -> Fleet:
    """Return a fleet of three that share 24 connections, calm."""
    fleet = Fleet(24)
    for name in "abc":
        worker = fleet.worker(name)
        assert await fleet.until_started(asyncio.create_task(worker.start()))
    await fleet.calm_rounds(10)
    assert [7, 7, 7] == fleet.limits()
    return fleet


async def plant(redis: Any, kind: str, key: str, value: bytes) -> None:
    """Write *value* to a key, as a value of some type."""
    await redis.delete(key)
    if kind == "hash":
        await redis.hset(key, value or b"field", value)
    elif kind == "zset":
        await redis.zadd(key, {value: 1})
    elif kind == "list":
        await redis.rpush(key, value)
    elif kind == "set":
        await redis.sadd(key, value)
    else:
        await redis.set(key, value)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["string", "hash", "zset", "list", "set"]),
    key=st.sampled_from([KEY, f"{KEY}:capacity", f"{KEY}:restless"]),
    value=READINGS,
)
async def test_whatever_stands_at_its_keys_the_fleet_is_soon_as_it_was(kind: str, key: str, value: bytes) -> None:
    """Any type, any bytes."""
    fleet = await three_workers()
    await plant(fleet.redis, kind, key, value)
    await fleet.calm_rounds(6)
    assert [7, 7, 7] == fleet.limits()


@pytest.mark.parametrize(
    "entry",
    [f"{LATER_MS}:2", "x:2", "1", "", f"{LATER_MS}:{10**300}", "1:2:3:4", "1" * 100_000],
    ids=("later", "no time", "one", "none", "endless", "four", "long"),  # the same in each process of xdist
)
async def test_entries_that_no_worker_wrote_take_no_share(entry: str) -> None:
    """Sixty of them, whose beat is no time, or one that is still to come: they would live for ever."""
    fleet = await three_workers()
    await fleet.redis.hset(KEY, mapping={f"fake-{n}": entry for n in range(60)})
    await fleet.calm_rounds(6)
    assert [7, 7, 7] == fleet.limits()
    assert {b"a", b"b", b"c"} == set(await fleet.redis.hgetall(KEY))


async def test_more_entries_than_any_server_has_connections_are_dropped(logs: list[Any]) -> None:
    """All of them, unread: those of the living come back with their next beat. It is logged once."""
    fleet = await three_workers()
    now_ms = int(time.time() * 1000)
    for _ in range(2):
        await fleet.redis.hset(KEY, mapping={f"fake-{n}": f"{now_ms}:2" for n in range(5000)})
        await fleet.calm_rounds(6)
        assert [7, 7, 7] == fleet.limits()
    assert [f"the fleet: {n} entries" for n in (5003,)] == [
        line["what"] for line in logs if line["event"] == "budget.entries_unusable"
    ]


async def test_a_forged_reading_is_no_log_line(logs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how much room there is, and nothing that a line could show. No worker has a newer one of its own."""
    fleet = await three_workers()
    monkeypatch.setattr("tidepool.fleet.budget.monotonic", lambda: time.monotonic() + LIFE_S)
    await fleet.redis.set(f"{KEY}:capacity", json.dumps({"room": 24, "workers": {}}))
    for worker in fleet.workers.values():
        await worker.budget.beat()
    assert [7, 7, 7] == fleet.limits()
