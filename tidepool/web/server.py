"""Runs the web application until the process gets a signal or the task is cancelled."""

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tidepool import process
from tidepool.bounded_http.limits import Limits
from tidepool.bounded_http.server import BoundedServer
from tidepool.web.guard import MAX_BODY_BYTES

_GRACE_S = 5
"""Seconds for requests that are under way at a signal."""
_CONNECTIONS = 16_384
"""Max connections: twice the callers that were seen to wait at a time, and some 200 MB if all of them are open."""


class WebServer(BoundedServer):
    """The HTTP server of the web application. At a signal it stops, without waiting for requests that might wait long.

    Event streams and requests with `Prefer: wait` are ended at once; other requests have five seconds. The server then
    closes the application, and uvicorn raises the signal again, which ends the command.
    """

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config, Limits(_CONNECTIONS, body_bytes=MAX_BODY_BYTES))
        self._state = app.state

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Install uvicorn's signal handlers, except for SIGINT if the parent process has set it to be ignored."""
        ignored = process.stays_ignored(signal.SIGINT)
        with super().capture_signals():
            if ignored:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, end event streams and waits for outcomes, and give other requests five seconds to end."""
        if (feed := getattr(self._state, "feed", None)) is not None:
            feed.close()
        self._state.services.accepting.waits.close()
        await super().shutdown(sockets)

    @classmethod
    async def run_app(cls, app: FastAPI, listening: list[socket.socket]) -> int:
        """Serve *app* on the sockets *listening* until a signal, which is raised again at the end.

        Returns the exit status: 0, or 2 if the application could not start.

        If the task is cancelled, it stops as at a signal: requests in progress have five seconds, and the application
        is closed.
        """
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # `callers` reads them, from trusted proxies only
            timeout_graceful_shutdown=_GRACE_S,
        )
        server = cls(app, config)
        try:
            await server.serve(listening)
        except asyncio.CancelledError:
            if server.started:
                await server.shutdown(listening)
            raise
        return 0 if server.started else 2
