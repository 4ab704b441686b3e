"""The OpenAPI description is true: every path answers odd input as it says, and with no error of its own."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
import uvicorn
from arq.connections import ArqRedis
from factories import user_fields
from front import a_front
from planting import a_worker
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from producer.http import create_front
from settings import load
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.web.server import WebServer

API = schemathesis.openapi.from_dict(create_front(load({}), Urls("", "")).openapi()).exclude(path="/events")
"""All rooms; event streams have no end."""


@pytest.fixture(scope="module")
def url(shared_database: PoolConfig, servers: Any) -> Iterator[str]:
    """Give the address of a front, which serves in a thread with an event loop of its own."""
    urls = Urls(shared_database.url, servers.redis_url(0))
    settings = load({"DATABASE_URL": urls.database, "REDIS_URL": urls.redis, "FRONT_RATE_LIMIT": "0"})
    server = WebServer(app := create_front(settings, urls), uvicorn.Config(app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        serving.start()
        while not server.started:
            assert serving.is_alive()
            time.sleep(0.01)
        app.state.services.accepting.waits.close()  # there is no worker to wait for
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        serving.join()


@API.parametrize()
@hypothesis.settings(max_examples=2, derandomize=True)
def test_every_path_answers_as_it_is_described(case: schemathesis.Case, url: str) -> None:
    """Valid and invalid requests: status and content are among the documented ones, and none is a server's error."""
    case.call_and_validate(
        base_url=url,
        timeout=10,
        checks=[
            not_a_server_error,
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_schema_conformance,
            checks.response_headers_conformance,
            checks.negative_data_rejection,
        ],
    )


async def test_the_answers_of_waiting_callers_are_as_described(
    shared_database: PoolConfig, redis_url: str, redis: ArqRedis
) -> None:
    """These answers need a worker."""
    pool = await Pool.open(shared_database)
    wait = {"Prefer": "wait=20"}
    async with a_front(shared_database.url, redis_url) as http, a_worker(redis, pool):
        created = await http.post("/users/", json=user_fields("described"), headers=wait)
        taken = await http.post("/users/", json=user_fields("described"), headers=wait)
        address = created.headers["location"]
        changed = await http.put(address, json={"is_active": False}, headers=wait)
    await pool.close()

    assert [201, 409, 200] == [answer.status_code for answer in (created, taken, changed)]
    API["/users/"]["POST"].validate_response(created)
    API["/users/"]["POST"].validate_response(taken)
    API["/users/{user_id}"]["PUT"].validate_response(changed)
