"""Opens connections to Redis with time limits, and waits for the server at the start.

redis-py 5 has no timeouts and no keepalive by default: a silent peer would block a worker for ever. No command is
retried here, because a pipeline that was cut may have been applied; callers whose commands are safe to repeat retry.
"""

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import Any, Self, TypeGuard
from urllib.parse import quote

import hiredis
import structlog
from arq.connections import ArqRedis, RedisSettings
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection, parse_url
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tidepool.pool.faults import is_permanent, words
from tidepool.protocols import REDIS, TLS, other_than
from tidepool.queue import wire
from tidepool.queue.faults import RedisFault, RedisRefused
from tidepool.repeating import RetryPolicy
from tidepool.urls import RedisUrl, without_password

log = structlog.get_logger(__name__)

SOCKET_TIMEOUT_S = 5.0
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
}
"""TCP keepalive, in seconds: a dead connection that only listens is noticed within two minutes, not after hours."""
_DROPS_NOTHING = "noeviction"


class RedisClient(ArqRedis):
    """Tidepool's client of Redis: arq's client, with JSON in place of pickle, time limits, and a check of the server.

    Other folders, which import neither redis nor arq, use this class.
    """

    @classmethod
    def open(cls, url: str, *, queue_name: str, connect_timeout_s: float = 5.0) -> Self:
        """Return a client of the Redis at *url*. The client connects when it is first used."""
        pool: Any = ConnectionPool.from_url(url, **_options(url, connect_timeout_s))
        pool.connection_class = type("Connection", (_OurWay, pool.connection_class), {})
        return cls(
            pool, job_serializer=wire.serialize, job_deserializer=wire.deserialize, default_queue_name=queue_name
        )

    async def wait_until_usable(self, url: str, *, patience_s: float | None = None) -> None:
        """Wait until Redis, which is at *url*, answers, and check that a worker can use it.

        Logs one line if it does not answer at once, and a warning if it may drop jobs when it is full. Raises the last
        error, one of `faults.REDIS_ERRORS`, when *patience_s* seconds are over; None waits for ever. Raises
        `RedisRefused` at once if waiting cannot help.
        """

        async def attempt() -> str:
            try:
                return await self._look()
            except Exception as error:
                fault = RedisFault.of(error)
                if isinstance(error, RedisError) and not fault.is_passing:
                    raise RedisRefused(words(error)) from error
                if fault is RedisFault.UNREACHABLE:
                    await _require_redis_at(url)
                raise

        address = without_password(url)
        policy = RetryPolicy.for_start(patience_s)
        warning = await policy.reach("redis", address, attempt, lambda error: RedisFault.of(error).is_passing)
        if warning:
            log.warning("redis.may_drop_jobs", address=without_password(url), reason=warning)

    async def ask(self) -> str:
        """Check that Redis answers; return a warning about its configuration, or an empty text if there is none.

        Raises `RedisError`.
        """
        try:
            return _eviction(await self.info("memory"))
        except NoPermissionError:
            await self.ping()
            return ""

    async def _look(self) -> str:
        """Return a warning about Redis's configuration, or an empty text.

        Raises `RedisRefused` for servers that are not supported: a Sentinel, a node of a Redis Cluster, a read-only
        replica.
        """
        await self.ping()
        try:
            info: dict[str, object] = await self.info()
        except NoPermissionError:  # a user who may only enqueue
            return ""
        if info.get("redis_mode") == "sentinel":
            raise RedisRefused("it is a Sentinel, not a Redis: name the primary, or a proxy that follows it")
        if info.get("cluster_enabled") == 1:
            raise RedisRefused("it is a node of a Redis Cluster, which is not supported: name a single Redis")
        if info.get("role") == "slave" and info.get("slave_read_only", 1) == 1:
            raise RedisRefused("READONLY: it is a read-only replica: name the primary, or a proxy that follows it")
        return _eviction(info)

    @staticmethod
    def settings_for(url: str) -> RedisSettings:
        """Return the settings with which arq's own tools, such as `arq --check`, connect to the Redis at *url*."""
        options = parse_url(url)  # arq's own reading leaves out what is quoted, and the certificates
        secured: dict[str, Any] = {"ssl_check_hostname": RedisUrl.parse(url).checks_certificate}
        secured |= {name: value for name, value in options.items() if name.startswith("ssl_") and name != "ssl_ciphers"}
        return _QuietRedisSettings(
            host=options.get("host", "localhost"),
            port=options.get("port", 6379),
            unix_socket_path=options.get("path"),
            database=options.get("db", 0),
            username=options.get("username"),
            password=options.get("password"),
            ssl=url.startswith("rediss:"),
            **secured,
        )

    @staticmethod
    def url_of(settings: RedisSettings | None) -> str | None:
        """Return the URL of the Redis that arq's *settings* name; None if a Sentinel has to be asked for the address.

        Without *settings* it is the Redis that arq uses by default.
        """
        settings = settings or RedisSettings()
        if settings.sentinel or not isinstance(settings.host, str):
            return None
        user, password = quote(settings.username or "", safe=""), quote(settings.password or "", safe="")
        login = f"{user}:{password}@" if user or password else ""
        if settings.unix_socket_path:
            return f"unix://{login}{quote(settings.unix_socket_path)}?db={settings.database}"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{'rediss' if settings.ssl else 'redis'}://{login}{host}:{settings.port}/{settings.database}"


