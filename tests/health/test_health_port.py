"""A worker's own port: alive, ready, its figures; and `arq --check`, which says the same."""

import socket
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from commands import Service, stop, until
from prometheus_client.parser import text_string_to_metric_families as parse

from settings import load
from tidepool.health.serving import HealthPort
from worker import app

SIGN_OF_LIFE = "arq:queue:health-check:probed"


def has_ipv6_loopback() -> bool:
    """Return whether this machine has the address ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.fixture
def port() -> int:
    """Give a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


async def test_a_worker_is_ready_exactly_when_arqs_check_succeeds(
    service: Service, port: int, redis: ArqRedis, connection: Any
) -> None:
    """What the check looks for is there, then; a fact that does not hold ends both, and leaves the worker alive."""
    variables = {"METRICS_PORT": str(port), "WORKER_NAME": "probed"}
    worker = service.start_worker(**variables)

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:

        async def ready() -> bool:
            return 200 == (await http.get("/health/ready")).status_code and bool(await redis.exists(SIGN_OF_LIFE))

        async def unready() -> bool:
            return 503 == (await http.get("/health/ready")).status_code and not await redis.exists(SIGN_OF_LIFE)

        await until(ready)
        families = {family.name: family for family in parse((await http.get("/metrics")).text)}
        await connection.execute("UPDATE tidepool_migrations SET checksum = 'x' WHERE version = 1")
        await until(unready)
        checked = service.run("arq", "worker.WorkerSettings", "--check", **variables).status
        assert (1, 200) == (checked, (await http.get("/health/live")).status_code)
        status, _ = stop(worker)
        with pytest.raises(httpx.ConnectError):
            await http.get("/health/live")

    assert 0 == status
    assert {"tidepool_jobs", "db_client_connection_count", "tidepool_loop_lag_seconds"} < set(families)


def test_a_port_that_is_taken_ends_the_start_with_one_line(service: Service) -> None:
    """Each worker of a host needs its own: one that nobody can ask would be taken for dead."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        ended = service.run("arq", "worker.WorkerSettings", METRICS_PORT=str(number))
    line = f"error: METRICS_PORT: cannot serve on 127.0.0.1, port {number}: Address already in use"
    assert (2, line) == (ended.status, ended.stderr.strip().splitlines()[-1])


@pytest.mark.skipif(not has_ipv6_loopback(), reason="needs an IPv6 loopback address")
async def test_a_port_on_localhost_answers_on_both_loopback_addresses(port: int, redis: ArqRedis) -> None:
    """Clients resolve the name to either of them."""
    settings = load({"METRICS_HOST": "localhost", "METRICS_PORT": str(port)})
    health = HealthPort(settings.metrics_host, settings.metrics_port, app.migrations)
    await health.open(redis.ping)
    try:
        async with httpx.AsyncClient() as http:
            for host in ("127.0.0.1", "[::1]"):
                assert {"alive": True} == (await http.get(f"http://{host}:{port}/health/live")).json()
    finally:
        await health.close()
