"""What a bulkhead does: `uv run python -m tests.bench.bulkhead [--rate 300] [--seconds 15] [--repeat 3]`.

Orders are made slow, as by a long read: their transaction sleeps for 200 ms. Users are created beside them, by one
worker with four connections, with and without `POOL_SHARES=place_order=0.5`, in turn, on servers of its own. Printed
are the medians of the rounds: from enqueued to committed, in milliseconds.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import asyncpg

from settings import Settings
from tidepool import embedded
from tidepool.pool.config import PoolConfig
from worker import app

_SLOW = """
CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END $$;
CREATE OR REPLACE TRIGGER slow AFTER INSERT ON orders FOR EACH STATEMENT EXECUTE FUNCTION slow();
TRUNCATE users, products, orders, job_results
"""
_LATENCY = """
SELECT function, count(*), percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
    ORDER BY 1000 * extract(epoch FROM finished_at - enqueued_at)) AS ms
FROM job_results
WHERE status = 'applied' AND enqueued_at > (SELECT min(finished_at) FROM job_results) -- the worker is there
GROUP BY function ORDER BY function
"""
_LAYOUTS = {"no shares": "", "place_order=0.5": "place_order=0.5", "place_order=0.25": "place_order=0.25"}


def main() -> int:
    """Measure all layouts in turn; prints one JSON document."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bulkhead", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rate", type=int, default=300, metavar="R", help="number of jobs to enqueue per second (default 300)"
    )
    parser.add_argument(
        "--seconds", type=int, default=15, metavar="S", help="length of each measurement in seconds (default 15)"
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="number of times that each layout is measured (default 3)"
    )
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in _LAYOUTS}
    with tempfile.TemporaryDirectory(prefix="bulkhead-") as home, embedded.join(Path(home)) as membership:
        urls = membership.urls
        asyncio.run(app.migrations.migrate(PoolConfig(url=urls.database, application_name="bulkhead", schema="public")))
        for _ in range(arguments.repeat):
            for name, shares in _LAYOUTS.items():
                found[name].append(_measure(urls, shares, arguments))
                print(f"{name}: {json.dumps(found[name][-1])}", file=sys.stderr)
    print(json.dumps({name: _medians(rounds) for name, rounds in found.items()}, indent=2))
    return 0


def _measure(urls: embedded.Urls, shares: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one load with one worker; returns by function the number of jobs and the latency's p50, p95 and p99."""
    asyncio.run(_fetch(urls.database, _SLOW))
    environment = Settings.child_environment(DATABASE_URL=urls.database, REDIS_URL=urls.redis, POOL_SHARES=shares)
    jobs = str(arguments.rate * arguments.seconds)
    mix = ("--mix", "create_user=4,create_product=1,place_order=5")
    command = (sys.executable, "-m", "producer", "--jobs", jobs, "--rate", str(arguments.rate), *mix, "--workers", "1")
    subprocess.run(command, env=environment, check=True, capture_output=True)
    rows = asyncio.run(_fetch(urls.database, _LATENCY))
    return {row["function"]: [row["count"], *(round(ms, 1) for ms in row["ms"])] for row in rows}


async def _fetch(url: str, query: str) -> list[Any]:
    connection: Any = await asyncpg.connect(url)
    try:
        return await connection.fetch(query) if query is _LATENCY else await connection.execute(query)
    finally:
        await connection.close()


def _medians(rounds: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    names = ("jobs", "p50", "p95", "p99")
    return {
        function: {name: statistics.median(one[function][i] for one in rounds) for i, name in enumerate(names)}
        for function in rounds[0]
    }


if __name__ == "__main__":
    sys.exit(main())
