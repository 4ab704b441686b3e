"""Starts the embedded servers if the settings name no others."""

from collections.abc import Generator
from contextlib import contextmanager

from tidepool import embedded
from tidepool.embedded import Urls
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
