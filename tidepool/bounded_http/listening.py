"""Opens listening sockets for HTTP, and checks whether a host name or address is this machine's own."""

import asyncio
import errno
import functools
import ipaddress
import socket
from urllib.parse import urlsplit

_LOCALHOST = ("127.0.0.1", "::1")
"""What `localhost` means to clients, in either order."""
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, socket.EAI_ADDRFAMILY, socket.EAI_NONAME)


class CannotListen(Exception):
    """Raised if a server cannot listen on its address; the text says which address, and why."""


async def listen_at(host: str, port: int, backlog: int = 128) -> list[socket.socket]:
    """Return sockets that listen on *host* and *port*; for `localhost` one on 127.0.0.1 and one on ::1.

    Raises `CannotListen` if one of the addresses cannot be bound. Without IPv6 `localhost` is 127.0.0.1 alone.
    """
    if host != "localhost":
        return [await _listen(host, port, backlog)]
    ipv4 = await _listen(_LOCALHOST[0], port, backlog)
    try:
        return [ipv4, await _listen(_LOCALHOST[1], ipv4.getsockname()[1], backlog)]
    except CannotListen as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_IPV6:
            return [ipv4]
        ipv4.close()
        raise


async def _listen(host: str, port: int, backlog: int = 128) -> socket.socket:
    """Return a socket that listens on *host* and *port*. Raises `CannotListen` if the address cannot be bound."""
    loop = asyncio.get_running_loop()
    try:
        (family, _, _, _, address), *_ = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family, backlog=backlog)
    except OSError as error:
        words = (error.strerror or str(error)).partition(" (")[0]  # Python adds the address
        raise CannotListen(f"cannot serve on {host}, port {port}: {words}") from error


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether *host* is loopback, which only programs on this machine can reach: localhost, 127.0.0.1 or ::1.

    *host* is a name, an address, or the value of a Host header. Refusing requests with other names in that header
    prevents DNS rebinding: a browser sends another site's name if that site has made its own name resolve to this
    machine.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
