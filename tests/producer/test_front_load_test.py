"""A burst of generated jobs over HTTP."""

from itertools import islice
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from planting import QUEUE

from producer.workload import Workload
from tidepool.web.services import Services

pytestmark = pytest.mark.usefixtures("shared_database")


async def test_a_burst_is_enqueued_and_reported(front: httpx.AsyncClient, redis: ArqRedis) -> None:
    """The jobs of its seed and mix; the same again are duplicates."""
    burst = {"jobs": 1200, "seed": 7, "mix": {"create_user": 1, "place_order": 3}}
    first = (await front.post("/load-test", json=burst)).json()
    second = (await front.post("/load-test", json=burst)).json()

    assert (7, 1200, 0) == (first["seed"], first["enqueued"], first["duplicates"])
    assert (7, 0, 1200) == (second["seed"], second["enqueued"], second["duplicates"])
    assert first["jobs_per_second"] == pytest.approx(1200 / first["seconds"], rel=0.05)
    expected = {job.id for job in islice(Workload(7, {"create_user": 1, "place_order": 3}), 1200)}
    assert expected == {member.decode() for member in await redis.zrange(QUEUE, 0, -1)}


async def test_a_seed_is_made_where_none_is_given(front: httpx.AsyncClient) -> None:
    """It is in the answer, and another one each time."""
    seeds = {(await front.post("/load-test", json={"jobs": 1})).json()["seed"] for _ in range(2)}
    assert 2 == len(seeds)


@pytest.mark.parametrize(
    ("burst", "words"),
    [
        ({}, "jobs"),
        ({"jobs": 0}, "jobs"),
        ({"jobs": 10_001}, "jobs"),
        ({"jobs": 1, "mix": {"drop_tables": 1}}, "mix: 'drop_tables' is not a job type"),
        ({"jobs": 1, "mix": {"create_user": 0}}, "mix: a mix needs a share above 0"),
        ({"jobs": 1, "mix": {"create_user": -1}}, "mix"),
        ({"jobs": 1, "rate": 5}, "rate"),
    ],
)
async def test_a_burst_has_bounds(front: httpx.AsyncClient, burst: dict[str, Any], words: str) -> None:
    """422 with the field."""
    answer = await front.post("/load-test", json=burst)
    assert (422, "invalid") == (answer.status_code, answer.json()["code"])
    assert words in answer.json()["detail"]


async def test_there_is_one_at_a_time(front: httpx.AsyncClient) -> None:
    """409 while one is under way."""
    transport: Any = front._transport
    services: Services = transport.app.state.services
    async with services.load_test:
        answer = await front.post("/load-test", json={"jobs": 1})
    assert (409, "under_way") == (answer.status_code, answer.json()["code"])
    assert 200 == (await front.post("/load-test", json={"jobs": 1})).status_code
