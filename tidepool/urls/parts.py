"""Splits URLs of PostgreSQL and Redis into parts, and checks hosts, ports and percent-encoding.

Errors never quote a part that does not parse: what looks like a host or a parameter may be a piece of a password.
"""

import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import unquote_to_bytes

SHAPE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_HOST_IN_URL = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", re.DOTALL)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,49}")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HIGHEST_PORT = 65535
_LONGEST_HOST = 253
_LARGEST = 2**31 - 1
"""The largest whole number that libpq and Redis accept."""
_LONGEST_SOCKET_PATH = 107
"""Max bytes of the path of a Unix socket on Linux."""
FILES = ("passfile", "sslcert", "sslcrl", "sslkey", "sslrootcert", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
SYSTEM = "system"


class UrlError(ValueError):
    """A URL cannot be used. The text says what is wrong, and quotes only names of parameters from the URL."""


class UrlParts(NamedTuple):
    """The parts of a URL, still percent-encoded."""

    scheme: str
    user_info: str
    hosts: str
    path: str
    query: list[tuple[str, str]]
    is_doubtful: bool
    """Whether the path or the query has an @, so that names in the query may be pieces of a password."""

    @classmethod
    def of(cls, url: str, schemes: tuple[str, ...], *, takes_at: bool) -> Self:
        """Split *url* into its parts. Raises `UrlError` if it is not valid or its scheme is not one of *schemes*.

        *takes_at* is whether the password may contain an @: in redis-py the last @ ends it, in libpq the first one.
        """
        match = SHAPE.fullmatch(url)
        if match is None or match[1] not in schemes:
            raise UrlError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if not url.isprintable() or re.search(r"\s", url):
            raise UrlError("has a blank or a control character: in a user's name or password a blank is written %20")
        _, authority, path, query, fragment = match.groups(default="")
        if fragment:
            raise UrlError("has a #: in a user's name or password it is written %23")
        user_info, _, hosts = authority.rpartition("@") if takes_at else _user_info(authority)
        if re.search(r"[\[\]]", user_info):
            raise UrlError("has a [ or ] before its host: in a user's name or password they are written %5B %5D")
        pairs = [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)]
        return cls(match[1], user_info, hosts, path, pairs, "@" in f"{path}{query}")

    def parameters(self, take: Callable[[str, str], None]) -> dict[str, str]:
        """Return the query's parameters as a dict from name to decoded value, without empty ones.

        *take* is called with each name and value, and raises `UrlError` for one that is not allowed. If a name is
        repeated, its last value counts. `ssl` is returned as `sslmode`.
        """
        given: dict[str, str] = {}
        for name, text in self.query:
            try:
                value = decoded(text, "query")
                take(name, value)
            except UrlError as error:
                shown = _NAME.fullmatch(name) and not self.is_doubtful
                raise UrlError(f"has parameter {name}, {error}" if shown else f"has a parameter {error}") from None
            if value:
                given[name] = value
        if mode := given.pop("ssl", None):
            given.setdefault("sslmode", "require" if mode == "true" else mode)
        for name in FILES:
            if name in given and (name, given[name]) != ("sslrootcert", SYSTEM):
                require_file(name, given[name])
        return given

    def addresses(self) -> tuple[list[str], list[int | None]]:
        """Return the list of hosts and the list of ports of `host:port,host:port`; both are empty if the text is.

        A port that is left out is None. Raises `UrlError`.
        """
        text = self.hosts
        found = [_HOST_IN_URL.fullmatch(one) for one in text.split(",")]
        if text.strip(",") and not all(match and match[1] for match in found):
            if text.startswith(":") and len(found) == 1 and found[0]:
                return [], [_port(found[0][2] or "")]
            raise UrlError("has a host in its list that is empty or not a name or an address")
        if not text.strip(","):
            if text:
                raise UrlError("has a host in its list that is empty or not a name or an address")
            return [], []
        matches = [match for match in found if match]
        hosts = [_checked_host(decoded(match[1].strip("[]"), "host")) for match in matches]
        return hosts, [_port(decoded(match[2] or "", "port")) for match in matches]


