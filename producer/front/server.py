"""Runs the front until it is told to stop."""

import uvicorn
from fastapi import FastAPI

_GRACE_S = 5
"""For requests under way when it is told to stop."""


async def serve(app: FastAPI, *, host: str, port: int) -> int:
    """Serve *app* until SIGINT or SIGTERM; returns the exit status: 2 where it could not start."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    await server.serve()
    return 0 if server.started else 2
