"""Checks the URL of Redis as redis-py parses it, and refuses parameters that are not supported."""

import re
from dataclasses import dataclass
from typing import Self

from tidepool.urls.parts import UrlError, UrlParts, Values

REDIS_SCHEMES = ("redis", "rediss", "unix")
_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")
"""Spellings of true and false that are accepted; redis-py would take any other text, such as `off`, for true."""
_ANY = Values()
_FILE = Values(is_file=True)
_INDEX = Values(number=int)
_SECONDS = Values(number=float, least=0.001, most_s=3600)
_TRUTH = Values((*_TRUE, *_FALSE), ignores_case=True, described="true or false")
_HONOURED = {
    "client_name": _ANY,
    "db": _INDEX,
    "health_check_interval": _INDEX,
    "password": _ANY,
    "protocol": Values(("2",)),
    "socket_connect_timeout": _SECONDS,
    "socket_keepalive": _TRUTH,
    "socket_timeout": _SECONDS,
    "ssl_ca_certs": _FILE,
    "ssl_cert_reqs": Values(("none", "optional", "required")),
    "ssl_certfile": _FILE,
    "ssl_check_hostname": _TRUTH,
    "ssl_ciphers": _ANY,
    "ssl_keyfile": _FILE,
    "username": _ANY,
}
"""Parameters that redis-py honours and Tidepool supports, with the values that they may have."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A checked Redis URL: each part and each parameter of it is one that redis-py honours."""

    parameters: dict[str, str]

    @classmethod
    def parse(cls, url: str) -> Self:
        """Check a Redis URL, and return an object with the parameters of its query. Raises `UrlError`."""
        parts = UrlParts.of(url, REDIS_SCHEMES, as_redis_py=True)
        parts.user_and_password()
        if parts.scheme == "unix":
            if parts.hosts or len(parts.path) < len("/x"):
                raise UrlError("names no socket: it is written unix:///path/of/the.sock")
            parts.check_socket()
        else:
            _check_server(parts)
        given = parts.parameters(_HONOURED)
        _check_parameters(given, parts)
        return cls(given)

    @property
    def checks_certificate(self) -> bool:
        """Whether the client verifies the server's certificate; True if the URL has no TLS."""
        return self.parameters.get("ssl_cert_reqs") != "none"


def _check_parameters(given: dict[str, str], parts: UrlParts) -> None:
    """Raise `UrlError` for parameters that do not go together, or not with the scheme."""
    names = [name for name, _ in parts.query]
    if repeated := [name for name in given if names.count(name) > 1]:
        raise UrlError(f"has parameter {repeated[0]} more than once")
    if parts.scheme != "rediss" and (secured := [name for name in given if name.startswith("ssl_")]):
        raise UrlError(f"has parameter {secured[0]}, which belongs to rediss://")
    if parts.scheme == "unix" and "socket_keepalive" in given:
        raise UrlError("has parameter socket_keepalive, which a socket file does not have")
    if ("ssl_certfile" in given) != ("ssl_keyfile" in given):
        raise UrlError("must have both parameters ssl_certfile and ssl_keyfile, or neither")
    if given.get("ssl_cert_reqs") == "none" and given.get("ssl_check_hostname", "no").lower() in _TRUE:
        raise UrlError("has ssl_check_hostname=true beside ssl_cert_reqs=none, which checks no certificate")


def _check_server(parts: UrlParts) -> None:
    """Raise `UrlError` unless the URL names a single host, a valid port, and a database number or none as its path."""
    if "," in parts.hosts:
        raise UrlError("names several hosts: Redis has one; for a fail-over put a proxy before them")
    hosts, _ = parts.addresses()
    if hosts and hosts[0].startswith("/"):
        raise UrlError("names a socket as its host: it is written unix:///path/of/the.sock")
    if parts.path not in ("", "/") and not re.fullmatch(r"/\d{1,9}", parts.path, re.ASCII):
        raise UrlError("has a path that is not the number of a database, as in redis://host:6379/0")
