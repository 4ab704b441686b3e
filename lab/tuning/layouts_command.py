"""The command `python -m lab layouts`: the cost of dividing connections among several pools, or among processes."""

import argparse
from collections.abc import Sequence

from lab.bench.servers import own_site
from lab.progress import note
from lab.tuning import numbers
from lab.tuning.layouts import Demand, LayoutFigures, layouts, measure, medians
from tidepool.cli import terminal
from tidepool.embedded import Urls
from tidepool.settings import Settings

EXAMPLES = """  %(prog)s                     100 connections as 1, 4 and 10 pools, and as processes
  %(prog)s --connections 120 --shards 2,6 --load 0.9
  %(prog)s --json | jq '.layouts[] | {layout, wait_ms}'"""
_ALIKE = 0.1
_QUIET_CORES = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to *parser*."""
    parser.add_argument(
        "--connections",
        type=terminal.positive,
        default=100,
        metavar="N",
        help="total number of PostgreSQL connections, which each layout divides equally among its pools (default 100)",
    )
    parser.add_argument(
        "--shards",
        type=_shards,
        default=[4, 10],
        metavar="K,L",
        help="numbers of pools to compare with a single pool: each number is measured with all pools in one process, "
        "and with one process for each pool (default 4,10)",
    )
    parser.add_argument(
        "--callers",
        type=terminal.positive,
        metavar="C",
        help="total number of concurrent callers that take connections from the pools (default: twice --connections)",
    )
    parser.add_argument(
        "--load",
        type=_load,
        default=0.8,
        metavar="SHARE",
        help="share of all connections that would be in use if no caller ever had to wait, from 0.05 to 2: above 1 "
        "the callers ask for more than there is (default 0.8)",
    )
    _add_load_arguments(parser)


def _add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe how connections are used, and for how long it is measured."""
    parser.add_argument(
        "--hold-ms",
        type=numbers.hold_ms,
        default=100.0,
        metavar="MS",
        help="mean of the random time in milliseconds for which a caller keeps a connection (default 100)",
    )
    parser.add_argument(
        "--seconds",
        type=numbers.seconds,
        default=5.0,
        metavar="S",
        help="seconds for which the waits are measured with each way to divide the connections among pools (default 5)",
    )
    parser.add_argument(
        "--repeats",
        type=terminal.positive,
        default=3,
        metavar="N",
        help="number of times that each layout is measured; the medians are shown (default 3)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="S",
        help="seed of the random times for which callers keep connections and pause: the same seed gives the same "
        "times (default 1)",
    )


async def run(arguments: argparse.Namespace, settings: Settings, _urls: Urls) -> int:
    """Compare how long callers wait for a connection in one large pool and in several small ones.

    The small pools are measured in one process, and in a process for each pool. All layouts have the same number of
    connections and the same load. Runs in a temporary database.
    """
    demand = Demand(
        connections=arguments.connections,
        callers=arguments.callers or 2 * arguments.connections,
        load=arguments.load,
        hold_ms=arguments.hold_ms,
        seconds=arguments.seconds,
        seed=arguments.seed,
    )
    if max(arguments.shards) > min(demand.connections, demand.callers):
        raise terminal.CommandError("there are more shards than connections or callers: ask for fewer")
    every = layouts(arguments.shards)
    measured: list[list[LayoutFigures]] = [[] for _ in every]
    async with own_site(settings, connections=demand.connections) as site:
        for number in range(arguments.repeats):
            for layout, rounds in zip(every, measured, strict=True):
                note(f"round {number + 1} of {arguments.repeats}: {layout.name}, {demand.seconds:g} s")
                rounds.append(await measure(site, layout, demand))
    rows = [medians(rounds) for rounds in measured]
    if arguments.json:
        terminal.print_json({"layouts": rows, "found": found(rows)})
    else:
        _print(rows, demand)
    return 0


def found(rows: Sequence[LayoutFigures]) -> list[str]:
    """Return sentences for the user that compare each layout with one pool, by mean wait, rate of uses, and memory."""
    one = rows[0]
    others = max(row["others_cpu"] or 0.0 for row in rows)
    lines = [f"other work took {others:.1f} cores meanwhile: run it again when the machine is quiet"]
    lines = lines if others > _QUIET_CORES else []
    for row in rows[1:]:
        wait = _times(row["wait_mean_ms"], one["wait_mean_ms"])
        served = row["per_second"] / one["per_second"] - 1 if one["per_second"] else 0.0
        lines.append(
            f"{row['layout']} of {row['size']}: {wait} in one pool of {one['size']}, {served:+.1%} uses/s, "
            f"{row['memory_mb'] - one['memory_mb']:+} MB"
        )
    return lines


def _times(wait_ms: float, of_one_ms: float) -> str:
    if of_one_ms <= 0:
        return f"{wait_ms:.1f} ms of waiting instead of none"
    ratio = wait_ms / of_one_ms
    if abs(ratio - 1) <= _ALIKE:
        return "waits as"
    return f"waits {ratio:.1f} times as long as"


def _print(rows: Sequence[LayoutFigures], demand: Demand) -> None:
    table = terminal.figures_table(
        ("layout", "size", "uses/s", "wait mean", "p50", "p95", "p99", "failed", "CPU", "MB", "postgres CPU", "MB"),
        words=("layout",),
    )
    for row in rows:
        waits = [
            f"{row['wait_mean_ms']:.1f}",
            *(f"{row['wait_ms'].get(name, 0):.1f}" for name in ("p50", "p95", "p99")),
        ]
        server = ["" if row[name] is None else str(row[name]) for name in ("postgresql_cpu", "postgresql_mb")]
        failed = row["timed_out"] + row["failed"]
        table.add_row(
            row["layout"], str(row["size"]), f"{row['per_second']:,.0f}", *waits, str(failed),
            f"{row['cpu']:.2f}", str(row["memory_mb"]), *server,
        )  # fmt: skip
    console = terminal.console()
    console.print(table)
    console.print(
        f"{demand.callers} callers, each use {demand.hold_ms:g} ms and {demand.think_ms:.0f} ms between two, on "
        "average; medians of the rounds, waits in ms, CPU in cores\n"
    )
    for line in found(rows):
        console.print(line)


def _shards(text: str) -> list[int]:
    shards = sorted({terminal.positive(word) for word in text.split(",")} - {1})
    if not shards:
        raise argparse.ArgumentTypeError("one pool is measured in any case: name a number of at least 2")
    return shards


def _load(text: str) -> float:
    return numbers.within(text, 0.05, 2.0)
