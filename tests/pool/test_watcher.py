"""Events: reported once when something begins, and once when it is over."""

import asyncio
import time
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from history import a_snapshot

from tidepool.health.watcher import Watcher
from tidepool.pool.connections import Checkout

CALM = a_snapshot(pool_limit=4)
SECOND_US = 1_000_000


@pytest.fixture
def watcher() -> Watcher:
    """Give a watcher to which a second is overdue."""
    return Watcher(SECOND_US)


def look(watcher: Watcher, *holders: Checkout, **other: Any) -> list[str]:
    """Return the kinds of the events of a sample a second after the one before."""
    return [event.kind for event in watcher.look(replace(CALM, **other), holders, passed_us=SECOND_US)]


def a_holder(seconds: float, task: asyncio.Task[Any] | None = None) -> Checkout:
    """Return somebody who has had a connection for so long."""
    holder = Checkout(AsyncMock(), AsyncMock())
    holder.since_ns, holder.task, holder.server_pid = time.perf_counter_ns() - int(seconds * 1e9), task, 4711
    return holder


def test_nothing_is_reported_while_all_is_well(watcher: Watcher) -> None:
    """A connection that is held for a moment is no leak."""
    assert [] == look(watcher)
    assert [] == look(watcher, a_holder(0.5))


def test_a_leak_is_reported_once_and_so_is_its_return(watcher: Watcher) -> None:
    """However many samples see it."""
    holder = a_holder(1.5)
    assert ["leak_suspected"] == look(watcher, holder)
    assert [] == look(watcher, holder)
    assert ["leak_returned"] == look(watcher)
    assert [] == look(watcher)


async def test_a_leak_tells_who_has_it_and_where_that_is_now(watcher: Watcher) -> None:
    """The task, where it asked, the server's process, and the calls that it is in, down to the one that waits."""
    asleep = asyncio.Event()

    async def inner() -> None:
        asleep.set()
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    task = asyncio.create_task(outer(), name="batch of create_user")
    await asleep.wait()
    holder = a_holder(2, task)
    ((_, detail),) = watcher.look(CALM, [holder], passed_us=SECOND_US)
    task.cancel()
    assert ("batch of create_user", holder.where, 4711) == tuple(
        detail[name] for name in ("task", "where", "server_pid")
    )
    assert detail["held_us"] >= 2 * SECOND_US
    names = [line.split()[0].rpartition(".")[2] for line in detail["stack"]]
    assert ["outer", "inner", "wait"] == names
    assert "(test_watcher.py:" in detail["stack"][1]


async def test_the_stack_of_a_task_that_has_ended_is_empty(watcher: Watcher) -> None:
    """Outside any task there is no name."""

    async def nothing() -> None: ...

    task = asyncio.create_task(nothing())
    await task
    events = watcher.look(CALM, [a_holder(2, task), a_holder(3)], passed_us=SECOND_US)
    assert [[], []] == [event.detail["stack"] for event in events]


def test_saturation_begins_and_ends_far_apart(watcher: Watcher) -> None:
    """At half of a tick, and below a tenth: in between nothing changes, so that it is not reported at every tick."""
    kinds = [look(watcher, saturated_us=int(at * SECOND_US)) for at in (0.4, 1.0, 1.3, 1.9, 1.95, 2.2)]
    assert [[], ["saturation_began"], [], [], ["saturation_ended"], []] == kinds


def test_a_restart_a_blocked_loop_and_a_full_server_are_reported(watcher: Watcher) -> None:
    """Each when it is seen, not again at the next sample."""
    assert ["database_restarted"] == look(watcher, database_restarts=1)
    assert ["loop_blocked"] == look(watcher, database_restarts=1, loop_lag_us_max=300_000)
    assert ["budget_exceeded"] == look(watcher, database_restarts=1, connect_too_many=2)
    assert [] == look(watcher, database_restarts=1, connect_too_many=2)
