"""The command line `python -m producer`: enqueue jobs, list their outcomes, run them again, or serve HTTP."""

import sys
from pathlib import Path

if not __package__:  # a directory that is run comes first in the path of modules, which has to be its parent
    sys.path[0] = str(Path(__file__).parents[1])

from tidepool.cli import prepare, run_main

if __name__ == "__main__":
    prepare()  # before the imports below, which take a second

import argparse
import asyncio
import re
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from itertools import islice

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from producer import serve_command
from producer.commands_file import CommandReader, Item, RefusedLine
from producer.report import RunReport
from producer.run import Run, Take
from producer.workers import run_workers
from producer.workload import DEFAULT_MIX, Workload
from settings import Settings
from tidepool.cli import (
    JOB_COMMANDS,
    CommandLine,
    Context,
    Subcommand,
    positive,
    print_json,
    processes,
)
from worker import app

_EXAMPLES = """  %(prog)s --jobs 10000 --workers 1          a generated workload, and a worker to run it
  %(prog)s --jobs 500 --rate 50 --follow     50 jobs a second, with a report of their outcomes
  %(prog)s --jobs 100 --mix create_user=1    only users
  %(prog)s --file commands.jsonl --json      commands of your own, a report for programs
  cat commands.jsonl | %(prog)s --file -     the same from standard input

other commands (each has its own --help):
  %(prog)s results    list the outcomes of jobs
  %(prog)s requeue    run failed or rejected jobs again
  %(prog)s serve      run the HTTP server"""
_MIN_RATE, _MAX_RATE = 1e-6, 1e9
"""Bounds of --rate, in jobs per second: one job in eleven days, and more than a clock can distinguish."""
_MAX_REFUSALS = 20
"""Max number of refused lines that are printed one by one: about a screen."""


def command_line() -> CommandLine:
    """Return the command line of `results`, `requeue` and `serve`; without one of these words it enqueues jobs."""
    description = "Enqueue jobs, list their outcomes, run them again, serve HTTP."
    default = Subcommand("", _enqueue_and_follow, _EXAMPLES, _add_options)
    return CommandLine("python -m producer", description, (*JOB_COMMANDS, serve_command.COMMAND), default)


def _add_options(parser: argparse.ArgumentParser) -> None:
    _add_workload_arguments(parser)
    parser.add_argument(
        "--rate", type=_rate, metavar="R", help="max number of jobs to enqueue per second (default: no limit)"
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="wait until workers have finished all jobs, and report their outcomes (default: end when the jobs are "
        "enqueued)",
    )
    parser.add_argument(
        "--workers",
        type=processes,
        default=0,
        metavar="W",
        help="number of worker processes to run until all jobs are finished; implies --follow (default 0: the jobs "
        "wait for workers that run elsewhere)",
    )


def _add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which jobs to enqueue."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--jobs", type=positive, metavar="N", help="number of example jobs to generate and enqueue")
    source.add_argument(
        "--file",
        metavar="PATH",
        help='file of jobs to enqueue, each line a JSON object with "job" (the function), "args" and optionally "id"; '
        "- reads standard input",
    )
    parser.add_argument(
        "--mix",
        type=_mix,
        metavar="MIX",
        help="relative frequency of each job type among the jobs that --jobs generates "
        "(default create_user=2,create_product=1,place_order=7: 7 of 10 jobs are orders)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        metavar="S",
        help="seed of the random generator for --jobs: the same seed gives the same jobs (default: a random seed, "
        "which is printed)",
    )


def main() -> None:
    """Run the command that `sys.argv` names; without a command word, enqueue jobs.

    Ends the process with the command's exit status.
    """
    commands = command_line()
    arguments = commands.parse()
    if not arguments.command.name:
        _complete(arguments, commands.parsers[""])
    commands.run(app, arguments)


def _complete(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Check the arguments that say which jobs to enqueue, and set those that depend on others."""
    if arguments.file is not None and (arguments.mix is not None or arguments.seed is not None):
        parser.error("--mix and --seed are for generated workloads, not for --file")
    arguments.mix = arguments.mix or DEFAULT_MIX
    if arguments.file is None and arguments.seed is None:
        arguments.seed = secrets.randbelow(2**31)
    arguments.follow = arguments.follow or arguments.workers > 0


def _mix(text: str) -> dict[str, int]:
    try:
        return Workload.parse_mix(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 18 digits or fewer")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not _MIN_RATE <= rate <= _MAX_RATE:  # also refuses nan
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate from 0.000001 to 1e9")
    return rate


async def _enqueue_and_follow(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Enqueue jobs for the workers: generated example jobs (--jobs), or the jobs in a file (--file).

    Exit status 1: a line of the file was refused, or, with --follow, a job failed.
    """
    settings = context.settings
    report = RunReport(seed=arguments.seed, followed=arguments.follow)
    refusals = _Refusals()
    async with context.pool("producer") as ledger, context.client(ledger) as client:
        take = _source(arguments)
        concurrency = settings.simulation_concurrency if arguments.jobs else 1
        with _progress(report, arguments):
            run = Run(client, report, refusals.add)
            async with asyncio.TaskGroup() as tasks:
                workers = tasks.create_task(run_workers(arguments.workers, client, settings))
                following = tasks.create_task(run.follow()) if arguments.follow else None
                await run.enqueue(take, rate=arguments.rate, concurrency=concurrency)
                if following is not None:
                    await following
                workers.cancel()
    refusals.print_rest()
    if arguments.json:
        print_json(report.as_json())
    else:
        report.print()
    return report.exit_status


def _source(arguments: argparse.Namespace) -> Take:
    """Return the source of commands that the command line names. Raises `CommandError` if its file cannot be opened."""
    if arguments.file is not None:
        return CommandReader.open(arguments.file).take
    jobs = islice(Workload(arguments.seed, arguments.mix), arguments.jobs)

    async def take(most: int) -> list[Item]:
        return list(islice(jobs, most))

    return take


class _Refusals:
    """Prints refused lines and their reasons on standard error: the first 20 one by one, the others as a count."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, refusal: RefusedLine) -> None:
        self._count += 1
        if self._count <= _MAX_REFUSALS:
            field = f"{refusal.field}: " if refusal.field else ""
            print(f"line {refusal.line}: {field}{refusal.reason}", file=sys.stderr)

    def print_rest(self) -> None:
        if self._count > _MAX_REFUSALS:
            print(f"… and {self._count - _MAX_REFUSALS} more refused lines", file=sys.stderr)


@contextmanager
def _progress(report: RunReport, arguments: argparse.Namespace) -> Generator[None]:
    """Show progress bars on standard error while the block runs, if it is a terminal and the report is not JSON."""
    if arguments.json or not sys.stderr.isatty():
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        enqueued = progress.add_task("enqueued", total=arguments.jobs)
        finished = progress.add_task("finished", total=arguments.jobs, visible=arguments.follow)
        drawing = asyncio.ensure_future(_draw(progress, report, {enqueued: "given", finished: "finished"}))
        try:
            yield
        finally:
            drawing.cancel()


async def _draw(progress: Progress, report: RunReport, figures: dict[TaskID, str]) -> None:
    while True:
        for task, figure in figures.items():
            progress.update(task, completed=getattr(report, figure))
        await asyncio.sleep(0.1)


if __name__ == "__main__":
    run_main(main)
