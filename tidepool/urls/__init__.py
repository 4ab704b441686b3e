"""Parses and checks the URLs of PostgreSQL and Redis, before anything connects.

- `postgresql`  parses PostgreSQL's URL as libpq does
- `redis`       checks Redis's URL as redis-py parses it
- `shown`       removes passwords from URLs for the log, and changes the database in a URL
- `parts`       splits a URL into its parts, for both

Errors are `UrlError`s, whose text names the parameter or the part that is wrong. No text repeats a URL that does not
parse: what looks like a host or a parameter in it may be a piece of a password.
"""

from collections.abc import Callable

from tidepool.urls.parts import UrlError
from tidepool.urls.postgresql import (
    PostgresUrl,
    as_libpq_reads,
    check_parameter,
    drops_channel_binding,
    parse_postgres,
)
from tidepool.urls.redis import check_redis, checks_certificate
from tidepool.urls.shown import UNREADABLE, with_database, without_password

__all__ = [
    "UNREADABLE",
    "PostgresUrl",
    "UrlError",
    "as_libpq_reads",
    "check_parameter",
    "check_redis",
    "checks_certificate",
    "drops_channel_binding",
    "parse_postgres",
    "require",
    "with_database",
    "without_password",
]


def require(variable: str, url: str, check: Callable[[str], object]) -> None:
    """Check *url* with *check*, which raises `UrlError`; raise that as a `ValueError` that begins with *variable*."""
    try:
        check(url)
    except UrlError as error:
        raise ValueError(f"{variable}: {error}") from None
