"""How long the front takes for each of its JSON calls, over a million outcomes and a day of snapshots of ten processes.

    uv run python -m tests.bench.million [--calls 40] [--json]

Builds the database on servers of its own, about a minute and a half, and runs the front as `serve` does.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from tidepool import embedded
from tidepool.pool.config import PoolConfig
from worker import app

_ROOT = Path(__file__).parents[2]
_LIMIT_MS = 200
_CALLS = {
    "the page's first view": "/picture",
    "the page, an hour": "/picture?window=1h",
    "the page, a day": "/picture?window=1d",
    "jobs": "/jobs",
    "jobs, failed": "/jobs?status=failed",
    "jobs, rejected, last hour": "/jobs?status=rejected&since=1h",
    "jobs, of a rare function": "/jobs?function=set_stock",
    "jobs, of no function": "/jobs?function=nothing",
    "jobs, failed and of no function": "/jobs?status=failed&function=nothing",
    "jobs, 500 at once": "/jobs?limit=500",
    "search, an id": "/jobs?search={job_id}",
    "search, how ids begin": "/jobs?search=abc",
    "search, one letter": "/jobs?search=a",
    "search, a frequent error": "/jobs?search=runtimeerror",
    "search, a rare error": "/jobs?search=number%20500005",
    "search, nothing": "/jobs?search=nothing%20like%20this",
    "a job": "/jobs/{job_id}",
    "users": "/users/",
    "users, skipping 10,000": "/users/?offset=10000",
    "a user": "/users/77777",
    "a user's orders": "/users/77777/orders",
    "a category": "/products/category/category-7",
    "an order": "/orders/555555",
    "ready": "/health/ready",
    "pool stats": "/pool/stats",
    "metrics": "/metrics",
}


async def build(config: PoolConfig) -> str:
    """Fill the database; returns the id of a job in the middle."""
    await app.migrations.migrate(config)
    connection = await asyncpg.connect(config.url)
    await connection.execute((Path(__file__).parent / "million.sql").read_text("utf-8"), timeout=600)
    await connection.execute("VACUUM ANALYZE", timeout=600)
    job_id = await connection.fetchval("SELECT md5('500000')")
    await connection.close()
    return job_id


@contextmanager
def front(data_dir: Path) -> Iterator[str]:
    """Run the front; gives its URL when it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "producer", "serve", "--port", str(port), "--json"]
    environment = {**os.environ, "DATA_DIR": str(data_dir), "FRONT_RATE_LIMIT": "0"}
    running = subprocess.Popen(command, env=environment, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield json.loads(running.stdout.readline())["url"]
    finally:
        running.terminate()
        running.wait()


def measure(url: str, job_id: str, calls: int) -> list[dict[str, Any]]:
    """Make each call so many times, one after the other; returns a row for each, in milliseconds."""
    rows: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=30) as http, _answering(http):
        for name, path in _CALLS.items():
            times: list[float] = []
            for _ in range(calls):
                since = time.perf_counter()
                answer = http.get(path.format(job_id=job_id))
                times.append((time.perf_counter() - since) * 1000)
                assert 200 == answer.status_code, answer.text
            ordered = sorted(times)
            rows.append(
                {
                    "call": name,
                    "first_ms": times[0],
                    "p50_ms": ordered[calls // 2],
                    "p95_ms": ordered[int(calls * 0.95)],
                    "max_ms": ordered[-1],
                    "bytes": len(answer.content),
                }
            )
    return rows


@contextmanager
def _answering(http: httpx.Client) -> Iterator[None]:
    """Wait until it does: it says its URL a moment before."""
    deadline = time.monotonic() + 20
    while True:
        try:
            http.get("/health/live")
            break
        except httpx.ConnectError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    yield


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    print(f"{'':34}{'first':>8}{'p50':>8}{'p95':>8}{'max':>8}  ms   bytes")
    for row in rows:
        figures = "".join(f"{row[name]:8.1f}" for name in ("first_ms", "p50_ms", "p95_ms", "max_ms"))
        slow = f"   over {_LIMIT_MS} ms" if row["max_ms"] > _LIMIT_MS else ""
        print(f"{row['call']:34}{figures}{row['bytes']:12,}{slow}")


def main() -> None:
    """Build, measure, print; exit status 1 where the half of some calls took longer than they may."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.million", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=40, metavar="N", help="number of calls of each kind (default 40)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="tp-", dir=memory if memory.is_dir() else None) as home,
        embedded.join(Path(home)) as membership,
    ):
        since = time.perf_counter()
        config = PoolConfig(url=membership.urls.database, application_name="million", schema="public")
        job_id = asyncio.run(build(config))
        build_s = time.perf_counter() - since
        with front(Path(home)) as url:
            rows = measure(url, job_id, arguments.calls)
    if arguments.json:
        print(json.dumps({"build_seconds": build_s, "calls": rows}))
    else:
        print(f"built in {build_s:.0f} s")
        show(rows)
    sys.exit(any(row["p50_ms"] > _LIMIT_MS for row in rows))


if __name__ == "__main__":
    main()
