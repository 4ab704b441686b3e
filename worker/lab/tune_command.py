"""`python -m worker tune`: find the pool size for this workload by measuring, and keep the proof."""

import argparse
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from settings import Settings
from worker import terminal
from worker.bench.servers import own_site
from worker.embedded import Urls
from worker.lab import numbers, plot, tune
from worker.lab.record import Record
from worker.lab.trials import LADDER, Plan, control_of, trials

EXAMPLES = """  python -m worker tune                                12 sizes, 5 times each, in ten minutes
  python -m worker tune --jobs-as transactions         a transaction for each job, without batches
  python -m worker tune --sizes 2,4,6,8,10 --repeats 3
  python -m worker tune --resume .data/tune-20260101-120000
  python -m worker tune --json | jq .settings"""
_INTERRUPTED = 130
_IN_FLIGHT = {"batches": 2000, "transactions": 200}
_HIGHEST_SIZE = 1000
_QUIET_CORES = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--sizes", type=_sizes, default=LADDER, metavar="A,B", help=f"default {','.join(map(str, LADDER))}"
    )
    parser.add_argument("--repeats", type=terminal.positive, default=5, metavar="N", help="arms of a size (default 5)")
    parser.add_argument(
        "--seconds", type=numbers.seconds, default=4.0, metavar="S", help="measured of each arm (default 4)"
    )
    parser.add_argument(
        "--jobs-as",
        choices=tuple(_IN_FLIGHT),
        default="batches",
        help="batches as the settings have them (default), or transactions of a job each",
    )
    parser.add_argument("--workers", type=terminal.positive, default=1, metavar="W", help="processes (default 1)")
    parser.add_argument(
        "--in-flight",
        type=terminal.positive,
        metavar="N",
        help="jobs queued or running at any time (default 2,000; 200 as transactions)",
    )
    parser.add_argument(
        "--think-ms",
        type=numbers.milliseconds,
        default=0.0,
        metavar="MS",
        help="from a job's end to the next (default 0)",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="of the order (default: a new one, which is told)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="DIR", help="for the results (default: a new one in DATA_DIR)")
    where.add_argument("--resume", type=Path, metavar="DIR", help="go on with the run in DIR, as it was planned")


async def run(arguments: argparse.Namespace, settings: Settings, _urls: Urls) -> int:
    """Measure a ladder of pool sizes under a closed load, and name the smallest that is as good as the best."""
    record = Record.resume(arguments.resume) if arguments.resume else _begin(arguments, settings)
    plan = record.plan
    terminal.note(f"{record.directory}: {len(trials(plan)) - len(record.arms)} arms to measure, seed {plan.seed}")
    since = datetime.now(UTC)
    async with own_site(settings, connections=plan.workers * (max(plan.sizes) + 1)) as site:
        complete = await tune.measure_all(site, record, terminal.note)
        document = tune.report(record, await tune.advice(site, since))
    document["plot"] = plot.sizes(record, document)
    record.finish(document)
    if arguments.json:
        terminal.print_json({**document, "directory": str(record.directory)})
    else:
        _print(record, document, settings.pool_max_size)
    return 0 if complete else _INTERRUPTED


def _begin(arguments: argparse.Namespace, settings: Settings) -> Record:
    batches = arguments.jobs_as == "batches"
    plan = Plan(
        sizes=arguments.sizes,
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        workers=arguments.workers,
        in_flight=arguments.in_flight or _IN_FLIGHT[arguments.jobs_as],
        think_ms=arguments.think_ms,
        batch_limit=None if batches else 1,
        control=control_of(arguments.sizes, settings.pool_max_size),
        seed=arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000),
    )
    usual = settings.data_dir / f"tune-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return Record.begin(arguments.out or usual, plan)


