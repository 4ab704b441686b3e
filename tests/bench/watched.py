"""What being watched costs the workers: `uv run python -m tests.bench.watched [--jobs 40000] [--repeat 5]`.

One worker drains generated jobs while nobody looks, while the operators' page is open (its event stream is read), and
while the worker's own metrics are scraped every second, in turn, on servers of its own. Printed is one JSON document:
jobs a second, the median and all rounds.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx

from lab.bench.drain import Place, System, drain
from lab.bench.servers import QUEUE, measured_environment
from tidepool import embedded
from tidepool.queue.connection import RedisClient

_TIDEPOOL = System("tidepool", "worker.WorkerSettings")
_SCRAPE_S = 1.0


def main() -> int:
    """Measure all ways of watching in turn; prints one JSON document."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.watched", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--jobs", type=int, default=40_000, metavar="N", help="number of jobs in each measurement (default 40,000)"
    )
    parser.add_argument(
        "--repeat", type=int, default=5, metavar="R", help="number of times that each case is measured (default 5)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="watched-") as home, embedded.join(Path(home)) as membership:
        rates = asyncio.run(_rounds(membership.urls, arguments.jobs, arguments.repeat))
    print(json.dumps({name: {"median": statistics.median(some), "all": some} for name, some in rates.items()}))
    return 0


async def _rounds(urls: embedded.Urls, jobs: int, repeat: int) -> dict[str, list[int]]:
    environment = measured_environment(urls.database, urls.redis, LOG_LEVEL="WARNING")
    redis = RedisClient.open(urls.redis, queue_name=QUEUE)
    metrics_port = _free_port()
    watched = {**environment, "METRICS_PORT": str(metrics_port)}
    rates: dict[str, list[int]] = {"nobody": [], "page": [], "metrics": []}
    with _front(environment) as url:
        for _ in range(repeat):
            for name, some in rates.items():
                producer = (sys.executable, "-m", "producer", "--json", "--jobs", str(jobs))
                subprocess.run(producer, env=environment, check=True, capture_output=True)
                async with _watching(name, url, metrics_port):
                    place = Place(watched if name == "metrics" else environment)
                    some.append(round((await drain(redis, _TIDEPOOL, place)).jobs_per_second))
                print(f"{name}: {some[-1]:,}/s", file=sys.stderr)
    await redis.aclose(close_connection_pool=True)
    return rates


@contextmanager
def _front(environment: dict[str, str]) -> Iterator[str]:
    """Run the front; gives its URL."""
    port = _free_port()
    command = (sys.executable, "-m", "producer", "serve", "--port", str(port))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as front:
        assert front.stdout is not None
        front.stdout.readline()  # where it serves
        yield f"http://127.0.0.1:{port}"
        front.terminate()


@asynccontextmanager
async def _watching(name: str, url: str, metrics_port: int) -> AsyncIterator[None]:
    """Look at the page, or at the worker's metrics, for the length of the block."""
    looks = {"page": _read, "metrics": _scrape, "nobody": _look_away}
    addresses = {"page": f"{url}/events", "metrics": f"http://127.0.0.1:{metrics_port}/metrics", "nobody": ""}
    task = asyncio.create_task(looks[name](addresses[name]))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _look_away(_: str) -> None:
    """Do nothing, as nobody does."""


async def _read(url: str) -> None:
    async with httpx.AsyncClient(timeout=None) as http, http.stream("GET", url) as answer:
        async for _ in answer.aiter_bytes():
            pass


async def _scrape(url: str) -> None:
    async with httpx.AsyncClient() as http:
        while True:
            with suppress(httpx.TransportError):  # the worker is only starting
                (await http.get(url)).raise_for_status()
            await asyncio.sleep(_SCRAPE_S)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
