"""The fleet's connection budget: who gets how many, and who waits."""

import asyncio
import re
from importlib.resources import files
from typing import Any

import pytest
from fleet import KEY, MARGIN, Fleet, a_fleet

from tidepool.fleet.budget import LEAST, Budget

pytestmark = pytest.mark.usefixtures("quick_beats")


async def test_a_lone_worker_gets_all_it_wants_at_once(logs: list[Any]) -> None:
    """No other worker runs, and nothing is logged."""
    fleet = Fleet(usable=90)
    worker = fleet.worker("a")
    assert 10 == await worker.start()
    assert ([10], 90, 11, 1) == (worker.limits, worker.budget.usable, worker.budget.granted, worker.budget.live)
    assert [] == logs


async def test_a_worker_that_does_not_fit_takes_what_fits_and_says_so(logs: list[Any]) -> None:
    """With the numbers that the share is computed from."""
    fleet = Fleet(usable=8)
    assert 7 == await fleet.worker("a").start()
    (line,) = logs
    numbers = {"max_connections": 17, "reserved": 3, "others": 1, "margin": 5, "usable": 8, "workers": 1}
    limits = {"role_limit": -1, "database_limit": -1}
    assert {
        "event": "budget.limited",
        "log_level": "warning",
        "limit": 7,
        "wanted": 10,
        **numbers,
        **limits,
    } == line


async def test_two_workers_share_and_a_third_joins() -> None:
    """Limits add up to the budget, with one connection of each beside its pool."""
    fleet = await a_fleet(20, "a", "b")
    await fleet.calm_rounds(10)
    assert [9, 9] == fleet.limits()
    await fleet.until_started(asyncio.create_task(fleet.worker("c").start()))
    assert [6, 6] == fleet.limits()[:2]
    await fleet.calm_rounds(10)
    assert [6, 6, 5] == fleet.limits()
    assert 20 == fleet.granted() == await fleet.held()


async def test_a_grant_goes_down_at_once_and_comes_back_one_a_beat() -> None:
    """Only after some beats in which nobody came or went, so that deploys do not make limits swing."""
    fleet = await a_fleet(20, "a", "b")
    await fleet.calm_rounds(10)
    a = fleet.workers["a"]
    await fleet.die("b")
    await fleet.rounds(10)
    assert 9 == a.budget.limit
    await fleet.calm_rounds(3)
    assert [9, 10] == a.limits[-2:]
    fleet.others += 12
    await fleet.rounds()
    assert 7 == a.budget.limit
    fleet.others -= 12
    await fleet.rounds(10)
    assert 7 == a.budget.limit
    await fleet.calm_rounds(3)
    assert [7, 8, 9, 10] == a.limits[-4:]


async def test_connections_count_until_they_are_closed() -> None:
    """A lowered limit is no room for another one while batches are still under way above it."""
    fleet = Fleet(usable=20)
    a, b = fleet.worker("a", pool_size=19), fleet.worker("b", pool_size=19)
    assert 19 == await a.start(open_all=True)
    assert await b.budget.beat(LEAST)
    for _ in range(3):
        await a.budget.beat()
        assert await b.budget.beat(LEAST)
        assert (9, 0, 20) == (a.budget.limit, b.budget.granted, await fleet.held())
    a.open = 12
    await a.budget.beat()
    assert await b.budget.beat(LEAST)
    assert (LEAST, 15) == (b.budget.granted, await fleet.held())
    assert 6 == await b.start()
    assert 20 == await fleet.held()


async def test_a_dead_workers_connections_are_others_until_the_server_has_closed_them() -> None:
    """A machine that is lost says nothing to the server."""
    fleet = await a_fleet(20, "a", "b")
    await fleet.calm_rounds(10)
    fleet.workers["b"].open = 9
    await fleet.die("b", left=True)
    await fleet.calm_rounds(10)
    assert ([9], 10) == (fleet.limits(), fleet.workers["a"].budget.usable)
    fleet.left_behind.clear()
    await fleet.rounds(3)
    assert ([10], 20) == (fleet.limits(), fleet.workers["a"].budget.usable)


async def test_a_worker_that_left_is_gone_at_once() -> None:
    """It has closed its connections before."""
    fleet = await a_fleet(20, "a", "b")
    b = fleet.workers.pop("b")
    await b.budget.leave()
    await fleet.rounds()
    assert 1 == fleet.workers["a"].budget.live
    await fleet.workers["a"].budget.leave()
    assert 0 < await fleet.redis.pttl(KEY) <= 4000


