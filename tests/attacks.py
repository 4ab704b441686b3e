"""What a hostile caller sends to an HTTP port, again and again until it is cancelled; each as coroutines over sockets.

An attack that is cut off begins anew at once.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

Attack = Callable[[str, int], Awaitable[None]]
_PIECE = 65_536
_SLOW_S = 1.0
_JSON = b"POST /users/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_CHUNKED = _JSON + b"Transfer-Encoding: chunked\r\n\r\n"


async def _send(host: str, port: int, pieces: Iterator[bytes], *, pause_s: float = 0.0) -> None:
    """Send *pieces* over one connection, and read to its end."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
            if reader.at_eof():
                return
        await reader.read()
    finally:
        writer.transport.abort()


async def many_headers(host: str, port: int) -> None:
    """Send 3.5 million headers."""
    lines = b"".join(b"a%d: b\r\n" % number for number in range(4000))
    await _send(host, port, itertools.chain([b"GET /health/live HTTP/1.1\r\n"], itertools.repeat(lines, 900)))


async def endless_value(host: str, port: int) -> None:
    """Send one header that does not end."""
    first = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nx: "
    await _send(host, port, itertools.chain([first], itertools.repeat(b"a" * _PIECE, 2400)))


async def endless_path(host: str, port: int) -> None:
    """Send a request line that does not end."""
    await _send(host, port, itertools.chain([b"GET /"], itertools.repeat(b"a" * _PIECE, 2400)))


async def slow_head(host: str, port: int) -> None:
    """Send a head line by line."""
    lines = (b"x%d: y\r\n" % number for number in itertools.count())
    await _send(host, port, itertools.chain([b"GET / HTTP/1.1\r\n"], lines), pause_s=_SLOW_S)


async def byte_by_byte(host: str, port: int) -> None:
    """Send a head byte by byte, as fast as it goes."""
    await _send(host, port, itertools.chain([b"GET / HTTP/1.1\r\nx: "], itertools.repeat(b"a")))


async def half_request(host: str, port: int) -> None:
    """Send the beginning of a request, and then nothing."""
    await _send(host, port, iter([b"GET / HTTP/1.1\r\nHost: localhost\r\n"]))


async def half_body(host: str, port: int) -> None:
    """Send half a body, and then nothing."""
    head = (
        b"POST /users/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
    )
    await _send(host, port, iter([head, b" " * 450_000]))


async def chunk_extensions(host: str, port: int) -> None:
    """Send a chunk whose extension does not end."""
    await _send(host, port, itertools.chain([_CHUNKED, b"1;a="], itertools.repeat(b"a" * _PIECE, 2400)))


async def trailers(host: str, port: int) -> None:
    """Send trailers without end after a chunked body."""
    lines = b"".join(b"a%d: b\r\n" % number for number in range(4000))
    await _send(host, port, itertools.chain([_CHUNKED, b"2\r\n{}\r\n0\r\n"], itertools.repeat(lines, 900)))


async def pipelined(host: str, port: int) -> None:
    """Send requests without waiting for an answer."""
    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    await _send(host, port, itertools.repeat(request * 1400, 2400))


async def sign_in_bomb(host: str, port: int) -> None:
    """Sign in with a form of 130,000 fields."""
    form = b"&".join(b"a%d=b" % number for number in range(130_000))[:1_000_000]
    kind = b"application/x-www-form-urlencoded"
    head = b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    await _send(host, port, iter([head % (kind, len(form)), form]))


async def scrape(host: str, port: int) -> None:
    """Ask for the figures as fast as they come, over one connection."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while not reader.at_eof():
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0].split(b":")[1]))
    finally:
        writer.transport.abort()


CALLERS: dict[Attack, int] = {
    many_headers: 2,
    endless_value: 2,
    endless_path: 2,
    slow_head: 300,
    byte_by_byte: 8,
    half_request: 300,
    half_body: 40,
    chunk_extensions: 2,
    trailers: 2,
    pipelined: 8,
    sign_in_bomb: 4,
    scrape: 8,
}
"""The attacks, and how many callers make each at a time."""


@asynccontextmanager
async def under_attack(attack: Attack, host: str, port: int) -> AsyncIterator[None]:
    """Let its callers make *attack* for the length of the block."""

    async def again_and_again() -> None:
        while True:
            with suppress(OSError, EOFError, IndexError, asyncio.LimitOverrunError):
                await attack(host, port)
            await asyncio.sleep(0)

    callers = [asyncio.create_task(again_and_again(), name=attack.__name__) for _ in range(CALLERS[attack])]
    try:
        yield
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
