"""The commands `python -m producer --jobs N` and `--file PATH`: one run, with its progress and its report."""

import argparse
import asyncio
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from producer import workload
from producer.commands_file import STANDARD_INPUT, Refusal, other_format, read_commands
from producer.fleet import Fleet
from producer.report import STATUSES, Report
from producer.run import Pace, Run
from producer.source import Item, Reader, Take, at_hand
from settings import Settings
from tidepool.cli import CommandError, Context, console, figures_table, print_json

_MAX_REFUSALS = 20
"""Max number of refused lines that are printed one by one: about a screen."""


async def enqueue_and_follow(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Enqueue the jobs that the command line describes; with --follow, also wait for their outcomes.

    Prints the report and returns the exit status: 1 if a job failed or a command was refused, else 0.
    """
    settings = context.settings
    report = Report(seed=arguments.seed, followed=arguments.follow)
    refusals = _Refusals()
    async with context.finished_jobs("producer") as finished, context.client(finished) as client:
        log_dir = settings.data_dir / "logs"
        take = _source(arguments)
        with Fleet(arguments.workers, log_dir, client.bury) as fleet:
            pace = Pace(arguments.rate, settings.simulation_concurrency if arguments.jobs else 1)
            with _progress(report, arguments):
                run = Run(client, finished, report, refusals.add)
                await _whole(run, take, pace, fleet, follow=arguments.follow)
    refusals.print_rest()
    if arguments.json:
        print_json(report.as_json())
    else:
        _print_report(report)
    return report.exit_status


async def _whole(run: Run, take: Take, pace: Pace, fleet: Fleet, *, follow: bool) -> None:
    """Enqueue all jobs, and if *follow* is true wait for their outcomes, while dead workers are replaced."""
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(fleet.watch())
        following = tasks.create_task(run.follow()) if follow else None
        await run.enqueue(take, pace)
        if following is not None:
            await following
        watching.cancel()


def _source(arguments: argparse.Namespace) -> Take:
    """Return the source of commands that the command line names. Raises `CommandError` if its file cannot be opened."""
    if arguments.file is None:
        return at_hand(iter(workload.generate(arguments.jobs, seed=arguments.seed, mix=arguments.mix)))
    is_input = arguments.file == STANDARD_INPUT
    try:
        # A descriptor's own stream: the interpreter closes sys.stdin at its end, and would wait for who reads it.
        stream = open(sys.stdin.fileno(), "rb", closefd=False) if is_input else Path(arguments.file).open("rb")  # noqa: SIM115
    except OSError as error:
        raise CommandError(f"{arguments.file}: {error.strerror}") from None
    return Reader(_commands(stream, arguments.file)).take


def _commands(stream: BufferedReader, path: str) -> Iterator[Item]:
    """Yield the commands of *stream*, and close it at the end.

    Raises `CommandError` if it cannot be read or has another format than JSON Lines in UTF-8.
    """
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        with stream:
            if found := other_format(stream.peek()):
                raise CommandError(f"{name}: is {found}, and has to be JSON Lines in UTF-8")
            yield from read_commands(stream, source=path)
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}") from None


class _Refusals:
    """Prints refused lines and their reasons on standard error: the first 20 one by one, the others as a count."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, refusal: Refusal) -> None:
        self._count += 1
        if self._count <= _MAX_REFUSALS:
            field = f"{refusal.field}: " if refusal.field else ""
            print(f"line {refusal.line}: {field}{refusal.reason}", file=sys.stderr)

    def print_rest(self) -> None:
        if self._count > _MAX_REFUSALS:
            print(f"… and {self._count - _MAX_REFUSALS} more refused lines", file=sys.stderr)


@contextmanager
def _progress(report: Report, arguments: argparse.Namespace) -> Generator[None]:
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


async def _draw(progress: Progress, report: Report, figures: dict[TaskID, str]) -> None:
    while True:
        for task, figure in figures.items():
            progress.update(task, completed=getattr(report, figure))
        await asyncio.sleep(0.1)


def _print_report(report: Report) -> None:
    """Print the report as text and tables."""
    rate = report.enqueued / report.enqueue_seconds if report.enqueue_seconds else 0.0
    print(f"enqueued   {report.enqueued:,} in {report.enqueue_seconds:.1f} s ({rate:,.0f}/s)")
    for title, count in (("duplicates", report.duplicates), ("refused", report.refused)):
        if count:
            print(f"{title:<10} {count:,}")
    if report.seed is not None:
        print(f"seed       {report.seed}")
    if report.followed:
        _print_outcomes(report)


def _print_outcomes(report: Report) -> None:
    print(f"finished   {report.finished:,} in {report.run_seconds:.1f} s ({report.jobs_per_second:,.0f} jobs/s)")
    table = figures_table(("function", *STATUSES), words=("function",))
    for function in report.functions:
        table.add_row(function, *(f"{report.outcomes[function, status]:,}" for status in STATUSES))
    table.add_row("in all", *(f"{report.total(status):,}" for status in STATUSES))
    print()
    console().print(table)
    if report.rejections:
        shown = ", ".join(f"{reason} {count:,}" for reason, count in sorted(report.rejections.items()))
        print(f"\nrejected for {shown}")
    wait = report.queue_wait.as_ms()
    print(f"\nwait in the queue: p50 {wait['p50']:,.0f} ms, p95 {wait['p95']:,.0f} ms, p99 {wait['p99']:,.0f} ms")
