"""What the HTTP server takes for a request: bounds of heads and bodies, and malformed ones."""

import asyncio

import pytest
from echo_server import CHUNKED, GET, Served, headers


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
