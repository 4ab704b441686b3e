"""The command `python -m lab drill`: break the service on purpose, and check the outcome of every job."""

import argparse
import random
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

from lab.bench.servers import QUEUE
from lab.drill import timeline
from lab.drill.addresses import target
from lab.drill.arena import Arena
from lab.drill.faults import FAULTS
from lab.drill.guard import prepare
from lab.drill.log import Log
from lab.drill.run import Drill, DrillReport, Injected
from lab.percentiles import percentiles
from lab.progress import note
from lab.tuning import numbers
from tidepool.cli import terminal
from tidepool.embedded import Urls
from tidepool.settings import Settings
from tidepool.urls import PostgresUrl, RedisUrl, UrlError

EXAMPLES = """  %(prog)s                               two minutes of faults by chance
  %(prog)s --minutes 10 --seed 7
  %(prog)s --fault commit-reply-lost --shots 1000
  %(prog)s --fault postgres-crash --timeline crash.png
  %(prog)s --database postgresql://me@db/empty --redis redis://cache/5
  %(prog)s --list"""

_SHOTS, _SHOTS_BY_CHANCE = 25, 3


async def drill(arguments: argparse.Namespace, _settings: Settings, _urls: Urls) -> int:
    """Break servers, workers and connections on purpose under load, and check that no job is lost or applied twice.

    Uses temporary servers of its own unless --database and --redis name others. Exit status 1: a job was lost, was
    applied twice or has a wrong outcome, or a worker process ended by itself.
    """
    if arguments.list:
        _list(as_json=arguments.json)
        return 0
    if arguments.timeline:
        timeline.require(arguments.timeline)
    named = await _named(arguments)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000)
    with tempfile.TemporaryDirectory(prefix="tidepool-drill-") as directory:
        home = Path(directory)
        home.chmod(0o755)  # noqa: ASYNC240  (the servers may run as another user)
        report = await _run(arguments, named, home, seed)
    if arguments.json:
        terminal.print_json({**asdict(report), "slow_after": report.slow_after, "holds": report.holds})
    else:
        _print(report)
    return 0 if report.holds else 1


async def _run(arguments: argparse.Namespace, named: Urls | None, home: Path, seed: int) -> DrillReport:
    log = Log(home / "log.jsonl", seed)
    try:
        (home / "servers").mkdir()
        async with Arena(home / "servers", arguments.workers, _shots(arguments), named, log) as arena:
            run = Drill(arena, log, rate=arguments.rate, seed=seed, report=note)
            note(f"seed {seed}, {arguments.workers} workers, {arguments.rate} jobs a second")
            if arguments.fault:
                report = await run.repeat(arguments.fault, arguments.times)
            else:
                report = await run.mix(arguments.minutes)
            if arguments.timeline:
                drawn = await timeline.write(arena, report.injected, arguments.timeline)
                note("\n".join(map(timeline.said, drawn.marks)) if drawn else "no fault, no timeline")
            return report
    finally:
        log.close()


