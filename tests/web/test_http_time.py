"""The time that the HTTP server gives to slow senders and readers, and what it does about them after a refusal."""

import asyncio
from typing import Any

import pytest
from echo_server import CHUNKED, GET, SIZED, Served, serving, true_of
from waiting import until

from tidepool.bounded_http import limits as bounds
from tidepool.bounded_http.limits import Limits
from tidepool.bounded_http.protocol import BoundedProtocol


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


async def test_a_client_that_does_not_read_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers would wait in memory."""
    monkeypatch.setattr(bounds, "SEND_S", 0.2)
    _, writer = await served.connect(GET + b"\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    (connection,) = await until_one(served)
    connection.transport.write(b"x" * 20_000_000)
    await until(lambda: true_of(not served.server.connections.count))
    writer.transport.abort()


async def until_one(served: Served) -> Any:
    """Return the open connections when there are any."""
    await until(lambda: true_of(served.server.server_state.connections))
    return served.server.server_state.connections


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
    await until(lambda: true_of(not served.server.connections.count))
    assert 2 <= len(reads) <= 30
    writer.close()


async def test_a_refusal_may_have_a_delay() -> None:
    """Who repeats malformed requests in a loop is slowed."""
    async with serving(Limits(connections=8, body_bytes=100, refusal_delay_s=0.3)) as served:
        began_s = asyncio.get_running_loop().time()
        assert 431 == await served.status(GET + b"x: " + b"a" * 90_000)
        assert 0.25 <= asyncio.get_running_loop().time() - began_s
