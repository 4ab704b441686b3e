"""Runs the front until it is told to stop."""

import socket

import uvicorn
from fastapi import FastAPI

_GRACE_S = 5
"""For requests under way when it is told to stop."""


class Server(uvicorn.Server):
    """uvicorn's server, whose end is an ordinary one.

    It first lets those go who would wait on: event streams, and callers with `Prefer: wait`. uvicorn raises the signal
    again after that, which ends the command.
    """

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._state = app.state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and give the requests under way their grace."""
        if (feed := getattr(self._state, "feed", None)) is not None:
            feed.close()
        self._state.services.accepting.waits.close()
        await super().shutdown(sockets)


async def serve(app: FastAPI, listening: socket.socket) -> int:
    """Serve *app* on that socket until a signal, which is raised again at the end; returns 2 if it could not start."""
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
    await server.serve([listening])
    return 0 if server.started else 2
