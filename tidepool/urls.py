"""The URLs of PostgreSQL and Redis: parsed and checked here, before anything connects.

`parse_postgres` and `check_redis` raise `UrlError`, whose text names the parameter or the part that is
wrong. No text of this module repeats a URL that does not parse: what looks like a host or a parameter
in it may be a piece of a password. PostgreSQL URLs are read as libpq reads them, Redis URLs as redis-py
does. The tables below say which parameters are honoured, which are dropped because the driver does
nothing else anyway, and which values of those are refused; every other parameter is refused by name.
"""

import ipaddress
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
REDIS_SCHEMES = ("redis", "rediss", "unix")
UNREADABLE = "(a URL that does not parse)"
"""What is shown in place of such a URL."""

_SHAPE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)
_HOST_IN_URL = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", re.DOTALL)
_SHOWN_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]*(?:%25[A-Za-z0-9_.-]+)?\]|[^\s:\[\]]*)(?::\d*)?")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,49}")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HIGHEST_PORT = 65535
_LONGEST_HOST = 253
_LONGEST_S = 3600.0
_LARGEST = 2**31 - 1
"""The largest whole number that libpq and Redis take."""
_LONGEST_SOCKET_PATH = 107
"""Bytes that Linux lets the path of a socket have."""

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_POSTGRES_HONOURED: dict[str, tuple[str, ...] | None] = {
    "gsslib": ("gssapi",),
    "krbsrvname": None,
    "options": None,
    "passfile": None,
    "service": None,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "sslcert": None,
    "sslcrl": None,
    "sslkey": None,
    "sslmode": _SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    "sslpassword": None,
    "sslrootcert": None,
    "target_session_attrs": ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
}
"""What asyncpg honours, with the values that it takes; None: any."""
_POSTGRES_ADDRESS = ("host", "port", "user", "password", "dbname", "database")
_POSTGRES_DROPPED: dict[str, tuple[str, ...] | None] = {
    "application_name": None,  # ours says which worker has the connection
    "channel_binding": ("disable", "prefer", "require"),  # asyncpg has none: docs/operations.md
    "client_encoding": ("auto", "utf8", "utf-8", "unicode"),
    "fallback_application_name": None,
    "gssdelegation": ("0",),
    "gssencmode": ("disable", "prefer"),
    "keepalives": None,  # COMMAND_TIMEOUT finds a silent server sooner
    "keepalives_count": None,
    "keepalives_idle": None,
    "keepalives_interval": None,
    "load_balance_hosts": ("disable",),
    "max_protocol_version": ("3.0", "3.2", "latest"),
    "min_protocol_version": ("3.0",),
    "replication": ("0", "false", "no", "off"),
    "schema": ("public",),
    "sslcertmode": ("allow",),
    "sslcompression": None,
    "sslsni": ("1",),
    "tcp_user_timeout": None,
}
"""What asyncpg does not know, and the values with which leaving it out changes nothing; None: any."""
_NAMING_DATABASES = ("dbname", "database", "db")
_FILES = ("passfile", "sslcert", "sslcrl", "sslkey", "sslrootcert", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_SYSTEM = "system"


class UrlError(ValueError):
    """A URL cannot be used. The text says what is wrong and repeats nothing of the URL except names of parameters."""


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """The parts of a PostgreSQL URL. A missing part is None or empty, so the driver's default applies."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None
    password: str | None
    database: str | None
    parameters: dict[str, str]
    """Those that the driver honours."""
    connect_timeout_s: float | None
    statement_cache_size: int | None

    @property
    def trusts_the_systems_cas(self) -> bool:
        """Whether `sslrootcert=system` is given: the CAs of the system, certificate and name checked."""
        return self.parameters.get("sslrootcert") == _SYSTEM


class _Parts(NamedTuple):
    scheme: str
    user_info: str
    hosts: str
    path: str
    query: list[tuple[str, str]]
    is_doubtful: bool
    """An @ stands behind the host: names in the query may be pieces of a password."""


def parse_postgres(url: str) -> PostgresUrl:
    """Return the parts of a URL of PostgreSQL. Raises `UrlError`."""
    parts = _split(url, POSTGRES_SCHEMES)
    if "@" in parts.hosts:
        raise UrlError("has two @ before its path: in a user's name or password it is written %40")
    if re.search("[/:@]", parts.path[1:]):
        raise UrlError("has a / : or @ in its path: in a user's name or password they are written %2F %3A %40")
    given = _parameters(parts, _take_postgres)
    user, colon, password = parts.user_info.partition(":")
    hosts, ports = _hosts(parts.hosts)
    if "host" in given:
        hosts = _listed_hosts(given["host"])
    if "port" in given:
        ports = _listed_ports(given["port"])
    if len(ports) > 1 and len(ports) != max(len(hosts), 1):
        raise UrlError(f"names {len(ports)} ports for {max(len(hosts), 1)} hosts")
    _check_tls(given)
    return PostgresUrl(
        hosts=tuple(hosts),
        ports=tuple(5432 if port is None else port for port in ports) if any(ports) else (),
        user=given.get("user") or _decoded(user, "user's name") or None,
        password=given.get("password") or (_decoded(password, "password") if colon else None),
        database=given.get("dbname") or given.get("database") or _decoded(parts.path[1:], "path") or None,
        parameters={name: value for name, value in given.items() if name in _POSTGRES_HONOURED},
        connect_timeout_s=_connect_timeout_s(given.get("connect_timeout")),
        statement_cache_size=_statement_cache_size(given),
    )


def check_redis(url: str) -> None:
    """Raise `UrlError` unless redis-py takes *url* and connects as it says."""
    parts = _split(url, REDIS_SCHEMES)
    for part in parts.user_info.partition(":")[::2]:
        _utf8(part, "user's name or password")
    if parts.scheme == "unix":
        if parts.hosts or len(parts.path) < len("/x"):
            raise UrlError("names no socket: it is written unix:///path/of/the.sock")
        _require_socket_path(_utf8(parts.path, "path"))
    else:
        _check_redis_server(parts)
    names = [name for name, _ in parts.query]
    given = _parameters(parts, _take_redis)
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


def check_parameter(name: str, value: str) -> None:
    """Check a parameter of PostgreSQL that stands outside of a URL. Raises `UrlError`, without its name."""
    _take_postgres(name, value)
    if name == "host":
        _listed_hosts(value)
    elif name == "port":
        _listed_ports(value)
    elif name in _FILES and value:
        _require_file(name, value)


def require(variable: str, url: str, check: Callable[[str], object]) -> None:
    """Raise `ValueError`, whose text begins with *variable*, unless *check* takes *url*."""
    try:
        check(url)
    except UrlError as error:
        raise ValueError(f"{variable}: {error}") from None


def checks_certificate(redis_url: str) -> bool:
    """Return whether the client verifies the certificate of the server of *redis_url*; True if the URL has no TLS."""
    return dict(_split(redis_url, REDIS_SCHEMES).query).get("ssl_cert_reqs") != "none"


def drops_channel_binding(postgres_url: str) -> bool:
    """Return whether the URL requires channel binding, which the driver does not have: the URL's TLS has to do."""
    return ("channel_binding", "require") in _split(postgres_url, POSTGRES_SCHEMES).query


def with_database(url: str, name: str) -> str:
    """Return a URL of PostgreSQL or Redis with the database *name*, or that number, and all else as it is.

    A parameter that names a database counts more than the path, so it is removed. Raises `UrlError`.
    """
    match = _SHAPE.fullmatch(url)
    if match is None:
        raise UrlError("does not parse")
    scheme, authority, path, query, _ = match.groups(default="")
    kept = [pair for pair in query.split("&") if pair and pair.partition("=")[0] not in _NAMING_DATABASES]
    if scheme == "unix":
        kept.append(f"db={name}")
    else:
        path = f"/{name}"
    return f"{scheme}://{authority}{path}" + (f"?{'&'.join(kept)}" if kept else "")


def as_libpq_reads(postgres_url: str) -> str:
    """Return the URL with the scheme `postgresql` in place of SQLAlchemy's, which psql and pg_dump refuse."""
    return re.sub(r"^postgresql\+asyncpg://", "postgresql://", postgres_url)


def without_password(url: str) -> str:
    """Return *url* in a form that may be logged: without the password and most of the query.

    If its parts cannot be told apart with certainty, nothing of it is returned.
    """
    match = _SHAPE.fullmatch(url)
    if match is None:
        return UNREADABLE
    scheme, authority, path, query, fragment = match.groups(default="")
    user, _, hosts = authority.rpartition("@")
    is_doubtful = "@" in path or "@" in fragment or ("@" in query and not _is_valid(url))
    is_doubtful |= not url.isprintable() or bool(re.search(r"[\[\]]", user))
    is_doubtful |= not all(_SHOWN_HOST.fullmatch(host) for host in hosts.split(","))
    name, colon, _ = user.partition(":")
    is_doubtful |= "%3a" in name.lower()  # it may be `name:password`, encoded as one
    if is_doubtful or "@" in (user if scheme in POSTGRES_SCHEMES else name):
        return UNREADABLE
    if scheme != "unix" and re.search("[/:]", path[1:]):
        return UNREADABLE
    if scheme not in POSTGRES_SCHEMES and not colon:
        name = ""  # a name without a password is most often a password whose colon was forgotten
    name = f"{name}@" if name else ""
    kept = "&".join(word for word in query.split("&") if word.startswith(("host=", "db=")))
    return f"{scheme}://{name}{hosts}{path}" + (f"?{kept}" if kept else "")


def _is_valid(url: str) -> bool:
    try:
        check_redis(url) if url.startswith(tuple(f"{one}:" for one in REDIS_SCHEMES)) else parse_postgres(url)
    except UrlError:
        return False
    return True


def _split(url: str, schemes: tuple[str, ...]) -> _Parts:
    match = _SHAPE.fullmatch(url)
    if match is None or match[1] not in schemes:
        raise UrlError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if not url.isprintable() or re.search(r"\s", url):
        raise UrlError("has a blank or a control character: in a user's name or password a blank is written %20")
    _, authority, path, query, fragment = match.groups(default="")
    if fragment:
        raise UrlError("has a #: in a user's name or password it is written %23")
    is_redis = schemes is REDIS_SCHEMES  # redis-py takes an @ in a password as it stands, libpq does not
    user_info, _, hosts = authority.rpartition("@") if is_redis else _user_info(authority)
    if re.search(r"[\[\]]", user_info):
        raise UrlError("has a [ or ] before its host: in a user's name or password they are written %5B %5D")
    pairs = [(name, value) for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)]
    return _Parts(match[1], user_info, hosts, path, pairs, "@" in f"{path}{query}")