async def _named(arguments: argparse.Namespace) -> Urls | None:
    """Return the URLs of the servers that the command line names; None if it names none.

    Raises `CommandError` if they must not be broken, or the user does not consent.
    """
    if (arguments.database is None) != (arguments.redis is None):
        raise terminal.CommandError("--database and --redis: name both, or neither for servers of the drill's own")
    if arguments.database is None:
        return None
    if too_much := [name for name in arguments.fault or () if FAULTS[name].needs_own_servers]:
        raise terminal.CommandError(f"{', '.join(too_much)}: only on servers of the drill's own")
    urls = Urls(arguments.database, arguments.redis)
    for option, url, kind in (("--database", urls.database, PostgresUrl), ("--redis", urls.redis, RedisUrl)):
        try:
            kind.parse(url)
        except UrlError as error:
            raise terminal.CommandError(f"{option}: {error}") from None
    for url in (urls.database, urls.redis):
        target(url)
    await prepare(urls, QUEUE, agreed=arguments.yes)
    return urls


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to *parser*."""
    parser.add_argument(
        "--fault",
        type=_faults,
        metavar="A,B",
        help="names of the faults to cause, in this order, as --list prints them (default: faults at random, for the "
        "time that --minutes sets)",
    )
    parser.add_argument(
        "--times",
        type=terminal.positive,
        default=1,
        metavar="N",
        help="number of times that each fault named by --fault is caused; without --fault it has no effect (default 1)",
    )
    parser.add_argument(
        "--shots",
        type=terminal.positive,
        metavar="K",
        help="number of times in a row that a fault such as commit-lost strikes whenever it is caused; most faults "
        "strike once (default 25, or 3 for faults at random)",
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        default=2.0,
        metavar="M",
        help="minutes for which faults are caused at random; ignored if --fault is given (default 2)",
    )
    parser.add_argument(
        "--list", action="store_true", help="only print the names of all faults and what each one does; run no drill"
    )
    _add_load_arguments(parser)
    _add_server_arguments(parser)


def _add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe the load, the workers and the chart."""
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="seed of the random jobs and faults: the same seed chooses the same ones (default: a random seed, which "
        "is printed)",
    )
    parser.add_argument(
        "--rate",
        type=terminal.positive,
        default=500,
        metavar="R",
        help="number of jobs to enqueue per second during the drill (default 500)",
    )
    parser.add_argument(
        "--workers",
        type=terminal.processes,
        default=2,
        metavar="W",
        help="number of worker processes that run the jobs (default 2)",
    )
    parser.add_argument(
        "--timeline",
        type=_timeline,
        metavar="FILE",
        help="file to write a chart of throughput, waits and errors over time to: .png or .svg, or .json for the data "
        "alone (default: no chart)",
    )


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the servers to break."""
    parser.add_argument(
        "--database",
        metavar="URL",
        help="URL of an empty PostgreSQL database to run the drill on; requires --redis (default: a temporary server)",
    )
    parser.add_argument(
        "--redis",
        metavar="URL",
        help="URL of the Redis to run the drill on; requires --database (default: a temporary server)",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="break the servers of --database and --redis without asking first, for use in scripts (default: ask for "
        "confirmation at the terminal)",
    )


def _shots(arguments: argparse.Namespace) -> int:
    return arguments.shots or (_SHOTS if arguments.fault else _SHOTS_BY_CHANCE)


def _faults(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(FAULTS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {', '.join(FAULTS)}")
    return names


def _minutes(text: str) -> float:
    return numbers.within(text, 0.01, 7 * 24 * 60)


def _timeline(text: str) -> Path:
    path = Path(text)
    if path.suffix not in timeline.SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(timeline.SUFFIXES)}")
    return path


def _list(*, as_json: bool) -> None:
    rows = [
        {"fault": fault.name, "what": fault.words, "needs": "own servers" if fault.needs_own_servers else ""}
        for fault in FAULTS.values()
    ]
    terminal.print_rows(rows, ("fault", "what", "needs"), as_json=as_json, empty="")


def _print(report: DrillReport) -> None:
    table = terminal.figures_table(
        ("fault", "times", "shots", "recovery p50", "p99", "max", "before", "during", "after", ""), words=("fault", "")
    )
    for name in FAULTS:
        if ones := [one for one in report.injected if one.fault == name]:
            table.add_row(*_row(name, ones))
    console = terminal.console()
    console.print(table)
    console.print("recovery in seconds, from the mend on; rates in outcomes a second, after: when worked off\n")
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.verdict.counts.items())
    console.print(f"{report.verdict.jobs:,} jobs in {report.seconds:.0f} s: {counts}")
    for name, jobs in report.verdict.named.items():
        console.print(f"  {name}: {', '.join(jobs)} …")
    for name, reason in report.left_out.items():
        console.print(f"{name} was left out: {reason}")
    if report.lost_by_redis:
        console.print(f"lost with Redis's data, and enqueued again: {len(report.lost_by_redis):,} jobs")
    console.print(f"workers that ended by themselves: {report.ended_by_themselves}; seed {report.seed}")
    console.print("every job is accounted for" if report.holds else "THE BOOKS DO NOT AGREE")


def _row(name: str, ones: list[Injected]) -> list[str]:
    recoveries_s = percentiles([one.recovery_s for one in ones], (0.5, 0.99, 1.0))
    rates: list[float] = [
        statistics.median(getattr(one, when) for one in ones) for when in ("before", "during", "after")
    ]
    slow = sum(one.slow_after for one in ones)
    figures = [*(f"{second:.2f}" for second in recoveries_s.values()), *(f"{rate:,.0f}" for rate in rates)]
    counts = [str(len(ones)), f"{sum(one.shots for one in ones):,}"]
    return [name, *counts, *figures, f"slow after {slow} of them" if slow else ""]
