"""Splits URLs of PostgreSQL and Redis into parts, and checks hosts, ports, parameters and percent-encoding.

Errors never quote a part that does not parse: what looks like a host or a parameter may be a piece of a password.
"""

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
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


class UrlError(ValueError):
    """A URL cannot be used. The text says what is wrong; it quotes only names of parameters and paths of files."""


@dataclass(frozen=True, slots=True)
class Values:
    """The values that are valid for one parameter of a URL: *listed* ones, paths of files, or numbers; by default any.

    An empty text counts as no value, which is allowed unless the values are numbers.
    """

    listed: tuple[str, ...] = ()
    ignores_case: bool = False
    described: str = ""
    """How an error describes the listed values. Default: each of them."""
    is_file: bool = False
    number: type[int] | type[float] | None = None
    least: float = 0
    most_s: float | None = None
    """Max value of a number of seconds."""

    def check(self, value: str) -> None:
        """Raise `UrlError` if *value* is not allowed.

        The text of the error completes a sentence that begins with the parameter's name and "which".
        """
        if self.number is not None:
            self._check_number(value, self.number)
        elif not value or (value.lower() if self.ignores_case else value) in self.listed:
            return
        elif self.is_file:
            _require_file(value)
        elif self.listed:
            raise UrlError(f"may only be {self.described or ' or '.join(self.listed)}")

    def _check_number(self, value: str, kind: type[int] | type[float]) -> None:
        try:
            number = kind(value) if re.fullmatch("[0-9eE.+-]+", value) else math.nan
        except ValueError:
            number = math.nan
        if not self.least <= number <= _LARGEST:
            what = "whole number" if kind is int else "number"
            raise UrlError(f"must be a {what}" + (f" of at least {self.least:g}" if self.least >= 0 else ""))
        if self.most_s is not None and number > self.most_s:
            raise UrlError(f"may be {self.most_s:g} seconds or less")


class _Addresses(NamedTuple):
    """The hosts and the ports in a URL, in order; a port that is left out is None."""

    hosts: list[str]
    ports: list[int | None]

    @classmethod
    def of(cls, text: str) -> Self:
        """Parse addresses in the form `host:port,host:port`; return empty lists for an empty *text*.

        Raises `UrlError`.
        """
        found = [_HOST_IN_URL.fullmatch(one) for one in text.split(",")]
        if text.strip(",") and not all(match and match[1] for match in found):
            if text.startswith(":") and len(found) == 1 and found[0]:
                return cls([], [_port(found[0][2] or "")])
            raise UrlError("has a host in its list that is empty or not a name or an address")
        if not text.strip(","):
            if text:
                raise UrlError("has a host in its list that is empty or not a name or an address")
            return cls([], [])
        matches = [match for match in found if match]
        hosts = [_checked_host(_decoded(match[1].strip("[]"), "host")) for match in matches]
        return cls(hosts, [_port(_decoded(match[2] or "", "port")) for match in matches])

    def replaced(self, hosts: str | None, ports: str | None) -> Self:
        """Return a copy with the hosts and ports of comma-separated lists; None keeps those of this object.

        Raises `UrlError` for a host or port that is not valid.
        """
        return type(self)(
            self.hosts if hosts is None else [_checked_host(host) for host in _listed(hosts, "host")],
            self.ports if ports is None else [_port(port) for port in _listed(ports, "port")],
        )


