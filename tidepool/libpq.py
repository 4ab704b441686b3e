"""Checks what asyncpg reads besides the URL: libpq's variables such as PGSSLMODE, service files, and the user.

The check comes before anything connects, because asyncpg ignores some errors there and reports others as a lost server.
No text of this module repeats a value: a line of a service file may be a password.
"""

import configparser
import getpass
import os
from collections.abc import MutableMapping
from pathlib import Path

from tidepool.urls import PostgresUrl, UrlError

_CHECKED = {
    "PGGSSLIB": "gsslib",
    "PGHOST": "host",
    "PGPASSFILE": "passfile",
    "PGPORT": "port",
    "PGSSLCERT": "sslcert",
    "PGSSLCRL": "sslcrl",
    "PGSSLKEY": "sslkey",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMODE": "sslmode",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGSSLROOTCERT": "sslrootcert",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}
"""Environment variables that asyncpg reads; each may have the values of the given URL parameter."""
_UNCHECKED = ("PGDATABASE", "PGKRBSRVNAME", "PGPASSWORD", "PGUSER")
_IGNORED = ("PGHOSTADDR", "PGOPTIONS", "PGREQUIREAUTH", "PGREQUIREPEER", "PGSERVICE", "PGSSLCRLDIR")
"""Environment variables that change how or where libpq connects, and that asyncpg ignores; they are refused."""
_NOT_IN_SERVICES = ("connect_timeout", "options", "pgbouncer", "service", "ssl", "statement_cache_size")
"""Parameters of a URL that asyncpg ignores in a service file."""


class LibpqVariables:
    """The environment variables of libpq, such as PGHOST, in *environment*: of this process or of another one."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._environment = environment

    def drop_empty(self) -> None:
        """Remove empty variables from the environment: libpq treats them as not set, asyncpg does not."""
        for variable in (*_CHECKED, *_UNCHECKED):
            if self._environment.get(variable) == "":
                del self._environment[variable]

    def check(self, url: str) -> None:
        """Check the variables and the service file that asyncpg uses when it connects to *url*.

        Also checks that the URL, the variables or the system name the role to connect as. Raises `UrlError`, whose text
        begins with the name of the wrong variable.
        """
        for variable in _IGNORED:
            if self._environment.get(variable):
                raise UrlError(f"{variable}: the driver ignores it: unset it, and set the parameter in DATABASE_URL")
        for variable, name in _CHECKED.items():
            if value := self._environment.get(variable):
                _check_variable(variable, name, value)
        if service := PostgresUrl.parse(url).parameters.get("service"):
            try:
                _check_service(service, self._environment.get("PGSERVICEFILE"))
            except UrlError as error:
                raise UrlError(f"DATABASE_URL: {error}") from None
        self._require_user(url)

    def _require_user(self, url: str) -> None:
        """Raise `UrlError` if neither the URL, the variables nor the system name the role to connect as."""
        parsed = PostgresUrl.parse(url)
        if parsed.user or "service" in parsed.parameters or self._environment.get("PGUSER"):
            return
        try:
            getpass.getuser()
        except (KeyError, OSError):
            raise UrlError(
                f"DATABASE_URL: has no user name, and the user of this process ({os.getuid()}) has none either: "
                "write postgresql://user@host/name"
            ) from None


def _check_variable(variable: str, name: str, value: str) -> None:
    if name == "sslrootcert" and value == "system":
        raise UrlError(f"{variable}: the driver does not support `system` here: set sslrootcert=system in DATABASE_URL")
    if name == "host" and ":" in value:
        raise UrlError(f"{variable}: has a colon: set ports in PGPORT, and IPv6 addresses in DATABASE_URL")
    try:
        PostgresUrl.check_parameter(name, value)
    except UrlError as error:
        raise UrlError(f"{variable}: {error}") from None


def _check_service(service: str, given_file: str | None) -> None:
    """Raise `UrlError` unless the service file defines *service*, with only parameters that asyncpg honours there."""
    path = given_file or os.path.expanduser("~/.pg_service.conf")  # noqa: PTH111  (it may have no home)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(Path(path).read_text("utf-8"))
    except (OSError, ValueError, configparser.Error):
        raise UrlError(f"has parameter service, but no service file can be read at {path}") from None
    if not parser.has_section(service):
        raise UrlError(f"has parameter service, which is not in {path}")
    for name, value in parser[service].items():
        if "%" in value:
            raise UrlError(f"has a service with a % in its {name}, which the driver cannot read: set it in the URL")
        if name in _NOT_IN_SERVICES:
            raise UrlError(f"has a service with {name}, which the driver ignores there: set it in the URL")
        try:
            PostgresUrl.check_parameter(name, value)
        except UrlError as error:
            raise UrlError(f"has a service with {name} that {error}") from None