def _user_info(authority: str) -> tuple[str, str, str]:
    user_info, at, hosts = authority.partition("@")
    return (user_info, at, hosts) if at else ("", "", authority)


def _parameters(parts: _Parts, take: Callable[[str, str], None]) -> dict[str, str]:
    """Return the query's parameters, each checked by *take*; the last of a name wins, and an empty one is absent."""
    given: dict[str, str] = {}
    for name, text in parts.query:
        try:
            value = _decoded(text, "query")
            take(name, value)
        except UrlError as error:
            shown = _NAME.fullmatch(name) and not parts.is_doubtful
            raise UrlError(f"has parameter {name}, {error}" if shown else f"has a parameter {error}") from None
        if value:
            given[name] = value
    if mode := given.pop("ssl", None):
        given.setdefault("sslmode", "require" if mode == "true" else mode)
    for name in _FILES:
        if name in given and (name, given[name]) != ("sslrootcert", _SYSTEM):
            _require_file(name, given[name])
    return given


def _take_postgres(name: str, value: str) -> None:
    """Raise `UrlError` unless a URL of PostgreSQL may have this parameter."""
    allowed = (_POSTGRES_HONOURED | _POSTGRES_DROPPED).get(name)
    if name == "ssl":
        allowed = ("true", *_SSL_MODES)  # as in JDBC's URLs, which libpq takes, and in SQLAlchemy's
    elif name == "pgbouncer":
        allowed = ("true", "false")
    elif name == "connect_timeout":
        _require_number(value, int, -_LARGEST)
    elif name == "statement_cache_size":
        _require_number(value, int, 0)
    elif name not in (*_POSTGRES_HONOURED, *_POSTGRES_DROPPED, *_POSTGRES_ADDRESS):
        raise UrlError("which is not known")
    if allowed and value and (value.lower() if name == "client_encoding" else value) not in allowed:
        raise UrlError(f"which may only be {' or '.join(allowed)}")


