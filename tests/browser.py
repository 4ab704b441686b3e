"""A real browser and a front for it, for the tests of the operators' page.

The browser is Debian's: `apt-get install chromium`. The front runs in a thread with a loop of its own, as Playwright's
plain calls and the tests that use them run in none.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, sync_playwright

from tidepool.web.feed import Feed
from tidepool.web.fleet import FleetFigures
from tidepool.web.services import Services

CHROMIUM = Path("/usr/bin/chromium")
WHY_NONE = f"needs {CHROMIUM}: apt-get install chromium"
_START_S = 20.0

T = TypeVar("T")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Run the browser for the length of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


class Front:
    """An application that is served on a free port of the loopback address."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._is_up = threading.Event()
        config = uvicorn.Config(app, port=0, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="front")

    def __enter__(self) -> Self:
        """Wait until it serves."""
        self._thread.start()
        assert self._is_up.wait(_START_S), "the front did not start"
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._loop.call_soon_threadsafe(self.app.state.feed.close)
        self._server.should_exit = True
        self._thread.join(_START_S)
        assert not self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something in the front's loop, as its services belong to it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_START_S)

    def forget(self) -> None:
        """End all streams and begin with new pictures."""

        async def renew() -> None:
            self.app.state.feed.close()
            services: Services = self.app.state.services
            fleet = FleetFigures(services.pool)
            self.app.state.services = services = replace(services, fleet=fleet)
            self.app.state.feed = Feed(services)

        self.run(renew())

    def _serve(self) -> None:
        async def serve() -> None:
            serving = asyncio.create_task(self._server.serve())
            while not self._server.started and not serving.done():
                await asyncio.sleep(0.01)
            self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
            self._is_up.set()
            await serving

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve())
