"""The connection budget while Redis or PostgreSQL is away: nobody goes up, and nobody goes down for it."""

from typing import Any

import pytest
from fleet import a_fleet
from redis.exceptions import ConnectionError as RedisConnectionError

from tidepool.pool.faults import Unavailable

pytestmark = pytest.mark.usefixtures("quick_beats")


async def test_while_redis_is_away_limits_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither up nor down; and nothing is raised."""
    fleet = await a_fleet(40, "a")
    a = fleet.workers["a"].budget

    async def away(*_: Any, **__: Any) -> None:
        raise RedisConnectionError("refused")

    monkeypatch.setattr(a, "_script", away)
    monkeypatch.setattr("redis.asyncio.client.Pipeline.execute", away)
    assert not await a.beat()
    assert 10 == a.limit
    await a.leave()


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


async def test_while_postgresql_is_away_limits_stay_as_they_are() -> None:
    """Its end must not end the workers' place in the fleet, and nobody goes up on an old reading."""
    fleet = await a_fleet(20, "a", "b")
    await fleet.calm_rounds(3)
    fleet.read_error = Unavailable("the server is away")
    fleet.workers["a"].budget._read_s = 0.0
    await fleet.die("b")
    await fleet.calm_rounds(3)
    assert ([9], 20) == (fleet.limits(), fleet.workers["a"].budget.usable)
    fleet.read_error = None
    await fleet.calm_rounds(1)
    assert [10] == fleet.limits()
    fleet.read_error = Unavailable("the server is away")
    with pytest.raises(Unavailable):
        await fleet.worker("b").start()
