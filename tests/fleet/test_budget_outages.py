"""The connection budget while Redis or PostgreSQL is away: nobody goes up, and nobody goes down for it."""

import asyncio
from time import monotonic
from typing import Any

import pytest
from fleet import FakeWorker, Fleet, a_fleet
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from tidepool.fleet.budget import LIFE_S
from tidepool.pool.faults import Unavailable

pytestmark = pytest.mark.usefixtures("quick_beats")


async def test_while_redis_is_away_limits_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither up nor down; and nothing is raised."""
    fleet = await a_fleet(40, "a")
    a = fleet.workers["a"].budget

    async def away(*_: Any, **__: Any) -> None:
        raise RedisConnectionError("refused")

    monkeypatch.setattr(fleet.redis, "evalsha", away)
    monkeypatch.setattr("redis.asyncio.client.Pipeline.execute", away)
    assert not await a.beat()
    assert 10 == a.limit
    await fleet.workers["a"].budget.leave()


async def waiting_lines(worker: FakeWorker, logs: list[Any]) -> list[dict[str, Any]]:
    """Let a new worker wait for many beats; returns what it has logged of that."""
    logs.clear()
    starting = asyncio.create_task(worker.start())
    while not logs:
        await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0.001)
    starting.cancel()
    await asyncio.wait([starting])
    return [line for line in logs if line["event"] == "budget.waiting"]


@pytest.mark.parametrize("said", ["READONLY You can't write against a read only replica.", "OOM command not allowed"])
async def test_a_worker_that_waits_for_redis_logs_its_error_once(
    logs: list[Any], monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """A replica, or one that is full."""
    fleet = Fleet(usable=20)

    async def refuses(*_: Any, **__: Any) -> None:
        raise ResponseError(said)

    monkeypatch.setattr(fleet.redis, "evalsha", refuses)
    (line,) = await waiting_lines(fleet.worker("a"), logs)
    assert f"ResponseError: {said}" == line["error"]
    assert "reason" not in line


async def test_a_worker_that_waits_for_connections_logs_who_has_them_once(logs: list[Any]) -> None:
    """Others have taken what the workers had: the numbers say so."""
    fleet = await a_fleet(6, "a")
    fleet.others += 6
    await fleet.rounds()
    (line,) = await waiting_lines(fleet.worker("b"), logs)
    assert "PostgreSQL's connections are taken" in line["reason"]
    assert (7, 0, 2) == (line["others"], line["usable"], line["workers"])


async def test_a_worker_that_waits_for_the_first_to_read_the_server_logs_that_once(logs: list[Any]) -> None:
    """PostgreSQL has no connection left even for the first one, whose own log has the server's words."""
    fleet = Fleet(usable=20)
    fleet.read_error = Unavailable("53300 TooManyConnectionsError: sorry, too many clients already")
    first = fleet.worker("a").budget
    await first.enter()
    with pytest.raises(Unavailable, match="too many clients"):
        await first.take_share()
    (line,) = await waiting_lines(fleet.worker("b"), logs)
    assert "no worker has been able to read" in line["reason"]
    assert "usable" not in line


async def test_after_a_loss_of_redis_nobody_goes_up_before_all_are_back() -> None:
    """Connections of those that have not beaten again count as others'."""
    fleet = await a_fleet(20, "a", "b")
    await fleet.calm_rounds(10)
    for worker in fleet.workers.values():
        worker.open = 9
    await fleet.redis.flushall()
    a, b = fleet.workers["a"].budget, fleet.workers["b"].budget
    for _ in range(3):
        await a.look()
        await a.beat()
    assert (10, 1, 9) == (a.usable, a.live, a.limit)
    await b.beat()
    await fleet.rounds()
    assert ([9, 9], 20, 2) == (fleet.limits(), a.usable, a.live)


async def test_while_postgresql_is_away_limits_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end must not end the workers' place in the fleet, and nobody goes up on an old reading."""
    fleet = await a_fleet(20, "a", "b")
    await fleet.calm_rounds(3)
    fleet.read_error = Unavailable("the server is away")
    monkeypatch.setattr("tidepool.fleet.budget.monotonic", lambda: monotonic() + LIFE_S)
    await fleet.die("b")
    await fleet.calm_rounds(3)
    assert ([9], 20) == (fleet.limits(), fleet.workers["a"].budget.usable)
    monkeypatch.undo()
    fleet.read_error = None
    await fleet.calm_rounds(1)
    assert [10] == fleet.limits()
    fleet.read_error = Unavailable("the server is away")
    with pytest.raises(Unavailable):
        await fleet.worker("b").start()
