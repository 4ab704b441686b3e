"""The command `python -m producer serve`, which runs the HTTP front (the service's web application)."""

import argparse
import socket
import sys
from contextlib import AsyncExitStack

from producer.demo import working_service
from settings import Settings
from tidepool.cli import CommandError, CommandLine, Context, port, print_json

_BACKLOG = 2048
"""Length of the socket's listen backlog: several hundred clients may connect at the same time."""
_EXAMPLES = """  %(prog)s                         on http://localhost:8000
  %(prog)s --demo                  with two workers and a steady load, to look at
  %(prog)s --port 9000 --json      prints its URL as one JSON document
  FRONT_TOKEN=… %(prog)s --host 0.0.0.0     for other machines, too: callers need the token"""


def add_serve_command(commands: CommandLine) -> None:
    """Add the command `serve` to *commands*."""
    parser = commands.add("serve", _serve, examples=_EXAMPLES)
    parser.add_argument(
        "--host", default="localhost", metavar="H", help="address to listen on (default localhost: 127.0.0.1 and ::1)"
    )
    parser.add_argument("--port", type=port, default=8000, metavar="P", help="TCP port to listen on (default 8000)")
    parser.add_argument(
        "--demo", action="store_true", help="two workers and a load of 50 jobs per second as well, until Ctrl-C"
    )


async def _serve(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Serve HTTP until Ctrl-C: the operators' page, routes that enqueue jobs, and routes that read what is stored."""
    # FastAPI takes half a second to import, which the other commands need not wait for.
    from producer.http import create_front  # noqa: PLC0415
    from tidepool.web import is_loopback  # noqa: PLC0415
    from tidepool.web import serve as run_server  # noqa: PLC0415

    if context.settings.front_token is None and not is_loopback(arguments.host):
        raise CommandError(f"--host {arguments.host} can be reached from elsewhere: set FRONT_TOKEN")
    async with AsyncExitStack() as beside:
        listening = [beside.enter_context(one) for one in await _listen(arguments)]
        await context.require_servers("front")
        if arguments.demo:
            await beside.enter_async_context(working_service(context))
        _print_address(arguments)
        return await run_server(create_front(context.settings, context.urls), listening)


async def _listen(arguments: argparse.Namespace) -> list[socket.socket]:
    from tidepool.web import CannotListen, listen_at  # noqa: PLC0415

    try:
        return await listen_at(arguments.host, arguments.port, _BACKLOG)
    except CannotListen as error:
        raise CommandError(str(error)) from None


def _print_address(arguments: argparse.Namespace) -> None:
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    url = f"http://{host}:{arguments.port}/"
    if arguments.json:
        print_json({"url": url})
        sys.stdout.flush()
    else:
        more = " with two workers and a steady load; Ctrl-C stops all of it" if arguments.demo else ""
        print(f"serving on {url}{more}", flush=True)
