"""Selects the PostgreSQL and Redis that this process uses: those of the settings, or the embedded ones."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from tidepool import embedded
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import Refused, ServerError, Unavailable
from tidepool.protocols import POSTGRESQL, other_than
from tidepool.repeating import RetryPolicy
from tidepool.settings import Settings
from tidepool.urls import PostgresUrl, without_password

T = TypeVar("T")


def addresses(settings: Settings) -> Urls:
    """Return the URLs of both servers; those of embedded servers are valid once they run. Starts nothing."""
    database, redis = settings.database, settings.redis_url
    if database is None or redis is None:
        return Urls.embedded(settings.data_dir)
    return Urls(database=database.get_secret_value(), redis=redis.get_secret_value())


@contextmanager
def running(settings: Settings) -> Generator[Urls]:
    """Yield the servers' URLs; embedded servers, if they are used, run at least until the end of the block.

    Blocks for about a second if it has to start them. Raises `tidepool.embedded.EmbeddedServersError`.
    """
    if not settings.embedded:
        yield addresses(settings)
        return
    with embedded.join(settings.data_dir) as membership:
        yield membership.urls


async def wait_for_postgresql(attempt: Callable[[], Awaitable[T]], url: str, patience_s: float | None) -> T:
    """Call *attempt*, an operation on PostgreSQL, and return its result; retry it while the server is unavailable.

    Raises the last `Unavailable` after *patience_s* seconds; None waits for ever. Raises `Refused` at once, also if
    another kind of server answers at *url*.
    """

    async def tried() -> T:
        try:
            return await attempt()
        except Unavailable as error:
            if not isinstance(error.__cause__, ServerError):
                await _require_postgresql_at(url)
            raise

    return await RetryPolicy.for_start(patience_s).reach(
        "postgresql", without_password(url), tried, lambda error: isinstance(error, Unavailable)
    )


async def _require_postgresql_at(url: str) -> None:
    """Raise `Refused` if *url* has a single host and the server there speaks another protocol than PostgreSQL's."""
    parsed = PostgresUrl.parse(url)
    if len(parsed.hosts) != 1:
        return
    host, port = parsed.hosts[0], (parsed.ports or (5432,))[0]
    address = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
    if said := await other_than(POSTGRESQL, address):
        raise Refused(said)


def pool_config(settings: Settings, url: str, application_name: str) -> PoolConfig:
    """Return the configuration of the connection pool: PostgreSQL at *url*, sizes and time limits of *settings*."""
    return PoolConfig(
        url=url,
        application_name=application_name,
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        max_queries=settings.pool_max_queries,
        max_inactive_time_s=settings.pool_max_inactive_time,
        acquire_timeout_s=settings.acquire_timeout,
        command_timeout_s=settings.command_timeout,
        connect_timeout_s=settings.connect_timeout,
        transaction_timeout_s=settings.job_timeout + settings.command_timeout,
    )