def _take_redis(name: str, value: str) -> None:
    """Raise `UrlError` unless a URL of Redis may have this parameter."""
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


def _require_number(value: str, kind: type[int] | type[float], least: float) -> None:
    try:
        number = kind(value) if re.fullmatch("[0-9eE.+-]+", value) else math.nan
    except ValueError:
        number = math.nan
    if not least <= number <= _LARGEST:
        what = "whole number" if kind is int else "number"
        raise UrlError(f"which must be a {what}" + (f" of at least {least:g}" if least >= 0 else ""))


def _require_index(value: str) -> None:
    _require_number(value, int, 0)


def _require_seconds(value: str) -> None:
    _require_number(value, float, 0.001)
    if float(value) > _LONGEST_S:
        raise UrlError(f"which may be {_LONGEST_S:g} seconds or less")


_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")
"""How redis-py's documentation writes them; what else is no empty text counts as true there, also `off`."""


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
"""What redis-py honours and this service can live with, and how a value is checked."""


def _check_tls(given: dict[str, str]) -> None:
    """Raise `UrlError` where `sslrootcert=system` has company that it does not fit, as libpq does."""
    if given.get("sslrootcert") != _SYSTEM:
        return
    if given.get("sslmode", "verify-full") != "verify-full":
        raise UrlError("has sslrootcert=system, with which sslmode may only be verify-full")
    for name in ("sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version"):
        if name in given:
            raise UrlError(f"has sslrootcert=system beside parameter {name}, which the driver cannot do together")


