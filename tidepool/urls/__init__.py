"""Parses and checks the URLs of PostgreSQL and Redis, before anything connects.

- `postgresql`  parses PostgreSQL's URL as libpq does
- `redis`       checks Redis's URL as redis-py parses it
- `shown`       removes passwords from URLs for the log
- `parts`       splits a URL into its parts and checks them, for both

Errors are `UrlError`s, whose text names the parameter or the part that is wrong. No text repeats a URL that does not
parse: what looks like a host or a parameter in it may be a piece of a password.
"""

from tidepool.urls.parts import UrlError
from tidepool.urls.postgresql import PostgresUrl
from tidepool.urls.redis import RedisUrl
from tidepool.urls.shown import UNREADABLE, without_password

__all__ = ["UNREADABLE", "PostgresUrl", "RedisUrl", "UrlError", "without_password"]
