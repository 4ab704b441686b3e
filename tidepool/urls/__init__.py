"""The URLs of PostgreSQL and Redis: parsed and checked before anything connects.

- `postgresql`  read as libpq reads it
- `redis`       read as redis-py does
- `shown`       what of a URL may be logged, and URLs with another database
- `parts`       what both have in common

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
    """Raise `ValueError`, whose text begins with *variable*, unless *check* takes *url*."""
    try:
        check(url)
    except UrlError as error:
        raise ValueError(f"{variable}: {error}") from None
