"""Parses the URL of PostgreSQL as libpq does, and converts it to asyncpg's arguments or to a service file of libpq.

The tables list which parameters asyncpg honours, and which are dropped because asyncpg does the same without them, each
with its allowed values. Every other parameter is an error that names it.
"""

import re
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tidepool.urls.parts import (
    FILES,
    SYSTEM,
    UrlError,
    UrlParts,
    decoded,
    listed_hosts,
    listed_ports,
    require_file,
    require_number,
)

POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslpassword")
_MIN_TIMEOUT = -(2**31 - 1)
"""Min value of connect_timeout, in seconds: libpq takes zero and negative values for no limit."""
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
"""Parameters that asyncpg honours, with the values that it accepts; None: any."""
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
"""Parameters that asyncpg does not know, with the values for which leaving them out changes nothing; None: any."""


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """The parts of a PostgreSQL URL. A missing part is None or empty, so the driver's default applies."""

    hosts: tuple[str, ...]
    ports: tuple[int, ...]
    user: str | None
    password: str | None
    database: str | None
    parameters: dict[str, str]
    """The URL's other parameters that asyncpg honours, such as sslmode."""
    connect_timeout_s: float | None
    statement_cache_size: int | None

    @property
    def trusts_the_systems_cas(self) -> bool:
        """Whether the URL has `sslrootcert=system`: the system's CAs are trusted, certificate and host name checked."""
        return self.parameters.get("sslrootcert") == SYSTEM

    def driver_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments with which `asyncpg.connect` connects to this URL."""
        parameters, given = dict(self.parameters), dict[str, Any]()
        if self.trusts_the_systems_cas:
            given["ssl"] = self._system_context()
            parameters = {name: value for name, value in parameters.items() if name not in _TLS_FILES}
        if self.connect_timeout_s is not None:
            given["timeout"] = self.connect_timeout_s
        if self.statement_cache_size is not None:
            given["statement_cache_size"] = self.statement_cache_size
        return given | {
            "dsn": f"postgresql://?{urlencode(parameters)}",
            "host": list(self.hosts) or None,
            "port": list(self.ports) or None,
            "user": self.user,
            "password": self.password,
            "database": self.database,
        }

    def service_file(self) -> str:
        """Return the text of a libpq service file that defines this URL as the service `tidepool`.

        Raises `UrlError` if the URL has a value that a line of that file cannot hold.
        """
        values = {
            "host": ",".join(self.hosts),
            "port": ",".join(map(str, self.ports)),
            "user": self.user or "",
            "password": self.password or "",
            "dbname": self.database or "",
            **self.parameters,
        }
        for name, value in values.items():
            if not value.isprintable() or value != value.strip():
                raise UrlError(
                    f"has a {name} that a service file cannot hold: a control character, or a blank at an end"
                )
        return "\n".join(["[tidepool]", *(f"{name}={value}" for name, value in values.items() if value)])

    def _system_context(self) -> ssl.SSLContext:
        """Return the TLS context that does what `sslrootcert=system` does in libpq.

        It trusts the system's CAs, and checks the server's certificate and host name. It presents the client
        certificate `sslcert` if the URL has one.
        """
        context = ssl.create_default_context()
        if "sslcert" in self.parameters:
            files = (self.parameters["sslcert"], self.parameters.get("sslkey"))
            context.load_cert_chain(*files, password=self.parameters.get("sslpassword", ""))
        return context


def parse_postgres(url: str) -> PostgresUrl:
    """Parse a PostgreSQL URL into its parts. Raises `UrlError`."""
    parts = UrlParts.of(url, POSTGRES_SCHEMES, takes_at=False)
    if "@" in parts.hosts:
        raise UrlError("has two @ before its path: in a user's name or password it is written %40")
    if re.search("[/:@]", parts.path[1:]):
        raise UrlError("has a / : or @ in its path: in a user's name or password they are written %2F %3A %40")
    given = parts.parameters(_take_postgres)
    user, colon, password = parts.user_info.partition(":")
    hosts, ports = parts.addresses()
    if "host" in given:
        hosts = listed_hosts(given["host"])
    if "port" in given:
        ports = listed_ports(given["port"])
    if len(ports) > 1 and len(ports) != max(len(hosts), 1):
        raise UrlError(f"names {len(ports)} ports for {max(len(hosts), 1)} hosts")
    _check_tls(given)
    return PostgresUrl(
        hosts=tuple(hosts),
        ports=tuple(5432 if port is None else port for port in ports) if any(ports) else (),
        user=given.get("user") or decoded(user, "user's name") or None,
        password=given.get("password") or (decoded(password, "password") if colon else None),
        database=given.get("dbname") or given.get("database") or decoded(parts.path[1:], "path") or None,
        parameters={name: value for name, value in given.items() if name in _POSTGRES_HONOURED},
        connect_timeout_s=_connect_timeout_s(given.get("connect_timeout")),
        statement_cache_size=_statement_cache_size(given),
    )


def check_parameter(name: str, value: str) -> None:
    """Check a connection parameter from outside a URL, such as a variable or a service file.

    Raises `UrlError`, whose text does not have the parameter's name.
    """
    _take_postgres(name, value)
    if name == "host":
        listed_hosts(value)
    elif name == "port":
        listed_ports(value)
    elif name in FILES and value:
        require_file(name, value)


def drops_channel_binding(postgres_url: str) -> bool:
    """Return whether the URL requires channel binding, which asyncpg does not support, so that only TLS protects."""
    return ("channel_binding", "require") in UrlParts.of(postgres_url, POSTGRES_SCHEMES, takes_at=False).query


def as_libpq_reads(postgres_url: str) -> str:
    """Return the URL with the scheme `postgresql` in place of SQLAlchemy's `postgresql+asyncpg`.

    psql and pg_dump do not accept the latter.
    """
    return re.sub(r"^postgresql\+asyncpg://", "postgresql://", postgres_url)


def _take_postgres(name: str, value: str) -> None:
    """Raise `UrlError` unless a PostgreSQL URL may have the parameter *name* with this value."""
    allowed = (_POSTGRES_HONOURED | _POSTGRES_DROPPED).get(name)
    if name == "ssl":
        allowed = ("true", *_SSL_MODES)  # as in JDBC's URLs, which libpq takes, and in SQLAlchemy's
    elif name == "pgbouncer":
        allowed = ("true", "false")
    elif name == "connect_timeout":
        require_number(value, int, _MIN_TIMEOUT)
    elif name == "statement_cache_size":
        require_number(value, int, 0)
    elif name not in (*_POSTGRES_HONOURED, *_POSTGRES_DROPPED, *_POSTGRES_ADDRESS):
        raise UrlError("which is not known")
    if allowed and value and (value.lower() if name == "client_encoding" else value) not in allowed:
        raise UrlError(f"which may only be {' or '.join(allowed)}")


def _check_tls(given: dict[str, str]) -> None:
    """Raise `UrlError` if `sslrootcert=system` is combined with a parameter that it excludes.

    These are sslmode other than verify-full, as in libpq, and those that asyncpg cannot combine with it.
    """
    if given.get("sslrootcert") != SYSTEM:
        return
    if given.get("sslmode", "verify-full") != "verify-full":
        raise UrlError("has sslrootcert=system, with which sslmode may only be verify-full")
    for name in ("sslcrl", "ssl_min_protocol_version", "ssl_max_protocol_version"):
        if name in given:
            raise UrlError(f"has sslrootcert=system beside parameter {name}, which the driver cannot do together")


def _connect_timeout_s(text: str | None) -> float | None:
    """Return the URL's connect_timeout in seconds; None if the setting CONNECT_TIMEOUT applies instead.

    That is so for 0 and negative values, libpq's form of no limit, because Tidepool always has a limit.
    """
    return float(text) if text and int(text) > 0 else None


def _statement_cache_size(given: dict[str, str]) -> int | None:
    if size := given.get("statement_cache_size"):
        return int(size)
    return 0 if given.get("pgbouncer") == "true" else None
