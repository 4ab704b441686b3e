"""The command `python -m producer serve`, which runs the HTTP front (the service's web application).

With `--demo` it also runs workers and enqueues a steady load of jobs, so that the service can be tried out.
"""

import argparse
import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import islice

from producer.workers import run_workers
from producer.workload import Workload
from settings import Settings
from tidepool import JobClient
from tidepool.cli import Context, Subcommand, add_serve_options, serve_front

_DEMO_WORKERS = 2
_JOBS_PER_SECOND = 50
_LOAD_PERIOD_S = 0.1
_AT_ONCE = int(_JOBS_PER_SECOND * _LOAD_PERIOD_S)
_ABOUT_DEMO = " with two workers and a steady load; Ctrl-C stops all of it"
_EXAMPLES = """  %(prog)s                         on http://localhost:8000
  %(prog)s --demo                  with two workers and a steady load, to look at
  %(prog)s --port 9000 --json      prints its URL as one JSON document
  FRONT_TOKEN=… %(prog)s --host 0.0.0.0     for other machines, too: callers need the token"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_serve_options(parser)
    parser.add_argument(
        "--demo",
        action="store_true",
        help="also run two workers and enqueue 50 jobs per second, to try the service out (default: serve HTTP only)",
    )


async def _serve(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Run the HTTP server until Ctrl-C: a web page for operators, and an API to enqueue jobs and to read data."""
    from producer.http import create_front  # noqa: PLC0415  (FastAPI takes half a second to import)

    beside = _working_service(context) if arguments.demo else None
    about = _ABOUT_DEMO if arguments.demo else ""
    return await serve_front(arguments, context, create_front, beside=beside, about=about)


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


COMMAND = Subcommand("serve", _serve, _EXAMPLES, _add_options)