async def test_of_a_cold_start_one_goes_first() -> None:
    """Nobody knows yet what the server can give: the others wait until one has read it."""
    fleet = Fleet(usable=4)
    a, b, c = (fleet.worker(name) for name in "abc")
    for worker in (a, b, c):
        await worker.budget.beat(LEAST)
    assert [LEAST, 0, 0] == [worker.budget.granted for worker in (a, b, c)]
    assert 1 == await a.budget.take_share()
    for worker in (b, c):
        await worker.budget.beat(LEAST)
    assert [LEAST, LEAST, 0] == [worker.budget.granted for worker in (a, b, c)]


async def test_a_worker_without_room_waits_says_so_once_and_goes_on_when_there_is(logs: list[Any]) -> None:
    """It opens nothing meanwhile."""
    fleet = await a_fleet(4, "a", "b")
    logs.clear()
    c = fleet.worker("c")
    waiting = asyncio.create_task(c.start())
    while not logs:
        await asyncio.sleep(0.001)
        await fleet.rounds()
    for _ in range(10):
        await asyncio.sleep(0.001)
        await fleet.rounds()
    assert (0, 3, False) == (c.budget.granted, fleet.workers["a"].budget.live, waiting.done())
    await fleet.die("b")
    assert 1 == await fleet.until_started(waiting)
    reported = [(line["event"], line["usable"], line["workers"]) for line in logs]
    assert [("budget.waiting", 4, 3), ("budget.limited", 4, 2)] == reported


async def test_running_workers_go_on_with_the_least_and_the_excess_is_reported_once(logs: list[Any]) -> None:
    """When others have taken what they had: to stop them all would be worse."""
    fleet = await a_fleet(8, "a", "b")
    logs.clear()
    fleet.others += 6
    await fleet.rounds()
    await fleet.calm_rounds(3)
    assert [1, 1] == fleet.limits()
    reported = [(line["held"], line["usable"]) for line in logs if line["event"] == "budget.exceeded"]
    assert [(4, 2), (4, 2)] == reported


async def test_run_beats_until_it_is_cancelled() -> None:
    """It also reads the server, which may answer slowly."""
    fleet = await a_fleet(8, "a")
    running = asyncio.create_task(fleet.workers["a"].budget.run())
    fleet.others += 3
    while fleet.workers["a"].budget.limit != 4:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


def test_the_script_says_what_its_keys_and_arguments_are() -> None:
    """Each that it uses is described in its head."""
    text = (files("tidepool.queue") / "lua" / "budget.lua").read_text("utf-8")
    head = "\n".join(line for line in text.splitlines() if line.startswith("--"))
    assert set(re.findall(r"(?:KEYS|ARGV)\[\d\]", text)) == set(re.findall(r"(?:KEYS|ARGV)\[\d\]", head))


async def test_a_pool_that_cannot_be_limited_counts_with_its_max_size(logs: list[Any]) -> None:
    """Its worker holds that from the beginning. Its open connections, which others seem to have, leave no less room."""
    fleet, claim, unnamed = Fleet(usable=40), [30], 9
    theirs = Budget(fleet.redis, "db", "theirs", pool_size=0, margin=MARGIN, read=fleet.read)
    theirs.claim(lambda: claim[0], lambda: unnamed)
    fleet.others += unnamed
    fleet.left_behind["theirs"] = 2
    await theirs.look()
    assert await theirs.beat()
    assert (40, 30, 1) == (theirs.usable, theirs.granted, theirs.live)

    assert 9 == await fleet.worker("ours", pool_size=20).start()
    await fleet.calm_rounds(6)
    await theirs.look()
    assert await theirs.beat()
    assert [9] == fleet.limits()
    connections = theirs.server_connections()
    assert connections is not None
    assert (40, 40, 2) == (connections.usable, connections.granted, connections.workers)
    assert (11 + 2, 0) == (connections.backends_of_workers, connections.backends_orphaned)
    assert "budget.exceeded" not in [line["event"] for line in logs]

    claim[0] = 31
    await theirs.beat()
    (line,) = [line for line in logs if line["event"] == "budget.exceeded"]
    assert (41, 40, 1, 2) == tuple(line[name] for name in ("held", "usable", "others", "workers"))
