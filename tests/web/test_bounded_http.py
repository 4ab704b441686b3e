"""The bounded HTTP server over sockets: what it refuses, closes and survives, with bounds that tests can reach."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from waiting import until

from tidepool.bounded_http import limits as bounds
from tidepool.bounded_http import server
from tidepool.bounded_http.limits import Limits
from tidepool.bounded_http.protocol import BoundedProtocol
from tidepool.bounded_http.server import BoundedServer

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


class Echo:
    """An application that answers with the number of headers and bytes that came; `/hold` answers when it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.held = 0
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        self.seen.append(scope)
        size = 0
        while scope["path"] != "/unread":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        if scope["path"] == "/hold":
            self.held += 1
            await self.let_go.wait()
        body = b"%d %d" % (len(scope["headers"]), size)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Served:
    """A server with an `Echo`, and connections to it."""

    def __init__(self, server: BoundedServer, app: Echo, port: int) -> None:
        self.server = server
        self.app = app
        self.port = port

    async def connect(self, sent: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send something."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        return reader, writer

    async def answer(self, *pieces: bytes) -> bytes:
        """Send *pieces* over a new connection; returns all that is answered until the server closes it."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    async def status(self, *pieces: bytes) -> int:
        """Return the status of the first answer; 0: the connection was closed without one."""
        answer = await self.answer(*pieces)
        return int(answer.split()[1]) if answer else 0


@asynccontextmanager
async def serving(limits: Limits) -> AsyncIterator[Served]:
    """Run a server for the length of the block."""
    app = Echo()
    config = uvicorn.Config(
        app, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1, timeout_keep_alive=60
    )
    bounded = BoundedServer(config, limits)
    bounded.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    running = asyncio.create_task(bounded.serve([listening]))
    await until(lambda: _true_of(bounded.started))
    yield Served(bounded, app, listening.getsockname()[1])
    bounded.should_exit = True
    app.let_go.set()
    await running


async def _true_of(value: object) -> object:
    return value


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """Give a server whose bounds on time are short."""
    monkeypatch.setattr(bounds, "ARRIVAL_S", 0.3)
    async with serving(Limits(connections=8, body_bytes=100_000)) as served:
        yield served
        await until(lambda: _true_of(not served.server.connections.unfinished_bytes))


def headers(count: int) -> bytes:
    """Return so many header lines."""
    return b"".join(b"x%d: y\r\n" % number for number in range(count))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (GET + b"Connection: close\r\nx: " + b"a" * 60_000 + b"\r\n\r\n", 200),
        (GET + b"x: " + b"a" * 90_000 + b"\r\n\r\n", 431),
        (GET + b"a" * 90_000 + b": x\r\n\r\n", 431),
        (b"GET /" + b"a" * 90_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (GET + b"x: " + b"a" * 3_000_000, 431),
        (GET + headers(99) + b"Connection: close\r\n\r\n", 431),
        (GET + headers(98) + b"Connection: close\r\n\r\n", 200),
        (b"\r\n" * 90_000, 431),
        (GET + b"x: " + b"a" * 65_600 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 65_600 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    ],
    ids=["fits", "value", "name", "path", "endless", "too many", "many", "empty lines", "just over", "path just over"],
)
async def test_a_head_is_bounded(served: Served, head: bytes, expected: int) -> None:
    """In bytes and in lines, whatever part of it is long; what fits is answered."""
    head = (
        head.replace(b"Host: localhost\r\n", b"Host: localhost\r\nConnection: close\r\n", 1)
        if expected == 200
        else head
    )
    head = head.replace(b"Connection: close\r\n", b"", 1) if head.count(b"Connection") > 1 else head
    assert expected == await served.status(head)


async def test_a_long_head_is_bounded_in_small_pieces_and_behind_another_request(served: Served) -> None:
    """Pieces of any size count together, and each request of a connection anew."""
    many = (GET + b"x: " + b"a" * 9000 + b"\r\n\r\n") * 12
    reader, writer = await served.connect(many)
    for _ in range(12):
        assert b"HTTP/1.1 200" in await reader.readuntil(b"2 0")
    writer.write(GET + b"x: ")
    for _ in range(60):
        writer.write(b"a" * 1500)
        await asyncio.sleep(0)
    assert b"HTTP/1.1 431" == (await reader.read())[:12]
    writer.close()


async def test_what_comes_after_a_refusal_is_read_only_so_often(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte it would cost an event loop, which a worker shares with its jobs, a fifth of a core."""
    reads: list[int] = []
    received = BoundedProtocol.data_received

    def counted(self: BoundedProtocol, data: bytes) -> None:
        reads.append(len(data))
        received(self, data)

    monkeypatch.setattr(BoundedProtocol, "data_received", counted)
    reader, writer = await served.connect(b"no request\r\n\r\n")
    assert b"HTTP/1.1 400" == (await reader.read())[:12]
    for _ in range(2000):
        writer.write(b"a")
        await asyncio.sleep(0)
    await until(lambda: _true_of(not served.server.connections.count))
    assert 2 <= len(reads) <= 30
    writer.close()


async def test_an_earlier_request_is_answered_before_the_connection_ends(served: Served) -> None:
    """A refusal of a later request is never the answer to it."""
    answer = await served.answer(GET + b"\r\n" + GET + b"x: " + b"a" * 90_000)
    assert b"HTTP/1.1 200 OK\r\n" == answer[:17]


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
async def test_a_connection_with_too_many_requests_ends_after_the_answer_that_is_under_way(delay_s: float) -> None:
    """The other requests are not answered, and nothing more is read meanwhile."""
    async with serving(Limits(connections=8, body_bytes=100, refusal_delay_s=delay_s)) as served:
        reader, writer = await served.connect(b"GET /hold HTTP/1.1\r\n\r\n" + (GET + b"\r\n") * 40)
        await until(lambda: _true_of(served.app.held))
        served.app.let_go.set()
        assert 1 == (await asyncio.wait_for(reader.read(), 10)).count(b"HTTP/1.1 200 OK")
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [GET, GET + b"x: " + b"a" * 2000, b"G", SIZED % 9 + b"half", CHUNKED, CHUNKED + b"2\r\n{}\r\n", b"\r\n"],
    ids=["head", "long head", "a letter", "body", "no chunk", "a chunk", "an empty line"],
)
async def test_what_does_not_arrive_in_time_is_answered_408(served: Served, sent: bytes) -> None:
    """And closed."""
    assert 408 == await served.status(sent)


