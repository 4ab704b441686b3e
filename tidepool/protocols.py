"""Detects which protocol a port or socket speaks, after the expected one got no answer.

A server of another kind, or one with TLS where we have none, looks like one that is away: it closes the connection, or
waits for bytes that never come. Waiting does not help then.
"""

import asyncio
import ssl
from typing import Any

POSTGRESQL, REDIS, HTTP, TLS = "PostgreSQL", "Redis", "HTTP", "TLS"
_POSTGRESQL_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
_ANY_REQUEST = b"PING / HTTP/1.0\r\n\r\n"
"""Redis answers it with an error, HTTP servers with 400 or 405, PostgreSQL by closing the connection."""
_PATIENCE_S = 1.0
_HINTS = {(REDIS, TLS): ": write rediss://", (TLS, REDIS): ": write redis://"}

Address = tuple[str, int] | str
"""Host and port, or the path of a socket."""


async def other_than(expected: str, address: Address) -> str:
    """Return a sentence about the protocol that is spoken at *address*, or nothing if it is not known to be another."""
    found = await spoken_at(address)
    if found in (None, expected):
        return ""
    hint = _HINTS.get((expected, found), "")
    return f"what answers there speaks {found}, not {expected}{hint}"


async def spoken_at(address: Address) -> str | None:
    """Return the name of the protocol at *address*, or None if nothing answers within a second. Raises nothing."""
    answers = await asyncio.gather(
        _answer(address, _POSTGRESQL_SSL_REQUEST), _answer(address, _ANY_REQUEST), _accepts_tls(address)
    )
    to_postgresql, to_any, accepts_tls = answers
    if to_postgresql in (b"S", b"N"):
        return POSTGRESQL
    if to_any.startswith((b"+", b"-")):
        return REDIS
    if to_any.startswith((b"HTTP/", b"<")):
        return HTTP
    return TLS if accepts_tls else None


async def _answer(address: Address, request: bytes) -> bytes:
    """Return the beginning of the answer to *request*; nothing where there is none."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await _open(address)
            try:
                writer.write(request)
                return await reader.read(8)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return b""


async def _accepts_tls(address: Address) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PATIENCE_S):
            _, writer = await _open(address, ssl=context, server_hostname="")
            writer.transport.abort()
    except (OSError, TimeoutError):
        return False
    return True


async def _open(address: Address, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address, **options)
    return await asyncio.open_connection(*address, **options)
