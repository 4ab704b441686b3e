"""Servers that answer one thing: a PostgreSQL, a PgBouncer, a Redis, or whatever else may listen at an address."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
INFO = "redis_mode:standalone\r\nrole:master\r\ncluster_enabled:0\r\nmaxmemory_policy:noeviction\r\n"


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[int]:
    """Give the port of a server that handles each connection with *answer*."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except ValueError:
            pass  # the question whether something else is spoken here
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def postgres_that_says(state: str, message: str) -> Answer:
    """Return a PostgreSQL that answers the startup packet with this error."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        fields = b"".join(
            f"{letter}{text}".encode() + b"\0" for letter, text in (("S", "FATAL"), ("C", state), ("M", message))
        )
        writer.write(b"E" + struct.pack("!I", len(fields) + 5) + fields + b"\0")
        await writer.drain()
        await reader.read()

    return answer


def postgres_that_pools_statements() -> Answer:
    """Return a PgBouncer in statement mode, as far as a start gets: it ends the connection at a BEGIN."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("!I", len(body) + 4) + body

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        await reader.readexactly(length - 4)
        version = b"server_version\0" + b"16.0\0"
        ready = message(b"Z", b"I")
        writer.write(message(b"R", struct.pack("!I", 0)) + message(b"S", version) + ready)
        while True:
            kind, length = struct.unpack("!cI", await reader.readexactly(5))
            text = await reader.readexactly(length - 4)
            if kind == b"Q" and b"BEGIN" in text:
                break
            writer.write((message(b"C", b"SET\0") if text.strip(b"\0") else message(b"I", b"")) + ready)
        said = "transaction blocks not allowed in statement pooling mode"
        writer.write(message(b"E", f"SFATAL\0C08P01\0M{said}\0\0".encode()))
        await writer.drain()

    return answer


def redis_that_says(replies: dict[str, str], info: str = INFO) -> Answer:
    """Return a Redis with these replies by command, and this INFO; it answers OK to everything else."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while count := int((await reader.readline() or b"*0")[1:]):
            parts = []
            for _ in range(count):
                size = int((await reader.readline())[1:])
                parts.append((await reader.readexactly(size + 2))[:-2].decode())
            name = parts[0].upper()
            bulk = f"${len(info)}\r\n{info}\r\n"
            writer.write(
                (f"{replies[name]}\r\n" if name in replies else bulk if name == "INFO" else "+OK\r\n").encode()
            )
            await writer.drain()

    return answer


def that_answers(reply: bytes) -> Answer:
    """Return a server that answers anything with *reply*."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(reply)
        await writer.drain()

    return answer
