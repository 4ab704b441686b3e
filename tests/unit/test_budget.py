"""The fleet's connection budget: who gets how many, and that nobody ever gets what another one may still have."""

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError

from worker import budget as budget_module
from worker.budget import LEAST, Budget
from worker.db.capacity import Backends, Capacity
from worker.db.faults import Unavailable

KEY = "tidepool:budget:db"
MARGIN = 5


@dataclass
class FakeWorker:
    """A worker process: its budget, and a pool of which it says how many are open."""

    id: str
    budget: Budget
    limits: list[int] = field(default_factory=list)
    """Those that its pool had, one after the other."""
    open: int = 0

    async def start(self, *, open_all: bool = False) -> int:
        """Enter, take the share, open the pool; returns its limit."""
        await self.budget.enter()
        limit = await self.budget.take_share()
        self.open = limit if open_all else 1
        self.budget.govern(lambda: self.open, self.resize)
        return limit

    def resize(self, limit: int) -> None:
        """Take note of a new limit."""
        if self.limits[-1:] != [limit]:
            self.limits.append(limit)

    @property
    def backends(self) -> int:
        """Its connections on the server."""
        return self.open + 1 if self.budget.granted else 0


class Fleet:
    """Workers on one Redis and one server, which gives *usable* connections to them."""

    def __init__(self, usable: int) -> None:
        self.usable = usable
        self.redis: Any = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        self.workers: dict[str, FakeWorker] = {}
        self.left_behind: dict[str, int] = {}
        """Connections that the server still has for workers that are no more."""
        self.others = 1
        self.read_error: Exception | None = None

    def worker(self, name: str, pool_size: int = 10) -> FakeWorker:
        """Make a worker that has not started yet."""
        budget = Budget(self.redis, "db", name, pool_size=pool_size, margin=MARGIN, read=self.read)
        self.workers[name] = FakeWorker(name, budget)
        return self.workers[name]

    async def read(self) -> Capacity:
        """Return what the server would tell now."""
        if self.read_error:
            raise self.read_error
        counts = {worker.id: worker.backends for worker in self.workers.values()} | self.left_behind
        ours = [Backends(f"tidepool:{name}", True, True, count) for name, count in counts.items()]  # noqa: FBT003
        psql = Backends("psql", True, True, self.others)  # noqa: FBT003
        return Capacity(self.usable + MARGIN + 3 + 1, 3, 0, -1, -1, (psql, *ours))

    async def rounds(self, count: int = 1) -> None:
        """Let all that have started look and beat so many times; between the beats pools close what is too many."""
        for _ in range(count):
            for worker in [worker for worker in self.workers.values() if worker.limits]:
                await worker.budget.look()
                await worker.budget.beat()
                worker.open = min(worker.open, worker.budget.limit)

    async def calm_rounds(self, count: int) -> None:
        """Let everybody beat once, so that all know of each other, and then so many times with time in between."""
        await self.rounds()
        for _ in range(count):
            await self.redis.delete(f"{KEY}:restless")
            await self.rounds()

    async def until_started(self, starting: asyncio.Task[int]) -> int:
        """Let everybody else beat until a worker has started; returns its limit."""
        while not starting.done():
            await asyncio.sleep(0.001)
            await self.rounds()
        return await starting

    async def bury(self, name: str) -> None:
        """Let the time pass after which nobody counts on a worker that does not beat any more, and old readings end."""
        await self.redis.hset(KEY, name, "0:1000")
        await self.redis.delete(f"{KEY}:capacity")
        for worker in self.workers.values():
            if worker.limits:
                await worker.budget.look()

    async def die(self, name: str, *, left: bool = False) -> None:
        """Kill a worker, whose connections the server keeps if they are *left*, and let its entry end."""
        worker = self.workers.pop(name)
        if left:
            self.left_behind[name] = worker.backends
        await self.bury(name)

    def limits(self) -> list[int]:
        """Return each worker's limit."""
        return [worker.budget.limit for worker in self.workers.values()]

    def granted(self) -> int:
        """Return what all workers may have, together."""
        return sum(worker.budget.granted for worker in self.workers.values())

    async def held(self) -> int:
        """Return what is held, as Redis has it."""
        return sum(int(value.split(b":")[1]) for value in (await self.redis.hgetall(KEY)).values())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats follow each other at once."""
    monkeypatch.setattr(budget_module, "BEAT_S", 0.001)


async def a_fleet(usable: int, *names: str, pool_size: int = 10) -> Fleet:
    """Return a fleet of workers that have started one after the other, each making room for the next."""
    fleet = Fleet(usable)
    for name in names:
        await fleet.until_started(asyncio.create_task(fleet.worker(name, pool_size).start()))
    return fleet


async def test_a_lone_worker_gets_all_it_wants_at_once(logs: list[Any]) -> None:
    """Nobody else is there, and nothing is said."""
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
    told = [(line["event"], line["usable"], line["workers"]) for line in logs]
    assert [("budget.waiting", 4, 3), ("budget.limited", 4, 2)] == told


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


async def test_workers_that_run_go_on_with_the_least_and_the_excess_is_told_once(logs: list[Any]) -> None:
    """When others have taken what they had: to stop them all would be worse."""
    fleet = await a_fleet(8, "a", "b")
    logs.clear()
    fleet.others += 6
    await fleet.rounds()
    await fleet.calm_rounds(3)
    assert [1, 1] == fleet.limits()
    told = [(line["held"], line["usable"]) for line in logs if line["event"] == "budget.exceeded"]
    assert [(4, 2), (4, 2)] == told


async def test_run_beats_until_it_is_cancelled() -> None:
    """And looks at the server, which may answer slowly."""
    fleet = await a_fleet(8, "a")
    running = asyncio.create_task(fleet.workers["a"].budget.run())
    fleet.others += 3
    while fleet.workers["a"].budget.limit != 4:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()


Step = tuple[str, str]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "join", "beat", "beat", "calm", "open", "close", "leave", "kill", "lose", "hang up"]),
        st.sampled_from("abc"),
    ),
    min_size=20,
    max_size=60,
)


class Story:
    """A fleet to which things happen."""

    def __init__(self, usable: int) -> None:
        self.fleet = Fleet(usable)

    async def happen(self, what: str, who: str) -> None:
        """Let one thing happen to one worker, if it can."""
        worker = self.fleet.workers.get(who)
        if what == "calm":
            await self.fleet.redis.delete(f"{KEY}:restless")
        elif what == "hang up":
            self.fleet.left_behind.pop(who, None)
        elif worker is not None:
            await self.happen_to(worker, what)
        elif what == "join" and who not in self.fleet.left_behind:
            await self.happen_to(self.fleet.worker(who), what)

    async def happen_to(self, worker: FakeWorker, what: str) -> None:
        """Let one thing happen to a worker that is there."""
        budget = worker.budget
        if what in ("join", "beat") and not budget.granted:
            await budget.beat(LEAST)
        elif what in ("join", "beat") and not worker.limits:
            await budget.take_share()
            budget.govern(lambda: worker.open, worker.resize)
        elif what in ("join", "beat"):
            await budget.look()
            await budget.beat()
        elif what == "open":
            worker.open = max(worker.open, budget.limit) if worker.limits else 0
        elif what == "close":
            worker.open = min(worker.open, budget.limit)
        elif what == "leave":
            del self.fleet.workers[worker.id]
            await budget.leave()
        elif what in ("kill", "lose"):
            await self.fleet.die(worker.id, left=what == "lose")

    async def check(self) -> None:
        """Nobody holds, has open or may open what is not there, but a first worker the least, as nobody has looked."""
        fleet = self.fleet
        may_have = sum(max(worker.budget.granted, worker.backends) for worker in fleet.workers.values())
        assert may_have + sum(fleet.left_behind.values()) <= fleet.usable or may_have <= LEAST
        held = {name.decode(): int(value.split(b":")[1]) for name, value in (await fleet.redis.hgetall(KEY)).items()}
        for worker in fleet.workers.values():
            assert worker.backends <= held.get(worker.id, 0)


@settings(max_examples=60)
@given(usable=st.integers(2, 16), steps=STEPS)
def test_whatever_happens_no_more_is_held_than_is_there(usable: int, steps: list[Step]) -> None:
    """Joins, beats, leaves, deaths with and without a word to the server, in any order."""

    async def tell() -> None:
        story = Story(usable)
        for step in steps:
            await story.happen(*step)
            await story.check()

    asyncio.run(tell())


@given(usable=st.integers(4, 100), workers=st.integers(1, 8), pool_size=st.integers(1, 20))
@settings(max_examples=20)
def test_a_calm_fleet_uses_all_that_there_is(usable: int, workers: int, pool_size: int) -> None:
    """Limits add up to the budget, or everybody has all it wants, or the last of them wait."""

    async def tell() -> None:
        fleet = Fleet(usable)
        story = Story(usable)
        story.fleet = fleet
        for number in range(workers):
            fleet.worker(f"w{number}", pool_size)
        for _ in range(40):
            await fleet.redis.delete(f"{KEY}:restless")
            for worker in fleet.workers.values():
                await story.happen_to(worker, "beat")
        wanted = workers * (pool_size + 1)
        if usable >= workers * LEAST:
            assert min(usable, wanted) == fleet.granted()
        else:
            assert usable // LEAST * LEAST == fleet.granted()

    asyncio.run(tell())


def test_the_script_says_what_its_keys_and_arguments_are() -> None:
    """Each that it uses is described in its head."""
    text = (budget_module.files("worker") / "budget.lua").read_text("utf-8")
    head = "\n".join(line for line in text.splitlines() if line.startswith("--"))
    assert set(re.findall(r"(?:KEYS|ARGV)\[\d\]", text)) == set(re.findall(r"(?:KEYS|ARGV)\[\d\]", head))
