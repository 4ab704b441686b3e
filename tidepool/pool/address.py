"""Converts a PostgreSQL URL to asyncpg's arguments, or to a service file of libpq."""

import ssl
from typing import Any
from urllib.parse import urlencode

from tidepool.urls import PostgresUrl, UrlError

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslpassword")


def arguments(url: str) -> dict[str, Any]:
    """Return the keyword arguments with which `asyncpg.connect` connects to *url*. Raises `urls.UrlError`."""
    parsed = PostgresUrl.parse(url)
    parameters, given = dict(parsed.parameters), dict[str, Any]()
    if parsed.trusts_the_systems_cas:
        given["ssl"] = _system_context(parsed)
        parameters = {name: value for name, value in parameters.items() if name not in _TLS_FILES}
    if parsed.connect_timeout_s is not None:
        given["timeout"] = parsed.connect_timeout_s
    if parsed.statement_cache_size is not None:
        given["statement_cache_size"] = parsed.statement_cache_size
    return given | {
        "dsn": f"postgresql://?{urlencode(parameters)}",
        "host": list(parsed.hosts) or None,
        "port": list(parsed.ports) or None,
        "user": parsed.user,
        "password": parsed.password,
        "database": parsed.database,
    }


def service_file(url: str) -> str:
    """Return the text of a libpq service file that defines *url* as the service `tidepool`.

    Raises `urls.UrlError` if *url* is wrong, or has a value that a line of that file cannot hold.
    """
    parsed = PostgresUrl.parse(url)
    values = {
        "host": ",".join(parsed.hosts),
        "port": ",".join(map(str, parsed.ports)),
        "user": parsed.user or "",
        "password": parsed.password or "",
        "dbname": parsed.database or "",
        **parsed.parameters,
    }
    for name, value in values.items():
        if not value.isprintable() or value != value.strip():
            raise UrlError(f"has a {name} that a service file cannot hold: a control character, or a blank at an end")
    return "\n".join(["[tidepool]", *(f"{name}={value}" for name, value in values.items() if value)])


def _system_context(parsed: PostgresUrl) -> ssl.SSLContext:
    """Return the TLS context that does what `sslrootcert=system` does in libpq.

    It trusts the system's CAs, and checks the server's certificate and host name. It presents the client certificate
    `sslcert` if the URL has one.
    """
    context = ssl.create_default_context()
    if "sslcert" in parsed.parameters:
        files = (parsed.parameters["sslcert"], parsed.parameters.get("sslkey"))
        context.load_cert_chain(*files, password=parsed.parameters.get("sslpassword", ""))
    return context
