"""Which PostgreSQL and Redis this process uses: those of the settings, or the embedded ones."""

from collections.abc import Generator
from contextlib import contextmanager

from settings import Settings
from worker import embedded
from worker.embedded import Urls


def addresses(settings: Settings) -> Urls:
    """Return the URLs in use, or those that the embedded servers have once they run; starts nothing."""
    database, redis = settings.database, settings.redis_url
    if database is None or redis is None:
        return embedded.urls(settings.data_dir)
    return Urls(database=database.get_secret_value(), redis=redis.get_secret_value())


@contextmanager
def running(settings: Settings) -> Generator[Urls]:
    """Have the servers for the length of the block; embedded ones are started or joined, and left at its end.

    Raises `worker.embedded.EmbeddedServersError`. Blocks for about a second where it has to start them.
    """
    if not settings.embedded:
        yield addresses(settings)
        return
    with embedded.join(settings.data_dir) as membership:
        yield membership.urls
