"""The commands on connection pools: `pool` and `snapshots` show their figures; `why` and `advise` judge them.

`why` reports what limits the workers, `advise` which size their pools should have.
"""

import argparse
import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidepool.advice.evidence import Evidence
from tidepool.advice.sizing import Advice
from tidepool.advice.study import Study
from tidepool.advice.verdict import PoolVerdict
from tidepool.cli import terminal
from tidepool.cli.commands import Subcommand
from tidepool.cli.context import Context
from tidepool.cli.terminal import TableRow
from tidepool.pool.pool import Pool
from tidepool.settings import Settings
from tidepool.storage.repositories import Repositories

_POOL_EXAMPLES = """  %(prog)s
  %(prog)s --since 1h --watch
  %(prog)s --json | jq '.processes[].wait_p95_ms'"""

_SNAPSHOTS_EXAMPLES = """  %(prog)s --since 10m
  %(prog)s --json | jq '.[0].in_use_max'"""
_SNAPSHOT_COLUMNS = (
    "tick", "worker_id", "size", "idle", "in_use", "in_use_max", "waiting_max", "acquire_ok", "wait_us_max",
    "hold_us_max", "jobs_applied", "jobs_rejected", "jobs_failed", "loop_lag_us_max",
)  # fmt: skip
_REDRAW_S = 5.0
_HEALTH = (
    ("acquires/s", "acquires_per_second"),
    ("batch p95", "batch_wait_p95_ms"),
    ("wait p50", "wait_p50_ms"), ("wait p95", "wait_p95_ms"), ("wait p99", "wait_p99_ms"),
    ("commit p95", "commit_p95_ms"),
    ("hold p50", "hold_p50_ms"), ("hold p95", "hold_p95_ms"), ("hold p99", "hold_p99_ms"),
    ("in use", "in_use_mean"),
)  # fmt: skip
_PROCESSES = (
    ("process", "worker_id"), ("limit", "pool_limit"), ("jobs", "jobs"), ("retries", "retries"), *_HEALTH,
    ("used", "utilisation"), ("queued", "saturation"), ("timeouts", "acquire_timeouts"),
    ("CPU", "cpu"), ("MB", "rss_mb"),
)  # fmt: skip
_MINUTES = (
    ("minute", "minute"), ("processes", "processes"), ("limit", "pool_limit"), ("jobs", "jobs"), ("retries", "retries"),
    *_HEALTH, ("queued", "saturation_max"), ("timeouts", "acquire_timeouts"), ("CPU", "cpu"), ("MB", "rss_mb"),
)  # fmt: skip
"""Title and column of the view; durations are milliseconds."""
_WIDE = 150
_ONLY_WIDE = (
    "acquires_per_second", "wait_p50_ms", "wait_p99_ms", "hold_p50_ms", "hold_p99_ms", "in_use_mean", "rss_mb",
    "processes", "commit_p95_ms",
)  # fmt: skip
"""Left out of a table on a narrower terminal, where every figure would be cut."""
_NARROW_LACKS = tuple(dict.fromkeys(title for title, name in (*_PROCESSES, *_MINUTES) if name in _ONLY_WIDE))
_SHARES = ("utilisation", "saturation", "saturation_max", "cpu")
_COUNTS = ("jobs", "retries", "processes", "pool_limit", "acquire_timeouts", "rss_mb")
_NO_SNAPSHOTS = (
    "no live process wrote a snapshot of a pool in that time: is a worker running, and ENABLE_MONITORING on?"
)
_WHY_EXAMPLES = """  %(prog)s
  %(prog)s --since 1h
  %(prog)s --json | jq '.groups[].verdict'"""
_ADVISE_EXAMPLES = """  %(prog)s
  %(prog)s --json | jq '.groups[].advice.size'"""
_MOST_EVENTS = 10
_THOUSAND = 1000


def _add_snapshots_options(listing: argparse.ArgumentParser) -> None:
    listing.add_argument(
        "--worker",
        metavar="ID",
        help="only snapshots of the worker process with this id, which the column worker_id shows (default: of all)",
    )
    listing.add_argument(
        "--since",
        type=terminal.duration,
        metavar="AGE",
        help="only snapshots that are at most this old, such as 90s, 1.5h or 7d (default: of any age)",
    )
    listing.add_argument(
        "--limit", type=terminal.positive, default=20, metavar="N", help="max number of snapshots to list (default 20)"
    )


def _add_pool_options(showing: argparse.ArgumentParser) -> None:
    terminal.add_period(showing, "to show", "10m")
    showing.add_argument(
        "--watch",
        action="store_true",
        help="update the display every five seconds until Ctrl-C (default: show it once)",
    )


