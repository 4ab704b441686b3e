"""The command `serve`: it runs the HTTP front of an application, with the operators' page and the API."""

import argparse
import socket
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

from tidepool.bounded_http.listening import CannotListen, is_loopback, listen_at
from tidepool.cli import terminal
from tidepool.cli.commands import Subcommand
from tidepool.cli.context import Context
from tidepool.embedded import Urls
from tidepool.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

S = TypeVar("S", bound=Settings)

_BACKLOG = 2048
"""Length of the socket's listen backlog: several hundred clients may connect at the same time."""
_EXAMPLES = """  %(prog)s                         on http://localhost:8000
  %(prog)s --port 9000 --json      prints its URL as one JSON document
  FRONT_TOKEN=… %(prog)s --host 0.0.0.0     for other machines, too: callers need the token"""


def add_serve_options(parser: argparse.ArgumentParser) -> None:
    """Add the options `--host` and `--port`, which `serve_front` reads, to the parser of a command."""
    parser.add_argument(
        "--host",
        default="localhost",
        metavar="H",
        help="address to listen on; one that other machines can reach requires the setting FRONT_TOKEN, which callers "
        "then have to send (default localhost: 127.0.0.1 and ::1)",
    )
    parser.add_argument(
        "--port", type=terminal.port, default=8000, metavar="P", help="TCP port to listen on (default 8000)"
    )


async def _serve(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Run the HTTP server until Ctrl-C: a web page for operators, and an API of jobs, pools and health.

    It runs no jobs, and needs a database: what it shows comes from the ledger, the snapshots and Redis. The settings of
    adopted arq settings begin with TIDEPOOL_, such as TIDEPOOL_FRONT_TOKEN.
    """
    try:
        from tidepool.web import create_app  # noqa: PLC0415  (FastAPI takes half a second to import)
    except ModuleNotFoundError as error:
        raise terminal.CommandError(f"{error.name} is missing: pip install 'arq-tidepool[web]'") from None

    def create(settings: Settings, urls: Urls) -> "FastAPI":
        return create_app(context.app, settings, urls, program=arguments.program)

    return await serve_front(arguments, context, create)


async def serve_front(
    arguments: argparse.Namespace,
    context: Context[S],
    create: Callable[[S, Urls], "FastAPI"],
    *,
    beside: AbstractAsyncContextManager[None] | None = None,
    about: str = "",
) -> int:
    """Serve the web application that *create* returns until a signal, and return the exit status of the command.

    *arguments* has the options of `add_serve_options`. *beside* is entered before the server starts, and left when it
    has ended. *about* is added to the printed line with the URL.

    Raises `CommandError` if the address cannot be listened on, or if other machines can reach it and there is no
    token.
    """
    from tidepool.web import WebServer  # noqa: PLC0415  (FastAPI takes half a second to import)

    if context.settings.front_token is None and not is_loopback(arguments.host):
        variable = context.settings.variable("front_token")
        raise terminal.CommandError(f"--host {arguments.host} is not a loopback address: set {variable}")
    async with AsyncExitStack() as stack:
        listening = [stack.enter_context(one) for one in await _listen(arguments)]
        await context.require_servers("front")
        if beside is not None:
            await stack.enter_async_context(beside)
        _print_address(arguments, about)
        return await WebServer.run_app(create(context.settings, context.urls), listening)


async def _listen(arguments: argparse.Namespace) -> list[socket.socket]:
    try:
        return await listen_at(arguments.host, arguments.port, _BACKLOG)
    except CannotListen as error:
        raise terminal.CommandError(str(error)) from None


def _print_address(arguments: argparse.Namespace, about: str) -> None:
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    url = f"http://{host}:{arguments.port}/"
    if arguments.json:
        terminal.print_json({"url": url})
        sys.stdout.flush()
    else:
        print(f"serving on {url}{about}", flush=True)


COMMAND = Subcommand("serve", _serve, _EXAMPLES, add_serve_options)