async def _require_redis_at(url: str) -> None:
    """Raise `RedisRefused` if another kind of server answers at *url*, or if only one of the two ends uses TLS."""
    options = parse_url(url)
    address = options.get("path") or (options.get("host", "localhost"), options.get("port", 6379))
    if said := await other_than(TLS if url.startswith("rediss:") else REDIS, address):
        raise RedisRefused(said)


def _eviction(info: dict[str, object]) -> str:
    policy = info.get("maxmemory_policy", _DROPS_NOTHING)
    return "" if policy == _DROPS_NOTHING else f"maxmemory-policy is {policy}: a full Redis drops jobs; set noeviction"


def _options(url: str, connect_timeout_s: float) -> dict[str, object]:
    options: dict[str, object] = {"socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": connect_timeout_s}
    options |= {"lib_name": None, "lib_version": None}  # not announced: Redis before 7.2 cannot even grant that command
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
        options["socket_keepalive_options"] = _KEEPALIVE
    if url.startswith("rediss:"):
        options["ssl_check_hostname"] = RedisUrl.parse(url).checks_certificate
    return options


class _OurWay(AbstractConnection):
    """A connection of redis-py with three changes.

    - A server whose certificate is not trusted counts as a refusal, like a wrong password, and not as an outage.
    - Writes do not use `asyncio.wait_for`, which on Python 3.11 loses about half of the cancellations that arrive
      during it, and makes a task for each command.
    - Commands are encoded by hiredis: 1 us for each finished job, where redis-py's Python code takes 5 us.
    """

    async def connect(self) -> None:
        """Connect. Raises redis-py's errors and `RedisRefused`.

        After `RedisRefused` and `AuthenticationError` a retry does not help.
        """
        try:
            await super().connect()
        except RedisConnectionError as error:
            reason = error.__context__
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise AuthenticationError(f"its certificate is not trusted: {reason.verify_message}") from error
            if RedisFault.of(reason).is_refusal:  # hidden in an error that says the server is away
                raise AuthenticationError(str(reason)) from error
            if _is_ours_to_mend(reason):
                raise RedisRefused(words(reason)) from error
            raise

    def pack_command(self, *args: Any) -> list[bytes]:
        """Encode a command. The first argument may be several words, such as `CLIENT ID`, as in redis-py."""
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]

    async def send_packed_command(
        self,
        command: bytes | str | Iterable[bytes],
        check_health: bool = True,  # noqa: FBT001, FBT002  (redis-py's)
    ) -> None:
        """Send an encoded command; connect first if necessary.

        Raises redis-py's errors, and closes the connection if the write fails.
        """
        if not self.is_connected:
            await self.connect()
        elif check_health:
            await self.check_health()
        try:
            async with asyncio.timeout(self.socket_timeout):
                assert self._writer is not None
                assert not isinstance(command, str)
                self._writer.writelines([command] if isinstance(command, bytes) else command)
                await self._writer.drain()
        except BaseException as error:
            await self.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError("Timeout writing to socket") from None
            if isinstance(error, OSError):
                raise RedisConnectionError(f"{type(error).__name__} while writing to socket: {error}") from error
            raise


def _is_ours_to_mend(reason: BaseException | None) -> TypeGuard[BaseException]:
    """Return whether redis-py could not connect because of local settings or files, or incompatible TLS versions."""
    if is_permanent(reason):
        return True
    return reason is not None and not isinstance(reason, (OSError, TimeoutError, EOFError, RedisError))


class _QuietRedisSettings(RedisSettings):
    """arq's Redis settings with a `repr` that does not contain the password."""

    def __repr__(self) -> str:
        return f"RedisSettings(host={self.host!r}, port={self.port}, database={self.database})"