def _user_info(authority: str) -> tuple[str, str, str]:
    user_info, at, hosts = authority.partition("@")
    return (user_info, at, hosts) if at else ("", "", authority)


def listed_hosts(text: str) -> list[str]:
    """Return the hosts of a comma-separated list. Raises `UrlError` for one that is not valid."""
    return [_checked_host(host) for host in _listed(text, "host")]


def listed_ports(text: str) -> list[int | None]:
    """Return the ports of a comma-separated list, with None for an empty text. Raises `UrlError`."""
    return [_port(port) for port in _listed(text, "port")]


def require_number(value: str, kind: type[int] | type[float], least: float) -> None:
    """Raise `UrlError` unless *value* is a number of the type *kind*, and *least* or more."""
    try:
        number = kind(value) if re.fullmatch("[0-9eE.+-]+", value) else math.nan
    except ValueError:
        number = math.nan
    if not least <= number <= _LARGEST:
        what = "whole number" if kind is int else "number"
        raise UrlError(f"which must be a {what}" + (f" of at least {least:g}" if least >= 0 else ""))


def require_file(name: str, path: str) -> None:
    """Raise `UrlError`, which names the parameter *name*, unless *path* is a file that this process can read.

    The driver itself would report a missing file as an unavailable server.
    """
    try:
        if Path(path).is_file():
            Path(path).open("rb").close()
            return
        said = "is no file"
    except (OSError, ValueError):
        said = "cannot be read by this user"
    raise UrlError(f"{name} {said}: {path}")


def require_socket_path(path: str) -> None:
    """Raise `UrlError` if *path* is longer than Linux allows for a Unix socket."""
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise UrlError(f"names a socket whose path has more than {_LONGEST_SOCKET_PATH} bytes")


def decoded(text: str, what: str) -> str:
    """Decode the percent-encoding of *text*. Raises `UrlError` if it is not valid; *what* is the part that it names."""
    if _BAD_PERCENT.search(text):
        raise UrlError(f"has a % in its {what} that is not written %25")
    return decoded_utf8(text, what)


def decoded_utf8(text: str, what: str) -> str:
    """Decode the percent-encoding of *text*; a % that encodes nothing stays. *what* names the part in an error.

    Raises `UrlError` for bytes that are not UTF-8 and for a zero byte.
    """
    try:
        decoded = unquote_to_bytes(text).decode("utf-8")
    except UnicodeError:
        raise UrlError(f"has bytes in its {what} that are not UTF-8") from None
    if "\0" in decoded:
        raise UrlError(f"has a zero byte in its {what}")
    return decoded


def _listed(text: str, what: str) -> list[str]:
    listed = text.split(",")
    if len(listed) > 1 and not all(listed):
        raise UrlError(f"has parameter {what}, in whose list one is empty")
    return listed


def _port(text: str) -> int | None:
    """Return the number of a port, or None for an empty text. Raises `UrlError` unless it is from 1 to 65535."""
    if not text:
        return None
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= _HIGHEST_PORT:
        raise UrlError(f"has a port that is not a number from 1 to {_HIGHEST_PORT}")
    return int(text)


def _checked_host(host: str) -> str:
    """Return *host* unchanged. Raises `UrlError` unless it is a name, an IP address or a socket's directory."""
    if host.startswith("/") and host.isprintable():
        require_socket_path(host if ".s.PGSQL." in host else f"{host}/.s.PGSQL.5432")
        return host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        _require_host_name(host)
    return host


def _require_host_name(host: str) -> None:
    try:
        labels = host.removesuffix(".").encode("idna").decode("ascii").split(".")
    except UnicodeError:
        labels = [""]
    if len(host) > _LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlError("has a host that is not a name or an address")