async def test_a_half_head_on_a_kept_connection_is_answered_408(served: Served) -> None:
    """Every head has its time, not only the first one of a connection."""
    reader, writer = await served.connect(GET + b"\r\n")
    await reader.readuntil(b"1 0")
    writer.write(GET)
    assert b"HTTP/1.1 408" == (await reader.read())[:12]
    writer.close()


async def test_a_connection_without_a_request_is_closed(served: Served) -> None:
    """Without an answer, as there is no question."""
    assert b"" == await served.answer()


async def test_a_slow_sender_gains_no_time(served: Served) -> None:
    """Not by bytes of a head, nor by those of a body: what counts is when the whole has come."""

    async def trickled(begin: bytes, rest: bytes) -> int:
        reader, writer = await served.connect(begin)
        answer = asyncio.create_task(reader.read())
        while not answer.done():
            writer.write(rest)
            await asyncio.sleep(0.02)
        writer.close()
        return int((await answer).split()[1])

    async with asyncio.timeout(5):
        assert [408, 408, 408] == await asyncio.gather(
            trickled(GET, b"x: y\r\n"), trickled(SIZED % 5000, b"x"), trickled(CHUNKED, b"1\r\nx\r\n")
        )


async def test_a_body_that_comes_fast_enough_gets_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second more for each `BODY_RATE` bytes."""
    monkeypatch.setattr(bounds, "BODY_RATE", 10_000)
    reader, writer = await served.connect(SIZED % 40_000 + b"x" * 10_000)
    for _ in range(6):
        await asyncio.sleep(0.1)
        writer.write(b"x" * 5000)
    assert b"2 40000" == (await reader.readuntil(b"40000")).split(b"\r\n")[-1]
    writer.close()


@pytest.mark.parametrize(
    "sent",
    [
        CHUNKED + b"1;" + b"a=b;" * 60_000,
        CHUNKED + b"2\r\n{}\r\n0\r\n" + headers(30_000),
        b"GET /unread HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"x" * 65_535,
    ],
    ids=["extensions", "trailers", "unread"],
)
async def test_a_body_is_bounded_in_what_is_around_it(served: Served, sent: bytes) -> None:
    """Chunk extensions and trailers; and a body that nobody reads ends the connection."""
    answer = await served.answer(sent, b"\r\nffff\r\n", b"x" * 65_535)
    assert answer.rpartition(b"HTTP/1.1 ")[2][:3] in (b"400", b"413")


async def test_trailers_do_not_become_headers(served: Served) -> None:
    """Else a trailer could pretend to be a header that a proxy has checked."""
    sent = CHUNKED + b"2\r\n{}\r\n0\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
    assert (await served.answer(sent + GET + b"Connection: close\r\n\r\n")).count(b"HTTP/1.1 200") == 2
    assert [b"host", b"transfer-encoding"] == [name for name, _ in served.app.seen[0]["headers"]]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost : x\r\n\r\n",
        GET + b"x\x00: y\r\n\r\n",
        GET + b"x: a\rb\r\n\r\n",
        GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        GET + b"Content-Length: -1\r\n\r\n",
        GET + b"Content-Length: 1, 2\r\n\r\nx",
        GET + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GET + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        GET + b"Host: localhost\r\n\r\n",
        GET + b"hOST: other.example\r\n\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"fffffffffffffffff\r\n",
        CHUNKED + b"2\r\nxxGET / HTTP/1.1\r\n\r\n",
        GET + b" folded: x\r\n\r\n",
    ],
)
async def test_malformed_framing_is_refused(served: Served, sent: bytes) -> None:
    """400 and the connection is closed: a proxy in front may have read it as something else (request smuggling)."""
    answer = await served.answer(sent)
    assert (400, 1) == (int(answer.split()[1]), answer.count(b"HTTP/1.1 "))
    assert b"connection: close" in answer


async def test_an_upgrade_is_answered_as_an_ordinary_request(served: Served) -> None:
    """And what follows it is not taken for a request."""
    answer = await served.answer(GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n" + GET + b"\r\n")
    assert 1 == answer.count(b"HTTP/1.1 ")
    assert b"HTTP/1.1 200" in answer


async def test_pipelined_requests_are_bounded(served: Served) -> None:
    """Those that wait for an answer to an earlier one; with more of them the connection ends after that answer."""
    hold = b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reader, writer = await served.connect(hold * 600)
    await until(lambda: _true_of(served.app.held))
    served.app.let_go.set()
    assert 1 == (await reader.read()).count(b"HTTP/1.1 200")
    writer.close()
    assert len(served.app.seen) < 2 * bounds.PIPELINED


async def test_unfinished_requests_are_bounded_together(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that arrives in one piece is answered meanwhile; the bytes are free again when their connections end."""
    monkeypatch.setattr(bounds, "UNFINISHED_BYTES", 100_000)
    half = SIZED % 90_000 + b"x" * 40_000
    first = [await served.connect(half) for _ in range(2)]
    await until(lambda: _true_of(served.server.connections.unfinished_bytes > 80_000))
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
    await until(lambda: _true_of(served.app.held == 8))
    assert 503 == await served.status()
    served.app.let_go.set()
    for reader, _ in busy:
        assert b"HTTP/1.1 200 OK\r\n" == await reader.readline()
    assert 200 == await served.status(GET + b"Connection: close\r\n\r\n")
    for _, writer in busy:
        writer.close()


