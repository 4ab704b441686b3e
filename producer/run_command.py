"""`python -m producer --jobs N` and `--file PATH`: a run, its progress and its report."""

import argparse
import asyncio
import sys
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from producer import workload
from producer.commands_file import STANDARD_INPUT, Refusal, other_format, read_commands
from producer.fleet import Fleet
from producer.report import Report
from producer.run import Look, Pace, Run
from producer.source import Item, Reader, Take, at_hand
from settings import Settings
from tidepool.cli import terminal
from tidepool.cli.terminal import CommandError
from tidepool.client import JobClient
from tidepool.embedded import Urls
from tidepool.storage.repositories import Repositories
from tidepool.storage.results import Finished
from worker import app

_MOST_REFUSALS_TOLD = 20


async def enqueue_and_follow(arguments: argparse.Namespace, settings: Settings, urls: Urls) -> int:
    """Run what the command line asks for; returns the exit status."""
    report = Report(seed=arguments.seed, followed=arguments.follow)
    refusals = _Refusals()
    async with _ledger(settings, urls) as finished, _client(settings, urls, finished) as client:
        log_dir = settings.data_dir / "logs"
        take = _source(arguments)
        with Fleet(arguments.workers, log_dir, client.bury) as fleet:
            pace = Pace(arguments.rate, settings.simulation_concurrency if arguments.jobs else 1)
            with _progress(report, arguments):
                run = Run(client, finished, report, refusals.tell)
                await _whole(run, take, pace, fleet, follow=arguments.follow)
    refusals.tell_rest()
    if arguments.json:
        terminal.print_json(report.as_json())
    else:
        print_report(report)
    return report.exit_status


async def _whole(run: Run, take: Take, pace: Pace, fleet: Fleet, *, follow: bool) -> None:
    """Enqueue and follow at the same time, while the workers are looked after."""
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(fleet.watch())
        following = tasks.create_task(run.follow()) if follow else None
        await run.enqueue(take, pace)
        if following is not None:
            await following
        watching.cancel()


@asynccontextmanager
async def _ledger(settings: Settings, urls: Urls) -> AsyncGenerator[Look]:
    """Give the look into the ledger: it waits for PostgreSQL as long as commands do."""
    pool = await terminal.open_pool(settings, urls, "producer", app.migrations)

    async def finished(job_ids: Sequence[str]) -> list[Finished]:
        async def look() -> list[Finished]:
            async with pool.acquire() as connection:
                return await Repositories(connection).results.finished(job_ids)

        return await terminal.patiently(look, settings, urls)

    try:
        yield finished
    finally:
        await pool.close()


@asynccontextmanager
async def _client(settings: Settings, urls: Urls, finished: Look) -> AsyncGenerator[JobClient]:
    async def settled(job_ids: Sequence[str]) -> set[str]:
        return {job.job_id for job in await finished(job_ids)}

    async with terminal.open_queue(settings, urls) as redis:
        yield JobClient(redis, settled=settled, patience_s=terminal.patience_s(settings))


def _source(arguments: argparse.Namespace) -> Take:
    """Return what takes the commands from where the command line says. Raises `CommandError` where none can be read."""
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
    """Read a stream to its end, and close it. Raises `CommandError` if it cannot be read or is no text in UTF-8."""
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        with stream:
            if found := other_format(stream.peek()):
                raise CommandError(f"{name}: is {found}, and has to be JSON Lines in UTF-8")
            yield from read_commands(stream, source=path)
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror}") from None


class _Refusals:
    """Says on standard error which lines are refused and why: the first ones each, then how many more."""

    def __init__(self) -> None:
        self._count = 0

    def tell(self, refusal: Refusal) -> None:
        self._count += 1
        if self._count <= _MOST_REFUSALS_TOLD:
            field = f"{refusal.field}: " if refusal.field else ""
            print(f"line {refusal.line}: {field}{refusal.reason}", file=sys.stderr)

    def tell_rest(self) -> None:
        if self._count > _MOST_REFUSALS_TOLD:
            print(f"… and {self._count - _MOST_REFUSALS_TOLD} more refused lines", file=sys.stderr)


@contextmanager
def _progress(report: Report, arguments: argparse.Namespace) -> Generator[None]:
    """Show how far the run is, on a terminal."""
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


def print_report(report: Report) -> None:
    """Print the report for people."""
    facts = report.as_json()
    rate = facts["enqueued"] / facts["enqueue_seconds"] if facts["enqueue_seconds"] else 0.0
    print(f"enqueued   {facts['enqueued']:,} in {facts['enqueue_seconds']:.1f} s ({rate:,.0f}/s)")
    for figure in ("duplicates", "refused"):
        if facts[figure]:
            print(f"{figure:<10} {facts[figure]:,}")
    if report.seed is not None:
        print(f"seed       {report.seed}")
    if report.followed:
        _print_outcomes(facts)


def _print_outcomes(facts: dict[str, Any]) -> None:
    finished = facts["applied"] + facts["rejected"] + facts["failed"]
    print(f"finished   {finished:,} in {facts['run_seconds']:.1f} s ({facts['jobs_per_second']:,.0f} jobs/s)")
    statuses = ("applied", "rejected", "failed")
    table = terminal.figures_table(("function", *statuses), words=("function",))
    for function, counts in [*facts["by_function"].items(), ("in all", facts)]:
        table.add_row(function, *(f"{counts[status]:,}" for status in statuses))
    print()
    terminal.console().print(table)
    if facts["rejections"]:
        print("\nrejected for " + ", ".join(f"{reason} {count:,}" for reason, count in facts["rejections"].items()))
    wait = facts["queue_wait_ms"]
    print(f"\nwait in the queue: p50 {wait['p50']:,.0f} ms, p95 {wait['p95']:,.0f} ms, p99 {wait['p99']:,.0f} ms")
