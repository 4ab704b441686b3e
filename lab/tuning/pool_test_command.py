"""The command `python -m lab pool-test`: waits and timeouts of more and more concurrent callers of one pool."""

import argparse

from lab.bench.servers import Site, own_site
from lab.progress import note
from lab.tuning import numbers
from lab.tuning.holders import HeldFigures, Use, figures, hold
from tidepool.cli import terminal
from tidepool.embedded import Urls
from tidepool.pool.config import PoolConfig
from tidepool.pool.pool import Pool
from tidepool.settings import Settings

EXAMPLES = """  %(prog)s --max-concurrent 100
  %(prog)s --max-concurrent 150 --pool-size 120    more than a hundred real connections
  %(prog)s --acquire-timeout 2 --json"""
_FIRST = 5


class _Step(HeldFigures):
    """The figures of one step: with so many concurrent callers."""

    concurrent: int
    waited: int
    success_rate: float
    connections: int
    in_use_max: int
    waiting_max: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to *parser*."""
    parser.add_argument(
        "--max-concurrent",
        type=terminal.positive,
        default=100,
        metavar="N",
        help="largest number of concurrent callers: the test begins with 5 and doubles their number in each step, up "
        "to N (default 100)",
    )
    parser.add_argument(
        "--pool-size",
        type=terminal.positive,
        metavar="C",
        help="number of connections in the pool (default: the value of the setting POOL_MAX_SIZE)",
    )
    parser.add_argument(
        "--hold-ms",
        type=numbers.hold_ms,
        default=20.0,
        metavar="MS",
        help="milliseconds for which a caller keeps a connection each time it gets one (default 20)",
    )
    parser.add_argument(
        "--seconds",
        type=numbers.seconds,
        default=1.5,
        metavar="S",
        help="length of each step in seconds (default 1.5)",
    )
    parser.add_argument(
        "--acquire-timeout",
        type=numbers.seconds,
        default=0.3,
        metavar="S",
        help="seconds after which a caller that waits for a connection gives up (default 0.3)",
    )


def steps(most: int) -> list[int]:
    """Return the numbers of concurrent callers, step by step: 5, 10, 20, … and last *most*."""
    ramp = [_FIRST]
    while ramp[-1] * 2 < most:
        ramp.append(ramp[-1] * 2)
    return [step for step in ramp if step < most] + [most]


async def run(arguments: argparse.Namespace, settings: Settings, _urls: Urls) -> int:
    """Measure how long callers wait for a connection of one pool, and how many give up, while their number grows.

    Each caller takes a connection, keeps it for the time that --hold-ms sets, returns it and begins again. Runs in a
    temporary database. Exit status 1: a caller got an error from the database; timeouts do not count.
    """
    size = arguments.pool_size or settings.pool_max_size
    async with own_site(settings, connections=size) as site:
        rows = await _ramp(arguments, site, size)
    if arguments.json:
        terminal.print_json({"pool_size": size, "hold_ms": arguments.hold_ms, "steps": rows})
    else:
        _print(rows, size, arguments)
    return 1 if any(row["failed"] for row in rows) else 0


async def _ramp(arguments: argparse.Namespace, site: Site, size: int) -> list[_Step]:
    config = PoolConfig(
        url=site.urls.database,
        application_name="tidepool-lab:pool-test",
        min_size=0,
        max_size=size,
        acquire_timeout_s=arguments.acquire_timeout,
    )
    pool = await Pool.open(config)
    try:
        rows: list[_Step] = []
        for concurrent in steps(arguments.max_concurrent):
            note(f"{concurrent} callers, a pool of {size}")
            rows.append(await _step(pool, concurrent, arguments))
        return rows
    finally:
        await pool.close()


async def _step(pool: Pool, concurrent: int, arguments: argparse.Namespace) -> _Step:
    pool.stats.figures()  # the peaks begin anew
    waited = pool.stats.acquire_waited
    held = await hold([pool], holders=concurrent, use=Use(arguments.hold_ms), seconds=arguments.seconds)
    after = pool.stats.figures()
    asked = held.succeeded + held.timed_out + held.failed
    return {
        "concurrent": concurrent,
        **figures(held),
        "waited": after["acquire_waited"] - waited,
        "success_rate": round(held.succeeded / asked, 4),
        "connections": pool.size,
        "in_use_max": after["in_use_max"],
        "waiting_max": after["waiting_max"],
    }


def _print(rows: list[_Step], size: int, arguments: argparse.Namespace) -> None:
    table = terminal.figures_table(
        ("callers", "succeeded", "waited", "timed out", "success", "uses/s", "wait p50", "p95", "max", "open", "queue"),
        words=(),
    )
    for row in rows:
        waits = [f"{row['wait_ms'].get(name, 0):,.1f}" for name in ("p50", "p95", "max")]
        counts = [f"{row[name]:,}" for name in ("concurrent", "succeeded", "waited", "timed_out")]
        rates = [f"{row['success_rate']:.1%}", f"{row['per_second']:,.0f}"]
        table.add_row(*counts, *rates, *waits, str(row["connections"]), str(row["waiting_max"]))
    console = terminal.console()
    console.print(table)
    most = size / arguments.hold_ms * 1000
    console.print(
        f"a pool of {size}, each use {arguments.hold_ms:g} ms: at most {most:,.0f} uses/s; waits in ms; "
        f"nobody waits longer than {arguments.acquire_timeout:g} s"
    )