class UrlParts(NamedTuple):
    """A URL split into its parts, such as hosts, path and query; the parts are still percent-encoded."""

    scheme: str
    user_info: str
    hosts: str
    path: str
    query: list[tuple[str, str]]
    is_doubtful: bool
    """Whether the path or the query has an @, so that names in the query may be pieces of a password."""

    as_redis_py: bool
    """Whether the URL is read as redis-py does: the last @ ends the password, and a % that encodes nothing stays in
    user, password and path. In libpq the first @ ends it, and each % has to encode something."""

    @classmethod
    def of(cls, url: str, schemes: tuple[str, ...], *, as_redis_py: bool = False) -> Self:
        """Split *url* into its parts. Raises `UrlError` if it is not valid or its scheme is not one of *schemes*."""
        match = SHAPE.fullmatch(url)
        if match is None or match[1] not in schemes:
            raise UrlError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        if not url.isprintable() or re.search(r"\s", url):
            raise UrlError("has a blank or a control character: in a user's name or password a blank is written %20")
        _, authority, path, query, fragment = match.groups(default="")
        if fragment:
            raise UrlError("has a #: in a user's name or password it is written %23")
        user_info, _, hosts = authority.rpartition("@") if as_redis_py else _user_info(authority)
        if re.search(r"[\[\]]", user_info):
            raise UrlError("has a [ or ] before its host: in a user's name or password they are written %5B %5D")
        pairs = [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)]
        return cls(match[1], user_info, hosts, path, pairs, "@" in f"{path}{query}", as_redis_py)

    def user_and_password(self) -> tuple[str, str | None]:
        """Return the user's name and the password from the URL, decoded; either may be empty.

        The password is None if there is no colon after the user's name. Raises `UrlError`.
        """
        user, colon, password = self.user_info.partition(":")
        decoded = _decoded(user, "user's name", is_strict=not self.as_redis_py)
        return decoded, _decoded(password, "password", is_strict=not self.as_redis_py) if colon else None

    def decoded_path(self) -> str:
        """Return the URL's path with percent-encoding decoded. Raises `UrlError`."""
        return _decoded(self.path, "path", is_strict=not self.as_redis_py)

    def addresses(self, hosts: str | None = None, ports: str | None = None) -> tuple[list[str], list[int | None]]:
        """Return the hosts and the ports of the URL, in order; a port that is left out is None.

        *hosts* and *ports*, comma-separated lists, take the place of those of the URL. Raises `UrlError`.
        """
        return _Addresses.of(self.hosts).replaced(hosts, ports)

    def check_socket(self) -> None:
        """Raise `UrlError` if the path, which names a Unix socket, is longer than Linux allows."""
        _require_socket_path(self.decoded_path())

    def parameters(self, allowed: Mapping[str, Values]) -> dict[str, str]:
        """Return the parameters of the URL's query, by name, decoded; parameters with an empty value are left out.

        If a name is repeated, its last value counts. Raises `UrlError` for a name that is not in *allowed*, and for a
        value that is not allowed for its name.
        """
        given: dict[str, str] = {}
        for name, text in self.query:
            try:
                value = _decoded(text, "value")
                _check(allowed, name, value)
            except UrlError as error:
                if self.is_doubtful or not _NAME.fullmatch(name):
                    raise UrlError(
                        "has a parameter that is not valid: is an @, / or ? in a user's name or password not encoded?"
                    ) from None
                raise UrlError(f"has parameter {name}, which {error}") from None
            if value:
                given[name] = value
        return given


def _check(allowed: Mapping[str, Values], name: str, value: str) -> None:
    if name not in allowed:
        raise UrlError("is not known")
    allowed[name].check(value)


def _user_info(authority: str) -> tuple[str, str, str]:
    user_info, at, hosts = authority.partition("@")
    return (user_info, at, hosts) if at else ("", "", authority)


def _require_file(path: str) -> None:
    """Raise `UrlError` unless *path* is a file that this process can read.

    The driver itself would report a missing file as an unavailable server.
    """
    try:
        if Path(path).is_file():
            Path(path).open("rb").close()
            return
        problem = "is not a file"
    except (OSError, ValueError):
        problem = "is a file that this user cannot read"
    raise UrlError(f"{problem}: {path}")


def _require_socket_path(path: str) -> None:
    """Raise `UrlError` if *path* is longer than Linux allows for a Unix socket."""
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise UrlError(f"names a socket whose path has more than {_LONGEST_SOCKET_PATH} bytes")


def _decoded(text: str, what: str, *, is_strict: bool = True) -> str:
    """Decode the percent-encoding of *text*; *what* is the part that an error names.

    Raises `UrlError` for bytes that are not UTF-8, for a zero byte, and, if *is_strict*, for a % that encodes nothing,
    which stays otherwise.
    """
    if is_strict and _BAD_PERCENT.search(text):
        raise UrlError(f"has a % in its {what} that is not written %25")
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
        _require_socket_path(host if ".s.PGSQL." in host else f"{host}/.s.PGSQL.5432")
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
