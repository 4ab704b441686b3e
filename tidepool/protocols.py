"""Detects that a server speaks another protocol than expected, such as PostgreSQL at the address given for Redis.

A server of another kind, or one with TLS when the client uses none, looks unavailable: it closes the connection, or
waits for bytes that never come. Retrying does not help then.
"""

import asyncio
import ssl

POSTGRESQL, REDIS, HTTP, TLS = "PostgreSQL", "Redis", "HTTP", "TLS"
_POSTGRESQL_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
_ANY_REQUEST = b"PING / HTTP/1.0\r\n\r\n"
"""A request that Redis answers with an error, an HTTP server with 400 or 405, PostgreSQL by closing the connection."""
_PATIENCE_S = 1.0
_HINTS = {(REDIS, TLS): ": write rediss://", (TLS, REDIS): ": write redis://"}

Address = tuple[str, int] | str
"""Host and port, or the path of a Unix socket."""


async def other_than(expected: str, address: Address) -> str:
    """Return a sentence naming the protocol of the server at *address* if it is not *expected*, else an empty text."""
    found = await _spoken_at(address)
    if found in (None, expected):
        return ""
    hint = _HINTS.get((expected, found), "")
    return f"what answers there speaks {found}, not {expected}{hint}"


async def _spoken_at(address: Address) -> str | None:
    """Return the name of the protocol of the server at *address*; None if it is unknown or nothing answers.

    Waits a second for each answer.
    """
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
    """Return the first bytes of the answer to *request*, up to 8; empty if there is no answer within a second."""
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
            _, writer = await _open(address, context)
            writer.transport.abort()
    except (OSError, TimeoutError):
        return False
    return True


async def _open(
    address: Address, context: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    hostname = "" if context else None  # as asyncio wants it where names are not checked
    if isinstance(address, str):
        return await asyncio.open_unix_connection(address, ssl=context, server_hostname=hostname)
    return await asyncio.open_connection(*address, ssl=context, server_hostname=hostname)
