"""Two applications on one Redis database whose jobs have the same ids: with a prefix each, they never meet.

The workers are Tidepool's with `EngineOptions(id_prefix=…)`, and stock ones that are given a `ScopedRedis`.
"""

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import arq.worker
import pytest
from arq.connections import ArqRedis
from arq.cron import cron
from arq.jobs import Job, JobStatus, serialize_result
from arq.worker import func

from tidepool import EngineOptions, ScopedRedis

Ctx = dict[Any, Any]
NOON = dt.datetime(2026, 3, 2, 12, tzinfo=dt.UTC)
APPS = ("shop", "blog")


class Application:
    """An application with a queue, a prefix and a serializer of its own; its functions note what they are given."""

    def __init__(self, name: str, connect: Callable[..., ArqRedis], kind: type[arq.worker.Worker]) -> None:
        self.name = name
        self.ids: list[str] = []
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self._kind = kind
        self._codec: Ctx = {}
        if name == "blog":
            self._codec = {"job_serializer": lambda job: json.dumps(job).encode(), "job_deserializer": json.loads}
        self._connect = connect
        self.plain = connect(default_queue_name=name, **self._codec)
        self.redis = ScopedRedis(self.plain, f"{name}:")

    async def charge(self, ctx: Ctx, cents: int) -> str:
        """Note the id, and return the application's name and the argument."""
        self.ids.append(ctx["job_id"])
        return f"{self.name} {cents}"

    async def wait(self, _ctx: Ctx) -> str:
        """Wait until the test lets it go on."""
        self.begun.set()
        await self.may_end.wait()
        return self.name

    async def hand_on(self, ctx: Ctx, job_id: str) -> None:
        """Enqueue another job with an id of the application's choice."""
        await ctx["redis"].enqueue_job("charge", 1, _job_id=job_id)

    async def tick(self, ctx: Ctx) -> None:
        """Note the id of the tick."""
        self.ids.append(ctx["job_id"])

    def worker(self, **options: Any) -> Any:
        """Return the options of a worker of this application."""
        client = self._connect(default_queue_name=self.name, **self._codec)
        prefix = f"{self.name}:"
        if self._kind is arq.worker.Worker:
            scoped = ScopedRedis(client, prefix)
            scoped.close = scoped.aclose  # type: ignore[method-assign]  # arq calls it by its old name: a warning
            scope: Ctx = {"redis_pool": scoped}
        else:
            scope = {"redis_pool": client, "tidepool": EngineOptions(id_prefix=prefix)}
        return {**scope, "queue_name": self.name, "allow_abort_jobs": True, **self._codec, **options}

    @property
    def functions(self) -> list[Any]:
        """The functions, under the same names in each application."""
        methods = {"charge": self.charge, "wait": self.wait, "hand_on": self.hand_on}
        return [func(method, name=name) for name, method in methods.items()]


@pytest.fixture
def apps(connect: Callable[..., ArqRedis], kind: type[arq.worker.Worker]) -> list[Application]:
    """Give the two applications."""
    return [Application(name, connect, kind) for name in APPS]


async def test_the_same_ids_are_jobs_of_each_application(apps: list[Application], make: Any) -> None:
    """Each runs its own, once while its result is kept, and sees its own result and no other's."""
    for number, app in enumerate(apps):
        assert await app.redis.enqueue_job("charge", number, _job_id="order-17")
        assert await app.redis.enqueue_job("charge", number, _job_id="order-17") is None
    for app in apps:
        await make(*app.functions, **app.worker()).async_run()
        assert await app.redis.enqueue_job("charge", 9, _job_id="order-17") is None

    assert ["shop 0", "blog 1"] == [await app.redis.job("order-17").result() for app in apps]
    assert [["shop:order-17"], ["blog:order-17"]] == [app.ids for app in apps]
    assert [["shop 0"], ["blog 1"]] == [[one.result for one in await app.redis.all_job_results()] for app in apps]


