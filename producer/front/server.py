"""Runs the front until it is told to stop."""

import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

_GRACE_S = 5
"""For requests under way when it is told to stop."""


class Server(uvicorn.Server):
    """uvicorn's server, whose end is an ordinary one.

    It first lets those go who would wait on: event streams, and callers with `Prefer: wait`. A signal ends
    the server, not the process, which has its own things to close.
    """

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._state = app.state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  (uvicorn's)
        """Stop; at a second Ctrl-C without waiting for anybody."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and give the requests under way their grace."""
        if (feed := getattr(self._state, "feed", None)) is not None:
            feed.close()
        self._state.services.accepting.waits.close()
        await super().shutdown(sockets)


async def serve(app: FastAPI, listening: list[socket.socket]) -> int:
    """Serve *app* on those sockets until SIGINT or SIGTERM; returns the exit status: 2 where it could not start."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = Server(app, config)
    await server.serve(listening)
    return 0 if server.started else 2
