"""The command `python -m lab tune`: find the best pool size, or another setting, for this workload by measuring."""

import argparse
import random
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from lab.bench.servers import own_site
from lab.progress import note
from lab.tuning import findings, mix, numbers, plot, tune
from lab.tuning.record import Record
from lab.tuning.trials import LADDERS, WORKERS, Plan, trials, usual_of
from tidepool.cli import terminal
from tidepool.embedded import Urls
from tidepool.settings import Settings, SettingsError

EXAMPLES = """  %(prog)s                                12 sizes, 5 times each, in ten minutes
  %(prog)s --jobs-as transactions         a transaction for each job, without batches
  %(prog)s --values 2,4,6,8,10 --repeats 3
  %(prog)s --vary BATCH_LIMIT --mix create_user=2,create_product=1,place_order=7
  %(prog)s --resume .data/tune-20260101-120000
  %(prog)s --json | jq .settings"""
_INTERRUPTED = 130
_IN_FLIGHT = {"batches": 2000, "transactions": 200}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to *parser*."""
    parser.add_argument(
        "--vary",
        choices=tuple(LADDERS),
        default="POOL_MAX_SIZE",
        metavar="NAME",
        help=f"setting of the workers to try different values of: {', '.join(LADDERS)}; WORKERS is the number of "
        "worker processes (default POOL_MAX_SIZE, the max connections of each pool)",
    )
    parser.add_argument(
        "--values",
        type=_values,
        metavar="A,B",
        help="values of the setting to try: whole numbers, separated by commas (default: a list for each setting; for "
        "POOL_MAX_SIZE 12 values from 1 to 64)",
    )
    parser.add_argument(
        "--repeats",
        type=terminal.positive,
        default=5,
        metavar="N",
        help="number of times that each value is measured (default 5)",
    )
    parser.add_argument(
        "--seconds",
        type=numbers.seconds,
        default=4.0,
        metavar="S",
        help="length of each measurement in seconds (default 4)",
    )
    _add_load_arguments(parser)
    _add_run_arguments(parser)


def _add_load_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe the workers and their load."""
    parser.add_argument(
        "--jobs-as",
        choices=tuple(_IN_FLIGHT),
        default="batches",
        help="whether a worker commits many jobs in one transaction (batches) or each job in its own (transactions) "
        "(default batches)",
    )
    parser.add_argument(
        "--workers",
        type=terminal.processes,
        default=1,
        metavar="W",
        help="number of worker processes that run the jobs (default 1)",
    )
    parser.add_argument(
        "--in-flight",
        type=terminal.positive,
        metavar="N",
        help="number of jobs that are queued or running at any time: when one ends, another is enqueued (default "
        "2,000, or 200 with --jobs-as transactions)",
    )
    parser.add_argument(
        "--think-ms",
        type=numbers.milliseconds,
        default=0.0,
        metavar="MS",
        help="milliseconds to wait after the end of a job before another is enqueued in its place (default 0)",
    )
    parser.add_argument(
        "--mix",
        type=mix.shares,
        default=mix.USERS,
        metavar="A=N,B=M",
        help="relative frequency of each job type in the load, such as create_user=2,create_product=1,place_order=7 "
        "(default create_user=1: only this type)",
    )


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe the order of the measurements and where their results are."""
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="seed of the random order of the measurements: the same seed gives the same order (default: a random "
        "seed, which is printed)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="directory to write the results to (default: a new one in the directory DATA_DIR)",
    )
    where.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="results directory of an interrupted run to continue; the options of that run apply, not those given now",
    )


async def run(arguments: argparse.Namespace, settings: Settings, _urls: Urls) -> int:
    """Find the smallest connection pool that gives nearly the highest rate of jobs, or such a value of another setting.

    Measures the rate of jobs under constant load with one value after another, in a temporary database. Exit
    status 130: the run was interrupted; --resume continues it.
    """
    record = Record.resume(arguments.resume) if arguments.resume else _begin(arguments, settings)
    plan = record.plan
    note(f"{record.directory}: {len(trials(plan)) - len(record.arms)} arms to measure, seed {plan.seed}")
    since = datetime.now(UTC)
    async with own_site(settings, connections=plan.connections) as site:
        complete = await tune.measure_all(site, record, note)
        judged = await tune.advice(site, since) if plan.setting == "POOL_MAX_SIZE" else {}
        report = tune.report(record, judged)
    report.plot = plot.values(record, report)
    record.finish(asdict(report))
    if arguments.json:
        terminal.print_json({**asdict(report), "directory": str(record.directory)})
    else:
        findings.show(record, report)
    return 0 if complete else _INTERRUPTED


def _begin(arguments: argparse.Namespace, settings: Settings) -> Record:
    asked = {"BATCH_LIMIT": "1"} if arguments.jobs_as == "transactions" else {}
    plan = Plan(
        setting=arguments.vary,
        values=arguments.values or LADDERS[arguments.vary],
        repeats=arguments.repeats,
        seconds=arguments.seconds,
        in_flight=arguments.in_flight or _IN_FLIGHT[arguments.jobs_as],
        think_ms=arguments.think_ms,
        mix=arguments.mix,
        usual=usual_of(settings, arguments.workers, **asked),
        seed=arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000),
    )
    _check(plan)
    usual = settings.data_dir / f"tune-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return Record.begin(arguments.out or usual, plan)


def _check(plan: Plan) -> None:
    """Raise `CommandError` if a trial's settings are not valid, or if a trial would have no workers."""
    if plan.setting == WORKERS and min(plan.values) < 1:
        raise terminal.CommandError(f"{WORKERS}: is {min(plan.values)}, less than 1")
    for trial in trials(plan):
        try:
            Settings.load(Settings.child_environment(**plan.variables(trial)))
        except SettingsError as error:
            raise terminal.CommandError(str(error)) from None


def _values(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers such as 2,4,8") from None