def _print(record: Record, document: dict[str, Any], default: int) -> None:
    console = terminal.console()
    table = terminal.figures_table(
        ("size", "jobs/s", "of best", "lowest", "highest", "wait p50", "p95", "p99", "latency p50", "p95", "p99",
         "CPU worker", "postgres", "redis", "MB worker", "postgres", "connections", "bound by"),
        words=("bound by",),
    )  # fmt: skip
    for row in document["sizes"]:
        table.add_row(*_cells(row, document["knee"]))
    console.print(table)
    console.print("medians; times in ms, CPU in cores; * the knee\n")
    for line in _words(record, document, default):
        console.print(line)


def _cells(row: dict[str, Any], knee: dict[str, Any] | None) -> list[str]:
    mark = " *" if knee and row["size"] == knee["size"] else ""
    if not row["arms"]:
        return [f"{row['size']}{mark}", "no valid arm"]
    rates = [f"{row['jobs_per_second']:,}", f"{row['of_best']:.0%}", f"{row['lowest']:,.0f}", f"{row['highest']:,.0f}"]
    times = [_figure(row[part].get(share)) for part in ("wait_ms", "latency_ms") for share in ("p50", "p95", "p99")]
    cores = [_cores(row["cpu"].get(who)) for who in ("worker", "postgresql", "redis")]
    memory = [_figure(row["memory_mb"].get(who)) for who in ("worker", "postgresql")]
    return [f"{row['size']}{mark}", *rates, *times, *cores, *memory, f"{row['connections']['open']:.0f}", row["bound"]]


def _words(record: Record, document: dict[str, Any], default: int) -> list[str]:
    """Return what the figures come to, line by line."""
    plan, knee = record.plan, document["knee"]
    lines = [f"does not count: {count} of the arms, {reason}" for reason, count in document["invalid"].items()]
    if document["plot"] is None:
        lines.append(plot.MISSING)
    drift = document["drift"]
    if not drift["steady"]:
        lines.append(f"the machine was not steady: the same size came apart by {drift['spread']:.0%}")
    if (document["others"] or 0.0) > _QUIET_CORES:
        lines.append(
            f"other work took {document['others']:.1f} cores meanwhile: run it again when the machine is quiet"
        )
    if document["arms"] < document["of"]:
        words = f"{document['arms']} of {document['of']} arms are measured; go on with --resume {record.directory}"
        return [*lines, words]
    if knee is None:
        return [*lines, "no arm counts, so there is nothing to recommend"]
    upto = f" to {knee['plateau'][-1]}" if len(knee["plateau"]) > 1 else ""
    lines.append(f"knee: {knee['size']}; as good: {knee['size']}{upto} (a median is off by {knee['error']:.1%})")
    if not knee["clear"]:
        return [
            *lines,
            "that is too much noise to tell sizes apart, so nothing is recommended: run it again when quiet",
        ]
    if knee["rising"]:
        lines.append("the largest size is the best: there may be better ones beyond it")
    lines.append(_advisor(document["advisor"]))
    if default in knee["plateau"]:
        lines.append(f"POOL_MAX_SIZE={default}, as it is set now, is as good")
    each = knee["size"] + 1
    lines.append(f"{plan.workers} x {each} connections: {knee['size']} of each worker's pool, and one beside it")
    return [*lines, "", "use", *(f"  {name}={value}" for name, value in document["settings"].items()),
            f"kept in {record.directory}"]  # fmt: skip


def _advisor(said: dict[str, Any] | None) -> str:
    if said is None:
        return "the advisor has not seen this size"
    if said["agrees"] is None:
        return f"the advisor gives no advice at this size: {said['verdict']}, {said['words']}"
    return (
        f"the advisor {'agrees' if said['agrees'] else 'does not agree'}: asked at this size, it says {said['advised']}"
    )


def _figure(value: float | None) -> str:
    return "" if value is None else terminal.figure(value)


def _cores(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _sizes(text: str) -> tuple[int, ...]:
    sizes = sorted({terminal.positive(word) for word in text.split(",")})
    if sizes[-1] > _HIGHEST_SIZE:
        raise argparse.ArgumentTypeError(f"{sizes[-1]} is more than a pool may have, {_HIGHEST_SIZE}")
    return tuple(sizes)
