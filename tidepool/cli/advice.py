"""The commands `why` and `advise`: they say what limits the workers, and what size their pools should have."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.text import Text

from tidepool.advice.evidence import Evidence
from tidepool.advice.sizing import Forecast
from tidepool.advice.study import Study
from tidepool.advice.verdict import PoolVerdict
from tidepool.cli import terminal
from tidepool.cli.commands import CommandLine
from tidepool.cli.context import Context
from tidepool.cli.pool import NO_SNAPSHOTS
from tidepool.cli.terminal import TableRow
from tidepool.settings import Settings
from tidepool.storage.repositories import Repositories

_WHY_EXAMPLES = """  %(prog)s
  %(prog)s --since 1h
  %(prog)s --json | jq '.groups[].verdict'"""
_ADVISE_EXAMPLES = """  %(prog)s
  %(prog)s --json | jq '.groups[].advice.size'"""
_MOST_EVENTS = 10
_THOUSAND = 1000


def add_advice_commands(commands: CommandLine) -> None:
    """Add the commands `why` and `advise` to *commands*."""
    for name, command, examples in (("why", _why, _WHY_EXAMPLES), ("advise", _advise, _ADVISE_EXAMPLES)):
        commands.add(name, command, examples=examples).add_argument(
            "--since",
            type=terminal.duration,
            default=timedelta(minutes=15),
            metavar="AGO",
            help="length of the time to judge, up to now, as 90s, 1.5h or 7d (default 15m)",
        )


async def _why(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Find what limits the workers: one verdict for each group of like processes, with the figures behind it."""
    judged, events = await _judge(arguments, context)
    if arguments.json:
        groups = [_without(asdict(verdict), "advice") for verdict in judged]
        terminal.print_json({"groups": groups, "events": events})
        return 0
    shown: list[RenderableType] = [part for verdict in judged for part in _drawn_verdict(verdict)]
    if events:
        shown += [Text("\nEvents, the newest first (UTC)"), *(Text(_event(event)) for event in events)]
    terminal.console().print(Group(*shown) if judged else Text(NO_SNAPSHOTS))
    return 0


async def _advise(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Recommend a pool size, with the waits predicted for it. Exit status 1: there are too few figures to say."""
    judged, _ = await _judge(arguments, context)
    if arguments.json:
        groups = [_without(asdict(verdict), "findings") for verdict in judged]
        terminal.print_json({"groups": groups})
    else:
        shown = [part for verdict in judged for part in _drawn_advice(verdict)]
        terminal.console().print(Group(*shown) if judged else Text(NO_SNAPSHOTS))
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
    for forecast in advice.predictions:
        table.add_row(*_row(forecast, advice.size))
    return [
        _drawn_title(verdict, "POOL_MAX_SIZE", words + step),
        Text(
            f"verdict {verdict.verdict}; range {advice.low} to {advice.high}, confidence {advice.confidence}, "
            f"set by {advice.binding}\n{callers} a connection for {load.hold_ms:.1f} ms, every "
            f"{load.hold_ms + load.between_ms:.1f} ms; p95 of the wait is to be at most {advice.target_ms:.0f} ms\n"
            f"Predicted for one process:"
        ),
        table,
    ]


def _row(forecast: Forecast, advised: int) -> Sequence[str]:
    size = f"{forecast.size}{' *' if forecast.size == advised else ''}"
    if forecast.use is None:
        return size, "cannot keep up", "", "", ""
    return (
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
