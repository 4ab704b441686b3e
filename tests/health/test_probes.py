"""A worker's own port: who may ask it, by which name, how often; and that reading figures is cheap."""

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from waiting import until

from tidepool.health import probes
from tidepool.health.loop_lag import LoopLag
from tidepool.health.metrics import Metrics
from tidepool.health.probes import ProbeServer
from tidepool.health.readiness import Condition, ReadinessReport
from tidepool.pool.pool import Pool

LOCAL = ("localhost", "127.0.0.1:9000", "[::1]:9000")
FOREIGN = ("evil.example", "10.0.0.1", "localhost.evil.example")


class Port:
    """A port, and how often its figures were rendered."""

    def __init__(self, host: str) -> None:
        self.rendered = 0
        self.server = ProbeServer(host, self._look, self._render)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"

    async def _look(self) -> ReadinessReport:
        return ReadinessReport({"engine": Condition(ok=True, reason="goes round")})

    def _render(self, accept: str) -> tuple[bytes, str]:
        self.rendered += 1
        return accept.encode(), "text/plain"


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
async def port(request: pytest.FixtureRequest) -> AsyncIterator[Port]:
    """Give a port, bound to loopback and, as it believes, to all addresses."""
    port = Port(request.param)
    serving = asyncio.create_task(port.server.serve([port.listening]))

    async def started() -> bool:
        return port.server.started

    await until(started)
    yield port
    port.server.should_exit = True
    await serving


async def test_it_answers_to_local_names_if_it_is_bound_to_loopback(port: Port) -> None:
    """A page that has a name of its own pointed here gets nothing. Bound elsewhere any name may be its own."""
    is_local = port.server.local_only
    async with httpx.AsyncClient(base_url=port.url) as http:
        for path in ("/health/live", "/health/ready", "/metrics"):
            statuses = [(await http.get(path, headers={"Host": host})).status_code for host in (*LOCAL, *FOREIGN)]
            assert [200] * 3 + [421 if is_local else 200] * 3 == statuses
            head, got = await http.head(path), await http.get(path)
            assert (200, b"") == (head.status_code, head.content)
            assert got.headers["content-length"] == head.headers["content-length"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port.listening.getsockname()[1])
    writer.write(b"GET /health/live HTTP/1.0\r\n\r\n")
    assert b"HTTP/1.1 200 OK" == (await reader.read())[:15]
    writer.close()


@pytest.mark.parametrize("path", ["/health/live", "/metrics"])
async def test_requests_that_exceed_the_rate_wait_and_later_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """They are answered 429 if their turn would come too late."""
    monkeypatch.setattr(probes, "_HEALTH_PER_S", 20)
    monkeypatch.setattr(probes, "_METRICS_PER_S", 20)
    monkeypatch.setattr(probes, "_MAX_WAIT_S", 0.5)
    port = Port("127.0.0.1")
    serving = asyncio.create_task(port.server.serve([port.listening]))
    async with httpx.AsyncClient(base_url=port.url) as http:
        answers = await asyncio.gather(*(http.get(path) for _ in range(40)))
    statuses = [answer.status_code for answer in answers]
    assert {200, 429} == set(statuses)
    assert 10 <= statuses.count(200) <= 25
    port.server.should_exit = True
    await serving


async def test_figures_are_rendered_once_a_second(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each format, however many ask."""
    metrics = Metrics(pool, None, LoopLag())
    made: list[str] = []
    monkeypatch.setattr(metrics, "render", lambda accept: (made.append(accept), (b"figures", "text"))[1])
    openmetrics = "application/openmetrics-text; version=1.0.0"
    for _ in range(20):
        assert b"figures" == metrics.recent()[0] == metrics.recent(openmetrics)[0]
    assert ["", openmetrics] == made
    monkeypatch.setattr("tidepool.health.metrics._CACHED_S", 0.0)
    metrics.recent()
    assert 3 == len(made)