def _connect_timeout_s(text: str | None) -> float | None:
    """Return the seconds; None where CONNECT_TIMEOUT holds: libpq's 0 and less is no limit, and there is always one."""
    return float(text) if text and int(text) > 0 else None


def _statement_cache_size(given: dict[str, str]) -> int | None:
    if size := given.get("statement_cache_size"):
        return int(size)
    return 0 if given.get("pgbouncer") == "true" else None


def _check_redis_server(parts: _Parts) -> None:
    """Raise `UrlError` unless host, port and path are those of one Redis."""
    if "," in parts.hosts:
        raise UrlError("names several hosts: Redis has one; for a fail-over put a proxy before them")
    hosts, _ = _hosts(parts.hosts)
    if hosts and hosts[0].startswith("/"):
        raise UrlError("names a socket as its host: it is written unix:///path/of/the.sock")
    if parts.path not in ("", "/") and not re.fullmatch(r"/\d{1,9}", parts.path, re.ASCII):
        raise UrlError("has a path that is not the number of a database, as in redis://host:6379/0")


def _hosts(text: str) -> tuple[list[str], list[int | None]]:
    """Return the hosts and ports of `host:port,host:port`; none where it is empty."""
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
    hosts = [_checked_host(_decoded(match[1].strip("[]"), "host")) for match in matches]
    return hosts, [_port(_decoded(match[2] or "", "port")) for match in matches]


def _listed_hosts(text: str) -> list[str]:
    return [_checked_host(host) for host in _listed(text, "host")]


def _listed_ports(text: str) -> list[int | None]:
    return [_port(port) for port in _listed(text, "port")]


def _listed(text: str, what: str) -> list[str]:
    listed = text.split(",")
    if len(listed) > 1 and not all(listed):
        raise UrlError(f"has parameter {what}, in whose list one is empty")
    return listed


def _port(text: str) -> int | None:
    """Return a port's number; None where it is left out."""
    if not text:
        return None
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= _HIGHEST_PORT:
        raise UrlError(f"has a port that is not a number from 1 to {_HIGHEST_PORT}")
    return int(text)


def _checked_host(host: str) -> str:
    """Return *host*: a name, an address or the directory of a socket. Raises `UrlError`."""
    if host.startswith("/") and host.isprintable():
        _require_socket_path(host if ".s.PGSQL." in host else f"{host}/.s.PGSQL.5432")
        return host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        _require_host_name(host)
    return host


def _require_socket_path(path: str) -> None:
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise UrlError(f"names a socket whose path has more than {_LONGEST_SOCKET_PATH} bytes")


def _require_host_name(host: str) -> None:
    try:
        labels = host.removesuffix(".").encode("idna").decode("ascii").split(".")
    except UnicodeError:
        labels = [""]
    if len(host) > _LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlError("has a host that is not a name or an address")


def _decoded(text: str, what: str) -> str:
    """Return *text* without percent-encoding. Raises `UrlError`."""
    if _BAD_PERCENT.search(text):
        raise UrlError(f"has a % in its {what} that is not written %25")
    return _utf8(text, what)


def _utf8(text: str, what: str) -> str:
    try:
        decoded = unquote_to_bytes(text).decode("utf-8")
    except UnicodeError:
        raise UrlError(f"has bytes in its {what} that are not UTF-8") from None
    if "\0" in decoded:
        raise UrlError(f"has a zero byte in its {what}")
    return decoded


def _require_file(name: str, path: str) -> None:
    """Raise `UrlError` unless the file can be read: the driver reports a missing file as a server that is away."""
    try:
        if Path(path).is_file():
            Path(path).open("rb").close()
            return
        said = "is no file"
    except (OSError, ValueError):
        said = "cannot be read by this user"
    raise UrlError(f"{name} {said}: {path}")
