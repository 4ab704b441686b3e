"""The command `python -m lab load-test`: latency and errors for concurrent users, whose requests are jobs or HTTP."""

import argparse
import asyncio
import re
from collections.abc import Awaitable
from urllib.parse import urlsplit

from lab.bench.drain import require_running
from lab.bench.servers import own_site
from lab.progress import note
from lab.tuning import numbers
from lab.tuning.requests import Front, Jobs
from lab.tuning.users import RequestFigures, RequestTally, Send, run_users
from lab.tuning.workers import running_workers
from tidepool.cli import terminal
from tidepool.embedded import Urls
from tidepool.settings import Settings

EXAMPLES = """  %(prog)s --users 20 --requests 50
  %(prog)s --users 50 --requests 20 --workers 2
  %(prog)s --users 50 --requests 100 --rate 500     on a schedule, whatever the service does
  %(prog)s --users 20 --requests 50 --url http://localhost:8000     the front, and its data"""


class _Document(RequestFigures):
    users: int
    rate: float | None
    url: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to *parser*."""
    parser.add_argument(
        "--users",
        type=terminal.positive,
        default=20,
        metavar="U",
        help="number of simulated users who send requests at the same time (default 20)",
    )
    parser.add_argument(
        "--requests",
        type=terminal.positive,
        default=50,
        metavar="R",
        help="number of requests that each user sends, one job in each (default 50)",
    )
    parser.add_argument(
        "--rate",
        type=_rate,
        metavar="N",
        help="number of requests per second that all users together send (default: each user sends the next request as "
        "soon as the last one is answered)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--workers",
        type=terminal.processes,
        default=1,
        metavar="W",
        help="number of worker processes that the test starts to run the jobs; not with --url (default 1)",
    )
    where.add_argument(
        "--url",
        type=_url,
        metavar="URL",
        help="URL of a running HTTP server of this service, to which the requests are sent; each creates a user there "
        "(default: put jobs into a temporary Redis directly)",
    )


async def run(arguments: argparse.Namespace, settings: Settings, _urls: Urls) -> int:
    """Measure response times for many simulated users, who each enqueue one job at a time and wait for its outcome.

    Starts workers, with a temporary database, unless --url names a running HTTP server of this service. Exit
    status 1: a request failed.
    """
    tally = await (_over_http(arguments, settings) if arguments.url else _as_jobs(arguments, settings))
    document: _Document = {
        "users": arguments.users,
        "rate": arguments.rate,
        "url": arguments.url,
        **tally.figures(),
    }
    if arguments.json:
        terminal.print_json(document)
    else:
        _print(document)
    return 1 if document["failed"] else 0


async def _as_jobs(arguments: argparse.Namespace, settings: Settings) -> RequestTally:
    connections = arguments.workers * (settings.pool_max_size + 1)
    async with (
        own_site(settings, connections=connections) as site,
        running_workers(site, arguments.workers) as workers,
    ):
        note("waiting for the workers")
        return await _while_running(workers, _measured_once_they_work(arguments, Jobs(site.redis).send))


async def _measured_once_they_work(arguments: argparse.Namespace, send: Send) -> RequestTally:
    """Send one request, and run the load test when it has succeeded. Raises `CommandError` if it fails.

    So the start of the workers is not part of the measurement.
    """
    if fault := await send(0, -1):
        raise terminal.CommandError(f"the workers do no jobs: {fault}")
    return await _measured(arguments, send)


async def _while_running(workers: list[asyncio.subprocess.Process], load: Awaitable[RequestTally]) -> RequestTally:
    """Return the result of *load*. Raises `CommandError` as soon as a worker ends, since nobody would run its jobs."""
    sending = asyncio.ensure_future(load)
    ends = [asyncio.create_task(worker.wait()) for worker in workers]
    try:
        await asyncio.wait((sending, *ends), return_when=asyncio.FIRST_COMPLETED)
        require_running(workers)
        return await sending
    finally:
        for task in (sending, *ends):
            task.cancel()
        await asyncio.gather(sending, *ends, return_exceptions=True)


async def _over_http(arguments: argparse.Namespace, settings: Settings) -> RequestTally:
    token = settings.front_token.get_secret_value() if settings.front_token else None
    front = Front(arguments.url, users=arguments.users, token=token)
    try:
        await asyncio.to_thread(front.connect)
        return await _measured(arguments, front.send)
    except OSError as error:
        raise terminal.CommandError(f"no front at {arguments.url}: {error.strerror or error}") from None
    finally:
        front.close()


async def _measured(arguments: argparse.Namespace, send: Send) -> RequestTally:
    note(f"{arguments.users} users, {arguments.requests} requests each")
    return await run_users(send, users=arguments.users, requests=arguments.requests, rate=arguments.rate)


def _print(document: _Document) -> None:
    table = terminal.figures_table(
        ("users", "requests", "success", "requests/s", "mean", "median", "min", "max", "p95", "p99"), words=()
    )
    times = [f"{document['latency_ms'].get(name, 0):,.1f}" for name in ("mean", "median", "min", "max", "p95", "p99")]
    counts = [str(document["users"]), f"{document['requests']:,}", f"{document['success_rate']:.1%}"]
    table.add_row(*counts, f"{document['per_second']:,.0f}", *times)
    console = terminal.console()
    console.print(table)
    since = f"when they were due, at {document['rate']:g} a second" if document["rate"] else "when they were sent"
    console.print(f"latencies in ms, counted from {since}, to the outcome")
    for fault, count in document["faults"].items():
        console.print(f"failed: {count:,} x {fault}")


def _rate(text: str) -> float:
    return numbers.within(text, 0.01, 1_000_000)


def _url(text: str) -> str:
    try:
        _ = urlsplit(text).port  # raises where it is no port
        if re.fullmatch(r"https?://[^/\s@]+(/[^\s?#]*)?", text):
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError("is no address such as http://localhost:8000, without user and password")