async def test_a_client_that_does_not_read_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers would wait in memory."""
    monkeypatch.setattr(bounds, "SEND_S", 0.2)
    _, writer = await served.connect(GET + b"\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = await until_one(served)
    connection.transport.write(b"x" * 20_000_000)
    await until(lambda: _true_of(not served.server.connections.count))
    writer.transport.abort()


async def until_one(served: Served) -> Any:
    """Return the open connections when there are any."""
    await until(lambda: _true_of(served.server.server_state.connections))
    return served.server.server_state.connections


REQUEST = GET + b"Connection: close\r\n\r\n"


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
        await until(lambda: _true_of(closed > 1000))
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
        await until(lambda: _true_of(len(served.server.arrivals) == len(others)))
    for reader, writer in others:
        with suppress(ConnectionResetError):
            assert not await reader.read()
        writer.close()


async def test_a_refusal_may_have_a_delay() -> None:
    """Who repeats malformed requests in a loop is slowed."""
    async with serving(Limits(connections=8, body_bytes=100, refusal_delay_s=0.3)) as served:
        began_s = asyncio.get_running_loop().time()
        assert 431 == await served.status(GET + b"x: " + b"a" * 90_000)
        assert 0.25 <= asyncio.get_running_loop().time() - began_s


@pytest.mark.parametrize(
    ("files", "share", "expected"), [(256, 1.0, 192), (256, 0.25, 48), (24, 1.0, 16), (20_000, 1, 500)]
)
def test_the_bound_leaves_file_descriptors_free(
    monkeypatch: pytest.MonkeyPatch, files: int, share: float, expected: int
) -> None:
    """The servers' connections need them; a process that has many uses the bound as it is."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert expected == Limits(500, body_bytes=0, share_of_files=share).max_connections()
