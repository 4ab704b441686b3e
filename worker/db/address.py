"""What asyncpg is given for a URL: the driver's side of `urls.parse_postgres`."""

import ssl
from typing import Any
from urllib.parse import urlencode

from urls import PostgresUrl, parse_postgres

_TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslpassword")


def arguments(url: str) -> dict[str, Any]:
    """Return what `asyncpg.connect` and `asyncpg.create_pool` connect to *url* with. Raises `urls.UrlError`."""
    parsed = parse_postgres(url)
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


def _system_context(parsed: PostgresUrl) -> ssl.SSLContext:
    """Return what `sslrootcert=system` means in libpq: the system's CAs, the certificate and its name checked."""
    context = ssl.create_default_context()
    if "sslcert" in parsed.parameters:
        files = (parsed.parameters["sslcert"], parsed.parameters.get("sslkey"))
        context.load_cert_chain(*files, password=parsed.parameters.get("sslpassword", ""))
    return context
