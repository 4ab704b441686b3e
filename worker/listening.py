"""A socket to serve HTTP on, bound before the server starts, so that an address that is taken is told in one line."""

import asyncio
import socket


class CannotListen(Exception):
    """The address cannot be bound; the text says which, and why."""


async def listen(host: str, port: int, backlog: int = 128) -> socket.socket:
    """Return a socket that listens there. Raises `CannotListen`."""
    loop = asyncio.get_running_loop()
    try:
        (family, _, _, _, address), *_ = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=backlog)
    except OSError as error:
        words = (error.strerror or str(error)).partition(" (")[0]  # Python adds the address
        raise CannotListen(f"cannot serve on {host}, port {port}: {words}") from None
