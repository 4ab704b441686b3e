"""Parses the URL of PostgreSQL as libpq does, and converts it to asyncpg's arguments or to a service file of libpq.

The tables list which parameters asyncpg honours, which are dropped because asyncpg does the same without them, and
which are read here, each with its allowed values. Every other parameter is an error that names it.
"""

import re
import ssl
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlencode

from tidepool.urls.parts import UrlError, UrlParts, Values

POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
_PORT = 5432
_SYSTEM = "system"
"""Value of sslrootcert that means the system's certificate authorities."""
_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslpassword")
_MIN_TIMEOUT = -(2**31 - 1)
"""Min value of connect_timeout, in seconds: libpq takes zero and negative values for no limit."""
_ANY = Values()
_FILE = Values(is_file=True)
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_TLS_VERSION = Values(("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"))
_HONOURED = {
    "gsslib": Values(("gssapi",)),
    "krbsrvname": _ANY,
    "options": _ANY,
    "passfile": _FILE,
    "service": _ANY,
    "ssl_max_protocol_version": _TLS_VERSION,
    "ssl_min_protocol_version": _TLS_VERSION,
    "sslcert": _FILE,
    "sslcrl": _FILE,
    "sslkey": _FILE,
    "sslmode": Values(_SSL_MODES),
    "sslnegotiation": Values(("postgres", "direct")),
    "sslpassword": _ANY,
    "sslrootcert": Values((_SYSTEM,), is_file=True),
    "target_session_attrs": Values(("any", "primary", "standby", "prefer-standby", "read-write", "read-only")),
}
"""Parameters that asyncpg honours, with the values that it accepts."""
_DROPPED = {
    "application_name": _ANY,  # ours says which worker has the connection
    "channel_binding": Values(("disable", "prefer", "require")),  # asyncpg has none: docs/operations.md
    "client_encoding": Values(("auto", "utf8", "utf-8", "unicode"), ignores_case=True),
    "fallback_application_name": _ANY,
    "gssdelegation": Values(("0",)),
    "gssencmode": Values(("disable", "prefer")),
    "keepalives": _ANY,  # COMMAND_TIMEOUT finds a silent server sooner
    "keepalives_count": _ANY,
    "keepalives_idle": _ANY,
    "keepalives_interval": _ANY,
    "load_balance_hosts": Values(("disable",)),
    "max_protocol_version": Values(("3.0", "3.2", "latest")),
    "min_protocol_version": Values(("3.0",)),
    "replication": Values(("0", "false", "no", "off")),
    "schema": Values(("public",)),
    "sslcertmode": Values(("allow",)),
    "sslcompression": _ANY,
    "sslsni": Values(("1",)),
    "tcp_user_timeout": _ANY,
}
"""Parameters that asyncpg does not know, with the values for which leaving them out changes nothing."""
_READ_HERE = {
    **dict.fromkeys(("host", "port", "user", "password", "dbname", "database"), _ANY),
    "connect_timeout": Values(number=int, least=_MIN_TIMEOUT),
    "pgbouncer": Values(("true", "false")),
    "ssl": Values(("true", *_SSL_MODES)),  # as in JDBC's URLs, which libpq takes, and in SQLAlchemy's
    "statement_cache_size": Values(number=int),
}
"""Parameters that `PostgresUrl.parse` reads itself."""
_ALLOWED = _HONOURED | _DROPPED | _READ_HERE


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
    wants_channel_binding: bool
    """Whether the URL requires channel binding, which asyncpg does not support, so that only TLS protects."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a PostgreSQL URL into its parts. Raises `UrlError`."""
        parts = UrlParts.of(url, POSTGRES_SCHEMES)
        if "@" in parts.hosts:
            raise UrlError("has two @ before its path: in a user's name or password it is written %40")
        if re.search("[/:@]", parts.path[1:]):
            raise UrlError("has a / : or @ in its path: in a user's name or password they are written %2F %3A %40")
        given = parts.parameters(_ALLOWED)
        if mode := given.get("ssl"):
            given.setdefault("sslmode", "require" if mode == "true" else mode)
        hosts, ports = parts.addresses(given.get("host"), given.get("port"))
        if len(ports) > 1 and len(ports) != max(len(hosts), 1):
            raise UrlError(f"names {len(ports)} ports for {max(len(hosts), 1)} hosts")
        _check_tls(given)
        user, password = parts.user_and_password()
        return cls(
            hosts=tuple(hosts),
            ports=tuple(_PORT if port is None else port for port in ports) if any(ports) else (),
            user=given.get("user") or user or None,
            password=given.get("password") or password,
            database=given.get("dbname") or given.get("database") or parts.decoded_path()[1:] or None,
            parameters={name: value for name, value in given.items() if name in _HONOURED},
            connect_timeout_s=_connect_timeout_s(given.get("connect_timeout")),
            statement_cache_size=_statement_cache_size(given),
            wants_channel_binding=given.get("channel_binding") == "require",
        )

    @property
    def trusts_the_systems_cas(self) -> bool:
        """Whether the URL has `sslrootcert=system`: the system's CAs are trusted, certificate and host name checked."""
        return self.parameters.get("sslrootcert") == _SYSTEM

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

    @staticmethod
    def check_parameter(name: str, value: str) -> None:
        """Raise `UrlError` if *value* is not allowed for the connection parameter *name*, given outside a URL.

        Such parameters come from environment variables and service files. The text of the error does not have the
        parameter's name.
        """
        if name not in _ALLOWED:
            raise UrlError("is not known")
        _ALLOWED[name].check(value)
        lists = (value if name == "host" else None, value if name == "port" else None)
        UrlParts.of("postgresql://", POSTGRES_SCHEMES).addresses(*lists)


def _check_tls(given: dict[str, str]) -> None:
    """Raise `UrlError` if `sslrootcert=system` is combined with a parameter that it excludes.

    These are sslmode other than verify-full, as in libpq, and those that asyncpg cannot combine with it.
    """
    if given.get("sslrootcert") != _SYSTEM:
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
