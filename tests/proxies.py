"""Ports in front of the embedded servers, which listen on sockets alone: proxies, which end TLS if they are to."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

_SSL_REQUEST_BYTES = 8
"""What a client of PostgreSQL begins with; the server answers S, and TLS begins on the same connection."""


@asynccontextmanager
async def tls_redis(socket: str, context: ssl.SSLContext | None) -> AsyncGenerator[int]:
    """Serve the Redis of a Unix *socket* over TLS on a port of the loopback address; without a context as it is."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _pass_on(reader, writer, socket)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with _closing(server) as port:
        yield port


@asynccontextmanager
async def tls_postgres(socket: str, context: ssl.SSLContext | None) -> AsyncGenerator[int]:
    """Serve the PostgreSQL of a Unix *socket* over TLS; without a context as it is, and so it will refuse TLS."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if context is not None:
            await reader.readexactly(_SSL_REQUEST_BYTES)
            writer.write(b"S")
            try:
                await writer.start_tls(context)
            except (OSError, EOFError):  # the client does not trust us
                return
        await _pass_on(reader, writer, socket)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with _closing(server) as port:
        yield port


@asynccontextmanager
async def _closing(server: asyncio.Server) -> AsyncGenerator[int]:
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket: str) -> None:
    behind_reader, behind_writer = await asyncio.open_unix_connection(socket)
    try:
        async with asyncio.TaskGroup() as both_ways:
            both_ways.create_task(_copy(reader, behind_writer))
            both_ways.create_task(_copy(behind_reader, writer))
    except* OSError:
        pass  # one side was cut


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass the end on."""
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
