"""Starts the embedded servers if the settings name no others, and makes the configuration of the pool from settings."""

from collections.abc import Generator
from contextlib import contextmanager

from tidepool import embedded
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.settings import Settings


@contextmanager
def running(settings: Settings) -> Generator[Urls]:
    """Run the embedded servers for a `with` block if the settings name no servers; yield the URLs of those to use.

    Blocks for about a second if it has to start them. Raises `tidepool.embedded.EmbeddedServersError`.
    """
    if not settings.embedded:
        yield settings.urls
        return
    with embedded.join(settings.data_dir) as membership:
        yield membership.urls


def pool_config(settings: Settings, url: str, application_name: str) -> PoolConfig:
    """Return the configuration of a connection pool: PostgreSQL at *url*, the sizes and time limits of *settings*.

    *application_name* names the pool's connections in PostgreSQL.
    """
    return PoolConfig(
        url=url,
        application_name=application_name,
        schema=settings.db_schema,
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        max_queries=settings.pool_max_queries,
        max_inactive_time_s=settings.pool_max_inactive_time,
        acquire_timeout_s=settings.acquire_timeout,
        command_timeout_s=settings.command_timeout,
        connect_timeout_s=settings.connect_timeout,
        transaction_timeout_s=settings.job_timeout + settings.command_timeout,
    )
