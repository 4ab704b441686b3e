"""Removes passwords from URLs, so that they can be logged."""

import re

from tidepool.urls.parts import SHAPE, UrlError
from tidepool.urls.postgresql import POSTGRES_SCHEMES, PostgresUrl
from tidepool.urls.redis import REDIS_SCHEMES, RedisUrl

UNREADABLE = "(a URL that does not parse)"
"""The text that `without_password` returns for a URL that does not parse with certainty."""
_SHOWN_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]*(?:%25[A-Za-z0-9_.-]+)?\]|[^\s:\[\]]*)(?::\d*)?")


def without_password(url: str) -> str:
    """Return *url* in a form that may be logged: without the password, and of the query only `host` and `db`.

    If it is not certain where a part ends, returns `UNREADABLE`, so that no piece of a password is shown.
    """
    match = SHAPE.fullmatch(url)
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
        (RedisUrl if url.startswith(tuple(f"{one}:" for one in REDIS_SCHEMES)) else PostgresUrl).parse(url)
    except UrlError:
        return False
    return True