async def test_the_id_that_a_function_sees_is_the_one_that_its_caller_has(apps: list[Application], make: Any) -> None:
    """A random one, too; and it may be used again with the same client, with no second prefix."""
    shop, _ = apps
    jobs = [await shop.redis.enqueue_job("charge", 1, _job_id=job_id) for job_id in (None, "a")]
    assert all(jobs)
    await make(*shop.functions, **shop.worker()).async_run()
    assert sorted(shop.ids) == sorted(job.job_id for job in jobs if job)
    assert all(job_id.startswith("shop:") for job_id in shop.ids)
    assert await shop.redis.enqueue_job("charge", 1, _job_id=shop.ids[0]) is None
    assert JobStatus.complete == await shop.redis.job(shop.ids[0]).status()


async def test_cron_jobs_of_one_name_run_at_the_same_tick(apps: list[Application], make: Any) -> None:
    """Once for each application, however many workers it has."""
    workers = [make(*app.functions, **app.worker(timezone=dt.UTC, max_burst_jobs=10)) for app in apps * 2]
    for worker in workers:
        await worker.async_run()  # it connects
    for app, worker in zip(apps * 2, workers, strict=True):
        job = cron(app.tick, name="tick", second=30, microsecond=0)
        worker.functions["tick"], worker.cron_jobs = job, [job]
        for half in range(80):
            await worker.run_cron(NOON + half * dt.timedelta(seconds=0.5), 0.5)
        worker.cron_jobs = []
    for worker in workers:
        await worker.async_run()
    tick = f"tick:{int(NOON.timestamp() + 30) * 1000}"
    assert [[f"shop:{tick}"], [f"blog:{tick}"]] == [app.ids for app in apps]


async def test_jobs_that_a_function_enqueues_are_its_applications(apps: list[Application], make: Any) -> None:
    """`ctx["redis"]` has the prefix, and the queue of its worker."""
    for app in apps:
        await app.redis.enqueue_job("hand_on", "order-17")
        await make(*app.functions, **app.worker()).async_run()
    assert [["shop:order-17"], ["blog:order-17"]] == [app.ids for app in apps]


async def test_an_abort_reaches_the_job_of_its_application_only(apps: list[Application], make: Any) -> None:
    """The other one's job of the same id goes on."""
    running = []
    for app in apps:
        await app.redis.enqueue_job("wait", _job_id="order-17")
        running.append(asyncio.create_task(make(*app.functions, **app.worker()).async_run()))
        await app.begun.wait()
    shop, blog = (app.redis.job("order-17") for app in apps)
    assert await shop.abort(timeout=10, poll_delay=0.05)
    assert JobStatus.in_progress == await blog.status()
    apps[1].may_end.set()
    assert "blog" == await blog.result(timeout=10, poll_delay=0.05)
    await asyncio.gather(*running)


async def test_a_stock_client_takes_part_by_writing_the_prefix(apps: list[Application], make: Any) -> None:
    """To it, the prefix is a part of the id."""
    shop, _ = apps
    assert await shop.plain.enqueue_job("charge", 1, _job_id="shop:order-17")
    assert await shop.redis.enqueue_job("charge", 2, _job_id="order-17") is None
    await make(*shop.functions, **shop.worker()).async_run()
    assert "shop 1" == await Job("shop:order-17", shop.plain, "shop").result()
    assert "shop 1" == await shop.redis.job("order-17").result()


async def test_characters_of_patterns_in_a_prefix_mean_themselves(redis: ArqRedis) -> None:
    """Such as those of a Redis Cluster's hash tag; as a pattern, `[s]*` would match the others' results."""
    prefixes = ["{orders}", "[s]*", "s?", "shop:", "s^-a\\"]
    for prefix in prefixes:
        result = serialize_result("f", (), {}, *(1, 0, True, prefix, 0, 0, "ref", "queue"), job_id=f"{prefix}a")
        await redis.set(f"arq:result:{prefix}a", result or b"")
    for prefix in prefixes:
        assert [prefix] == [one.result for one in await ScopedRedis(redis, prefix).all_job_results()]
