"""Sockets to serve HTTP on, bound before the server starts, so that a taken address is reported in one line."""

import asyncio
import errno
import socket

_LOCALHOST = ("127.0.0.1", "::1")
"""What `localhost` means to clients, in either order."""
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, socket.EAI_ADDRFAMILY, socket.EAI_NONAME)


class CannotListen(Exception):
    """The address cannot be bound; the text says which, and why."""


async def listen_at(host: str, port: int, backlog: int = 128) -> list[socket.socket]:
    """Return sockets that listen there: for `localhost` one on each loopback address of this machine.

    Raises `CannotListen` if one of the addresses is taken. Without IPv6 `localhost` is 127.0.0.1 alone.
    """
    if host != "localhost":
        return [await listen(host, port, backlog)]
    ipv4 = await listen(_LOCALHOST[0], port, backlog)
    try:
        return [ipv4, await listen(_LOCALHOST[1], ipv4.getsockname()[1], backlog)]
    except CannotListen as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_IPV6:
            return [ipv4]
        ipv4.close()
        raise


async def listen(host: str, port: int, backlog: int = 128) -> socket.socket:
    """Return a socket that listens there. Raises `CannotListen`."""
    loop = asyncio.get_running_loop()
    try:
        (family, _, _, _, address), *_ = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=backlog)
    except OSError as error:
        words = (error.strerror or str(error)).partition(" (")[0]  # Python adds the address
        raise CannotListen(f"cannot serve on {host}, port {port}: {words}") from error
