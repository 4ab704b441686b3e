"""Checks the URL of Redis as redis-py parses it, and refuses parameters that are not supported."""

import re
from collections.abc import Callable

from tidepool.urls.parts import UrlError, UrlParts, decoded_utf8, require_number, require_socket_path

REDIS_SCHEMES = ("redis", "rediss", "unix")
_LONGEST_S = 3600.0


def check_redis(url: str) -> None:
    """Raise `UrlError` unless redis-py accepts *url* and honours every part and parameter of it."""
    parts = UrlParts.of(url, REDIS_SCHEMES, takes_at=True)
    for part in parts.user_info.partition(":")[::2]:
        decoded_utf8(part, "user's name or password")
    if parts.scheme == "unix":
        if parts.hosts or len(parts.path) < len("/x"):
            raise UrlError("names no socket: it is written unix:///path/of/the.sock")
        require_socket_path(decoded_utf8(parts.path, "path"))
    else:
        _check_redis_server(parts)
    names = [name for name, _ in parts.query]
    given = parts.parameters(_take_redis)
    if repeated := [name for name in given if names.count(name) > 1]:
        raise UrlError(f"has parameter {repeated[0]} more than once")
    if parts.scheme != "rediss" and (secured := [name for name in given if name.startswith("ssl_")]):
        raise UrlError(f"has parameter {secured[0]}, which belongs to rediss://")
    if parts.scheme == "unix" and "socket_keepalive" in given:
        raise UrlError("has parameter socket_keepalive, which a socket file does not have")
    if ("ssl_certfile" in given) != ("ssl_keyfile" in given):
        raise UrlError("must have both parameters ssl_certfile and ssl_keyfile, or neither")
    if given.get("ssl_cert_reqs") == "none" and _truth(given.get("ssl_check_hostname", "no")):
        raise UrlError("has ssl_check_hostname=true beside ssl_cert_reqs=none, which checks no certificate")


def checks_certificate(redis_url: str) -> bool:
    """Return whether the client verifies the certificate of the server of *redis_url*; True if the URL has no TLS."""
    return dict(UrlParts.of(redis_url, REDIS_SCHEMES, takes_at=True).query).get("ssl_cert_reqs") != "none"


def _take_redis(name: str, value: str) -> None:
    """Raise `UrlError` unless a Redis URL may have the parameter *name* with this value."""
    if name in _REDIS_HONOURED:
        if check := _REDIS_HONOURED[name]:
            check(value)
    else:
        raise UrlError("which is not known")


def _one_of(*allowed: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in allowed:
            raise UrlError(f"which may only be {' or '.join(allowed)}")

    return check


def _require_index(value: str) -> None:
    require_number(value, int, 0)


def _require_seconds(value: str) -> None:
    require_number(value, float, 0.001)
    if float(value) > _LONGEST_S:
        raise UrlError(f"which may be {_LONGEST_S:g} seconds or less")


_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")
"""Spellings of true and false that are accepted; redis-py would take any other text, such as `off`, for true."""


def _truth(value: str) -> bool:
    return value.lower() in _TRUE


def _require_truth(value: str) -> None:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise UrlError("which may only be true or false")


_REDIS_HONOURED: dict[str, Callable[[str], None] | None] = {
    "client_name": None,
    "db": _require_index,
    "health_check_interval": _require_index,
    "password": None,
    "protocol": _one_of("2"),
    "socket_connect_timeout": _require_seconds,
    "socket_keepalive": _require_truth,
    "socket_timeout": _require_seconds,
    "ssl_ca_certs": None,
    "ssl_cert_reqs": _one_of("none", "optional", "required"),
    "ssl_certfile": None,
    "ssl_check_hostname": _require_truth,
    "ssl_ciphers": None,
    "ssl_keyfile": None,
    "username": None,
}
"""Parameters that redis-py honours and Tidepool supports, each with the check of its value; None: any value."""


def _check_redis_server(parts: UrlParts) -> None:
    """Raise `UrlError` unless the URL names a single host, a valid port, and a database number or none as its path."""
    if "," in parts.hosts:
        raise UrlError("names several hosts: Redis has one; for a fail-over put a proxy before them")
    hosts, _ = parts.addresses()
    if hosts and hosts[0].startswith("/"):
        raise UrlError("names a socket as its host: it is written unix:///path/of/the.sock")
    if parts.path not in ("", "/") and not re.fullmatch(r"/\d{1,9}", parts.path, re.ASCII):
        raise UrlError("has a path that is not the number of a database, as in redis://host:6379/0")
