"""Finds the address of a server in its URL, and makes the URL of the same server behind a local proxy."""

from urllib.parse import parse_qs, urlsplit

from tidepool.cli.terminal import CommandError

_PLAIN = ("disable", "allow", "prefer")
_POSTGRES_PORT, _REDIS_PORT = 5432, 6379


def target(url: str) -> str:
    """Return the address at which the server of *url* listens: the path of a socket, or `host:port`.

    Raises `CommandError` if the server is reached by TLS, which the drill's proxies cannot read, or if the URL names
    several hosts.
    """
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.scheme == "rediss" or options.get("sslmode", "disable") not in _PLAIN:
        raise CommandError("the drill has to see what passes: name the servers without TLS")
    if parts.scheme == "unix":
        return parts.path
    if "," in options.get("host", parts.netloc):
        raise CommandError("the drill breaks one server: name one host")
    is_redis = parts.scheme == "redis"
    host = options.get("host", parts.hostname or "localhost")
    port = options.get("port", parts.port or (_REDIS_PORT if is_redis else _POSTGRES_PORT))
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"


def through(url: str, port: int) -> str:
    """Return *url* with this machine's *port*, where a proxy listens, in place of the server's address."""
    parts = urlsplit(url)
    who = f"{user}@" if (user := parts.netloc.rpartition("@")[0]) else ""
    if parts.scheme == "unix":
        database = parse_qs(parts.query).get("db", ["0"])[-1]
        return f"redis://{who}127.0.0.1:{port}/{database}"
    query = "" if parts.scheme == "redis" else "?sslmode=disable"
    return f"{parts.scheme}://{who}127.0.0.1:{port}{parts.path}{query}"
