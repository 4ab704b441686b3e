"""The connection budget, whatever happens to its workers: nobody gets what another one may still have."""

import asyncio

from fleet import KEY, FakeWorker, Fleet
from hypothesis import given, settings
from hypothesis import strategies as st

from tidepool.fleet.budget import LEAST

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
        """Let one thing happen to a worker that runs."""
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
        """Grants and open connections fit the server, except for the least of a first worker, before any reading."""
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
