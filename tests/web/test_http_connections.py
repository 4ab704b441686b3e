"""How many connections and unfinished requests the HTTP server has at a time, its rates, and floods."""

import asyncio
import resource
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
from echo_server import GET, REQUEST, SIZED, Served, serving, true_of
from waiting import until

from tidepool.bounded_http import limits as bounds
from tidepool.bounded_http import server
from tidepool.bounded_http.limits import Limits


async def test_unfinished_requests_are_bounded_together(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that arrives in one piece is answered meanwhile; the bytes are free again when their connections end."""
    monkeypatch.setattr(bounds, "UNFINISHED_BYTES", 100_000)
    half = SIZED % 90_000 + b"x" * 40_000
    first = [await served.connect(half) for _ in range(2)]
    await until(lambda: true_of(served.server.connections.unfinished_bytes > 80_000))
    assert 503 == await served.status(half)
    assert 200 == await served.status(GET + b"Connection: close\r\n\r\n")
    for _, writer in first:
        writer.close()


async def test_half_requests_lock_nobody_out(served: Served) -> None:
    """A new connection takes the place of the one that has been without a whole request for longest."""
    sent: Callable[[int], bytes] = lambda number: (GET, SIZED % 9 + b"half", b"")[number % 3]  # noqa: E731
    attackers = [await served.connect(sent(number)) for number in range(60)]
    assert 200 == await served.status(GET + b"Connection: close\r\n\r\n")
    assert served.server.connections.count <= 8
    for _, writer in attackers:
        writer.close()


async def test_without_a_free_connection_a_caller_is_answered_503(served: Served) -> None:
    """At once, while those that are served go on; as soon as one of them is done there is room."""
    busy = [await served.connect(b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(8)]
    await until(lambda: true_of(served.app.held == 8))
    assert 503 == await served.status()
    served.app.let_go.set()
    for reader, _ in busy:
        assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    assert 200 == await served.status(GET + b"Connection: close\r\n\r\n")
    for _, writer in busy:
        writer.close()


@pytest.mark.parametrize("rate", ["accepts_per_s", "first_requests_per_s"])
async def test_new_connections_may_have_a_rate(monkeypatch: pytest.MonkeyPatch, rate: str) -> None:
    """Connections that exceed the rate wait, and are answered later."""
    monkeypatch.setattr(server, "_ACCEPTS_AT_ONCE", 2)
    monkeypatch.setattr(server, "_FIRST_REQUESTS_AT_ONCE", 2)
    async with serving(Limits(connections=8, body_bytes=100, **{rate: 10})) as served:
        began_s = asyncio.get_running_loop().time()
        assert [200] * 5 == await asyncio.gather(*(served.status(REQUEST) for _ in range(5)))
        assert 0.25 <= asyncio.get_running_loop().time() - began_s < 2


def first_bytes_of_answer(port: int) -> bytes:
    """Send a request as soon as the connection is open, as a probe does, without this thread's event loop."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(REQUEST)
        return connection.recv(15)


@pytest.mark.parametrize("sent", [b"", b"G", GET], ids=["nothing", "a letter", "half a head"])
async def test_a_flood_without_requests_does_not_delay_a_request(sent: bytes) -> None:
    """Connections that reconnect as soon as they are closed take nothing of the rate of first requests."""
    async with serving(Limits(connections=64, body_bytes=100, first_requests_per_s=0.001)) as served:
        closed = 0

        async def reconnect() -> None:
            nonlocal closed
            loop = asyncio.get_running_loop()
            while True:
                with suppress(OSError), socket.socket() as connection:
                    connection.settimeout(0)
                    await loop.sock_connect(connection, ("127.0.0.1", served.port))
                    await loop.sock_sendall(connection, sent)
                    await loop.sock_recv(connection, 1)
                closed += 1

        flood = [asyncio.create_task(reconnect()) for _ in range(100)]
        await until(lambda: true_of(closed > 1000))
        heads = [await asyncio.to_thread(first_bytes_of_answer, served.port) for _ in range(20)]
        assert [b"HTTP/1.1 200 OK"] * 20 == heads
        assert not served.server.server_state.connections
        for one in flood:
            one.cancel()
        await asyncio.gather(*flood, return_exceptions=True)


async def test_a_stop_closes_connections_without_a_request_and_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not delay it."""
    monkeypatch.setattr(server, "_FIRST_REQUESTS_AT_ONCE", 1)
    async with serving(Limits(connections=8, body_bytes=100, first_requests_per_s=0.001)) as served:
        assert 200 == await served.status(REQUEST)
        others = [await served.connect(sent) for sent in (b"", GET, REQUEST)]
        await until(lambda: true_of(len(served.server.arrivals) == len(others)))
    for reader, writer in others:
        with suppress(ConnectionResetError):
            assert not await reader.read()
        writer.close()


@pytest.mark.parametrize(
    ("files", "share", "expected"), [(256, 1.0, 192), (256, 0.25, 48), (24, 1.0, 16), (20_000, 1, 500)]
)
def test_the_bound_leaves_file_descriptors_free(
    monkeypatch: pytest.MonkeyPatch, files: int, share: float, expected: int
) -> None:
    """The servers' connections need them; a process that has many uses the bound as it is."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert expected == Limits(500, body_bytes=0, share_of_files=share).max_connections()
