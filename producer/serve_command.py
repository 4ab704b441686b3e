"""The command `python -m producer serve`, which runs the HTTP front (the service's web application).

With `--demo` it also runs workers and enqueues a steady load of jobs, so that the service can be tried out.
"""

import argparse
import asyncio
import secrets
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice

from producer.workers import run_workers
from producer.workload import Workload
from settings import Settings
from tidepool import JobClient
from tidepool.cli import CommandError, CommandLine, Context, port, print_json

_BACKLOG = 2048
"""Length of the socket's listen backlog: several hundred clients may connect at the same time."""
_DEMO_WORKERS = 2
_JOBS_PER_SECOND = 50
_LOAD_PERIOD_S = 0.1
_AT_ONCE = int(_JOBS_PER_SECOND * _LOAD_PERIOD_S)
_EXAMPLES = """  %(prog)s                         on http://localhost:8000
  %(prog)s --demo                  with two workers and a steady load, to look at
  %(prog)s --port 9000 --json      prints its URL as one JSON document
  FRONT_TOKEN=… %(prog)s --host 0.0.0.0     for other machines, too: callers need the token"""


def add_serve_command(commands: CommandLine) -> None:
    """Add the command `serve` to *commands*."""
    parser = commands.add("serve", _serve, examples=_EXAMPLES)
    parser.add_argument(
        "--host",
        default="localhost",
        metavar="H",
        help="address to listen on; one that other machines can reach requires the setting FRONT_TOKEN, which callers "
        "then have to send (default localhost: 127.0.0.1 and ::1)",
    )
    parser.add_argument("--port", type=port, default=8000, metavar="P", help="TCP port to listen on (default 8000)")
    parser.add_argument(
        "--demo",
        action="store_true",
        help="also run two workers and enqueue 50 jobs per second, to try the service out (default: serve HTTP only)",
    )


async def _serve(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Run the HTTP server until Ctrl-C: a web page for operators, and an API to enqueue jobs and to read data."""
    # FastAPI takes half a second to import, which the other commands need not wait for.
    from producer.http import create_front  # noqa: PLC0415
    from tidepool.web import is_loopback  # noqa: PLC0415
    from tidepool.web import serve as run_server  # noqa: PLC0415

    if context.settings.front_token is None and not is_loopback(arguments.host):
        raise CommandError(f"--host {arguments.host} is not a loopback address: set FRONT_TOKEN")
    async with AsyncExitStack() as beside:
        listening = [beside.enter_context(one) for one in await _listen(arguments)]
        await context.require_servers("front")
        if arguments.demo:
            await beside.enter_async_context(_working_service(context))
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


@asynccontextmanager
async def _working_service(context: Context[Settings]) -> AsyncGenerator[None]:
    """Run two workers and enqueue 50 jobs a second while the block runs.

    If the workers or the load fail, the block is cancelled and their error is raised.
    """
    async with context.client() as client, asyncio.TaskGroup() as tasks:
        workers = run_workers(_DEMO_WORKERS, client, context.settings)
        background = [tasks.create_task(workers), tasks.create_task(_load(client))]
        yield
        for task in background:
            task.cancel()


async def _load(client: JobClient) -> None:
    """Enqueue generated jobs at a steady 50 a second until cancelled. Some of them are made to be rejected."""
    jobs = Workload(secrets.randbelow(2**31))
    due_s = time.monotonic()
    while True:
        await client.enqueue_many(list(islice(jobs, _AT_ONCE)))
        due_s = max(due_s + _LOAD_PERIOD_S, time.monotonic() - _LOAD_PERIOD_S)  # what was missed is not made up for
        await asyncio.sleep(due_s - time.monotonic())