def _add_judging_options(judging: argparse.ArgumentParser) -> None:
    terminal.add_period(judging, "to examine", "15m")


async def _pool(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Show how the worker processes use their pools of database connections.

    The first table has a row for each process, with its last minute; the second has a row for each minute, with all
    processes together. Shown are jobs, waits for a connection, how long connections are held, timeouts, CPU and memory.
    """
    async with context.pool("pool") as pool:
        if arguments.json:
            terminal.print_json(await _read(pool, arguments))
        elif arguments.watch:
            await _watch(pool, arguments)
        else:
            console = terminal.console()
            console.print(_drawn(await _read(pool, arguments), console.width))
    return 0


async def _snapshots(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """List snapshots of the workers' pools of database connections, the newest first.

    Each worker process stores one every STATS_INTERVAL seconds (default 5). Among its figures are the connections in
    use, the longest wait for one, and the number of jobs by outcome.
    """
    async with context.connection("snapshots") as connection:
        repositories = Repositories(connection)
        since = await repositories.server.clock() - arguments.since if arguments.since else None
        rows = await repositories.snapshots.newest(worker_id=arguments.worker, since=since, limit=arguments.limit)
    empty = "no snapshots yet: is a worker running, and ENABLE_MONITORING on?"
    terminal.print_rows(rows, _SNAPSHOT_COLUMNS, as_json=arguments.json, empty=empty)
    return 0


async def _watch(pool: Pool, arguments: argparse.Namespace) -> None:
    """Print new figures every five seconds until Ctrl-C. Raises `CommandError` without a terminal."""
    console = terminal.console()
    if not console.is_terminal:
        raise terminal.CommandError("--watch needs a terminal; --json is for programs")
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while live.is_started:
            live.update(_drawn(await _read(pool, arguments), console.width), refresh=True)
            await asyncio.sleep(_REDRAW_S)


async def _read(pool: Pool, arguments: argparse.Namespace) -> Mapping[str, Sequence[TableRow]]:
    async with pool.acquire() as connection:
        since = await Repositories(connection).server.clock() - arguments.since
        snapshots = Repositories(connection).snapshots
        return {"processes": await snapshots.pool_health(since), "minutes": await snapshots.fleet_health(since)}


def _drawn(health: Mapping[str, Sequence[TableRow]], width: int) -> Group | Text:
    if not health["minutes"]:
        return Text(_NO_SNAPSHOTS)
    return Group(
        Text("Each process, its last minute (times in ms)"),
        _table(health["processes"], _PROCESSES, width),
        Text("\nThe fleet, minute by minute (UTC)"),
        _table(health["minutes"], _MINUTES, width),
        *([] if width >= _WIDE else [Text(f"\n{terminal.left_out(_NARROW_LACKS, below=_WIDE)}")]),
    )


def _table(rows: Sequence[TableRow], columns: Sequence[tuple[str, str]], width: int) -> Table:
    shown = [(title, name) for title, name in columns if width >= _WIDE or name not in _ONLY_WIDE]
    table = terminal.figures_table([title for title, _ in shown], words=("process", "minute"))
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for _, name in shown))
    return table


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%H:%M}"
    if not isinstance(value, int | float | Decimal):
        return str(value)
    if name in _SHARES:
        return f"{value:.0%}"
    return f"{int(value):,}" if name in _COUNTS or isinstance(value, int) else terminal.cell(value)


async def _why(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Find out what limits the workers' throughput, such as too few connections, slow queries or a busy CPU.

    Prints one verdict for each group of processes with equal pool sizes, the measurements that it is based on, and the
    latest events.
    """
    judged, events = await _judge(arguments, context)
    if arguments.json:
        groups = [_without(asdict(verdict), "advice") for verdict in judged]
        terminal.print_json({"groups": groups, "events": events})
        return 0
    shown: list[RenderableType] = [part for verdict in judged for part in _drawn_verdict(verdict)]
    if events:
        shown += [Text("\nEvents, the newest first (UTC)"), *(Text(_event(event)) for event in events)]
    terminal.console().print(Group(*shown) if judged else Text(_NO_SNAPSHOTS))
    return 0


async def _advise(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Recommend how many database connections the pool of each worker process should have.

    The service sets that size by POOL_MAX_SIZE, an adopted arq application where it makes its own pool. Predicts for
    several sizes how long jobs would wait for a connection, from the load of the period that --since sets.
    Exit status 1: no size can be recommended; the output says why.
    """
    judged, _ = await _judge(arguments, context)
    if arguments.json:
        groups = [_without(asdict(verdict), "findings") for verdict in judged]
        terminal.print_json({"groups": groups})
    else:
        shown = [part for verdict in judged for part in _drawn_advice(verdict)]
        terminal.console().print(Group(*shown) if judged else Text(_NO_SNAPSHOTS))
    return 0 if any(verdict.advice for verdict in judged) else 1


async def _judge(
    arguments: argparse.Namespace, context: Context[Settings]
) -> tuple[list[PoolVerdict], Sequence[TableRow]]:
    """Return the verdict on each group of processes, and the events of the time that is judged."""
    async with context.connection("why") as connection:
        until = await Repositories(connection).server.clock()
        since = until - arguments.since
        studies = await Study.read(connection, since=since, until=until)
        events = await Repositories(connection).events.newest(since=since, limit=_MOST_EVENTS)
    return await PoolVerdict.judge(studies), events


def _without(document: dict[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in document.items() if key != name}


def _drawn_title(verdict: PoolVerdict, name: str, words: str) -> Text:
    processes = len(verdict.processes)
    return Text(
        f"{name}: {words}\n{processes} process{'es' if processes > 1 else ''} with a pool of {verdict.pool_limit}, "
        f"{verdict.since:%H:%M:%S} to {verdict.until:%H:%M:%S} UTC"
    )


def _drawn_verdict(verdict: PoolVerdict) -> list[RenderableType]:
    table = terminal.figures_table(("check", "figure", "value", "limit"), words=("check", "figure", "limit"))
    for finding in verdict.findings:
        check = f"{'>' if finding.check == verdict.check else ' '} {finding.verdict}"
        for n, one in enumerate(finding.evidence):
            table.add_row("" if n else check, one.name, _value(one), _limit(one))
    return [_drawn_title(verdict, verdict.verdict, verdict.words), table]


def _drawn_advice(verdict: PoolVerdict) -> list[RenderableType]:
    advice = verdict.advice
    if advice is None:
        return [_drawn_title(verdict, "no advice", f"{verdict.verdict}, {verdict.words}")]
    words = f"keep {advice.limit}" if advice.size == advice.limit else f"{advice.size} instead of {advice.limit}"
    step = f", by way of {advice.next_step}" if advice.next_step != advice.size else ""
    load = advice.load
    callers = f"{load.callers} callers hold" if load.callers else "uses hold"
    table = terminal.figures_table(("size", "in use", "wait", "wait p95", "uses/s"), words=())
    for row in _rows(advice):
        table.add_row(*row)
    return [
        _drawn_title(verdict, "pool size", words + step),
        Text(
            f"verdict {verdict.verdict}; range {advice.low} to {advice.high}, confidence {advice.confidence}, "
            f"set by {advice.binding}\n{callers} a connection for {load.hold_ms:.1f} ms, every "
            f"{load.hold_ms + load.between_ms:.1f} ms; p95 of the wait is to be at most {advice.target_ms:.0f} ms\n"
            f"Predicted for one process:"
        ),
        table,
    ]


def _rows(advice: Advice) -> Iterator[Sequence[str]]:
    """Yield the cells of each row of the table of what is predicted for several sizes."""
    for forecast in advice.predictions:
        size = f"{forecast.size}{' *' if forecast.size == advice.size else ''}"
        if forecast.use is None:
            yield size, "cannot keep up", "", "", ""
        else:
            yield (
                size,
                f"{forecast.use:.0%}",
                f"{forecast.wait_share:.1%}",
                f"{forecast.wait_p95_ms:.1f} ms",
                f"{forecast.per_second:,.1f}",
            )


def _value(one: Evidence) -> str:
    return "unknown" if one.value is None else _number(one.value, one.unit)


def _limit(one: Evidence) -> str:
    if one.limit is None:
        return ""
    return f"{'below' if one.exceeds == 'below' else 'from'} {_number(one.limit, one.unit)}"


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{value:.1%}"
    number = f"{value:,.0f}" if value == int(value) or abs(value) >= _THOUSAND else f"{value:.2f}"
    return f"{number} {unit}".strip()


def _event(event: TableRow) -> str:
    detail = ", ".join(f"{name} {value}" for name, value in event["detail"].items() if name != "stack")
    return f"{event['at']:%H:%M:%S}  {event['kind']}  {event['worker_id']}  {detail}"


COMMANDS = (
    Subcommand("snapshots", _snapshots, _SNAPSHOTS_EXAMPLES, _add_snapshots_options),
    Subcommand("pool", _pool, _POOL_EXAMPLES, _add_pool_options),
    Subcommand("why", _why, _WHY_EXAMPLES, _add_judging_options),
    Subcommand("advise", _advise, _ADVISE_EXAMPLES, _add_judging_options),
)
