"""`python -m producer serve`: the HTTP front."""

import argparse
import socket
import sys
from contextlib import AsyncExitStack

from producer.demo import working_service
from settings import Settings
from tidepool.bounded_http.listening import CannotListen, is_loopback, listen_at
from tidepool.cli import terminal
from tidepool.embedded import Urls
from worker import app

_BACKLOG = 2048
"""Connections that may wait to be taken: several hundred callers may come at a time."""
EXAMPLES = """  python -m producer serve                         on http://localhost:8000
  python -m producer serve --demo                  with two workers and a steady load, to look at
  python -m producer serve --port 9000 --json      says where it serves as one JSON document
  FRONT_TOKEN=… python -m producer serve --host 0.0.0.0     from elsewhere, too: who has the token"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument(
        "--host", default="localhost", metavar="H", help="address to bind to (default localhost: 127.0.0.1 and ::1)"
    )
    parser.add_argument("--port", type=terminal.port, default=8000, metavar="P", help="port (default 8000)")
    parser.add_argument(
        "--demo", action="store_true", help="run two workers and 50 jobs a second beside it; Ctrl-C stops all of it"
    )


async def serve(arguments: argparse.Namespace, settings: Settings, urls: Urls) -> int:
    """Serve the HTTP front until Ctrl-C, with a demo's workers and load where that is asked for.

    Raises `CommandError` where others could reach it and it has no token, and where the address cannot be bound.
    """
    # FastAPI takes half a second to import, which the other commands need not wait for.
    from producer.http import create_front  # noqa: PLC0415
    from tidepool.web.server import serve as run_server  # noqa: PLC0415

    if settings.front_token is None and not is_loopback(arguments.host):
        raise terminal.CommandError(f"--host {arguments.host} can be reached from elsewhere: set FRONT_TOKEN")
    async with AsyncExitStack() as beside:
        listening = [beside.enter_context(one) for one in await _listen(arguments)]
        pool = await terminal.open_pool(settings, urls, "front", app.migrations)  # waits for PostgreSQL, and migrates
        await pool.close()
        await terminal.require_redis(settings, urls)
        if arguments.demo:
            await beside.enter_async_context(working_service(settings, urls))
        _tell_address(arguments)
        return await run_server(create_front(settings, urls), listening)


async def _listen(arguments: argparse.Namespace) -> list[socket.socket]:
    try:
        return await listen_at(arguments.host, arguments.port, _BACKLOG)
    except CannotListen as error:
        raise terminal.CommandError(str(error)) from None


def _tell_address(arguments: argparse.Namespace) -> None:
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    url = f"http://{host}:{arguments.port}/"
    if arguments.json:
        terminal.print_json({"url": url})
        sys.stdout.flush()
    else:
        stop = " with two workers and a steady load; Ctrl-C stops all of it" if arguments.demo else ""
        print(f"serving on {url}{stop}", flush=True)
